package podsecrets

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlcontroller "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/keyvault-csi/keyvault-csi-driver/controller/accounts"
	"github.com/keyvault-csi/keyvault-csi-driver/controller/share"
	"github.com/keyvault-csi/keyvault-csi-driver/controller/timing"
	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/keylock"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/audit"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/nodesync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const (
	// classIndex finds status objects by their class.
	classIndex = "status.secretProviderClassName"
	// podWorkers bounds the status objects that are looked at at the same time.
	podWorkers = 8
	// firstRetry and lastRetry bound the waits where the API server fails; they double.
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// Options configure Add. Fields without a stated default are required.
type Options struct {
	// DriverName is the CSI driver's name: of the volumes that count, and in the label of status objects.
	DriverName string
	// Interval is how often groups are fetched for whose class says nothing; 0 means never.
	Interval time.Duration
	// CacheTTL is how long a value may be shared with what is fetched a moment later.
	CacheTTL time.Duration
	// Rules bound what is written.
	Rules    secretsync.Rules
	Accounts *accounts.Accounts
	Provider volume.Provider
	Secrets  secretsync.Secrets
	Metrics  *metrics.Controller
	// Audit gets a line for each object that is delivered to a Secret; nil: none.
	Audit  *audit.Log
	Tracer trace.Tracer
	// Panicked is called for each panic that was recovered, with the name of the task; may be nil.
	Panicked func(ctx context.Context, task string)
	Clock    clock.WithTicker
	Log      *slog.Logger
}

// podSecrets is the state of the feature.
type podSecrets struct {
	options Options
	// client reads status objects and classes from the cache, reader everything from the API server.
	client client.Reader
	reader client.Reader
	store  *store
	// refreshes are those that annotations of classes asked for.
	refreshes *timing.Refreshes
	events    *eventWriter
	safe      safe.Handler
	nodes     *nodeLimits
	places    share.Places
	// reads is held while a Pod is read.
	reads keylock.Locks[types.NamespacedName]

	// ready is closed when syncer and queue are set, which happens when this replica becomes the leader.
	ready  chan struct{}
	syncer *nodesync.Syncer
	queue  workqueue.TypedInterface[groupKey]
}

// Add registers the feature with the manager.
func Add(m manager.Manager, o Options) error {
	p := &podSecrets{
		options:   o,
		client:    m.GetClient(),
		reader:    m.GetAPIReader(),
		store:     newStore(),
		refreshes: timing.NewRefreshes(),
		events:    newEventWriter(m.GetEventRecorder("keyvault-csi-controller"), o.Clock),
		safe:      safe.Handler{Log: o.Log, Count: o.Panicked},
		nodes:     newNodeLimits(o.Clock),
		ready:     make(chan struct{}),
	}
	o.Metrics.SetPodSecrets(p.store.state)
	if err := m.GetFieldIndexer().IndexField(context.Background(), &v1.SecretProviderClassPodStatus{}, classIndex, byClass); err != nil {
		return fmt.Errorf("index of status objects: %w", err)
	}
	edited := predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{})
	err := ctrl.NewControllerManagedBy(m).
		For(&v1.SecretProviderClassPodStatus{}, builder.WithPredicates(predicate.Funcs{CreateFunc: p.noteInitial, UpdateFunc: p.claimChanged})).
		Watches(&v1.SecretProviderClass{}, handler.EnqueueRequestsFromMapFunc(p.unknownUsersOf), builder.WithPredicates(edited)).
		WithOptions(ctrlcontroller.Options{
			MaxConcurrentReconciles: podWorkers, RecoverPanic: new(true),
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
		}).
		Named("podsecrets-pods").
		Complete(reconcile.Func(p.reconcileStatus))
	if err != nil {
		return fmt.Errorf("controller of status objects: %w", err)
	}
	started := source.TypedFunc[groupKey](func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[groupKey]) error {
		p.start(ctx, queue)
		return nil
	})
	err = builder.TypedControllerManagedBy[groupKey](m).
		Named("podsecrets-groups").
		WatchesRawSource(started).
		Watches(&v1.SecretProviderClass{}, handler.TypedEnqueueRequestsFromMapFunc(p.groupsOf), builder.WithPredicates(p.refreshes.Noting(o.Clock.Now), edited)).
		WithOptions(ctrlcontroller.TypedOptions[groupKey]{
			MaxConcurrentReconciles: share.Workers, RecoverPanic: new(true),
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[groupKey](firstRetry, lastRetry),
		}).
		Complete(reconcile.TypedFunc[groupKey](p.reconcileGroup))
	if err != nil {
		return fmt.Errorf("controller of groups: %w", err)
	}
	if err := m.Add(manager.RunnableFunc(p.closeAtEnd)); err != nil {
		return fmt.Errorf("end of Secret sync: %w", err)
	}
	return nil
}

// byClass is the index classIndex.
func byClass(o client.Object) []string {
	if status, ok := o.(*v1.SecretProviderClassPodStatus); ok {
		return []string{status.Status.SecretProviderClassName}
	}
	return nil
}

// start is called once, when this replica becomes the leader.
func (p *podSecrets) start(ctx context.Context, queue workqueue.TypedInterface[groupKey]) {
	p.queue = queue
	p.syncer = nodesync.New(ctx, nodesync.Options{
		Secrets: p.options.Secrets,
		Classes: classes{p.reader},
		Pods:    p.store,
		Rules:   p.options.Rules,
		Report:  p.report,
		Refetch: p.refetch,
		Clock:   p.options.Clock,
		Safe:    p.safe,
	})
	close(p.ready)
}

// closeAtEnd ends the syncer with the manager.
func (p *podSecrets) closeAtEnd(ctx context.Context) error {
	<-ctx.Done()
	select {
	case <-p.ready:
		return p.syncer.Close() //nolint:wrapcheck // always nil
	default: // never started
		return nil
	}
}

// await waits for start.
func (p *podSecrets) await(ctx context.Context) error {
	select {
	case <-p.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// wake has groups looked at.
func (p *podSecrets) wake(keys ...groupKey) {
	for _, key := range keys {
		p.queue.Add(key)
	}
}

// noteInitial notes the status objects that there were when this process began. All are looked at.
func (p *podSecrets) noteInitial(e event.CreateEvent) bool {
	if e.IsInInitialList {
		p.store.noteInitial(client.ObjectKeyFromObject(e.Object))
	}
	return true
}

// claimChanged reports whether a status object says something new about which Pod mounts what. A new version of an object does not matter.
func (p *podSecrets) claimChanged(e event.UpdateEvent) bool {
	before, okBefore := e.ObjectOld.(*v1.SecretProviderClassPodStatus)
	after, okAfter := e.ObjectNew.(*v1.SecretProviderClassPodStatus)
	return !okBefore || !okAfter || p.claimOf(before) != p.claimOf(after) || !after.DeletionTimestamp.IsZero()
}

// unknownUsersOf returns the status objects of a class that do not count yet: the class may have no Secrets, or not exist, so far.
func (p *podSecrets) unknownUsersOf(ctx context.Context, o client.Object) (requests []reconcile.Request) {
	if class, ok := o.(*v1.SecretProviderClass); !ok || !writesSecrets(class) {
		return nil
	}
	var list v1.SecretProviderClassPodStatusList
	if err := p.client.List(ctx, &list, client.InNamespace(o.GetNamespace()), client.MatchingFields{classIndex: o.GetName()}); err != nil {
		p.options.Log.ErrorContext(ctx, "the Pods of an edited class are not known", logkeys.Error, err)
		return nil
	}
	for i := range list.Items {
		if name := client.ObjectKeyFromObject(&list.Items[i]); !p.store.knows(name) {
			requests = append(requests, reconcile.Request{NamespacedName: name})
		}
	}
	return requests
}

// groupsOf returns the groups of a class.
func (p *podSecrets) groupsOf(_ context.Context, o client.Object) []groupKey {
	return p.store.groupsOf(client.ObjectKeyFromObject(o))
}

// class returns a class from the cache; nil where there is none.
func (p *podSecrets) class(ctx context.Context, namespace, name string) (*v1.SecretProviderClass, error) {
	found := &v1.SecretProviderClass{}
	err := p.client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, found)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the class of a Pod: %w", err)
	}
	return found, nil
}

// pod reads a Pod from the API server; nil where there is none.
func (p *podSecrets) pod(ctx context.Context, name types.NamespacedName) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	found := &corev1.Pod{}
	err := p.reader.Get(ctx, name, found)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read Pod %s: %w", name, err)
	}
	return found, nil
}

// claim is what a status object says: which Pod of which node mounts which class.
type claim struct {
	pod   types.NamespacedName
	uid   types.UID
	class string
	// node is the label's value.
	node string
}

// claimOf returns what a status object says; the zero value where it says nothing that could count.
func (p *podSecrets) claimOf(s *v1.SecretProviderClassPodStatus) claim {
	node := s.Labels[kube.NodeLabel(p.options.DriverName)]
	if !s.Status.Mounted || node == "" || s.Status.PodName == "" || s.Status.SecretProviderClassName == "" {
		return claim{}
	}
	for _, owner := range s.OwnerReferences {
		if owner.APIVersion == "v1" && owner.Kind == "Pod" && owner.Name == s.Status.PodName && owner.UID != "" {
			return claim{
				pod:   types.NamespacedName{Namespace: s.Namespace, Name: s.Status.PodName},
				uid:   owner.UID,
				class: s.Status.SecretProviderClassName,
				node:  node,
			}
		}
	}
	return claim{}
}

// classes implements secretsync.Classes.
type classes struct{ reader client.Reader }

// ClassUID implements secretsync.Classes.
func (c classes) ClassUID(ctx context.Context, namespace, name string) (types.UID, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var found v1.SecretProviderClass
	err := c.reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &found)
	switch {
	case apierrors.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("read the class %s/%s: %w", namespace, name, err)
	}
	return found.UID, nil
}

// classPage is how many classes one answer holds.
const classPage = 500

// SecretClasses implements secretsync.Classes.
func (c classes) SecretClasses(ctx context.Context, namespace, secret string) (names []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for next := ""; ; {
		var page v1.SecretProviderClassList
		if err := c.reader.List(ctx, &page, client.InNamespace(namespace), client.Limit(classPage), client.Continue(next)); err != nil {
			return nil, fmt.Errorf("list the classes of %s: %w", namespace, err)
		}
		for i := range page.Items {
			for _, o := range page.Items[i].Spec.SecretObjects {
				if o.SecretName == secret {
					names = append(names, page.Items[i].Name)
					break
				}
			}
		}
		if next = page.Continue; next == "" {
			return names, nil
		}
	}
}
