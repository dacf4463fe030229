package nodesync

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// settle notes how a call ended, plans what is left, and reports.
func (s *Syncer) settle(ctx context.Context, c call, outcome secretsync.Outcome) {
	for _, notice := range outcome.Notices {
		for _, ref := range c.refs {
			s.send(ctx, Event{Kind: Conflict, Volume: ref, Message: notice})
		}
	}
	st := c.state
	switch {
	case outcome.Done():
		s.succeeded(st, c, false)
		if outcome.Result != secretsync.Unchanged {
			s.send(ctx, Event{
				Kind: Synced, Volume: c.refs[0], Secret: c.state.secret, Message: outcome.Message, Duration: outcome.Took,
			})
		}
		return
	case outcome.IsOverruled():
		s.succeeded(st, call{state: st, fetched: c.fetched, desired: &secretsync.Desired{}}, true)
		s.overrule(ctx, st, c.refs, outcome)
		return
	}
	tries := s.failed(st, c, outcome)
	if outcome.Result == secretsync.Held {
		if outcome.Refetch && s.refetch != nil {
			s.askAgain(c.refs[0], max(refetchWait, outcome.RefetchAfter, wait(tries)))
		}
		return
	}
	for _, ref := range c.refs {
		s.tell(ctx, ref, outcome)
	}
}

// askAgain has the volume refreshed after some time.
func (s *Syncer) askAgain(ref volume.Ref, after time.Duration) {
	s.goes(func(ctx context.Context) {
		timer := s.clock.NewTimer(after)
		defer timer.Stop()
		select {
		case <-ctx.Done():
		case <-timer.C():
			s.refetch(ref)
		}
	})
}

// wait is how long to wait after as many failures one after the other, at least one.
func wait(tries int) time.Duration {
	return min(firstRetry<<min(tries-1, 16), lastRetry)
}

// succeeded notes that what was desired is in place, or overruled.
func (s *Syncer) succeeded(st *secretState, c call, overruled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.failure = nil
	if c.desired.Data != nil {
		st.done, st.checked = c.desired.Hash, s.clock.Now()
	}
	switch {
	case st.want == nil:
	case st.want.fetched.After(c.fetched):
		return
	case !overruled && !s.ownedByAll(st, c.desired.Owners):
		return // a volume came while the call was under way, and the queue has the Secret for its sake
	}
	st.want = nil
	s.queue.Forget(st.secretKey)
}

// ownedByAll reports whether these are owners of all volumes that ask for the Secret. The caller holds mu.
func (s *Syncer) ownedByAll(st *secretState, owners []metav1.OwnerReference) bool {
	has := make(map[types.UID]bool, len(owners))
	for _, o := range owners {
		has[o.UID] = true
	}
	for _, ref := range st.users {
		held := s.owners[types.UID(ref.Pod.UID)]
		if held == nil || held.gone {
			continue
		}
		if held.refs == nil { // not read yet
			return false
		}
		for _, o := range held.refs {
			if !has[o.UID] {
				return false
			}
		}
	}
	return true
}

// failed notes a failure and plans the next try. It returns how many there were one after the other.
func (s *Syncer) failed(st *secretState, c call, outcome secretsync.Outcome) (tries int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &failure{outcome: outcome, hash: c.desired.Hash, fetched: c.fetched, tries: 1}
	if st.failure != nil {
		f.tries = st.failure.tries + 1
	}
	f.next = s.clock.Now().Add(wait(f.tries))
	st.failure, st.done = f, [32]byte{}
	if s.states[st.secretKey] != st {
		return f.tries // no volume asks for it any more
	}
	if outcome.Retry == secretsync.RetryWithSameValues {
		if c.desired.Data != nil && (st.want == nil || !c.fetched.Before(st.want.fetched)) {
			st.want = &wanted{desired: c.desired, fetched: c.fetched}
		}
		s.queue.AddRateLimited(st.secretKey)
		return f.tries
	}
	if st.want != nil && !st.want.fetched.After(c.fetched) {
		st.want = nil
	}
	s.queue.Forget(st.secretKey)
	return f.tries
}

// keep gives a request to the background; later where it failed before.
func (s *Syncer) keep(r *request, later bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := r.state
	if s.states[st.secretKey] != st {
		return
	}
	if r.desired.Data != nil && (st.want == nil || !r.bundle.FetchedAt.Before(st.want.fetched)) {
		st.want = &wanted{desired: r.desired, fetched: r.bundle.FetchedAt}
	}
	if later || st.failure != nil && st.failure.outcome.Retry == secretsync.RetryWithSameValues {
		return // the queue has it
	}
	s.queue.Add(st.secretKey)
}

// overrule notes and reports, once in a while, that a Pod's volume attributes lost against a younger Pod's.
func (s *Syncer) overrule(ctx context.Context, st *secretState, refs []volume.Ref, outcome secretsync.Outcome) {
	for _, ref := range refs {
		s.mu.Lock()
		at, known := st.overruled[ref.Attributes]
		now := s.clock.Now()
		tell := !known || now.Sub(at) >= driftCheck
		if tell {
			st.overruled[ref.Attributes] = now
		}
		s.mu.Unlock()
		if tell {
			s.tell(ctx, ref, outcome)
		}
	}
}

// reject notes a request whose Secret cannot be made from its class or its files.
func (s *Syncer) reject(ctx context.Context, r *request, err error) {
	outcome := secretsync.Outcome{
		Result: secretsync.Failed,
		Reason: volume.ReasonOf(err),
		Err:    err,
		Message: r.state.String() +
			" cannot be created: " + err.Error(),
	}
	s.failed(r.state, call{
		state: r.state, fetched: r.bundle.FetchedAt, desired: &secretsync.Desired{Hash: r.hash},
	}, outcome)
	s.tell(ctx, r.ref, outcome)
}

// tellLeft reports Secrets that the class of a volume does not ask for any more.
func (s *Syncer) tellLeft(ctx context.Context, ref volume.Ref, keys []secretKey) {
	for _, key := range keys {
		s.send(
			ctx,
			Event{
				Kind:   Left,
				Volume: ref,
				Message: key.String() + " is not in the class any more: it stays as it is, without " +
					"updates, until its owners are gone: delete it if nothing uses it, which takes the right to delete Secrets in this namespace",
			},
		)
	}
}

func (s *Syncer) tell(ctx context.Context, ref volume.Ref, outcome secretsync.Outcome) {
	if outcome.Message == "" {
		return
	}
	kind := Failed
	if outcome.Result == secretsync.Conflict {
		kind = Conflict
	}
	s.send(ctx, Event{Kind: kind, Volume: ref, Reason: outcome.Reason, Message: outcome.Message})
}

func (s *Syncer) send(ctx context.Context, e Event) {
	e.Time = s.clock.Now()
	s.report(ctx, e)
}

func twice(key secretKey) secretsync.Outcome {
	return secretsync.Outcome{Result: secretsync.Failed, Reason: volume.ReasonInvalidClass, Message: key.String() +
		" is in secretObjects more than once: only the first counts: merge them"}
}

func unreadPod(key secretKey, err error) string {
	text := err.Error()
	if apierrors.IsForbidden(err) {
		if status, ok := errors.AsType[*apierrors.StatusError](err); ok {
			text = status.Error()
		}
		return key.String() + " has no owner yet, because the driver may not read its Pod: give it the right to get pods, which the chart's " +
			"syncSecret.enabled does: " + printable.OneLine(
			text,
		)
	}
	return key.String() + " has no owner yet, because its Pod could not be read: it is tried again: " + printable.OneLine(
		text,
	)
}
