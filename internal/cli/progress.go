package cli

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// progress shows the current step on a terminal, in one line that is overwritten and removed at the end. It prints
// nothing elsewhere. It is the provider's observer.
type progress struct {
	w      io.Writer
	silent bool

	mu       sync.Mutex
	what     string
	requests int
	answers  int
	// done of all are finished, where all is not 0.
	done, all int
}

func newProgress(w io.Writer) *progress { return &progress{w: w, silent: !isTerminal(w)} }

// begin starts a step.
func (p *progress) begin(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.what, p.requests, p.answers, p.done, p.all = what, 0, 0, 0, 0
	p.show()
}

// beginMany starts a step of several parts.
func (p *progress) beginMany(what string, all int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.what, p.requests, p.answers, p.done, p.all = what, 0, 0, 0, all
	p.show()
}

// did says that a part is done.
func (p *progress) did() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	p.show()
}

// end removes the line.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.silent {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// show rewrites the line. The caller holds the lock.
func (p *progress) show() {
	if p.silent {
		return
	}
	counts := ""
	if p.all > 1 {
		counts = fmt.Sprintf(" %d of %d,", p.done, p.all)
	}
	if p.requests > 0 {
		counts += fmt.Sprintf(" %s, %s", count(p.requests, "request"), count(p.answers, "object"))
	}
	_, _ = fmt.Fprintf(p.w, "\r\x1b[K%s …%s", p.what, counts)
}

// VaultRequest implements provider.Observer.
func (p *progress) VaultRequest(string, volume.Reason, time.Duration) { p.add(1, 0) }

// TokenRequest implements provider.Observer.
func (p *progress) TokenRequest(string, volume.Reason, time.Duration) { p.add(1, 0) }

// Source implements provider.Observer.
func (p *progress) Source(string) { p.add(0, 1) }

// Detected implements provider.Observer.
func (*progress) Detected(volume.Detection) {}

// Fallback implements provider.Observer.
func (*progress) Fallback() {}

// Panicked implements provider.Observer. The error that follows is printed.
func (*progress) Panicked(string) {}

func (p *progress) add(requests, answers int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests, p.answers = p.requests+requests, p.answers+answers
	p.show()
}
