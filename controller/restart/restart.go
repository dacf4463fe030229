package restart

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"
	"unique"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlcontroller "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	syncv1alpha1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/secretsync/v1alpha1"
	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/secretdata"
)

const (
	// statusesOfClass finds status objects by their class, and classesOfSecret classes by the Secrets that they ask for.
	statusesOfClass = "restart/class"
	classesOfSecret = "restart/secret"
	// workers bounds the workloads that are looked at the same time.
	workers = 8
	// keptAnnotation bounds what is kept of an annotation, in bytes.
	keptAnnotation = 256
)

// Options configure Add. Fields without a stated default are required.
type Options struct {
	// Delay is how long a workload waits after the first sign of a change. It is longer than the nodes share values with Pods that start
	// (--cache-ttl of the driver), so that the new Pods start with the new values.
	Delay time.Duration
	// Most is how many workloads are restarted at the same time, and MostInNamespace in one namespace.
	Most, MostInNamespace int
	// Namespaces are those that are served, also excluded ones; all but Excluded where empty.
	Namespaces, Excluded []string
	// Secrets patches Secrets. Its answers hold metadata alone.
	Secrets secretsync.Secrets
	Metrics *metrics.Controller
	// Panicked is called for each panic that was recovered, with the name of the task; may be nil.
	Panicked func(task string)
	Clock    clock.PassiveClock
	Log      *slog.Logger
}

// Check returns every mistake at once.
func (o *Options) Check() error {
	var wrong []error
	if o.Delay < 0 {
		wrong = append(wrong, fmt.Errorf("--restart-delay %s is negative", o.Delay))
	}
	if o.Most < 1 || o.MostInNamespace < 1 {
		wrong = append(wrong, errors.New("--restart-most and --restart-most-per-namespace must be positive"))
	}
	return errors.Join(wrong...)
}

// Cached says what the manager's cache keeps of the objects that are watched, so that it does not grow with what is never looked at.
func Cached() map[client.Object]cache.ByObject {
	objects := map[client.Object]cache.ByObject{&v1.SecretProviderClassPodStatus{}: {Transform: trimStatus}}
	for _, kind := range kinds() {
		objects[metadataOf(kind)] = cache.ByObject{Transform: trimWorkload}
	}
	return objects
}

// trimWorkload keeps what Reconcile looks at: the annotations of this package.
func trimWorkload(in any) (any, error) {
	o, ok := in.(*metav1.PartialObjectMetadata)
	if !ok {
		return in, nil
	}
	trimmed := &metav1.PartialObjectMetadata{TypeMeta: o.TypeMeta, ObjectMeta: metav1.ObjectMeta{
		Name: o.Name, Namespace: o.Namespace, UID: o.UID, ResourceVersion: o.ResourceVersion, Generation: o.Generation,
		DeletionTimestamp: o.DeletionTimestamp,
	}}
	for _, key := range []string{Annotation, IntervalAnnotation} {
		if value, ok := o.Annotations[key]; ok {
			if trimmed.Annotations == nil {
				trimmed.Annotations = map[string]string{}
			}
			trimmed.Annotations[key] = strings.Clone(value[:min(len(value), keptAnnotation)])
		}
	}
	return trimmed, nil
}

// trimStatus keeps what features of the controller look at: whose status it is, and the objects with another version than at the start. There
// may be as many of them as Pods, so texts that many have are kept once.
func trimStatus(in any) (any, error) {
	o, ok := in.(*v1.SecretProviderClassPodStatus)
	if !ok {
		return cache.TransformStripManagedFields()(in) // its metadata, which another feature watches
	}
	trimmed := &v1.SecretProviderClassPodStatus{TypeMeta: o.TypeMeta, ObjectMeta: metav1.ObjectMeta{
		Name: o.Name, Namespace: once(o.Namespace), UID: o.UID, ResourceVersion: o.ResourceVersion, OwnerReferences: o.OwnerReferences,
		DeletionTimestamp: o.DeletionTimestamp,
	}}
	for i := range trimmed.OwnerReferences {
		owner := &trimmed.OwnerReferences[i]
		owner.APIVersion, owner.Kind = once(owner.APIVersion), once(owner.Kind)
		if owner.Name == o.Status.PodName {
			owner.Name = o.Status.PodName
		}
	}
	for key, value := range o.Labels {
		if trimmed.Labels == nil {
			trimmed.Labels = make(map[string]string, len(o.Labels))
		}
		trimmed.Labels[once(key)] = once(value)
	}
	trimmed.Status.PodName, trimmed.Status.SecretProviderClassName = o.Status.PodName, once(o.Status.SecretProviderClassName)
	trimmed.Status.Mounted, trimmed.Status.Objects = o.Status.Mounted, changedObjects(o)
	return trimmed, nil
}

// once is a text whose bytes all that are equal share.
func once(text string) string { return unique.Make(text).Value() }

// changedObjects are those with another version than the Pod started with, and of them what is looked at: all of it can be compared.
func changedObjects(o *v1.SecretProviderClassPodStatus) (changed []v1.SecretProviderClassObject) {
	for _, o := range o.Status.Objects {
		if o.StartedVersion != "" && o.StartedVersion != o.Version {
			changed = append(changed, v1.SecretProviderClassObject{ID: o.ID, Version: o.Version, StartedVersion: o.StartedVersion})
		}
	}
	return changed
}

// restarts reconciles workloads.
type restarts struct {
	Options

	// cache answers from memory, live from the API server.
	cache, live client.Reader
	client      client.Client
	events      events.EventRecorder
	memory      *memory
	safe        safe.Handler
}

// Add makes the manager restart workloads. The manager's cache must be made with Cached.
func Add(m manager.Manager, o Options) error {
	if err := o.Check(); err != nil {
		return err
	}
	r := &restarts{
		Options: o, cache: m.GetClient(), live: m.GetAPIReader(), client: m.GetClient(), events: m.GetEventRecorder("keyvault-csi-controller"),
		memory: newMemory(), safe: safe.Handler{Log: o.Log, Count: func(_ context.Context, task string) {
			if o.Panicked != nil {
				o.Panicked(task)
			}
		}},
	}
	if err := indexes(m.GetFieldIndexer()); err != nil {
		return err
	}
	b := builder.TypedControllerManagedBy[Key](m).Named("restart").WithOptions(ctrlcontroller.TypedOptions[Key]{
		MaxConcurrentReconciles: workers, RecoverPanic: new(true),
	})
	for _, kind := range kinds() {
		b = b.Watches(metadataOf(kind), workloadEvents(kind), builder.OnlyMetadata)
	}
	err := b.Watches(&v1.SecretProviderClassPodStatus{}, r.statusEvents()).
		Watches(&syncv1alpha1.SecretSync{}, r.syncEvents()).
		Complete(r)
	if err != nil {
		return fmt.Errorf("controller of restarts: %w", err)
	}
	return nil
}

// indexes are how objects in the cache are found.
func indexes(indexer client.FieldIndexer) error {
	err := indexer.IndexField(context.Background(), &v1.SecretProviderClassPodStatus{}, statusesOfClass, classOfStatus)
	if err == nil {
		err = indexer.IndexField(context.Background(), &v1.SecretProviderClass{}, classesOfSecret, secretsOfClass)
	}
	if err != nil {
		return fmt.Errorf("indexes of restarts: %w", err)
	}
	return nil
}

func classOfStatus(o client.Object) []string {
	if status, ok := o.(*v1.SecretProviderClassPodStatus); ok {
		return []string{status.Status.SecretProviderClassName}
	}
	return nil
}

func secretsOfClass(o client.Object) (names []string) {
	class, ok := o.(*v1.SecretProviderClass)
	if !ok {
		return nil
	}
	for _, s := range class.Spec.SecretObjects {
		names = append(names, s.SecretName)
	}
	return names
}

type queue = workqueue.TypedRateLimitingInterface[Key]

// workloadEvents pass on workloads with the annotation, and ones that lost it.
func workloadEvents(kind string) handler.TypedEventHandler[client.Object, Key] {
	add := func(o client.Object, q queue) { q.Add(Key{kind, client.ObjectKeyFromObject(o)}) }
	asks := func(o client.Object) bool { return o.GetAnnotations()[Annotation] != "" }
	return handler.TypedFuncs[client.Object, Key]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[client.Object], q queue) {
			if asks(e.Object) {
				add(e.Object, q)
			}
		},
		UpdateFunc: func(_ context.Context, e event.TypedUpdateEvent[client.Object], q queue) {
			before, after := e.ObjectOld, e.ObjectNew
			if (asks(before) || asks(after)) && (before.GetGeneration() != after.GetGeneration() || before.GetUID() != after.GetUID() ||
				before.GetAnnotations()[Annotation] != after.GetAnnotations()[Annotation] ||
				before.GetAnnotations()[IntervalAnnotation] != after.GetAnnotations()[IntervalAnnotation]) {
				add(after, q)
			}
		},
		DeleteFunc: func(_ context.Context, e event.TypedDeleteEvent[client.Object], q queue) {
			if asks(e.Object) {
				add(e.Object, q)
			}
		},
	}
}

// statusEvents pass on the readers of classes whose objects changed since a Pod started.
func (r *restarts) statusEvents() handler.TypedEventHandler[client.Object, Key] {
	pass := func(ctx context.Context, before, after client.Object, q queue) {
		status, ok := after.(*v1.SecretProviderClassPodStatus)
		if !ok || len(status.Status.Objects) == 0 {
			return
		}
		if old, ok := before.(*v1.SecretProviderClassPodStatus); ok && slices.Equal(old.Status.Objects, status.Status.Objects) {
			return
		}
		name := status.Status.SecretProviderClassName
		var class v1.SecretProviderClass
		var secrets []string
		if r.cache.Get(ctx, types.NamespacedName{Namespace: status.Namespace, Name: name}, &class) == nil {
			secrets = secretsOfClass(&class)
		}
		for _, key := range r.memory.readers(status.Namespace, name, secrets) {
			q.Add(key)
		}
	}
	return handler.TypedFuncs[client.Object, Key]{
		CreateFunc: func(ctx context.Context, e event.TypedCreateEvent[client.Object], q queue) {
			pass(ctx, nil, e.Object, q)
		},
		UpdateFunc: func(ctx context.Context, e event.TypedUpdateEvent[client.Object], q queue) {
			pass(ctx, e.ObjectOld, e.ObjectNew, q)
		},
	}
}

// syncEvents pass on the readers of a SecretSync's Secret.
func (r *restarts) syncEvents() handler.TypedEventHandler[client.Object, Key] {
	return handler.TypedFuncs[client.Object, Key]{
		UpdateFunc: func(_ context.Context, e event.TypedUpdateEvent[client.Object], q queue) {
			before, ok := e.ObjectOld.(*syncv1alpha1.SecretSync)
			after, is := e.ObjectNew.(*syncv1alpha1.SecretSync)
			if !ok || !is || before.Status.SyncHash == after.Status.SyncHash {
				return
			}
			for _, key := range r.memory.readers(after.Namespace, "", []string{after.Name}) {
				q.Add(key)
			}
		},
	}
}

// secretRecord is what a Secret's record says of one class or SecretSync.
type secretRecord struct{ sources []secretsync.RecordedSource }

// record reads the record of a Secret by a patch that changes nothing and holds only where the Secret has the label, so that the controller
// needs no right to get Secrets. It is empty where there is no such Secret.
func (r *restarts) record(ctx context.Context, namespace, secret, label, value, prefix, class string) (secretRecord, error) {
	test, err := json.Marshal([]map[string]string{{
		"op": "test", "path": "/metadata/labels/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(label), "value": value,
	}})
	if err != nil {
		return secretRecord{}, fmt.Errorf("read the record of Secret %s/%s: %w", namespace, secret, err)
	}
	name := types.NamespacedName{Namespace: namespace, Name: secret}
	found, err := r.Secrets.Patch(ctx, name, types.JSONPatchType, test, metav1.PatchOptions{})
	status := apierrors.APIStatus(nil)
	switch {
	case apierrors.IsNotFound(err), errors.As(err, &status) && status.Status().Code == http.StatusUnprocessableEntity:
		return secretRecord{}, nil // there is none, or it is somebody else's
	case err != nil: // its text may quote a value: an admission webhook may say anything
		why := apierrors.ReasonForError(err)
		if why == metav1.StatusReasonUnknown {
			why = "no answer of the API server"
		}
		return secretRecord{}, fmt.Errorf("read the record of Secret %s: %s", name, why)
	}
	return secretRecord{secretsync.Recorded(found.Annotations, prefix, class)}, nil
}

// ofClass is the record that a class's driver keeps, ofSync that of a SecretSync.
func (r *restarts) ofClass(ctx context.Context, namespace, secret, class string) (secretRecord, error) {
	return r.record(ctx, namespace, secret, secretdata.ManagedLabel, secretdata.Managed, secretsync.DriverRecord, class)
}

func (r *restarts) ofSync(ctx context.Context, namespace, secret string) (secretRecord, error) {
	return r.record(ctx, namespace, secret, "secrets-store.sync.x-k8s.io", "", secretsync.SyncRecord, secret)
}

// behind reports whether the Secret holds an older version of a changed object than Pods have mounted.
func (s secretRecord) behind(objects []v1.SecretProviderClassObject) bool {
	for _, o := range objects {
		named := slices.ContainsFunc(s.sources, func(s secretsync.RecordedSource) bool { return s.Names(o.ID) })
		holds := slices.ContainsFunc(s.sources, func(s secretsync.RecordedSource) bool { return s.Version == o.Version })
		if named && !holds {
			return true
		}
	}
	return false
}

// changed is when a version in the Secret took the place of another one last; zero where none did.
func (s secretRecord) changed() (at time.Time) {
	for _, source := range s.sources {
		if source.Changed.After(at) {
			at = source.Changed
		}
	}
	return at
}

// patch is what restarts a workload: one annotation of its template, where the workload is still what was read.
func patch(w *workload, value string) (client.Patch, error) {
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": w.object.GetResourceVersion(), "uid": w.object.GetUID()},
		"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{
			"annotations": map[string]any{TemplateAnnotation: value},
		}}},
	})
	if err != nil {
		return nil, fmt.Errorf("patch of %s: %w", w.key(), err)
	}
	return client.RawPatch(types.MergePatchType, body), nil
}
