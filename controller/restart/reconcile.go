package restart

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	syncv1alpha1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/secretsync/v1alpha1"
	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
)

const (
	// lookPause is the least time between two looks at a workload, however often it is edited.
	lookPause = 2 * time.Second
	// warnPause is the least time between two events about wrong annotations of a workload.
	warnPause = time.Minute
	// restartingPause is how soon a workload is looked at again that is being restarted, and slotPause one that waits for a slot.
	restartingPause = 5 * time.Second
	slotPause       = 5 * time.Second
	// firstWait and lastWait bound the waits for the end of another rollout, and for a Secret that is behind its objects; they double.
	firstWait = 2 * time.Second
	lastWait  = time.Minute
	// waitingPause is how soon a workload is looked at again one of whose Secrets will be written.
	waitingPause = 30 * time.Second
	// lastRetry bounds the waits after errors of the API server, which begin with lookPause and double.
	lastRetry = 5 * time.Minute
	// repeat is how soon a workload is looked at again whose Secrets no status object tells of.
	repeat = 10 * time.Minute
	// slotLife is how long a restart counts that does not end.
	slotLife = 15 * time.Minute
	// clockSlack is by how much the clocks of those who write Secrets may differ from the API server's, which says when a Pod was created.
	clockSlack = time.Minute
	// podPage is how many Pods one answer of the API server has.
	podPage = 500
	// maxLabel is Kubernetes' limit of a label's value, in bytes.
	maxLabel = 63
)

// Why a workload was not restarted at a look. The set is closed: it is a metric's label.
const (
	skippedAnnotation = "annotation"
	skippedSecret     = "secret"
	skippedPaused     = "paused"
	skippedRolling    = "rollout"
	skippedInterval   = "interval"
	skippedBound      = "bound"
	skippedOwner      = "owner"
)

// Reconcile implements reconcile.TypedReconciler. It decides itself when to look again, so that events and errors together do not make it look
// more often than either.
func (r *restarts) Reconcile(ctx context.Context, key Key) (result reconcile.Result, _ error) {
	if err := r.memory.begin(func() ([]Key, error) { return r.asking(ctx) }); err != nil {
		return reconcile.Result{}, err
	}
	s := r.memory.of(key)
	now := r.Clock.Now()
	pause := s.pause()
	if wait := s.lookedAt.Add(pause).Sub(now); wait > 0 && wait <= pause {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	s.lookedAt = now
	defer r.memory.seen(key)
	err := r.safe.Do(ctx, "look at a workload", func() (err error) {
		result, err = r.look(ctx, key, s, now)
		return err
	})
	if err == nil {
		s.failures = 0
		return result, nil
	}
	s.failures++
	r.Log.WarnContext(ctx, "whether a workload must be restarted was not found out, or the restart failed; it is tried again",
		"workload", key.String(), "attempt", s.failures, logkeys.Error, err)
	return reconcile.Result{RequeueAfter: s.pause()}, nil
}

// asking returns the workloads with the annotation.
func (r *restarts) asking(ctx context.Context) (keys []Key, err error) {
	for _, kind := range kinds() {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(appsv1.SchemeGroupVersion.WithKind(kind + "List"))
		if err := r.cache.List(ctx, list); err != nil {
			return nil, fmt.Errorf("list workloads: %w", err)
		}
		for i := range list.Items {
			if list.Items[i].Annotations[Annotation] != "" {
				keys = append(keys, Key{kind, client.ObjectKeyFromObject(&list.Items[i])})
			}
		}
	}
	return keys, nil
}

// look restarts the workload where it is due, and says when to look again.
func (r *restarts) look(ctx context.Context, key Key, s *state, now time.Time) (reconcile.Result, error) {
	known := metadataOf(key.Kind)
	err := r.cache.Get(ctx, key.NamespacedName, known)
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("read the metadata of %s: %w", key, err)
	}
	settings, on, wrong := parseSettings(known.Annotations)
	if err != nil || known.DeletionTimestamp != nil || !on {
		r.memory.forget(key)
		return reconcile.Result{}, nil
	}
	if wrong == nil && !r.served(key.Namespace) {
		wrong = fmt.Errorf("annotation %s: the controller restarts nothing in namespace %s: ask its operator, or remove the annotation",
			Annotation, key.Namespace)
	}
	if wrong != nil {
		return r.warn(s, known, wrong, now), nil
	}
	s.warned = ""
	var w *workload
	if s.uses == nil || s.uses.uid != known.UID || s.uses.generation != known.Generation || r.memory.holds(key) {
		if w, err = r.read(ctx, key, s); err != nil || w == nil {
			return reconcile.Result{}, err
		}
		if r.count(key, w, now) {
			return reconcile.Result{RequeueAfter: restartingPause}, nil
		}
	}
	found, err := r.find(ctx, key, s.uses)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !found.any() {
		s.dueSince, s.waits = time.Time{}, 0
		return reconcile.Result{RequeueAfter: found.again()}, nil
	}
	if s.dueSince.IsZero() {
		s.dueSince = now
	}
	if !r.memory.free(key, now, r.Most, r.MostInNamespace) {
		r.Metrics.RestartSkipped(skippedBound)
		return reconcile.Result{RequeueAfter: slotPause}, nil
	}
	if w == nil {
		if w, err = r.read(ctx, key, s); err != nil || w == nil {
			return reconcile.Result{}, err
		}
	}
	wait, err := r.due(ctx, w, s, found, settings, now)
	return reconcile.Result{RequeueAfter: sooner(found.again(), wait)}, err
}

// sooner is the shorter of two waits, of which zero means none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// served reports whether workloads of the namespace may be restarted.
func (r *restarts) served(namespace string) bool {
	if len(r.Namespaces) > 0 {
		return slices.Contains(r.Namespaces, namespace)
	}
	return !slices.Contains(r.Excluded, namespace)
}

// warn makes an event of a mistake, once for each mistake and at most once in warnPause.
func (r *restarts) warn(s *state, o client.Object, wrong error, now time.Time) reconcile.Result {
	if s.warned == wrong.Error() {
		return reconcile.Result{}
	}
	if wait := s.warnedAt.Add(warnPause).Sub(now); wait > 0 && wait <= warnPause {
		return reconcile.Result{RequeueAfter: wait}
	}
	s.warned, s.warnedAt = wrong.Error(), now
	r.Metrics.RestartSkipped(skippedAnnotation)
	r.events.Eventf(o, nil, corev1.EventTypeWarning, "InvalidRestartAnnotation", "Restart", "%s", wrong.Error())
	return reconcile.Result{}
}

// read reads a workload and notes what it uses; nil where it is gone.
func (r *restarts) read(ctx context.Context, key Key, s *state) (*workload, error) {
	object := objectOf(key.Kind)
	err := r.live.Get(ctx, key.NamespacedName, object)
	if apierrors.IsNotFound(err) {
		r.memory.forget(key)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	w, err := newWorkload(object)
	if err != nil {
		return nil, err
	}
	if now := usesOf(w); s.uses == nil || s.uses.uid != now.uid || s.uses.generation != now.generation {
		r.memory.use(key, s, now)
	}
	return w, nil
}

// count takes and gives back the slot of a workload that is being restarted: by this process, or by the one before it.
func (r *restarts) count(key Key, w *workload, now time.Time) (restarting bool) {
	until := parseReason(w.restarted()).at.Add(slotLife)
	if w.rolling && now.Before(until) {
		r.memory.hold(key, until)
		return true
	}
	r.memory.release(key)
	return false
}

// findings are what may make a workload due.
type findings struct {
	// statuses are the status objects with changes of the classes that the Pods mount, by the uid of their Pod.
	statuses map[types.UID][]*v1.SecretProviderClassPodStatus
	// mounted maps the Secrets that the Pods read and whose class they mount to these classes.
	mounted map[string][]string
	// changes are Secrets whose class the Pods do not mount, and what changed in them.
	changes []secretChange
	// waiting is true where such a Secret is behind its objects; others where there is such a Secret.
	waiting, others bool
}

// secretChange is the last change of a Secret.
type secretChange struct {
	at     time.Time
	change change
}

func (f *findings) any() bool { return len(f.statuses)+len(f.changes) > 0 }

// again is when to look again although nothing happens.
func (f *findings) again() time.Duration {
	switch {
	case f.waiting:
		return waitingPause
	case f.others:
		return repeat
	}
	return 0
}

// find looks for changes in what the Pods of a workload use, without reading the Pods.
func (r *restarts) find(ctx context.Context, key Key, u *uses) (*findings, error) {
	f := &findings{statuses: map[types.UID][]*v1.SecretProviderClassPodStatus{}, mounted: map[string][]string{}}
	for _, class := range u.classes {
		statuses, err := r.statusesOf(ctx, key.Namespace, class)
		if err != nil {
			return nil, err
		}
		for _, status := range statuses {
			uid := status.OwnerReferences[0].UID
			f.statuses[uid] = append(f.statuses[uid], status)
		}
	}
	for _, secret := range u.secrets {
		if err := r.findSecret(ctx, key, u, secret, f); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// statusesOf returns the class's status objects with changes.
func (r *restarts) statusesOf(ctx context.Context, namespace, class string) (changed []*v1.SecretProviderClassPodStatus, err error) {
	var list v1.SecretProviderClassPodStatusList
	if err := r.cache.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{statusesOfClass: class}); err != nil {
		return nil, fmt.Errorf("list status objects of class %s/%s: %w", namespace, class, err)
	}
	for i := range list.Items {
		status := &list.Items[i]
		if status.Status.Objects = changedObjects(status); len(status.Status.Objects) > 0 && len(status.OwnerReferences) == 1 {
			changed = append(changed, status)
		}
	}
	return changed, nil
}

// findSecret looks for changes of one Secret that the Pods read.
func (r *restarts) findSecret(ctx context.Context, key Key, u *uses, secret string, f *findings) error {
	var sync syncv1alpha1.SecretSync
	err := r.cache.Get(ctx, types.NamespacedName{Namespace: key.Namespace, Name: secret}, &sync)
	if err == nil {
		f.others = true
		record, err := r.ofSync(ctx, key.Namespace, secret)
		f.add(secret, record)
		return err
	}
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("read SecretSync %s/%s: %w", key.Namespace, secret, err)
	}
	var classes v1.SecretProviderClassList
	if err := r.cache.List(ctx, &classes, client.InNamespace(key.Namespace), client.MatchingFields{classesOfSecret: secret}); err != nil {
		return fmt.Errorf("list classes of Secret %s/%s: %w", key.Namespace, secret, err)
	}
	for i := range classes.Items {
		class := classes.Items[i].Name
		if slices.Contains(u.classes, class) {
			f.mounted[secret] = append(f.mounted[secret], class)
			continue
		}
		f.others = true
		record, err := r.ofClass(ctx, key.Namespace, secret, class)
		if err != nil {
			return err
		}
		f.add(secret, record)
		statuses, err := r.statusesOf(ctx, key.Namespace, class)
		if err != nil {
			return err
		}
		f.waiting = f.waiting || slices.ContainsFunc(statuses, func(s *v1.SecretProviderClassPodStatus) bool { return record.behind(s.Status.Objects) })
	}
	return nil
}

// add notes the last change of a Secret.
func (f *findings) add(secret string, record secretRecord) {
	at := record.changed()
	if at.IsZero() {
		return
	}
	h := sha256.New()
	for _, s := range record.sources {
		_, _ = fmt.Fprintf(h, "%q %q\n", s.ID, s.Version)
	}
	f.changes = append(f.changes, secretChange{at, change{object: secret, to: hex.EncodeToString(h.Sum(nil)[:6])}})
}

// due restarts the workload where running Pods are behind and nothing speaks against it now. Wait is when to look again; zero where only an
// event can change anything.
func (r *restarts) due(ctx context.Context, w *workload, s *state, f *findings, settings settings, now time.Time) (wait time.Duration, err error) {
	switch {
	case w.paused:
		r.Metrics.RestartSkipped(skippedPaused)
		return 0, nil // the end of the pause is an event
	case w.rolling:
		r.Metrics.RestartSkipped(skippedRolling)
		return s.longer(), nil
	}
	pods, err := r.pods(ctx, w)
	if err != nil {
		return 0, err
	}
	all, again := behind(w, pods, f)
	if len(all) == 0 || !again && parseReason(w.restarted()).covers(all) {
		s.dueSince, s.waits = time.Time{}, 0
		return 0, nil
	}
	if wait := s.dueSince.Add(r.Delay).Sub(now); wait > 0 && wait <= r.Delay {
		return wait, nil
	}
	if wait := parseReason(w.restarted()).at.Add(settings.interval).Sub(now); wait > 0 && wait <= settings.interval {
		r.Metrics.RestartSkipped(skippedInterval)
		return wait, nil
	}
	waits, err := r.secretsBehind(ctx, w, pods, f)
	if err != nil {
		return 0, err
	}
	if waits {
		r.Metrics.RestartSkipped(skippedSecret)
		return s.longer(), nil
	}
	s.waits = 0
	if !r.memory.acquire(w.key(), now, r.Most, r.MostInNamespace) {
		r.Metrics.RestartSkipped(skippedBound)
		return slotPause, nil
	}
	if err := r.restart(ctx, w, all, now); err != nil {
		r.memory.release(w.key())
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return lookPause, nil // it was edited meanwhile
		}
		return 0, err
	}
	s.dueSince = time.Time{}
	return restartingPause, nil
}

// restart patches the template and reports it.
func (r *restarts) restart(ctx context.Context, w *workload, changes []change, now time.Time) error {
	p, err := patch(w, reasonOf(now, changes).String())
	if err != nil {
		return err
	}
	log := r.Log.With("workload", w.key().String())
	if err := r.client.Patch(ctx, w.object.DeepCopyObject().(client.Object), p, client.FieldOwner("keyvault-csi-restart")); err != nil { //nolint:errcheck,forcetypeassert // a copy of a client.Object
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			r.Metrics.RestartFailed()
			r.events.Eventf(w.object, nil, corev1.EventTypeWarning, "RestartFailed", "Restart", "%s",
				printable.Cut("the API server refused the restart on change; it is tried again: "+printable.OneLine(err.Error()), mostEvent))
		}
		return fmt.Errorf("restart %s: %w", w.key(), err)
	}
	r.Metrics.Restarted(w.kind)
	text := describe(changes)
	log.InfoContext(ctx, "a workload is restarted, because what its Pods read has new versions", logkeys.Reason, strings.Join(tokensOf(changes), ","))
	r.events.Eventf(w.object, nil, corev1.EventTypeNormal, "RestartedOnChange", "Restart", "%s", text)
	return nil
}

// pods returns the Pods of the workload that run or will. What matches its selector and has another owner is counted and left alone.
func (r *restarts) pods(ctx context.Context, w *workload) (pods []*corev1.Pod, err error) {
	owners := map[types.UID]bool{w.object.GetUID(): true}
	in := client.InNamespace(w.object.GetNamespace())
	matching := client.MatchingLabelsSelector{Selector: w.selector}
	if w.kind == deployment {
		sets := &metav1.PartialObjectMetadataList{}
		sets.SetGroupVersionKind(appsv1.SchemeGroupVersion.WithKind("ReplicaSetList"))
		if err := r.live.List(ctx, sets, in, matching); err != nil {
			return nil, fmt.Errorf("list ReplicaSets of %s: %w", w.key(), err)
		}
		for i := range sets.Items {
			if owner := metav1.GetControllerOf(&sets.Items[i]); owner != nil && owner.UID == w.object.GetUID() {
				owners[sets.Items[i].UID] = true
			}
		}
	}
	var page corev1.PodList
	for first := true; first || page.Continue != ""; first = false {
		next := page.Continue
		page = corev1.PodList{}
		if err := r.live.List(ctx, &page, in, matching, client.Limit(podPage), client.Continue(next)); err != nil {
			return nil, fmt.Errorf("list Pods of %s: %w", w.key(), err)
		}
		for i := range page.Items {
			pod := &page.Items[i]
			owner := metav1.GetControllerOf(pod)
			switch {
			case pod.DeletionTimestamp != nil, pod.Status.Phase == corev1.PodSucceeded, pod.Status.Phase == corev1.PodFailed:
			case owner == nil || !owners[owner.UID]:
				r.Metrics.RestartSkipped(skippedOwner)
				r.Log.DebugContext(ctx, "a Pod matches a workload's selector and has another owner", "workload", w.key().String(), logkeys.Pod, pod.Name)
			default:
				pods = append(pods, pod)
			}
		}
	}
	return pods, nil
}

// behind returns what the Pods of a workload are behind with. Again is true where a Pod is behind that already has what the last restart
// wrote, so that the restart cannot have been for it.
func behind(w *workload, pods []*corev1.Pod, f *findings) (all []change, again bool) {
	last := w.restarted()
	seen := map[change]bool{}
	for _, pod := range pods {
		own := pod.Annotations[TemplateAnnotation]
		current := last != "" && own == last
		add := func(c change) {
			again = again || current
			if !seen[c] {
				seen[c] = true
				all = append(all, c)
			}
		}
		for _, status := range f.statuses[pod.UID] {
			if !fromNodeOf(pod, status) {
				continue
			}
			for _, o := range status.Status.Objects {
				add(change{class: status.Status.SecretProviderClassName, object: o.ID, from: o.StartedVersion, to: o.Version})
			}
		}
		for _, c := range f.changes {
			if pod.CreationTimestamp.Time.Before(c.at.Add(clockSlack)) && !parseReason(own).covers([]change{c.change}) {
				add(c.change)
			}
		}
	}
	slices.SortFunc(all, func(a, b change) int {
		return cmp.Or(strings.Compare(a.token(), b.token()), strings.Compare(a.from, b.from))
	})
	return all, again
}

// fromNodeOf reports whether the status object is from the Pod's own node: whoever owns another node cannot have it restarted.
func fromNodeOf(pod *corev1.Pod, status *v1.SecretProviderClassPodStatus) bool {
	for key, value := range status.Labels {
		if strings.HasPrefix(key, "internal.") && strings.HasSuffix(key, "/node-name") {
			return value == secretsync.Shorten(pod.Spec.NodeName, maxLabel)
		}
	}
	return false
}

// secretsBehind reports whether a Secret that the Pods read has not got yet what they have mounted.
func (r *restarts) secretsBehind(ctx context.Context, w *workload, pods []*corev1.Pod, f *findings) (bool, error) {
	changed := map[string][]v1.SecretProviderClassObject{} // by class
	for _, pod := range pods {
		for _, status := range f.statuses[pod.UID] {
			class := status.Status.SecretProviderClassName
			changed[class] = append(changed[class], status.Status.Objects...)
		}
	}
	for secret, classes := range f.mounted {
		for _, class := range classes {
			if len(changed[class]) == 0 {
				continue
			}
			record, err := r.ofClass(ctx, w.object.GetNamespace(), secret, class)
			if err != nil {
				return false, err
			}
			if record.behind(changed[class]) {
				return true, nil
			}
		}
	}
	return false, nil
}
