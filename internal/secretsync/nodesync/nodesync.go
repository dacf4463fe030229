// Package nodesync keeps the Kubernetes Secrets of classes in step with volumes: those of this node in the driver, those of all Pods in the
// controller (controller/podsecrets).
//
// A Secret is brought in step when a volume is published, when what it is made of changes, and when a refresh finds
// that it was last looked at longer than driftCheck ago; always with values just fetched. What fails is tried again in
// the background, with the values of the last fetch while they are kept. Volumes that ask for the same Secret share its
// requests.
package nodesync

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const (
	// driftCheck is how long ago a Secret may have been looked at before a refresh that changed nothing looks again.
	driftCheck = volume.SecretRepairInterval
	// firstRetry and lastRetry bound the waits between tries in the background; they double.
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
	// backgroundWorkers bounds how many Secrets are tried again at the same time.
	backgroundWorkers = 4
	// startRequests bounds the requests that Pods which start have under way. Background work has its own bound, so
	// that it never holds up a Pod.
	startRequests = 64
	// requestTimeout bounds each request.
	requestTimeout = 10 * time.Second
	// refetchWait is the shortest wait before values are asked for again. A volume that is being published is known by
	// then.
	refetchWait = time.Second
	// callTimeout bounds one call in the background.
	callTimeout = 30 * time.Second
)

// Pods reads Pods from the API server.
type Pods interface {
	// PodMetadata returns nil where there is no Pod of that name.
	PodMetadata(ctx context.Context, namespace, name string) (*metav1.PartialObjectMetadata, error)
}

// Kind is what an Event is about. The set is closed.
type Kind string

const (
	// Synced means that a Secret was created or updated.
	Synced Kind = "Synced"
	// Failed means that a Secret could not be written.
	Failed Kind = "Failed"
	// Conflict means that a Secret belongs to somebody else, in whole or in some keys.
	Conflict Kind = "Conflict"
	// Left means that a class does not ask for a Secret any more, which stays.
	Left Kind = "Left"
)

// Event is what happened to a Secret, for one volume that asks for it. It holds no secret.
type Event struct {
	Kind   Kind
	Time   time.Time
	Volume volume.Ref
	// Secret is the name of the Secret that was written; empty for other kinds.
	Secret string
	// Reason is the class of the failure; may be empty.
	Reason volume.Reason
	// Message is one line for a person.
	Message string
	// Duration is how long the write took; zero where nothing was written.
	Duration time.Duration
}

// Options configure New. Fields without a stated default are required.
type Options struct {
	Secrets secretsync.Secrets
	Classes secretsync.Classes
	Pods    Pods
	Rules   secretsync.Rules
	// Report takes events. It must not block.
	Report func(context.Context, Event)
	// Refetch asks for a refresh of the volume now, because its values are older than what a Secret was made from. It
	// must not block. Nil waits for the next refresh.
	Refetch func(ref volume.Ref)
	Clock   clock.WithTicker
	// Safe handles panics.
	Safe safe.Handler
}

// Syncer keeps Secrets in step. Close must be called.
type Syncer struct {
	secrets secretsync.Secrets
	pods    Pods
	report  func(context.Context, Event)
	refetch func(volume.Ref)
	clock   clock.WithTicker
	safe    safe.Handler

	// starts works for Pods that start, background for everything else: they differ in the bound of their requests.
	starts, background *secretsync.Reconciler
	slots              chan struct{}
	hashKey            []byte
	queue              workqueue.TypedRateLimitingInterface[secretKey]
	stop               context.CancelFunc
	ctx                context.Context // it outlives the call that began it
	group              sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	states  map[secretKey]*secretState
	volumes map[string]*volumeState // by target path
	owners  map[types.UID]*podOwners
}

// New returns a Syncer and starts its background work, which ends with Close.
func New(ctx context.Context, o Options) *Syncer {
	s := &Syncer{
		secrets: o.Secrets, pods: o.Pods, report: o.Report, refetch: o.Refetch, clock: o.Clock, safe: o.Safe,
		slots:   make(chan struct{}, startRequests),
		hashKey: make([]byte, 32),
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[secretKey](firstRetry, lastRetry),
			workqueue.TypedRateLimitingQueueConfig[secretKey]{Clock: o.Clock}),
		states: map[secretKey]*secretState{}, volumes: map[string]*volumeState{}, owners: map[types.UID]*podOwners{},
	}
	_, _ = rand.Read(s.hashKey) // never fails
	reconciler := secretsync.Options{Classes: o.Classes, Clock: o.Clock, Rules: o.Rules}
	reconciler.Secrets = bounded{s, nil}
	s.background = secretsync.New(reconciler)
	reconciler.Secrets = bounded{s, s.slots}
	s.starts = secretsync.New(reconciler)
	s.ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	for range backgroundWorkers {
		s.goes(s.work)
	}
	return s
}

// Close ends all work and waits for it. What was not written yet is not written.
func (s *Syncer) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.queue.ShutDown()
	s.group.Wait()
	return nil
}

// goes runs work in a goroutine that Close waits for. After Close nothing is begun.
func (s *Syncer) goes(work func(context.Context)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.group.Go(func() {
		work(s.ctx)
	})
}

// recovered turns a panic of the task into a log line.
func (s *Syncer) recovered(ctx context.Context, task string) {
	if p := recover(); p != nil {
		_ = s.safe.Recovered(ctx, task, p)
	}
}

// bounded are Secrets whose requests have a time limit and, where slots are given, wait for one.
type bounded struct {
	s     *Syncer
	slots chan struct{}
}

// Patch implements secretsync.Secrets.
func (b bounded) Patch(
	ctx context.Context,
	name types.NamespacedName,
	kind types.PatchType,
	body []byte,
	o metav1.PatchOptions,
) (
	*metav1.PartialObjectMetadata, error,
) {
	release, err := acquire(ctx, b.slots)
	if err != nil {
		return nil, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return b.s.secrets.Patch(ctx, name, kind, body, o)
}

// acquire waits for a slot; nil slots are unbounded.
func acquire(ctx context.Context, slots chan struct{}) (release func(), err error) {
	if slots == nil {
		return func() {}, nil
	}
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for other requests to the API server: %w", context.Cause(ctx))
	}
}

// Apply brings the Secrets that the class asks for in step with the bundle. It returns when they are, when ctx ends, or
// when the API server fails; what is left is tried again in the background and reported, and never fails the mount. It
// does not keep bundle.Files after its own retries end. Of a stale bundle no value is written: it could be older than
// what another node wrote.
func (s *Syncer) Apply(ctx context.Context, ref volume.Ref, class *v1.SecretProviderClass, bundle *volume.Bundle) {
	if len(class.Spec.SecretObjects) == 0 {
		s.Forget(ref)
		return
	}
	var work sync.WaitGroup
	for _, r := range s.enter(ctx, ref, class, bundle) {
		work.Go(func() {
			s.apply(ctx, r)
		})
	}
	work.Wait()
}

// Enqueue is Apply in the background: it returns at once.
func (s *Syncer) Enqueue(ctx context.Context, ref volume.Ref, class *v1.SecretProviderClass, bundle *volume.Bundle) {
	if len(class.Spec.SecretObjects) == 0 {
		s.Forget(ref)
		return
	}
	for _, r := range s.enter(ctx, ref, class, bundle) {
		if s.skip(ctx, r) {
			continue
		}
		if err := r.build(); err != nil {
			s.reject(ctx, r, err)
			continue
		}
		s.keep(r, false)
	}
}

// Forget ends all work for the volume.
func (s *Syncer) Forget(ref volume.Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(ref.TargetPath)
}
