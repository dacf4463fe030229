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

	"github.com/keyvault-csi/keyvault-csi-driver/controller/objectevents"
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
		result.RequeueAfter, err = (&look{restarts: r, key: key, state: s, now: now}).do(ctx)
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

// look is one look at a workload.
type look struct {
	*restarts

	key      Key
	state    *state
	now      time.Time
	settings settings
	// workload is nil before it is read.
	workload *workload
}

// do restarts the workload where it is due, and returns when to look again; zero where only an event can change anything.
func (l *look) do(ctx context.Context) (again time.Duration, err error) {
	known, again, err := l.asks(ctx)
	if known == nil || err != nil {
		return again, err
	}
	if u := l.state.uses; u == nil || u.uid != known.UID || u.generation != known.Generation || l.memory.holds(l.key) {
		if err := l.read(ctx); err != nil || l.workload == nil {
			return 0, err
		}
		if l.count() {
			return restartingPause, nil
		}
	}
	found, err := l.find(ctx, l.key, l.state.uses)
	if err != nil {
		return 0, err
	}
	if !found.any() {
		l.state.settle()
		return found.again(), nil
	}
	wait, err := l.due(ctx, found)
	return sooner(found.again(), wait), err
}

// asks returns the workload's metadata, nil where it asks for nothing that is understood. Again is when to look again.
func (l *look) asks(ctx context.Context) (known *metav1.PartialObjectMetadata, again time.Duration, err error) {
	known = metadataOf(l.key.Kind)
	if err := l.cache.Get(ctx, l.key.NamespacedName, known); client.IgnoreNotFound(err) != nil {
		return nil, 0, fmt.Errorf("read the metadata of %s: %w", l.key, err)
	}
	settings, on, wrong := parseSettings(known.Annotations) // none where there is no such workload
	if !on || known.DeletionTimestamp != nil {
		l.memory.forget(l.key)
		return nil, 0, nil
	}
	if wrong == nil && !l.served(l.key.Namespace) {
		wrong = fmt.Errorf("annotation %s: the controller restarts nothing in namespace %s: ask its operator, or remove the annotation",
			Annotation, l.key.Namespace)
	}
	if wrong != nil {
		return nil, l.warn(known, wrong), nil
	}
	l.settings, l.state.warned = settings, ""
	return known, 0, nil
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

// warn makes an event of a mistake, once for each mistake and at most once in warnPause. Again is when to look again.
func (l *look) warn(o client.Object, wrong error) (again time.Duration) {
	if l.state.warned == wrong.Error() {
		return 0
	}
	if wait := l.state.warnedAt.Add(warnPause).Sub(l.now); wait > 0 && wait <= warnPause {
		return wait
	}
	l.state.warned, l.state.warnedAt = wrong.Error(), l.now
	l.Metrics.RestartSkipped(skippedAnnotation)
	objectevents.Write(l.events, o, corev1.EventTypeWarning, "InvalidRestartAnnotation", "Restart", wrong.Error())
	return 0
}

// read reads the workload and notes what it uses. It stays nil where there is none.
func (l *look) read(ctx context.Context) error {
	object := objectOf(l.key.Kind)
	err := l.live.Get(ctx, l.key.NamespacedName, object)
	if apierrors.IsNotFound(err) {
		l.memory.forget(l.key)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", l.key, err)
	}
	if l.workload, err = newWorkload(object); err != nil {
		return err
	}
	if u, now := l.state.uses, usesOf(l.workload); u == nil || u.uid != now.uid || u.generation != now.generation {
		l.memory.use(l.key, l.state, now)
	}
	return nil
}

// count takes and gives back the slot of a workload that is being restarted: by this process, or by the one before it.
func (l *look) count() (restarting bool) {
	until := parseReason(l.workload.restarted()).at.Add(slotLife)
	if l.workload.rolling && l.now.Before(until) {
		l.memory.hold(l.key, until)
		return true
	}
	l.memory.release(l.key)
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
func (l *look) due(ctx context.Context, f *findings) (wait time.Duration, err error) {
	if l.state.dueSince.IsZero() {
		l.state.dueSince = l.now
	}
	if !l.memory.free(l.key, l.now, l.Most, l.MostInNamespace) {
		return l.skip(skippedBound, slotPause), nil
	}
	if l.workload == nil {
		if err := l.read(ctx); err != nil || l.workload == nil {
			return 0, err
		}
	}
	if l.workload.paused {
		return l.skip(skippedPaused, 0), nil // the end of the pause is an event
	}
	if l.workload.rolling {
		return l.skip(skippedRolling, l.state.longer()), nil
	}
	return l.replace(ctx, f)
}

// replace restarts the workload where its Pods are behind, and neither the delay nor the interval nor a Secret speaks against it.
func (l *look) replace(ctx context.Context, f *findings) (wait time.Duration, err error) {
	pods, err := l.pods(ctx, l.workload)
	if err != nil {
		return 0, err
	}
	changes, again := behind(l.workload, pods, f)
	last := parseReason(l.workload.restarted())
	if len(changes) == 0 || !again && last.covers(changes) {
		l.state.settle()
		return 0, nil
	}
	if wait := l.left(l.state.dueSince, l.Delay); wait > 0 {
		return wait, nil
	}
	if wait := l.left(last.at, l.settings.interval); wait > 0 {
		return l.skip(skippedInterval, wait), nil
	}
	if waits, err := l.secretsBehind(ctx, l.workload, pods, f); err != nil || waits {
		return l.skip(skippedSecret, l.state.longer()), err
	}
	l.state.waits = 0
	return l.restart(ctx, changes)
}

// left is how much of a time since a moment is left. It is zero where the clock was set back.
func (l *look) left(since time.Time, of time.Duration) time.Duration {
	if wait := since.Add(of).Sub(l.now); wait <= of {
		return max(0, wait)
	}
	return 0
}

// skip counts why the workload is not restarted now.
func (l *look) skip(why string, wait time.Duration) time.Duration {
	l.Metrics.RestartSkipped(why)
	return wait
}

// restart patches the template where a slot is free, and reports it.
func (l *look) restart(ctx context.Context, changes []change) (wait time.Duration, err error) {
	if !l.memory.acquire(l.key, l.now, l.Most, l.MostInNamespace) {
		return l.skip(skippedBound, slotPause), nil
	}
	w := l.workload
	body, err := patch(w, reasonOf(l.now, changes).String())
	if err == nil {
		target := objectOf(l.key.Kind)
		target.SetNamespace(l.key.Namespace)
		target.SetName(l.key.Name)
		err = l.client.Patch(ctx, target, body, client.FieldOwner("keyvault-csi-restart"))
	}
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err): // it was edited meanwhile
		l.memory.release(l.key)
		return lookPause, nil
	case err != nil:
		l.memory.release(l.key)
		l.Metrics.RestartFailed()
		objectevents.Write(l.events, w.object, corev1.EventTypeWarning, "RestartFailed", "Restart",
			printable.Cut("the API server refused the restart on change; it is tried again: "+printable.OneLine(err.Error()), mostEvent))
		return 0, fmt.Errorf("restart %s: %w", l.key, err)
	}
	l.state.dueSince = time.Time{}
	l.Metrics.Restarted(w.kind)
	l.Log.InfoContext(ctx, "a workload is restarted, because what its Pods read has new versions", "workload", l.key.String(),
		logkeys.Reason, strings.Join(tokensOf(changes), ","))
	objectevents.Write(l.events, w.object, corev1.EventTypeNormal, "RestartedOnChange", "Restart", describe(changes))
	return restartingPause, nil
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
