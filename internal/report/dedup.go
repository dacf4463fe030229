package report

import (
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Dedup passes on at most one event of a kind that repeats, per volume and cause, in each window; and Recovered only
// where a failure was passed on before it. All other events pass.
type Dedup struct {
	next   Reporter
	clock  clock.PassiveClock
	window time.Duration

	mu   sync.Mutex
	seen map[string]map[cause]time.Time // by target path
}

type cause struct {
	kind    Kind
	reason  volume.Reason
	message string
}

// NewDedup returns a Dedup in front of next.
func NewDedup(next Reporter, clk clock.PassiveClock, window time.Duration) *Dedup {
	return &Dedup{next: next, clock: clk, window: window, seen: map[string]map[cause]time.Time{}}
}

// Report implements Reporter.
func (d *Dedup) Report(e Event) {
	if d.pass(e) {
		d.next.Report(e)
	}
}

func (d *Dedup) pass(e Event) bool {
	c := cause{kind: e.Kind, reason: e.Reason}
	switch e.Kind {
	case Published, Adopted, Refreshed, Confirmed, Synced, Panicked, Expiring, UnpublishFailed:
		return true
	case Unpublished:
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.seen, e.Volume.TargetPath)
		return true
	case Recovered:
		d.mu.Lock()
		defer d.mu.Unlock()
		failed := false
		for c := range d.seen[e.Volume.TargetPath] {
			if c.kind == RefreshFailed || c.kind == ServedStale {
				failed = true
				delete(d.seen[e.Volume.TargetPath], c)
			}
		}
		return failed
	case PublishFailed, RefreshFailed, ServedStale:
	case Warning, SyncFailed, SyncConflict:
		c.message = e.Message // several things may be wrong for one reason
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.clock.Now()
	causes := d.seen[e.Volume.TargetPath]
	if causes == nil {
		causes = map[cause]time.Time{}
		d.seen[e.Volume.TargetPath] = causes
	}
	for old, at := range causes { // what a volume may repeat is little; keep it so
		if now.Sub(at) >= d.window && old.kind != RefreshFailed && old.kind != ServedStale {
			delete(causes, old)
		}
	}
	if at, ok := causes[c]; ok && now.Sub(at) < d.window {
		return false
	}
	causes[c] = now
	return true
}
