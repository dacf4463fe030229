package cli

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// progress tells who waits what is under way, in one line that is written over and goes at the end. It is silent where
// nobody looks on. It is the provider's observer.
type progress struct {
	w      io.Writer
	silent bool

	mu       sync.Mutex
	what     string
	requests int
	answers  int
}

func newProgress(w io.Writer) *progress { return &progress{w: w, silent: !isTerminal(w)} }

// begin says what is done now.
func (p *progress) begin(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.what, p.requests, p.answers = what, 0, 0
	p.show()
}

// end takes the line away.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.silent {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// show writes the line anew. The caller holds the lock.
func (p *progress) show() {
	if p.silent {
		return
	}
	count := ""
	if p.requests > 0 {
		count = fmt.Sprintf(" %d requests, %d objects", p.requests, p.answers)
	}
	_, _ = fmt.Fprintf(p.w, "\r\x1b[K%s …%s", p.what, count)
}

// VaultRequest implements provider.Observer.
func (p *progress) VaultRequest(string, volume.Reason, time.Duration) { p.count(1, 0) }

// TokenRequest implements provider.Observer.
func (p *progress) TokenRequest(string, volume.Reason, time.Duration) { p.count(1, 0) }

// Source implements provider.Observer.
func (p *progress) Source(string) { p.count(0, 1) }

func (p *progress) count(requests, answers int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests, p.answers = p.requests+requests, p.answers+answers
	p.show()
}
