package nodesync

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/secretdata"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// apply serves one request, until ctx ends. What is left then goes on without the caller.
func (s *Syncer) apply(ctx context.Context, r *request) {
	if s.skip(ctx, r) {
		return
	}
	if err := r.build(); err != nil {
		s.reject(ctx, r, err)
		return
	}
	work := context.WithoutCancel(ctx)
	s.goes(func(context.Context) {
		defer close(r.owners)
		defer s.recovered(work, "owners")
		ctx, cancel := s.bound(work)
		defer cancel()
		r.pod, r.podErr = s.ownersOf(ctx, r.ref.Pod, s.slots)
	})
	s.mu.Lock()
	st := r.state
	st.waiting = append(st.waiting, r)
	lead := !st.busy
	st.busy = true
	s.mu.Unlock()
	if lead {
		s.goes(func(context.Context) { s.lead(work, st) })
	}
	select {
	case <-r.done:
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
}

// bound limits work that no caller waits for: by time, and by Close.
func (s *Syncer) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// skip says whether the request needs nothing of the API server: the Secret is in place, or what it asks for was just
// tried.
func (s *Syncer) skip(ctx context.Context, r *request) bool {
	if r.twice {
		s.tell(ctx, r.ref, twice(r.state.secretKey))
		return true
	}
	r.hash = s.hashOf(r)
	now := s.clock.Now()
	s.mu.Lock()
	st := r.state
	lost, overruled := st.overruled[r.ref.Attributes]
	failure := st.failure
	inPlace := !r.bundle.Provisional() && st.done == r.hash && now.Sub(st.checked) <= driftCheck
	s.mu.Unlock()
	if !r.fresh && (inPlace || overruled && now.Sub(lost) < driftCheck) {
		return true
	}
	return failure != nil && s.failedBefore(ctx, r, failure, now)
}

// failedBefore reports whether the failure was one of the same Secret, and is not to be tried again now. It is reported
// for the volume too.
func (s *Syncer) failedBefore(ctx context.Context, r *request, f *failure, now time.Time) bool {
	if f.outcome.Result == secretsync.Held || f.hash != r.hash {
		return false
	}
	sameFetch := !r.bundle.FetchedAt.After(f.fetched) // tried for another volume
	if !sameFetch && (r.fresh || !f.blocks(now)) {
		return false
	}
	s.tell(ctx, r.ref, f.outcome)
	if !sameFetch && f.outcome.Retry == secretsync.RetryWithSameValues && r.build() == nil {
		s.keep(r, true) // the retry that is planned gets the newest values
	}
	return true
}

// blocks says whether a refresh with the same values is not to be tried now.
func (f *failure) blocks(now time.Time) bool {
	if f.outcome.Retry == secretsync.RetryWithFreshValues {
		return now.Before(f.next)
	}
	return true // the queue tries again, or nothing can help
}

// hashOf is equal for requests that make the same Secret of the same class version.
func (s *Syncer) hashOf(r *request) [32]byte {
	content := secretdata.Hash(s.hashKey, r.object, r.bundle.Files)
	return sha256.Sum256(
		fmt.Appendf(content[:], "\x00%s\x00%d\x00%s", r.class.UID, r.class.Generation, r.ref.Attributes),
	)
}

// lead works on a Secret until nothing waits. The caller has set busy.
func (s *Syncer) lead(ctx context.Context, st *secretState) {
	for s.step(ctx, st) {
	}
}

// step serves what waits and says whether to go on. A panic leaves the Secret free for others.
func (s *Syncer) step(ctx context.Context, st *secretState) (more bool) {
	var served []*request
	defer func() {
		for _, r := range served {
			close(r.done)
		}
	}()
	defer s.recovered(ctx, "reconcile")
	finished := false
	defer func() {
		if !finished { // it panics
			s.mu.Lock()
			defer s.mu.Unlock()
			st.busy, st.known = false, secretsync.Known{}
		}
	}()
	s.mu.Lock()
	if len(st.waiting) == 0 && !st.again || s.closed {
		st.busy = false
		served, st.waiting = st.waiting, nil
		s.mu.Unlock()
		finished = true
		return false
	}
	first := (*request)(nil)
	if len(st.waiting) > 0 {
		first = st.waiting[0]
	}
	s.mu.Unlock()
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if first == nil {
		s.retry(ctx, st)
		finished = true
		return true
	}
	s.starts.Observe(ctx, first.desired, &st.known) // while Pods are read
	select {
	case <-first.owners:
	case <-ctx.Done():
	}
	served = s.take(st)
	s.serve(ctx, st, served)
	finished = true
	return true
}

// take returns the first request that waits, and all others whose Pods were read.
func (s *Syncer) take(st *secretState) (batch []*request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rest []*request
	for i, r := range st.waiting {
		ready := i == 0
		select {
		case <-r.owners:
			ready = true
		default:
		}
		if ready {
			batch = append(batch, r)
		} else {
			rest = append(rest, r)
		}
	}
	st.waiting = rest
	return batch
}

// serve brings the Secret in step with the newest request of the batch, and adds the owners of all.
func (s *Syncer) serve(ctx context.Context, st *secretState, batch []*request) {
	c := call{state: st}
	var best *request
	for _, r := range batch {
		select {
		case <-r.owners:
		default: // the time is up
			r.podErr = fmt.Errorf("read Pod %s: %w", r.ref.Pod, context.DeadlineExceeded)
		}
		if r.podErr == nil && r.pod == nil {
			continue // a Secret for a Pod that is gone would have no owner
		}
		c.add(r.ref, r.pod, r.podErr)
		if best == nil || r.better(best) {
			best = r
		}
	}
	if best == nil {
		return
	}
	desired := *best.desired
	for _, r := range batch {
		if r.pod != nil && r.ref.Attributes == best.ref.Attributes && r.pod.created.After(desired.Attributes.Created) {
			desired.Attributes.Created = r.pod.created
		}
	}
	c.desired, c.fetched = &desired, best.bundle.FetchedAt
	s.run(ctx, c, s.starts)
	for _, r := range batch {
		if r.pod != nil && r.ref.Attributes != best.ref.Attributes {
			s.overrule(ctx, st, []volume.Ref{r.ref}, secretsync.Overruled(r.desired))
		}
	}
}

// better says whether r decides over another request: of a younger Pod where volume attributes differ, else with newer
// values.
func (r *request) better(than *request) bool {
	if r.ref.Attributes != than.ref.Attributes && r.pod != nil && than.pod != nil {
		if !r.pod.created.Equal(than.pod.created) {
			return r.pod.created.After(than.pod.created)
		}
		return r.ref.Attributes > than.ref.Attributes
	}
	if (r.desired.Data == nil) != (than.desired.Data == nil) {
		return r.desired.Data != nil
	}
	return r.bundle.FetchedAt.After(than.bundle.FetchedAt)
}

// retry does what the background asked for.
func (s *Syncer) retry(ctx context.Context, st *secretState) {
	s.mu.Lock()
	st.again = false
	want, failure, refs := st.want, st.failure, st.usersOf()
	s.mu.Unlock()
	if len(refs) == 0 || want == nil && failure == nil {
		return
	}
	c := call{state: st, background: true}
	for _, ref := range refs {
		pod, err := s.ownersOf(ctx, ref.Pod, nil)
		if pod == nil && err == nil {
			continue
		}
		c.add(ref, pod, err)
		if want != nil && pod != nil && ref.Attributes == want.desired.Attributes.Hash &&
			pod.created.After(want.desired.Attributes.Created) {
			want.desired.Attributes.Created = pod.created
		}
	}
	if len(c.refs) == 0 {
		return
	}
	if want != nil {
		copied := *want.desired
		c.desired, c.fetched = &copied, want.fetched
	} else {
		c.desired, c.fetched = &secretsync.Desired{
			Namespace: st.namespace, Name: st.secret, Type: secretdata.TypeOpaque, Hash: failure.hash, Writer: writer(),
			Class: secretsync.Class{Name: st.class},
		}, failure.fetched
	}
	s.run(ctx, c, s.background)
}

// call is one call of the reconciler.
type call struct {
	state   *secretState
	desired *secretsync.Desired
	// fetched is when the oldest value left the vault.
	fetched time.Time
	// refs are the volumes to report to, and owners those of their Pods. Unread is why some are missing.
	refs       []volume.Ref
	owners     []metav1.OwnerReference
	unread     error
	background bool
}

func (c *call) add(ref volume.Ref, pod *podOwners, err error) {
	c.refs = append(c.refs, ref)
	if err != nil {
		c.unread = err
		return
	}
	c.owners = append(c.owners, pod.refs...)
}

// run reconciles and settles.
func (s *Syncer) run(ctx context.Context, c call, reconciler *secretsync.Reconciler) {
	c.desired.Owners = slices.Concat(c.owners, s.knownOwners(c.state))
	outcome := reconciler.Reconcile(ctx, c.desired, &c.state.known)
	if outcome.Done() && c.unread != nil {
		outcome.Result, outcome.Retry, outcome.Reason = secretsync.Failed, secretsync.RetryWithSameValues, volume.ReasonUnavailable
		outcome.Message = unreadPod(c.state.secretKey, c.unread)
	}
	if ctx.Err() != nil && s.ctx.Err() != nil {
		return // the driver stops
	}
	s.settle(ctx, c, outcome)
}

// knownOwners are those of all Pods that use the Secret and were read, so that one request adds all that are missing.
func (s *Syncer) knownOwners(st *secretState) (owners []metav1.OwnerReference) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ref := range st.usersOf() {
		if held := s.owners[types.UID(ref.Pod.UID)]; held != nil {
			owners = append(owners, held.refs...)
		}
	}
	return owners
}

// work takes retries until the queue is shut down.
func (s *Syncer) work(ctx context.Context) {
	for {
		key, ended := s.queue.Get()
		if ended {
			return
		}
		s.mu.Lock()
		st := s.states[key]
		lead := st != nil && !st.busy
		if st != nil {
			st.again, st.busy = true, true
		}
		s.mu.Unlock()
		if lead {
			s.lead(ctx, st)
		}
		s.queue.Done(key)
	}
}
