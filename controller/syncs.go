package controller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlcontroller "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/keyvault-csi/keyvault-csi-driver/controller/accounts"
	"github.com/keyvault-csi/keyvault-csi-driver/controller/objectevents"
	"github.com/keyvault-csi/keyvault-csi-driver/controller/share"
	"github.com/keyvault-csi/keyvault-csi-driver/controller/timing"
	syncv1alpha1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/secretsync/v1alpha1"
	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/expiry"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/secretdata"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

const (
	// classIndex finds SecretSyncs by their class.
	classIndex = "spec.secretProviderClassName"
	// fetchBudget bounds one sync.
	fetchBudget = 100 * time.Second
)

// syncs reconciles SecretSyncs.
type syncs struct {
	options Options
	client  client.Client
	events  events.EventRecorder
	states  *states
	// requests are the refreshes that annotations of classes asked for.
	requests *timing.Refreshes
	accounts *accounts.Accounts
	start    start
	places   share.Places
	secrets  *secretsync.Reconciler
	safe     safe.Handler
}

// setUp registers the reconciler.
func (s *syncs) setUp(m manager.Manager) error {
	if err := m.GetFieldIndexer().IndexField(context.Background(), &syncv1alpha1.SecretSync{}, classIndex, bySecretSyncClass); err != nil {
		return fmt.Errorf("index of classes: %w", err)
	}
	// a status that this controller wrote is no reason to look again
	edited := predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{})
	err := ctrl.NewControllerManagedBy(m).
		For(&syncv1alpha1.SecretSync{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1.SecretProviderClass{}, handler.EnqueueRequestsFromMapFunc(s.usersOf), builder.WithPredicates(s.requests.Noting(s.options.Clock.Now), edited)).
		WithOptions(ctrlcontroller.Options{MaxConcurrentReconciles: share.Workers, RecoverPanic: new(true)}).
		Named("secretsync").
		Complete(s)
	if err != nil {
		return fmt.Errorf("controller of secretsyncs: %w", err)
	}
	return nil
}

// bySecretSyncClass is the index classIndex.
func bySecretSyncClass(o client.Object) []string {
	if one, ok := o.(*syncv1alpha1.SecretSync); ok {
		return []string{one.Spec.SecretProviderClassName}
	}
	return nil
}

// usersOf returns the SecretSyncs that use a class.
func (s *syncs) usersOf(ctx context.Context, o client.Object) (requests []reconcile.Request) {
	var list syncv1alpha1.SecretSyncList
	if err := s.client.List(ctx, &list, client.InNamespace(o.GetNamespace()), client.MatchingFields{classIndex: o.GetName()}); err != nil {
		s.options.Log.ErrorContext(ctx, "the users of an edited class are not known", logkeys.Error, err)
		return nil
	}
	for i := range list.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return requests
}

// Reconcile implements reconcile.Reconciler. It decides itself when to try again, so that its errors are those of the API server alone.
func (s *syncs) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var one syncv1alpha1.SecretSync
	err := s.client.Get(ctx, request.NamespacedName, &one)
	switch {
	case apierrors.IsNotFound(err):
		s.states.drop(request.NamespacedName)
		return reconcile.Result{}, nil
	case err != nil:
		return reconcile.Result{}, fmt.Errorf("read secretsync: %w", err)
	case !s.options.serves(&one) || !one.DeletionTimestamp.IsZero():
		s.states.drop(request.NamespacedName)
		return reconcile.Result{}, nil
	}
	var used v1.SecretProviderClass
	err = s.client.Get(ctx, types.NamespacedName{Namespace: one.Namespace, Name: one.Spec.SecretProviderClassName}, &used)
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("read the class of a secretsync: %w", err)
	}
	if err == nil && !class.Served(used.Spec.Provider) {
		return reconcile.Result{}, nil // another controller's
	}
	release, wait := s.places.Take(request.Namespace, request.String())
	if release == nil {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	defer release()
	w := &work{syncs: s, name: request.NamespacedName, sync: &one, state: s.states.of(request.NamespacedName), before: one.Status.DeepCopy()}
	if err == nil {
		w.class = &used
	}
	return w.do(ctx), nil
}

// work is one look at a SecretSync.
type work struct {
	*syncs
	name    types.NamespacedName
	sync    *syncv1alpha1.SecretSync
	class   *v1.SecretProviderClass // nil where there is none
	state   *syncState
	before  *syncv1alpha1.SecretSyncStatus
	binding volume.Binding
	// asked is equal where the same is asked for: of the class, of the account, for the Secret.
	asked string
}

// askedWith is what the object asks for with what its class does.
func (w *work) askedWith(of timing.Class) string {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s %d %q %s", w.sync.UID, w.sync.Generation, w.sync.Spec.ForceSynchronization, of.Asked)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// do syncs the object where it is due, and says when to look again.
func (w *work) do(ctx context.Context) reconcile.Result {
	var of timing.Class
	if w.class != nil {
		of = timing.ClassAt(w.class, w.options.Clock.Now())
	}
	w.asked = w.askedWith(of)
	wait := w.syncIfDue(ctx)
	return reconcile.Result{RequeueAfter: of.Wait(wait, w.options.Clock.Now())}
}

// syncIfDue syncs the object where it is due, and returns when to look again; zero means at the next edit.
func (w *work) syncIfDue(ctx context.Context) time.Duration {
	now, asked := w.options.Clock.Now(), w.asked
	if !w.state.Started() && w.resume(now, asked) {
		w.states.settled(w.name, now, false)
		return w.state.Wait(now)
	}
	if !w.state.Started() && w.postpone(ctx, now, asked) {
		w.states.waits(w.name, now)
		return w.state.Wait(now)
	}
	if w.state.Asks(asked) {
		w.states.waits(w.name, now)
	}
	if due, wait := w.state.Begin(now, asked); !due {
		return wait
	}
	ctx, cancel := context.WithTimeout(ctx, fetchBudget)
	defer cancel()
	ctx, span := w.startSpan(ctx)
	defer span.End()
	var outcome result
	if err := w.safe.Do(ctx, "sync a Secret", func() (err error) {
		outcome, err = w.try(ctx)
		return err
	}); err != nil {
		outcome = w.failed(err)
	}
	ended := w.options.Clock.Now()
	w.count(outcome, ended.Sub(now))
	w.states.settled(w.name, ended, outcome.err != nil)
	describe(span, outcome)
	w.deliver(ctx, outcome)
	w.report(ctx, outcome)
	if err := w.writeStatus(ctx, outcome, asked); err != nil && !apierrors.IsNotFound(err) {
		// what came of the sync must not be lost: it is made again, as after a failure
		w.options.Log.WarnContext(ctx, "the status of a secretsync is not written; it is tried again", logkeys.Error, err)
		outcome.retry = max(outcome.retry, time.Second)
	}
	now = w.options.Clock.Now()
	w.plan(now, asked, outcome)
	return w.state.Wait(now)
}

// resume takes up an object that an earlier process synced as it is now: it waits for its tick, so that a restart is no burst.
func (w *work) resume(now time.Time, asked string) bool {
	synced := w.sync.Status.LastSuccessfulSyncTime
	if w.class == nil || synced == nil || !strings.HasPrefix(w.sync.Status.SyncHash, hashVersion+asked+":") || failing(w.sync.Status.Conditions) {
		return false
	}
	if now.Sub(synced.Time) > timing.Repair {
		return false
	}
	w.state.Resume(now, asked, w.sharers())
	return true
}

// sharers is equal for objects that share most of their requests: those of one class and account.
func (w *work) sharers() string { return string(w.class.UID) + " " + w.sync.Spec.ServiceAccountName }

// postpone spreads what was there before this process worked over the time that the API server's limit needs for it, those that share
// requests at the same moment: else 5,000 objects in no order would ask the vault for each source many times. Few objects are not delayed.
func (w *work) postpone(ctx context.Context, now time.Time, asked string) bool {
	started, within := w.start.of(func() (time.Time, int) {
		var list syncv1alpha1.SecretSyncList
		_ = w.client.List(ctx, &list, client.UnsafeDisableDeepCopy) // from the cache; none where it fails
		return now, len(list.Items)
	})
	if w.class == nil || within < noticeable || !w.sync.CreationTimestamp.Time.Before(started) {
		return false
	}
	w.state.Postpone(started, asked, w.sharers(), within)
	return true
}

const (
	// requestsOfASync is what a first sync asks of the API server: the Secret, the status, an event, and its part of a token.
	requestsOfASync = 3.5
	// noticeable is the least time over which a start is spread.
	noticeable = 5 * time.Second
)

// start is when the process began to work, and over how long the first syncs are spread.
type start struct {
	// perSecond is how many requests the API server may be sent; 0: no bound.
	perSecond float32

	once   sync.Once
	at     time.Time
	within time.Duration
}

func (s *start) of(begin func() (time.Time, int)) (at time.Time, within time.Duration) {
	s.once.Do(func() {
		var objects int
		s.at, objects = begin()
		if s.perSecond > 0 {
			s.within = time.Duration(float64(objects) * requestsOfASync / float64(s.perSecond) * float64(time.Second))
		}
	})
	return s.at, s.within
}

// interval is how often the object is synced: what its class says, once that is known; 0 means never.
func (w *work) interval() time.Duration {
	if w.binding != nil {
		if own, ok := w.binding.RotationInterval(); ok {
			return own
		}
	}
	return w.options.Interval
}

// plan says when the object is due next.
func (w *work) plan(now time.Time, asked string, r result) {
	key := string(w.sync.UID)
	if w.binding != nil {
		key = w.binding.ScheduleKey()
	}
	if r.err != nil || r.retry > 0 {
		w.state.Failed(now, asked, key, w.interval(), r.retry)
		return
	}
	w.state.Succeeded(now, asked, key, w.interval())
}

// result is what came of a sync.
type result struct {
	bundle *volume.Bundle
	// used are the sources that the Secret is made from.
	used []volume.Source
	// outcome is what came of the Secret; zero where it was not tried.
	outcome secretsync.Outcome
	// err is why it failed; nil where it did not.
	err error
	// reason and message are those of the condition.
	reason, message string
	// retry is how long the vault or the API server asked to wait.
	retry time.Duration
}

// try fetches and writes.
func (w *work) try(ctx context.Context) (result, error) {
	if w.class == nil {
		name := w.sync.Spec.SecretProviderClassName
		err := &volume.Error{Reason: volume.ReasonClassNotFound, Message: fmt.Sprintf(
			"failed to get SecretProviderClass %q: SecretProviderClass.secrets-store.csi.x-k8s.io %q not found", name, name)}
		return result{err: err, reason: reasonClass, message: err.Message}, nil
	}
	as := volume.Pod{Namespace: w.sync.Namespace, ServiceAccount: w.sync.Spec.ServiceAccountName}
	request, err := w.accounts.Request(ctx, as, w.class, nil)
	if err != nil {
		return result{}, err //nolint:wrapcheck // says all
	}
	if w.binding, err = w.options.Provider.Bind(ctx, request); err != nil {
		return result{}, err //nolint:wrapcheck // says all
	}
	bundle, err := w.binding.Fetch(ctx, volume.FetchOptions{
		NotBefore: w.notBefore(), Priority: volume.PriorityRefresh, Interval: w.interval(),
	})
	if err != nil {
		return result{}, err //nolint:wrapcheck // says all
	}
	desired, used, err := w.desired(bundle)
	if err != nil {
		return result{}, err
	}
	outcome := w.secrets.Reconcile(ctx, desired, &w.state.known)
	r := result{bundle: bundle, used: used, outcome: outcome}
	switch {
	case outcome.Done():
		r.reason, r.message = reasonUpToDate, "Secret contains last observed values."
		if outcome.Result == secretsync.Created {
			r.reason, r.message = reasonCreated, "Secret created successfully."
		}
	default:
		r.err = &volume.Error{Reason: outcome.Reason, Message: outcome.Message, Cause: outcome.Err}
		r.reason, r.message = reasonOf(outcome), fmt.Sprintf("failed to patch secret %q: %s", w.sync.Name, outcome.Message)
	}
	if outcome.Refetch {
		r.retry = max(outcome.RefetchAfter, time.Second)
	}
	return r, nil
}

// notBefore is when the values that are written must have been asked for at the earliest: those from before a refresh was requested do not
// count. It is one moment for all objects of the class, so that they share requests.
func (w *work) notBefore() time.Time {
	now := w.options.Clock.Now()
	shared := now.Add(-w.options.CacheTTL)
	if requested := w.requests.Of(w.class, now); requested.After(shared) {
		return requested
	}
	return shared
}

// desired is the Secret that the object asks for, and the sources that it is made from.
func (w *work) desired(bundle *volume.Bundle) (*secretsync.Desired, []volume.Source, error) {
	asked := &v1.SecretObject{
		SecretName: w.sync.Name, Type: w.sync.Spec.SecretObject.Type, Labels: w.sync.Spec.SecretObject.Labels,
		Annotations: w.sync.Spec.SecretObject.Annotations,
	}
	for _, d := range w.sync.Spec.SecretObject.Data {
		asked.Data = append(asked.Data, v1.SecretObjectData{ObjectName: d.SourcePath, Key: d.TargetKey})
	}
	made, err := secretdata.Build(asked, bundle.Files, bundle.Absent)
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // says all
	}
	delete(made.Labels, secretdata.ManagedLabel) // that of the driver's Secrets
	controls := true
	d := &secretsync.Desired{
		Namespace: w.sync.Namespace, Name: w.sync.Name, Type: made.Type, Labels: made.Labels, Annotations: made.Annotations, Data: made.Data,
		CreateOnly: bundle.Fallback != "",
		Hash:       hashOf(w.asked, bundle),
		Writer: secretsync.Writer{
			FieldManager: "secrets-store-sync-controller", Alone: true, Label: "secrets-store.sync.x-k8s.io", Record: secretsync.SyncRecord,
		},
		Class:       secretsync.Class{Name: w.sync.Name, UID: w.sync.UID, Generation: w.sync.Generation},
		OwnerPolicy: secretsync.ExactOwners,
		Owners: []metav1.OwnerReference{{
			APIVersion: syncv1alpha1.GroupVersion().String(), Kind: "SecretSync", Name: w.sync.Name, UID: w.sync.UID, Controller: &controls,
		}},
	}
	used := secretdata.Used(asked, bundle.Files, bundle.Sources)
	for _, s := range used {
		d.Sources = append(d.Sources, secretsync.Source{ID: strings.TrimPrefix(s.Key.String(), "https://"), Date: s.Date, Version: s.Version})
	}
	return d, used, nil
}

// hashOf changes when what the Secret is made from changes. It holds no value: versions of sources, hashed by a key of the process.
func hashOf(asked string, bundle *volume.Bundle) [32]byte {
	h := sha256.New()
	h.Write([]byte(asked))
	for _, s := range bundle.Sources {
		h.Write([]byte("\x00" + s.Key.String() + "\x00"))
		h.Write(s.Hash[:])
	}
	return [32]byte(h.Sum(nil))
}

// failed is the result of an error before the Secret was tried.
func (*work) failed(err error) result {
	r := result{err: err, message: err.Error()}
	switch volume.ReasonOf(err) {
	case volume.ReasonInvalidClass, volume.ReasonClassNotFound, volume.ReasonInvalidContent, volume.ReasonInvalidRequest:
		r.reason = reasonClass
	case volume.ReasonInternal, volume.ReasonNotReady:
		r.reason = reasonController
		if volume.ReasonOf(err) == volume.ReasonInternal {
			r.message = "the controller has a defect: its log has the details"
		}
	default:
		r.reason = reasonFetch
	}
	if e, ok := errors.AsType[*volume.Error](err); ok {
		r.retry = e.RetryAfter
	}
	return r
}

// report logs what changed, and makes events on the object of it.
func (w *work) report(ctx context.Context, r result) {
	log := w.options.Log.With("secretsync", w.sync.Namespace+"/"+w.sync.Name)
	now := w.options.Clock.Now()
	switch {
	case r.err != nil:
		reason := volume.ReasonOf(r.err)
		if w.state.failure != reason {
			log.WarnContext(ctx, "a Secret is not synced: it keeps what it has", logkeys.Reason, reason, logkeys.Error, r.message)
			w.event(corev1.EventTypeWarning, "SyncFailed", r.message)
		}
		w.state.failure = reason
		return
	case w.state.failure != "":
		log.InfoContext(ctx, "a Secret is synced again after a failure")
		w.event(corev1.EventTypeNormal, "SyncRecovered", "the Secret is synced again after a failure")
	case r.outcome.Result == secretsync.Created, r.outcome.Result == secretsync.Updated:
		log.InfoContext(ctx, "a Secret is written", "result", r.reason)
		w.event(corev1.EventTypeNormal, "Synced", r.outcome.Message)
	}
	w.state.failure = ""
	for _, notice := range r.outcome.Notices {
		w.event(corev1.EventTypeWarning, "SecretTakenOver", notice)
	}
	if warnings := strings.Join(append(w.binding.Warnings(), r.bundle.Warnings...), "; "); warnings != w.state.warned {
		w.state.warned = warnings
		if warnings != "" {
			w.event(corev1.EventTypeWarning, "SecretProviderClassWarning", warnings)
		}
	}
	var crossed []volume.Object
	crossed, w.state.expiryMarks = expiry.Crossed(w.state.expiryMarks, r.bundle.Objects, now)
	for _, o := range crossed {
		w.event(corev1.EventTypeWarning, "ObjectExpiring", expiry.Message(o, o.Expires.Sub(now)))
	}
}

func (w *work) event(kind, reason, text string) {
	objectevents.Write(w.events, w.sync, kind, reason, "Sync", text)
}
