package kube

import (
	"context"
	"errors"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/secretdata"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// known is what the API server last said of a Secret; zero where it does not exist or was not asked.
type known struct {
	uid     types.UID
	version string
	// wrote is when this class's fields were last written, by whatever node.
	wrote  time.Time
	owners map[types.UID]bool
}

// job is one try.
type job struct {
	// refs are the volumes to report to, whose pods' owners are to own the Secret.
	refs []volume.Ref
	// owners are the owners of the refs' pods, once bring has read them.
	owners []metav1.OwnerReference
	// fresh is true at a volume's first call.
	fresh bool
	// stale is true where the values are last known good ones: only owners are added.
	stale bool
	// again is true for a retry in the background; want is what it writes, nil for owners alone.
	again bool
	want  *wanted

	print   [32]byte
	fetched time.Time
	// build makes the Secret; nil where there are no values.
	build func() (*secretdata.Secret, error)
	// secret is what build made, once it was needed.
	secret *secretdata.Secret
}

// mostRounds bounds how often one try begins anew because the Secret was deleted, or replaced, meanwhile.
const mostRounds = 3

// errVanished means that the Secret that is known is no more.
var errVanished = errors.New("the Secret was deleted meanwhile")

// work does a job. The caller holds the turn.
func (m *Mirror) work(ctx context.Context, t *target, j job) {
	if f := t.failed; f != nil && !j.again && f.print == j.print && !j.fetched.After(f.fetched) {
		// the same values were just tried for another volume
		for _, ref := range j.refs {
			m.tell(ref, f)
		}
		return
	}
	err := m.bring(ctx, t, &j)
	if err == nil {
		t.failed = nil
		m.settle(t, j.fetched)
		return
	}
	f := explain(t.secretKey, err, j.secret)
	f.print, f.fetched = j.print, j.fetched
	t.failed = f
	for _, ref := range j.refs {
		m.tell(ref, f)
	}
	if !f.passing {
		m.settle(t, j.fetched)
		return
	}
	var w *wanted
	if t.print != j.print && j.secret != nil {
		w = &wanted{secret: j.secret, print: j.print, fetched: j.fetched}
	}
	m.keep(t, w)
}

// bring makes the Secret stand as asked, with its owners.
func (m *Mirror) bring(ctx context.Context, t *target, j *job) error {
	var unread error
	j.owners, unread = m.ownersFor(ctx, j.refs)
	if len(j.owners) == 0 && unread == nil {
		return nil // the pods are gone: a Secret without an owner would stay for ever
	}
	for range mostRounds {
		err := m.write(ctx, t, j)
		if err == nil {
			err = m.own(ctx, t, j.owners)
		}
		if !errors.Is(err, errVanished) {
			return errors.Join(err, unread)
		}
		t.known, t.print = known{}, [32]byte{}
	}
	return errVanished
}

// ownersFor collects the owners of the volumes' pods. Unread is why some are missing.
func (m *Mirror) ownersFor(ctx context.Context, refs []volume.Ref) (owners []metav1.OwnerReference, unread error) {
	pods := map[string]bool{}
	for _, ref := range refs {
		if pods[ref.Pod.UID] {
			continue
		}
		pods[ref.Pod.UID] = true
		more, _, err := m.ownersOf(ctx, ref.Pod)
		if err != nil {
			unread = err
		}
		owners = append(owners, more...)
	}
	return owners, unread
}

// due says whether the values are to be applied.
func (t *target) due(j *job, now time.Time) bool {
	switch {
	case j.build == nil || j.stale || j.fetched.Before(t.fetched):
		return false
	case t.print != j.print:
		return true
	case j.fresh || j.again:
		return t.applied.Before(j.fetched) // one write for all volumes that share a fetch
	}
	return now.Sub(t.applied) > volume.SecretRepairInterval
}

// write applies the values where they are due.
func (m *Mirror) write(ctx context.Context, t *target, j *job) error {
	if !t.due(j, m.clock.Now()) {
		if t.print == j.print && !j.stale && j.fetched.After(t.fetched) {
			t.fetched = j.fetched
		}
		return m.look(ctx, t, j)
	}
	if j.secret == nil {
		secret, err := j.build()
		if err != nil {
			return err
		}
		j.secret = secret
	}
	var inherited []string
	if t.known.uid == "" || j.again {
		found, err := m.probe(ctx, t)
		if err != nil {
			return err
		}
		if j.again && t.known.wrote.After(j.fetched) {
			return nil // another node has newer values
		}
		if found != nil {
			inherited = m.inherit(ctx, t, found, t.missing(j.owners))
		}
	}
	before, made := t.known, m.clock.Now()
	took, err := m.put(ctx, t, j.secret)
	if err != nil {
		return err
	}
	changed := t.known.version != before.version && (t.print != j.print || !t.known.wrote.Equal(before.wrote))
	t.print, t.fetched, t.applied = j.print, j.fetched, made
	if took == nil && len(inherited) > 0 {
		took = inheritedFrom(t.secretKey, inherited)
	}
	if took != nil {
		for _, ref := range j.refs {
			m.tell(ref, took)
		}
	}
	if changed {
		m.tell(j.refs[0], stands(t.secretKey, before.uid == "", m.clock.Since(made)))
	}
	return nil
}

// look makes sure that a Secret which is not to be written exists and is ours, before an owner is added to it.
func (m *Mirror) look(ctx context.Context, t *target, j *job) error {
	if t.known.uid != "" {
		return nil
	}
	if _, err := m.probe(ctx, t); err != nil {
		return err
	}
	if t.known.uid == "" && j.stale {
		return notFromStale(t.secretKey)
	}
	return nil
}

// put applies the Secret, by force where nobody who lives has a claim. Took tells what was taken from whom.
func (m *Mirror) put(ctx context.Context, t *target, secret *secretdata.Secret) (took *failure, err error) {
	err = m.applySecret(ctx, t, secret, false)
	claims := claimsOf(err)
	if claims == nil {
		return nil, err
	}
	if living := m.living(t.secretKey, claims); len(living) > 0 {
		return nil, contested(t.secretKey, living)
	}
	if err := m.applySecret(ctx, t, secret, true); err != nil {
		return nil, err
	}
	return taken(t.secretKey, claims), nil
}

// own adds the owners that the Secret lacks.
func (m *Mirror) own(ctx context.Context, t *target, owners []metav1.OwnerReference) error {
	if t.known.uid == "" {
		return nil // there is none, and none to be made
	}
	missing := t.missing(owners)
	if len(missing) == 0 {
		return nil
	}
	return m.addOwners(ctx, t, missing)
}

// missing are the owners that the Secret lacks.
func (t *target) missing(owners []metav1.OwnerReference) (missing []metav1.OwnerReference) {
	have := map[types.UID]bool{}
	for _, o := range owners {
		if !t.known.owners[o.UID] && !have[o.UID] {
			missing = append(missing, o)
			have[o.UID] = true
		}
	}
	return missing
}

// stands is the event of a Secret that was made or updated.
func stands(key secretKey, made bool, took time.Duration) *failure {
	f := &failure{kind: report.KindSynced, message: key.String() + " was updated", took: took}
	if made {
		f.message = key.String() + " was made"
	}
	return f
}
