// Package share keeps one namespace from taking all of what the controller can do at the same time: a vault that throttles makes whoever asks it
// wait, and who waits must not keep others from their turn.
package share

import (
	"sync"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/schedule"
)

const (
	// Workers bounds what is under way in each of the controller's queues; most of it waits for a vault.
	Workers = 512
	// most bounds what is under way of one namespace.
	most = Workers / 8
	// firstPause and pauseSpread are when what found no place comes again.
	firstPause  = time.Second
	pauseSpread = 4 * time.Second
)

// Places are those of the namespaces. The zero value is ready to use.
type Places struct {
	mu    sync.Mutex
	taken map[string]int
}

// Take takes a place for a namespace. Release gives it back; it is nil where there is none, and wait is when to try again. Key differs among
// what waits, so that it does not come back together.
func (p *Places) Take(namespace, key string) (release func(), wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[namespace] >= most {
		return nil, firstPause + schedule.Schedule{Node: "controller"}.Spread(key, 0, pauseSpread)
	}
	if p.taken == nil {
		p.taken = map[string]int{}
	}
	p.taken[namespace]++
	return func() { p.release(namespace) }, 0
}

func (p *Places) release(namespace string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[namespace]--; p.taken[namespace] == 0 {
		delete(p.taken, namespace)
	}
}
