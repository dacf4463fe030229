package report

import (
	"context"
	"maps"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Deduplicated passes on a failure that repeats at most once per window, volume and cause. All other events pass.
type Deduplicated struct {
	next   Reporter
	clock  clock.PassiveClock
	window time.Duration

	mu sync.Mutex
	// reported is when each cause was passed on last. Nothing stays for longer than two windows, since events may come for
	// volumes that are never unpublished: their publish failed.
	reported map[cause]time.Time
	swept    time.Time
}

type cause struct {
	target  string
	kind    Kind
	reason  volume.Reason
	message string
}

// NewDeduplicated returns a Deduplicated in front of next.
func NewDeduplicated(next Reporter, clk clock.PassiveClock, window time.Duration) *Deduplicated {
	return &Deduplicated{next: next, clock: clk, window: window, reported: map[cause]time.Time{}, swept: clk.Now()}
}

// Report implements Reporter.
func (d *Deduplicated) Report(ctx context.Context, e Event) {
	if d.pass(e) {
		d.next.Report(ctx, e)
	}
}

func (d *Deduplicated) pass(e Event) bool {
	c := cause{target: e.Ref().TargetPath, kind: e.Kind(), reason: e.Reason()}
	switch e.Kind() {
	case KindPublished, KindAdopted, KindUnpublished, KindRefreshed, KindConfirmed, KindSynced, KindPanicked, KindExpiring,
		KindUnpublishFailed:
		return true
	case KindRecovered:
		d.recovered(c.target)
		return true
	case KindPublishFailed, KindRefreshFailed, KindServedStale, KindServedFallback:
	case KindWarning, KindSyncFailed, KindSyncConflict:
		c.message = e.Message() // several things may be wrong for one reason
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.clock.Now()
	d.sweep(now)
	if at, ok := d.reported[c]; ok && now.Sub(at) < d.window {
		return false
	}
	d.reported[c] = now
	return true
}

// recovered forgets the failures of a volume, so that the next one is passed on.
func (d *Deduplicated) recovered(target string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.reported, func(c cause, _ time.Time) bool {
		return c.target == target && (c.kind == KindRefreshFailed || c.kind == KindServedStale || c.kind == KindServedFallback)
	})
}

// sweep drops what is older than the window, at most once per window. The caller holds the lock.
func (d *Deduplicated) sweep(now time.Time) {
	if now.Sub(d.swept) < d.window {
		return
	}
	d.swept = now
	maps.DeleteFunc(d.reported, func(_ cause, at time.Time) bool { return now.Sub(at) >= d.window })
}
