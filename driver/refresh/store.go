package refresh

import (
	"maps"
	"slices"
	"sync"
	"time"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/expiry"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/nodestatus"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/schedule"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/tmpfs"
)

// lookAgain bounds how long the scheduler sleeps.
const lookAgain = time.Hour

// identityRetry is how soon a republish with a fresh token may try a group again that failed for its identity.
const identityRetry = 30 * time.Second

// store owns the state of the volumes of this node. Nothing outside its methods takes the lock or changes what it holds.
type store struct {
	schedule schedule.Schedule
	interval time.Duration
	// awake makes the scheduler look again.
	awake func()

	mu      sync.Mutex
	volumes map[string]*volumeState  // by target path
	groups  map[string]*refreshGroup // by binding key
	sources map[volume.SourceKey]*sourceState
	edits   map[classKey]*edit
}

func newStore(s schedule.Schedule, interval time.Duration, awake func()) *store {
	return &store{
		schedule: s,
		interval: interval,
		awake:    awake,
		volumes:  map[string]*volumeState{},
		groups:   map[string]*refreshGroup{},
		sources:  map[volume.SourceKey]*sourceState{},
		edits:    map[classKey]*edit{},
	}
}

// published takes a volume that was just filled from the bundle.
func (s *store) published(b bound, bundle *volume.Bundle, now time.Time) *volume.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.awake()
	s.drop(b.Ref.TargetPath)
	state := &volumeState{bound: b, hash: hashOf(b.binding, bundle), snapshot: &volume.Snapshot{
		Ref:       b.Ref,
		Identity:  b.binding.Identity(),
		Since:     now,
		Objects:   bundle.Objects,
		Started:   started(nil, bundle.Objects),
		Bytes:     sizeOf(bundle),
		FetchedAt: bundle.FetchedAt,
		Interval:  s.intervalFor(b.binding),
		Stale:     bundle.Stale,
		Fallback:  bundle.Fallback,
		Detection: bundle.Detection,
	}}
	g := s.join(state)
	s.share(g, state.snapshot)
	if bundle.Provisional() {
		if bundle.Cause != nil {
			state.snapshot.Failure = state.snapshot.Failure.Next(now, bundle.Cause)
		}
		g.failures = max(g.failures, 1)
		g.dueForRetry(s.schedule, s.intervalOf(g), now, 0)
		return state.snapshot
	}
	if g.failures > 0 && len(g.members) > 1 {
		g.dueAt(now, now) // what succeeded for this Pod can succeed for the others now
	}
	s.observe(g, bundle, now)
	g.dueAfter(s.schedule, s.intervalOf(g), now, bundle)
	return state.snapshot
}

// republished takes what kubelet says again of a complete volume: a fresh token, maybe an edited class. A volume that is not known is
// adopted: an earlier process filled it. Warning is for the owner of the class; empty where all is well.
func (s *store) republished(b bound, now time.Time) (c change, warning string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.volumes[b.Ref.TargetPath]
	if before != nil && before.binding == b.binding && before.class == b.class && before.resolveErr == nil && s.groups[b.binding.Key()].failures == 0 {
		return change{before: before, after: before}, "" // most calls: all is as it was
	}
	defer s.awake()
	return s.renew(before, b, now)
}

// known returns the volume's binding where it is that of an equal publication and the same class; else nil.
func (s *store) known(p Publication, class *v1.SecretProviderClass) volume.Binding {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state := s.volumes[p.Ref.TargetPath]; state != nil && state.class == class && state.equal(p) {
		return state.binding
	}
	return nil
}

// tokens returns those of the volume at the target; none where it is not known.
func (s *store) tokens(target string) volume.Tokens {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state := s.volumes[target]; state != nil {
		return state.Tokens
	}
	return volume.Tokens{}
}

// rebound takes an edited class for a volume, unless the volume is gone or was published again meanwhile.
func (s *store) rebound(before *volumeState, b bound, now time.Time) (c change, warning string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.awake()
	current, known := s.volumes[b.Ref.TargetPath]
	if !known || current.Ref != before.Ref {
		return change{}, "", false
	}
	b.Publication = current.Publication // kubelet's newest, which may have come meanwhile
	c, warning = s.renew(current, b, now)
	return c, warning, true
}

// renew gives a volume a new resolution of its class, or its first one. The caller holds the lock.
func (s *store) renew(before *volumeState, b bound, now time.Time) (c change, warning string) {
	if before == nil || before.binding == nil {
		return s.adopt(before, b, now)
	}
	snapshot := *before.snapshot
	snapshot.Ref, snapshot.Identity, snapshot.Interval = b.Ref, b.binding.Identity(), s.intervalFor(b.binding)
	after := *before
	after.bound, after.snapshot, after.resolveErr = b, &snapshot, nil
	if before.binding.Key() != b.binding.Key() {
		s.drop(before.Ref.TargetPath)
	}
	g := s.join(&after)
	if before.resolveErr != nil && g.failures == 0 {
		snapshot.Failure = nil
	}
	switch {
	case !before.asksForSame(b):
		if s.intervalOf(g) > 0 {
			g.dueAt(now, now)
		}
	case g.failures > 0 && now.Sub(g.triedAt) > identityRetry &&
		(g.reason == volume.ReasonIdentity || g.reason == volume.ReasonTokenExpired):
		g.dueAt(now, now)
	}
	return change{before: before, after: &after}, g.annotated(s.schedule, before.class, b.class, now)
}

// adopt takes a volume that an earlier process filled. It is refreshed soon. The caller holds the lock.
func (s *store) adopt(before *volumeState, b bound, now time.Time) (c change, warning string) {
	after := &volumeState{
		bound: b,
		snapshot: &volume.Snapshot{
			Ref:      b.Ref,
			Identity: b.binding.Identity(),
			Since:    now,
			Adopted:  true,
			Interval: s.intervalFor(b.binding),
		},
		sweepAt: now.Add(tmpfs.Retention), // the earlier process may have ended before it did
	}
	g := s.join(after)
	if interval := s.intervalOf(g); interval > 0 {
		g.dueAt(now, now.Add(s.schedule.Spread("adopt/"+b.binding.ScheduleKey(), 0, min(interval, adoptionSpread))))
	}
	return change{before: before, after: after}, g.annotated(s.schedule, nil, b.class, now)
}

// unresolved notes why the class of a volume cannot be resolved. Where the volume is not known, it is adopted without a class, if add
// says so; else the result is nil.
func (s *store) unresolved(p Publication, add bool, now time.Time, err error) *volume.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.volumes[p.Ref.TargetPath]; known == nil || known.Ref != p.Ref {
		if !add {
			return nil
		}
		s.drop(p.Ref.TargetPath)
		s.volumes[p.Ref.TargetPath] = &volumeState{
			bound:    bound{Publication: p},
			snapshot: &volume.Snapshot{Ref: p.Ref, Since: now},
		}
	}
	return s.update(p.Ref.TargetPath, func(state *volumeState, after *volume.Snapshot) {
		state.resolveErr = err
		after.Failure = after.Failure.Next(now, err)
	}).after.snapshot
}

// remove forgets the volume and returns what was known of it; nil where nothing was.
func (s *store) remove(target string) *volume.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, known := s.volumes[target]
	if !known {
		return nil
	}
	s.drop(target)
	return state.snapshot
}

// snapshots returns those of all volumes.
func (s *store) snapshots() []*volume.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*volume.Snapshot, 0, len(s.volumes))
	for _, state := range s.volumes {
		all = append(all, state.snapshot)
	}
	return all
}

// status returns the volumes and sources, in no order.
func (s *store) status() (volumes []nodestatus.Volume, sources []nodestatus.Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	volumes = make([]nodestatus.Volume, 0, len(s.volumes))
	users := map[volume.SourceKey]int{}
	identities := map[volume.SourceKey]string{}
	for _, state := range s.volumes {
		g := &refreshGroup{}
		if state.binding != nil {
			g = s.groups[state.binding.Key()]
		}
		volumes = append(volumes, g.statusOf(state))
	}
	for _, g := range s.groups {
		for key := range g.hashes {
			users[key] += len(g.members)
			identities[key] = g.binding.Identity()
		}
	}
	sources = make([]nodestatus.Source, 0, len(s.sources))
	for key, source := range s.sources {
		sources = append(sources, nodestatus.Source{
			Source:   key.String(),
			Identity: identities[key],
			AskedAt:  source.asked,
			Volumes:  users[key],
		})
	}
	return volumes, sources
}

// takeDue marks the groups that are due as busy and returns their refreshes, the longest overdue first; the targets whose replaced
// files are to be removed; and how long it is until something is due next.
func (s *store) takeDue(now time.Time) (due []job, sweeps []string, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait = lookAgain
	for _, g := range s.groups {
		left, planned := g.left(now)
		switch {
		case !planned:
		case left > 0:
			wait = min(wait, left)
		default:
			due = append(due, g.begin())
		}
	}
	for target, state := range s.volumes {
		left := state.sweepAt.Sub(now)
		switch {
		case state.sweepAt.IsZero():
		case left > 0 && left <= tmpfs.Retention:
			wait = min(wait, left)
		default:
			sweeps = append(sweeps, target)
			s.update(target, func(after *volumeState, _ *volume.Snapshot) { after.sweepAt = time.Time{} })
		}
	}
	slices.SortFunc(due, func(a, b job) int { return a.due.Compare(b.due) })
	return due, sweeps, wait
}

// sweepLater plans the removal of replaced files.
func (s *store) sweepLater(target string, now time.Time, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.volumes[target] == nil {
		return
	}
	s.update(target, func(after *volumeState, _ *volume.Snapshot) { after.sweepAt = now.Add(wait) })
	s.awake()
}

// begin returns a state of one of the group's volumes and its binding to ask with. Where the requests of others already answered
// what the group holds, there is nothing to ask: ok is false, and confirmed are the changes.
func (s *store) begin(j job, now time.Time) (b bound, confirmed []change, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := j.group
	g.triedAt = now
	if len(g.members) == 0 {
		g.busy = false
		return b, nil, false
	}
	if oldest, answered := s.answered(g, j.due); answered && j.onTick {
		g.fetchedAt, g.busy = oldest, false
		g.dueOnTick(s.schedule, s.intervalOf(g), now, 0)
		for target := range g.members {
			confirmed = append(confirmed, s.update(target, func(_ *volumeState, after *volume.Snapshot) {
				after.FetchedAt = oldest
			}))
		}
		s.awake()
		return b, confirmed, false
	}
	for target := range g.members {
		b = s.volumes[target].bound
		break
	}
	b.binding = g.binding
	return b, nil, true
}

// update replaces the state and the snapshot of a volume by changed copies. The caller holds the lock.
func (s *store) update(target string, edit func(*volumeState, *volume.Snapshot)) change {
	before := s.volumes[target]
	after, snapshot := *before, *before.snapshot
	after.snapshot = &snapshot
	edit(&after, &snapshot)
	s.volumes[target] = &after
	return change{before: before, after: &after}
}

// answered reports whether every source of the group was asked by another group within half an interval before due, and answered what the
// group holds, and when the oldest of these answers was requested.
func (s *store) answered(g *refreshGroup, due time.Time) (oldest time.Time, ok bool) {
	if len(g.hashes) == 0 || g.failures > 0 {
		return oldest, false
	}
	for target := range g.members {
		state := s.volumes[target]
		if state.hash == ([32]byte{}) || state.snapshot.Failure != nil ||
			len(state.class.Spec.SecretObjects) > 0 && due.Sub(g.deliveredAt) > volume.SecretRepairInterval {
			return oldest, false
		}
	}
	since := due.Add(-s.intervalOf(g) / 2)
	for key, hash := range g.hashes {
		source, known := s.sources[key]
		if !known || source.hash != hash || source.asked.Before(since) || !source.asked.After(g.fetchedAt) {
			return oldest, false
		}
		if oldest.IsZero() || source.asked.Before(oldest) {
			oldest = source.asked
		}
	}
	return oldest, true
}

// failed notes that a group could not be refreshed, plans the next try, and returns the changes of its volumes.
func (s *store) failed(g *refreshGroup, now time.Time, asked time.Duration, err error) (changes []change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.awake()
	g.busy = false
	g.failures++
	g.reason = volume.ReasonOf(err)
	stale := false
	for target := range g.members {
		changes = append(changes, s.update(target, func(_ *volumeState, after *volume.Snapshot) {
			after.Failure = after.Failure.Next(now, err)
			stale = stale || after.Stale || after.Fallback != ""
		}))
	}
	if interval := s.intervalOf(g); interval > 0 || stale {
		g.dueForRetry(s.schedule, interval, now, asked)
	}
	return changes
}

// fetched notes the bundle of a group and returns the volumes that it is for.
func (s *store) fetched(g *refreshGroup, bundle *volume.Bundle, now time.Time) (targets []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.awake() // other groups may have become due
	s.observe(g, bundle, now)
	return slices.Sorted(maps.Keys(g.members))
}

// toWrite returns the state of a volume that a bundle of its group is for; ok is false where the volume left the group or the node
// meanwhile, or holds a newer bundle. Differs is true where the files hold something else.
func (s *store) toWrite(g *refreshGroup, target string, bundle *volume.Bundle) (state *volumeState, differs, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, known := s.volumes[target]
	if _, member := g.members[target]; !known || !member || bundle.FetchedAt.Before(state.snapshot.FetchedAt) {
		return nil, false, false
	}
	return state, state.hash != hashOf(g.binding, bundle), true
}

// delivered notes what came of bringing a bundle to a volume. The caller holds the target's lock since toWrite. It is false where
// the volume is gone.
func (s *store) delivered(g *refreshGroup, target string, bundle *volume.Bundle, now time.Time, err error) (c change, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.volumes[target]; !known {
		return change{}, false
	}
	return s.update(target, func(state *volumeState, after *volume.Snapshot) {
		if err != nil {
			after.Failure = after.Failure.Next(now, err)
			return
		}
		state.hash = hashOf(g.binding, bundle)
		after.Objects, after.Bytes, after.FetchedAt = bundle.Objects, sizeOf(bundle), bundle.FetchedAt
		after.Started = started(after.Started, bundle.Objects)
		after.Stale, after.Fallback, after.Detection = false, "", bundle.Detection
		if state.resolveErr != nil {
			after.Failure = after.Failure.Next(now, state.resolveErr)
			return
		}
		after.Failure = nil
	}), true
}

// expiring returns the objects of a volume that crossed a mark before their expiry since the last call.
func (s *store) expiring(target string, objects []volume.Object, now time.Time) (crossed []volume.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.volumes[target]; !known {
		return nil
	}
	s.update(target, func(state *volumeState, _ *volume.Snapshot) {
		crossed, state.expiryMarks = expiry.Crossed(state.expiryMarks, objects, now)
	})
	return crossed
}

// finished makes the group free for its next refresh.
func (s *store) finished(g *refreshGroup, bundle *volume.Bundle, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g.busy, g.deliveredAt = false, bundle.FetchedAt
	g.dueAfter(s.schedule, s.intervalOf(g), now, bundle)
	s.awake()
}

// holds reports whether the volume is still known as the ref.
func (s *store) holds(ref volume.Ref) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, known := s.volumes[ref.TargetPath]
	return known && state.Ref == ref
}

// refreshNow makes the volume's group due, if the volume is known as the ref.
func (s *store) refreshNow(ref volume.Ref, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, known := s.volumes[ref.TargetPath]
	if !known || state.Ref != ref || state.binding == nil {
		return
	}
	if g := s.groups[state.binding.Key()]; g != nil {
		g.dueAt(now, now)
		s.awake()
	}
}

// knows reports whether a volume at the target is known.
func (s *store) knows(target string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.volumes[target] != nil
}

// ref is that of the volume at the target; ok is false where none is known.
func (s *store) ref(target string) (ref volume.Ref, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, ok := s.volumes[target]
	if !ok {
		return volume.Ref{}, false
	}
	return state.snapshot.Ref, true
}

// edited notes a class that was added, edited or removed.
func (s *store) edited(key classKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.edits[key] == nil {
		s.edits[key] = &edit{}
	}
	s.edits[key].pending = true
	s.awake()
}

// takeEdits begins with the edits that are pending. One class is resolved by one goroutine at a time: an older resolution never comes
// last.
func (s *store) takeEdits() (keys []classKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, e := range s.edits {
		if e.pending && !e.busy {
			e.pending, e.busy = false, true
			keys = append(keys, key)
		}
	}
	return keys
}

func (s *store) endEdit(key classKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.edits[key]; e.pending {
		e.busy = false
		s.awake()
		return
	}
	delete(s.edits, key)
}

// usersOf returns the states of the volumes of a class.
func (s *store) usersOf(key classKey) (users []*volumeState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, state := range s.volumes {
		if state.Ref.Pod.Namespace == key.namespace && state.Ref.Class == key.name {
			users = append(users, state)
		}
	}
	return users
}

// join puts the volume into its group, which takes the volume's binding as the newest. The caller holds the lock.
func (s *store) join(state *volumeState) *refreshGroup {
	key, target := state.binding.Key(), state.Ref.TargetPath
	g, known := s.groups[key]
	if !known {
		g = &refreshGroup{members: map[string]struct{}{}}
		s.groups[key] = g
	}
	g.binding = state.binding
	g.members[target] = struct{}{}
	s.volumes[target] = state
	return g
}

// share lets a new snapshot hold the lists of another volume of its group where they are equal: replicas have the same objects. The caller
// holds the lock.
func (s *store) share(g *refreshGroup, snapshot *volume.Snapshot) {
	for target := range g.members {
		other := s.volumes[target].snapshot
		if other == snapshot {
			continue
		}
		if slices.Equal(snapshot.Objects, other.Objects) {
			snapshot.Objects = other.Objects
		}
		if maps.Equal(snapshot.Started, other.Started) {
			snapshot.Started = other.Started
		}
		return
	}
}

// drop takes the volume out of its group, and with its last volume the group. The caller holds the lock.
func (s *store) drop(target string) {
	state, known := s.volumes[target]
	if !known {
		return
	}
	delete(s.volumes, target)
	if state.binding == nil {
		return
	}
	key := state.binding.Key()
	g := s.groups[key]
	delete(g.members, target)
	if len(g.members) == 0 {
		delete(s.groups, key)
		s.holdSources(g, nil)
	}
}

// holdSources replaces the source hashes that a group holds, and forgets sources that no group holds any more. The caller holds the
// lock.
func (s *store) holdSources(g *refreshGroup, hashes map[volume.SourceKey][32]byte) {
	for key := range hashes {
		if s.sources[key] == nil {
			s.sources[key] = &sourceState{}
		}
		s.sources[key].groups++
	}
	for key := range g.hashes {
		if source := s.sources[key]; source.groups > 1 {
			source.groups--
		} else {
			delete(s.sources, key)
		}
	}
	g.hashes = hashes
}

// observe remembers what the sources of a group answered. Groups that hold another answer of a source that changed become due. The
// caller holds the lock.
func (s *store) observe(g *refreshGroup, bundle *volume.Bundle, now time.Time) {
	g.failures, g.reason, g.fetchedAt = 0, "", bundle.FetchedAt
	if len(g.members) == 0 {
		return // its volumes were unpublished during the refresh
	}
	before := g.hashes
	hashes := make(map[volume.SourceKey][32]byte, len(bundle.Sources))
	for _, source := range bundle.Sources {
		hashes[source.Key] = source.Hash
	}
	s.holdSources(g, hashes)
	changed := map[volume.SourceKey]bool{}
	for _, source := range bundle.Sources {
		known := s.sources[source.Key]
		if known.asked.After(source.Asked) {
			if known.hash != source.Hash && s.intervalOf(g) > 0 {
				g.dueAt(now, now) // another group got a newer answer while this one waited for its own
			}
			continue
		}
		changed[source.Key] = known.hash != source.Hash
		known.hash, known.asked = source.Hash, source.Asked
	}
	for _, other := range s.groups {
		held := other.hashes
		if other == g {
			if g.busy || len(g.members) == 1 {
				continue
			}
			held = before // a new Pod of the group saw the change first: the others follow
		}
		if s.intervalOf(other) > 0 && outdated(held, hashes, changed) {
			other.dueAt(now, now)
		}
	}
}

func (s *store) intervalOf(g *refreshGroup) time.Duration { return s.intervalFor(g.binding) }

func (s *store) intervalFor(b volume.Binding) time.Duration {
	if interval, ok := b.RotationInterval(); ok {
		return interval
	}
	return s.interval
}
