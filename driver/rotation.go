package driver

import (
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// refreshesAtOnce bounds how many groups are refreshed at the same time; the vault's own pace is the provider's matter.
const refreshesAtOnce = 16

// identityRetry is how soon a republish with a fresh token may try a group again that failed for its identity.
const identityRetry = 30 * time.Second

// rotation keeps the volumes of this node fresh. Volumes that would get the same bundle form a group, which is refreshed
// as one: one scheduler, no goroutine per volume.
type rotation struct {
	d        *Driver
	interval time.Duration
	schedule schedule
	slots    chan struct{}
	wake     chan struct{}

	mu      sync.Mutex
	volumes map[string]*mounted          // by target path
	groups  map[string]*group            // by binding key
	sources map[volume.SourceKey]*source // by source key
	edits   map[classKey]*edit
}

type classKey struct{ namespace, name string }

// group is all volumes with an equal binding key.
type group struct {
	binding volume.Binding
	volumes map[string]*mounted
	// digests are those of the sources as the group last got them; nil before its first fetch in this process.
	digests map[volume.SourceKey][32]byte
	// due is when to refresh; zero means never.
	due time.Time
	// regular is true where due is a tick of the rhythm, which others' requests may make needless.
	regular bool
	// busy is true while a refresh is under way; what becomes due meanwhile waits.
	busy bool
	// fetched is when the values that the group holds left the vault; delivered, when those left it that were brought to
	// all its volumes last.
	fetched   time.Time
	delivered time.Time
	tried     time.Time
	failures  int
	reason    volume.Reason
}

// source is what is known of one source, whoever asked for it.
type source struct {
	digest [32]byte
	at     time.Time
}

func newRotation(d *Driver, interval time.Duration) *rotation {
	return &rotation{
		d: d, interval: interval, schedule: schedule{node: d.nodeID},
		slots: make(chan struct{}, refreshesAtOnce), wake: make(chan struct{}, 1),
		volumes: map[string]*mounted{}, groups: map[string]*group{}, sources: map[volume.SourceKey]*source{},
		edits: map[classKey]*edit{},
	}
}

// run refreshes what is due until ctx ends, and returns when nothing is under way any more.
func (r *rotation) run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	for {
		for _, key := range r.takeEdits() {
			work.Go(func() { r.rebind(ctx, key) })
		}
		due, timer := r.takeDue()
		for _, job := range due {
			work.Go(func() {
				select {
				case r.slots <- struct{}{}:
					r.refresh(ctx, job)
					<-r.slots
				case <-ctx.Done():
				}
			})
		}
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-r.wake:
			timer.Stop()
		case <-timer.C():
		}
	}
}

// job is one refresh of a group that became due.
type job struct {
	group   *group
	due     time.Time
	regular bool
}

// takeDue marks the groups that are due as busy, and starts a timer that ends when the next one is.
func (r *rotation) takeDue() (due []job, next clock.Timer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.d.clock.Now()
	wait := time.Hour
	for _, g := range r.groups {
		switch {
		case g.busy || g.due.IsZero():
		case g.due.After(now):
			wait = min(wait, g.due.Sub(now))
		default:
			due = append(due, job{group: g, due: g.due, regular: g.regular})
			g.busy, g.due = true, time.Time{}
		}
	}
	return due, r.d.clock.NewTimer(wait)
}

func (r *rotation) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// published takes a volume that was just filled from the bundle.
func (r *rotation) published(vol *mounted, bundle *volume.Bundle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(vol.target)
	g := r.join(vol)
	if g.failures > 0 && !bundle.Stale && len(g.volumes) > 1 {
		r.soon(g, r.d.clock.Now()) // what this pod could do the others can do now
	}
	if bundle.Stale {
		g.failures = max(g.failures, 1)
		vol.failing, vol.trouble = true, bundle.Cause
		r.soon(g, r.d.clock.Now().Add(r.schedule.retry(g.binding.ScheduleKey(), g.failures, r.intervalOf(g.binding), 0)))
		return
	}
	r.note(g, bundle)
	r.plan(g, bundle)
	r.poke()
}

// republished takes what kubelet says anew of a volume that stands: a fresh token, maybe an edited class. A volume that is
// not known is adopted: an earlier process filled it.
func (r *rotation) republished(ctx context.Context, fresh *mounted) {
	for _, event := range r.renew(fresh) {
		r.d.report(ctx, event)
	}
}

func (r *rotation) renew(fresh *mounted) []report.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.poke()
	now := r.d.clock.Now()
	known, ok := r.volumes[fresh.target]
	if !ok {
		g := r.join(fresh)
		r.onTick(g, now)
		adopted := report.Event{Kind: report.Adopted, Volume: fresh.ref, Message: "an earlier process mounted it"}
		return append([]report.Event{adopted}, r.rotateNow(g, fresh, nil)...)
	}
	known.misbound = nil
	same, old := known.sameAsk(fresh), known.class
	if known.binding.Key() != fresh.binding.Key() {
		r.drop(known.target)
	}
	known.ref, known.request, known.binding = fresh.ref, fresh.request, fresh.binding
	g := r.join(known)
	switch {
	case !same && r.intervalOf(g.binding) > 0:
		r.soon(g, now)
	case g.failures > 0 && (g.reason == volume.ReasonIdentity || g.reason == volume.ReasonTokenExpired) && now.Sub(g.tried) > identityRetry:
		r.soon(g, now)
	}
	return r.rotateNow(g, known, old)
}

// misbound remembers why the class of a volume could not be resolved, until it can.
func (r *rotation) misbound(target string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok := r.volumes[target]; ok {
		known.misbound = err
	}
}

// remove forgets the volume and returns what was known of it.
func (r *rotation) remove(target string) (volume.Ref, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.volumes[target]
	if !ok {
		return volume.Ref{}, false
	}
	r.drop(target)
	return known.ref, true
}

// join puts the volume into its group, which takes the volume's binding as the newest.
func (r *rotation) join(vol *mounted) *group {
	key := vol.binding.Key()
	g, ok := r.groups[key]
	if !ok {
		g = &group{volumes: map[string]*mounted{}}
		r.groups[key] = g
	}
	g.binding = vol.binding
	g.volumes[vol.target] = vol
	r.volumes[vol.target] = vol
	return g
}

// drop takes the volume out of its group, and the group away with its last volume.
func (r *rotation) drop(target string) {
	vol, ok := r.volumes[target]
	if !ok {
		return
	}
	delete(r.volumes, target)
	key := vol.binding.Key()
	g := r.groups[key]
	delete(g.volumes, target)
	if len(g.volumes) > 0 {
		return
	}
	delete(r.groups, key)
	for name := range g.digests {
		if !r.used(name) {
			delete(r.sources, name)
		}
	}
}

func (r *rotation) used(source volume.SourceKey) bool {
	for _, g := range r.groups {
		if _, ok := g.digests[source]; ok {
			return true
		}
	}
	return false
}

// soon makes the group due at the moment, unless it is due earlier.
func (r *rotation) soon(g *group, at time.Time) {
	if g.due.IsZero() || at.Before(g.due) {
		g.due, g.regular = at, false
	}
}

// onTick makes the group due at its first tick after the moment, unless it is due earlier or never refreshed.
func (r *rotation) onTick(g *group, after time.Time) {
	interval := r.intervalOf(g.binding)
	if interval == 0 {
		return
	}
	at := r.schedule.next(g.binding.ScheduleKey(), interval, after)
	if g.due.IsZero() || at.Before(g.due) {
		g.due, g.regular = at, true
	}
}

func (r *rotation) intervalOf(b volume.Binding) time.Duration {
	if interval, ok := b.RotationInterval(); ok {
		return interval
	}
	return r.interval
}

// plan says when the group is asked again after a bundle: at its next tick, or when an object becomes valid or ends
// before that. A tick right after a fetch is passed over.
func (r *rotation) plan(g *group, bundle *volume.Bundle) {
	interval, now := r.intervalOf(g.binding), r.d.clock.Now()
	if interval == 0 {
		return
	}
	after := bundle.FetchedAt.Add(interval / 2)
	if after.Before(now) {
		after = now
	}
	r.onTick(g, after)
	for _, o := range bundle.Objects {
		for _, edge := range []time.Time{o.NotBefore, o.Expires} {
			if at := edge.Add(time.Second); !edge.IsZero() && at.After(now) {
				r.soon(g, at)
			}
		}
	}
}

// note remembers what the sources of a group answered. Other groups that hold an older answer of one become due: a
// changed source reaches every volume that uses it.
func (r *rotation) note(g *group, bundle *volume.Bundle) {
	g.failures, g.reason, g.fetched = 0, "", bundle.FetchedAt
	before := g.digests
	g.digests = make(map[volume.SourceKey][32]byte, len(bundle.Sources))
	now := r.d.clock.Now()
	for _, s := range bundle.Sources {
		g.digests[s.Key] = s.Hash
		known, ok := r.sources[s.Key]
		if !ok {
			known = &source{}
			r.sources[s.Key] = known
		}
		if known.at.After(bundle.FetchedAt) {
			continue
		}
		changed := known.digest != s.Hash
		known.digest, known.at = s.Hash, bundle.FetchedAt
		if !changed {
			continue
		}
		for _, other := range r.groups {
			if had, uses := other.digests[s.Key]; other != g && uses && had != s.Hash && r.intervalOf(other.binding) > 0 {
				r.soon(other, now)
			}
		}
		if had, uses := before[s.Key]; uses && had != s.Hash && len(g.volumes) > 1 && !g.busy && r.intervalOf(g.binding) > 0 {
			// a new pod of the group saw the change first: the others follow
			r.soon(g, now)
		}
	}
}
