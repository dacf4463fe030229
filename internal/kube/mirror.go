package kube

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/secretdata"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const (
	// firstRetry and lastRetry bound the waits between tries in the background; they double.
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
	// retriesAtOnce bounds how many Secrets are tried again at the same time.
	retriesAtOnce = 4
)

// Mirror keeps the Kubernetes Secrets of classes in step with the volumes of this node. It implements driver.Mirror.
//
// A Secret is written when a volume is published, when what it is made of changes, and when a refresh finds the last write
// older than volume.SecretRepairInterval; always from values just fetched. What fails is tried again in the background, with the values
// of the last fetch, unless somebody has written newer ones meanwhile.
type Mirror struct {
	classes        *Cluster
	secrets, pods  metadata.Getter
	reporter       report.Reporter
	clock          clock.WithTicker
	key            []byte // of prints
	queue          workqueue.TypedRateLimitingInterface[secretKey]
	podReads       podReads
	requestTimeout time.Duration

	mu      sync.Mutex
	targets map[secretKey]*target
	volumes map[string]*mirroredVolume // by target path
	owners  map[types.UID]*podOwners   // by pod
}

// secretKey names a Secret as one class asks for it. Two classes may feed one Secret.
type secretKey struct{ namespace, class, secret string }

// String names the Secret for people.
func (k secretKey) String() string { return "Secret " + k.namespace + "/" + k.secret }

// target is one Secret as one class asks for it, for as long as a volume of this node does.
type target struct {
	secretKey
	turn chan struct{} // holds one element while nobody works on the Secret

	// users are the volumes that ask for it, by target path, and want is what is still to be written; guarded by Mirror.mu.
	users map[string]volume.Ref
	want  *wanted

	// What follows belongs to the holder of the turn.

	known known
	// print is that of what stands, zero where that is not known; fetched is when it left the vault.
	print   [32]byte
	fetched time.Time
	applied time.Time
	// failed is how the last try ended; nil where it succeeded.
	failed *failure
}

// wanted is what a retry needs. It holds plaintext, and is dropped as soon as it stands or cannot.
type wanted struct {
	secret  *secretdata.Secret
	print   [32]byte
	fetched time.Time
}

// mirroredVolume is what a volume asks for.
type mirroredVolume struct {
	ref  volume.Ref
	keys map[secretKey]bool
}

// Mirror returns the mirror of Secrets, which works until Close. It reports to the reporter. Call it once at most.
func (c *Cluster) Mirror(ctx context.Context, reporter report.Reporter) (*Mirror, error) {
	client, err := metadata.NewForConfig(c.config)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	m := &Mirror{
		classes: c, reporter: reporter, clock: c.clock, key: make([]byte, 32),
		secrets: client.Resource(corev1.SchemeGroupVersion.WithResource("secrets")),
		pods:    client.Resource(corev1.SchemeGroupVersion.WithResource("pods")),
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[secretKey](firstRetry, lastRetry),
			workqueue.TypedRateLimitingQueueConfig[secretKey]{Clock: c.clock}),
		requestTimeout: requestTimeout,
		targets:        map[secretKey]*target{}, volumes: map[string]*mirroredVolume{}, owners: map[types.UID]*podOwners{},
	}
	_, _ = rand.Read(m.key) // never fails
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.onClose = append(c.onClose, cancel, m.queue.ShutDown)
	for range retriesAtOnce {
		c.group.Go(func() { m.retries(ctx) })
	}
	return m, nil
}

// Apply implements driver.Mirror.
func (m *Mirror) Apply(ctx context.Context, ref volume.Ref, class *v1.SecretProviderClass, bundle *volume.Bundle) {
	if len(class.Spec.SecretObjects) == 0 {
		m.Forget(ref)
		return
	}
	var work sync.WaitGroup
	for _, t := range m.enter(ref, class) {
		work.Go(func() { m.apply(ctx, t, ref, bundle) })
	}
	work.Wait()
}

// asked is one secretObject of a volume.
type asked struct {
	*target
	object *v1.SecretObject
	// fresh is true where the volume is new here: it was just published, or another process published it.
	fresh bool
	// twice is true where the class asks for the Secret more than once; the first counts.
	twice bool
}

// enter notes what the volume asks for, and forgets what it asks for no more.
func (m *Mirror) enter(ref volume.Ref, class *v1.SecretProviderClass) []asked {
	m.mu.Lock()
	defer m.mu.Unlock()
	vol := m.volumes[ref.TargetPath]
	if vol == nil || vol.ref.Pod.UID != ref.Pod.UID {
		m.leave(ref.TargetPath)
		vol = &mirroredVolume{ref: ref}
		m.volumes[ref.TargetPath] = vol
		m.hold(ref)
	}
	keys := map[secretKey]bool{}
	var list []asked
	for i := range class.Spec.SecretObjects {
		o := &class.Spec.SecretObjects[i]
		key := secretKey{namespace: ref.Pod.Namespace, class: ref.Class, secret: o.SecretName}
		t := m.targets[key]
		if t == nil {
			t = &target{secretKey: key, turn: make(chan struct{}, 1), users: map[string]volume.Ref{}}
			t.turn <- struct{}{}
			m.targets[key] = t
		}
		t.users[ref.TargetPath] = ref
		list = append(list, asked{target: t, object: o, fresh: !vol.keys[key], twice: keys[key]})
		keys[key] = true
	}
	for key := range vol.keys {
		if !keys[key] {
			m.unuse(key, ref.TargetPath)
		}
	}
	vol.ref, vol.keys = ref, keys
	return list
}

// Forget implements driver.Mirror.
func (m *Mirror) Forget(ref volume.Ref) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leave(ref.TargetPath)
}

func (m *Mirror) leave(path string) {
	vol, ok := m.volumes[path]
	if !ok {
		return
	}
	delete(m.volumes, path)
	for key := range vol.keys {
		m.unuse(key, path)
	}
	m.release(vol.ref)
}

// unuse takes a volume from a Secret, and with the last one all that is known of it.
func (m *Mirror) unuse(key secretKey, path string) {
	t := m.targets[key]
	delete(t.users, path)
	if len(t.users) == 0 {
		t.want = nil
		delete(m.targets, key)
		m.queue.Forget(key)
	}
}

// apply brings one Secret of one volume in step.
func (m *Mirror) apply(ctx context.Context, t asked, ref volume.Ref, bundle *volume.Bundle) {
	if t.twice {
		m.tell(ref, twice(t.secretKey))
		return
	}
	job := job{
		refs: []volume.Ref{ref}, fresh: t.fresh, stale: bundle.Stale,
		print: secretdata.Print(m.key, t.object, bundle.Files), fetched: bundle.FetchedAt,
		build: func() (*secretdata.Secret, error) { return secretdata.Build(t.object, bundle.Files) },
	}
	select {
	case <-t.turn:
		defer func() { t.turn <- struct{}{} }()
		m.work(ctx, t.target, job)
	case <-ctx.Done():
		// somebody else is at it and takes too long
		if secret, err := job.build(); err == nil && !job.stale {
			m.keep(t.target, &wanted{secret: secret, print: job.print, fetched: job.fetched})
		}
	}
}

// keep remembers what a retry is to write, and plans the retry. Nothing is kept of a Secret that nobody asks for any more.
func (m *Mirror) keep(t *target, w *wanted) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.targets[t.secretKey] != t {
		return
	}
	if w != nil && (t.want == nil || !w.fetched.Before(t.want.fetched)) {
		t.want = w
	}
	m.queue.AddRateLimited(t.secretKey)
}

// settle drops what a retry would write, where it is not newer than what was just dealt with.
func (m *Mirror) settle(t *target, fetched time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.want != nil && t.want.fetched.After(fetched) {
		return
	}
	t.want = nil
	m.queue.Forget(t.secretKey)
}

// retries works on what failed until the queue is shut down.
func (m *Mirror) retries(ctx context.Context) {
	for {
		key, ended := m.queue.Get()
		if ended {
			return
		}
		m.retry(ctx, key)
		m.queue.Done(key)
	}
}

func (m *Mirror) retry(ctx context.Context, key secretKey) {
	ctx, cancel := context.WithTimeout(ctx, 3*m.requestTimeout)
	defer cancel()
	m.mu.Lock()
	t := m.targets[key]
	m.mu.Unlock()
	if t == nil {
		return
	}
	select {
	case <-t.turn:
		defer func() { t.turn <- struct{}{} }()
	case <-ctx.Done():
		m.keep(t, nil)
		return
	}
	m.mu.Lock()
	j := job{again: true, want: t.want}
	for _, path := range slices.Sorted(maps.Keys(t.users)) {
		j.refs = append(j.refs, t.users[path])
	}
	m.mu.Unlock()
	if len(j.refs) == 0 || j.want == nil && t.failed == nil {
		return
	}
	if j.want != nil {
		j.print, j.fetched = j.want.print, j.want.fetched
		j.build = func() (*secretdata.Secret, error) { return j.want.secret, nil }
	}
	m.work(ctx, t, j)
}

func (m *Mirror) tell(ref volume.Ref, f *failure) {
	var e report.Event
	switch f.kind {
	case report.KindSynced:
		e = report.SecretWritten{Volume: ref, Text: f.message, Duration: f.took}
	case report.KindSyncConflict:
		e = report.SecretConflict{Volume: ref, Text: f.message}
	default:
		e = report.SecretFailed{Volume: ref, Text: f.message, Class: f.reason}
	}
	m.reporter.Report(context.Background(), e)
}
