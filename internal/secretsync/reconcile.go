package secretsync

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"k8s.io/utils/clock"
)

const (
	// maxRounds bounds how often one call begins again because the Secret changed meanwhile.
	maxRounds = 8
	// raceWait is the longest wait before the second round; it doubles.
	raceWait = 20 * time.Millisecond
	// undecidedWait is after how long the vault's clock is in another second.
	undecidedWait = time.Second
)

var (
	errForeign = errors.New("the Secret is not the driver's")
	errRaced   = errors.New("the Secret changed while it was written")
)

// Options configure New. All fields are required.
type Options struct {
	Secrets Secrets
	Classes Classes
	Clock   clock.Clock
	Rules   Rules
}

// Reconciler brings Secrets in step. It holds no state and may be used concurrently, for one Secret of one class at a
// time.
type Reconciler struct {
	secrets Secrets
	classes Classes
	clock   clock.Clock
	rules   Rules
}

// New returns a Reconciler.
func New(o Options) *Reconciler {
	return &Reconciler{secrets: o.Secrets, classes: o.Classes, clock: o.Clock, rules: o.Rules}
}

// Observe asks the API server about the Secret unless the last answer is fresh, so that it can go on in parallel with
// what the caller has to find out first. What fails is found again by Reconcile.
func (r *Reconciler) Observe(ctx context.Context, d *Desired, k *Known) {
	if k.Fresh(r.clock.Now()) || r.rules.Check(d) != nil {
		return
	}
	if seen, err := r.probe(ctx, d); err == nil {
		k.note(seen, r.clock.Now())
	}
}

func (k *Known) note(seen *observed, now time.Time) { k.seen, k.at = seen, now }

// holds notes that the Secret is as desired.
func (k *Known) holds(seen *observed, d *Desired, now time.Time) {
	k.note(seen, now)
	k.hash, k.version = d.Hash, seen.version
}

// Reconcile makes the Secret what is desired, unless it is so already or the write would go back in time.
func (r *Reconciler) Reconcile(ctx context.Context, d *Desired, k *Known) Outcome {
	if err := r.rules.Check(d); err != nil {
		return r.explain(d, err)
	}
	start := r.clock.Now()
	var notices []string
	for round := range maxRounds {
		if round > 0 && !r.pause(ctx, round) {
			break
		}
		outcome, err := r.once(ctx, d, k, &notices)
		if err == nil {
			outcome.Took = r.clock.Since(start)
			outcome.Notices = notices
			return outcome
		}
		before := k.seen
		k.Forget()
		if before == nil || !raced(err, before) {
			return r.explain(d, err)
		}
	}
	if ctx.Err() != nil {
		return r.explain(d, ctx.Err())
	}
	return r.explain(d, errRaced)
}

// pause waits a random time that grows with the round, so that nodes which write one Secret get out of each other's
// way.
func (r *Reconciler) pause(ctx context.Context, round int) bool {
	timer := r.clock.NewTimer(rand.N(raceWait << (round - 1))) //nolint:gosec // spreads nodes, hides nothing
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C():
		return true
	}
}

// once compares and writes once. An error for which raced is true means that the Secret is no longer what was seen.
func (r *Reconciler) once(ctx context.Context, d *Desired, k *Known, notices *[]string) (Outcome, error) {
	if !k.Fresh(r.clock.Now()) {
		seen, err := r.probe(ctx, d)
		if err != nil {
			k.hash = [32]byte{}
			return Outcome{}, err
		}
		k.note(seen, r.clock.Now())
	}
	switch {
	case k.seen.terminating:
		return terminatingSecret(d), nil
	case !k.seen.exists():
		k.hash = [32]byte{}
		return r.create(ctx, d, k)
	case d.ownersAlone():
		return r.own(ctx, d, k)
	}
	order := compare(d, k.seen.record)
	if order == otherClass {
		var err error
		if order, err = r.resolve(ctx, d); err != nil {
			return Outcome{}, err
		}
	}
	switch order {
	case newer:
		return r.update(ctx, d, k, recordOf(d, k.seen.record).noteChanges(k.seen.record, r.clock.Now()), notices)
	case equal:
		if k.hash == d.Hash && (k.seen.version == k.version || k.seen.intact(d)) {
			return r.own(ctx, d, k)
		}
		// The same versions: what is written differs only where somebody changed the Secret, or another version of the
		// driver makes other bytes of them. With the record as it is the API server stores nothing where nothing
		// differs.
		return r.update(ctx, d, k, k.seen.record, notices)
	case older, undecided, undated, superseded, overruled, otherClass:
	}
	outcome, err := r.own(ctx, d, k)
	if err == nil {
		outcome = outcome.held(d, order)
	}
	return outcome, err
}

// resolve decides between two classes of one name: the one that exists wins.
func (r *Reconciler) resolve(ctx context.Context, d *Desired) (order, error) {
	uid, err := r.classes.ClassUID(ctx, d.Namespace, d.Class.Name)
	if err != nil {
		return otherClass, fmt.Errorf("read the class %s: %w", d.Class.Name, err)
	}
	if uid == d.Class.UID {
		return newer, nil
	}
	return otherClass, nil
}

// create makes the Secret. One without an owner would stay for ever, so there is none before an owner is known.
func (r *Reconciler) create(ctx context.Context, d *Desired, k *Known) (Outcome, error) {
	switch {
	case d.Data == nil:
		return notFromStale(d), nil
	case len(d.Owners) == 0:
		return Outcome{}, nil
	}
	after, err := r.apply(ctx, d, k.seen, recordOf(d, nil), false)
	if err != nil {
		return Outcome{}, err
	}
	k.holds(after, d, r.clock.Now())
	return created(d), nil
}

// update applies the values over a Secret that exists.
func (r *Reconciler) update(ctx context.Context, d *Desired, k *Known, as *record, notices *[]string) (Outcome, error) {
	before := k.seen
	seen, inherited := r.inherit(ctx, d, before)
	k.note(seen, r.clock.Now())
	after, notice, err := r.put(ctx, d, seen, as)
	if denied := (*ownersForbiddenError)(nil); errors.As(err, &denied) {
		k.holds(after, d, r.clock.Now())
		return Outcome{}, err
	}
	if err != nil {
		return Outcome{}, err
	}
	k.holds(after, d, r.clock.Now())
	if notice == "" && len(inherited) > 0 {
		notice = inheritedFrom(d, inherited)
	}
	if notice != "" {
		*notices = append(*notices, notice)
	}
	if after.version == before.version {
		return Outcome{}, nil
	}
	return updated(d), nil
}

// put applies, by force where no class that exists has a claim. The notice says what was taken from whom.
func (r *Reconciler) put(
	ctx context.Context,
	d *Desired,
	seen *observed,
	as *record,
) (after *observed, notice string, err error) {
	after, err = r.applyWithOwners(ctx, d, seen, as, false)
	claims := claimsOf(err)
	if claims == nil {
		return after, "", err
	}
	classes, err := r.classes.SecretClasses(ctx, d.Namespace, d.Name)
	if err != nil {
		return nil, "", fmt.Errorf("list the classes of the namespace: %w", err)
	}
	if living := d.claimsOfClasses(claims, classes); len(living) > 0 {
		return nil, "", &contestedError{claims: living}
	}
	after, err = r.applyWithOwners(ctx, d, seen, as, true)
	return after, taken(d, claims), err
}

// applyWithOwners applies without new owners where the API server does not let the driver add them. Then the error is
// an ownersForbiddenError, and the values are written all the same.
func (r *Reconciler) applyWithOwners(
	ctx context.Context,
	d *Desired,
	seen *observed,
	as *record,
	force bool,
) (*observed, error) {
	after, err := r.apply(ctx, d, seen, as, force)
	if !ownersForbidden(err) || !seen.exists() || len(seen.missing(d.Owners)) == 0 {
		return after, err
	}
	without := *d
	without.Owners = nil
	after, again := r.apply(ctx, &without, seen, as, force)
	if again != nil {
		return nil, again
	}
	return after, &ownersForbiddenError{cause: err}
}

// own adds the owners that a Secret lacks which is not to be written otherwise.
func (r *Reconciler) own(ctx context.Context, d *Desired, k *Known) (Outcome, error) {
	if d.OwnerPolicy == ExactOwners && !d.ownersAlone() && k.seen.ownersMissing(d) {
		return r.update(ctx, d, k, k.seen.record, &[]string{})
	}
	if len(k.seen.missing(d.Owners)) == 0 {
		return Outcome{}, nil
	}
	before := k.seen
	after, err := r.addOwners(ctx, d, before)
	if err != nil {
		return Outcome{}, err
	}
	if k.version == before.version {
		k.version = after.version // the owners are all that changed
	}
	k.note(after, r.clock.Now())
	return Outcome{}, nil
}
