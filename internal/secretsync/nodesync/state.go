package nodesync

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/secretdata"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// secretKey names a Secret as one class asks for it. Two classes may feed one Secret.
type secretKey struct{ namespace, class, secret string }

// String names the Secret for people.
func (k secretKey) String() string { return "Secret " + k.namespace + "/" + k.secret }

// secretState is one Secret as one class asks for it, for as long as a volume of this node does.
type secretState struct {
	secretKey

	// known belongs to the goroutine that set busy.
	known secretsync.Known

	// What follows is guarded by Syncer.mu.

	// busy is true while a goroutine works on the Secret. There is one at a time.
	busy bool
	// again asks it to write what is wanted, and to add the owners of all users.
	again bool
	users map[string]volume.Ref // by target path
	// waiting are requests that no goroutine works on yet.
	waiting []*request
	// want is what the background is to write; nil where nothing is left, or owners alone.
	want *wanted
	// done is the hash of what was last found in place, zero where that is not known, and checked is when.
	done    [32]byte
	checked time.Time
	// failure is how the last call ended; nil where it succeeded.
	failure *failure
	// overruled are the hashes of volume attributes that lost against a younger Pod's, and when.
	overruled map[string]time.Time
}

// wanted is what a retry needs. It holds plaintext, and is dropped as soon as it is in place or cannot be.
type wanted struct {
	desired *secretsync.Desired
	// fetched is when the oldest value left the vault.
	fetched time.Time
}

// failure is how a call ended.
type failure struct {
	outcome secretsync.Outcome
	hash    [32]byte
	fetched time.Time
	// next is the earliest time of the next call with values of the same hash.
	next time.Time
	// tries counts calls that failed one after the other.
	tries int
}

// volumeState is what a volume asks for.
type volumeState struct {
	ref  volume.Ref
	keys map[secretKey]bool
}

// request is one volume's interest in one Secret, of one bundle.
type request struct {
	state  *secretState
	ref    volume.Ref
	object *v1.SecretObject
	class  secretsync.Class
	bundle *volume.Bundle
	// fresh is true at the volume's first call: it was just published, or another process published it.
	fresh bool
	// twice is true where the class asks for the Secret more than once; the first counts.
	twice bool
	// hash changes with the Secret's content, the class and the volume attributes.
	hash [32]byte

	// desired is nil until build.
	desired *secretsync.Desired
	// owners is closed when the Pod was read; pod and podErr are set before. Pod is nil where the Pod is gone.
	owners chan struct{}
	pod    *podOwners
	podErr error
	// done is closed when somebody's call served the request.
	done chan struct{}
}

// enter notes what the volume asks for, and forgets what it asks for no more.
func (s *Syncer) enter(
	ctx context.Context, ref volume.Ref, class *v1.SecretProviderClass, bundle *volume.Bundle,
) (list []*request) {
	var left []secretKey
	defer func() { s.tellLeft(ctx, ref, left) }()
	s.mu.Lock()
	defer s.mu.Unlock()
	vol := s.volumes[ref.TargetPath]
	if vol == nil || vol.ref.Pod.UID != ref.Pod.UID {
		s.leave(ref.TargetPath)
		vol = &volumeState{ref: ref}
		s.volumes[ref.TargetPath] = vol
		s.holdOwners(ref)
	}
	keys := map[secretKey]bool{}
	for i := range class.Spec.SecretObjects {
		o := &class.Spec.SecretObjects[i]
		key := secretKey{namespace: ref.Pod.Namespace, class: ref.Class, secret: o.SecretName}
		state := s.states[key]
		if state == nil {
			state = &secretState{
				secretKey: key, users: map[string]volume.Ref{}, overruled: map[string]time.Time{},
			}
			s.states[key] = state
		}
		state.users[ref.TargetPath] = ref
		r := &request{
			state: state, ref: ref, object: o, bundle: bundle, fresh: !vol.keys[key], twice: keys[key],
			class:  secretsync.Class{Name: ref.Class, UID: class.UID, Generation: class.Generation},
			owners: make(chan struct{}), done: make(chan struct{}),
		}
		list = append(list, r)
		keys[key] = true
	}
	for key := range vol.keys {
		if !keys[key] {
			if s.states[key].done != [32]byte{} {
				left = append(left, key)
			}
			s.unuse(key, ref.TargetPath)
		}
	}
	vol.ref, vol.keys = ref, keys
	return list
}

// leave takes a volume out. The caller holds mu.
func (s *Syncer) leave(path string) {
	vol, ok := s.volumes[path]
	if !ok {
		return
	}
	delete(s.volumes, path)
	for key := range vol.keys {
		s.unuse(key, path)
	}
	s.releaseOwners(vol.ref)
}

// unuse takes a volume from a Secret, and with the last one all that is known of it. The caller holds mu.
func (s *Syncer) unuse(key secretKey, path string) {
	state := s.states[key]
	delete(state.users, path)
	if len(state.users) == 0 {
		state.want = nil
		delete(s.states, key)
		s.queue.Forget(key)
	}
}

// usersOf returns the volumes that ask for the Secret, in a stable order. The caller holds mu.
func (st *secretState) usersOf() (refs []volume.Ref) {
	for _, path := range slices.Sorted(maps.Keys(st.users)) {
		refs = append(refs, st.users[path])
	}
	return refs
}

// writer is in whose name this driver writes Secrets.
func writer() secretsync.Writer {
	return secretsync.Writer{
		FieldManager: "keyvault-csi", Label: secretdata.ManagedLabel, LabelValue: secretdata.Managed,
		Record: secretsync.DriverRecord, Predecessor: "csi-secrets-store",
	}
}

// build makes the Secret from the files, except for owners. Its error is a *volume.Error.
func (r *request) build() error {
	if r.desired != nil {
		return nil
	}
	d := &secretsync.Desired{
		Namespace: r.state.namespace, Name: r.state.secret, Type: secretdata.TypeOf(r.object), Hash: r.hash, Writer: writer(), Class: r.class,
		Attributes: secretsync.Attributes{Hash: r.ref.Attributes}, OwnerPolicy: secretsync.AddOwners,
	}
	if !r.bundle.Stale {
		made, err := secretdata.Build(r.object, r.bundle.Files, r.bundle.Absent)
		if err != nil {
			return err
		}
		d.CreateOnly = r.bundle.Fallback != ""
		d.Labels, d.Annotations, d.Data, d.Sources = made.Labels, made.Annotations, made.Data, r.sources()
	}
	r.desired = d
	return nil
}

// sources are those of the Secret's data. Their identity is left out: a vault's answer is the same for all who may ask.
func (r *request) sources() (list []secretsync.Source) {
	for _, s := range secretdata.Used(r.object, r.bundle.Files, r.bundle.Sources) {
		list = append(
			list,
			secretsync.Source{ID: strings.TrimPrefix(s.Key.String(), "https://"), Date: s.Date, Version: s.Version},
		)
	}
	return list
}
