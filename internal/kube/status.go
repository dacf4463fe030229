package kube

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// fieldManager owns what the driver applies.
const fieldManager = "keyvault-csi"

// Status returns a reporter that keeps one SecretProviderClassPodStatus for each Pod and class, written in the
// background and only when it changes. SetVolumes says what it reads. Put no report.Deduplicated in front of it.
func (c *Cluster) Status() report.Reporter { return c.status }

// SetVolumes says where the snapshots of the node's volumes are to be had. Until then no status object is written.
func (c *Cluster) SetVolumes(volumes func() []*volume.Snapshot) { c.status.volumes.Store(&volumes) }

// applyStatus writes an object whole, as its only owner: what an earlier writer left in these fields is replaced.
func (c *Cluster) applyStatus(ctx context.Context, name types.NamespacedName, body []byte) error {
	err := c.api.rest.Patch(types.ApplyPatchType).Namespace(name.Namespace).
		Resource(statusResource).Name(name.Name).
		VersionedParams(&metav1.PatchOptions{FieldManager: fieldManager, Force: new(true)}, metav1.ParameterCodec).
		Body(body).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("apply secretproviderclasspodstatus %s: %w", name, err)
	}
	return nil
}

// readStatus returns a status object of the Pod with the uid; nil where there is none. It is a patch that changes nothing: the driver may not
// get status objects, and the admission policy lets it patch those of its own node alone.
func (c *Cluster) readStatus(ctx context.Context, name types.NamespacedName, uid types.UID) (*v1.SecretProviderClassPodStatus, error) {
	test, err := json.Marshal([]map[string]string{{"op": "test", "path": "/metadata/ownerReferences/0/uid", "value": string(uid)}})
	if err != nil {
		return nil, fmt.Errorf("read secretproviderclasspodstatus %s: %w", name, err)
	}
	found := &v1.SecretProviderClassPodStatus{}
	err = c.api.rest.Patch(types.JSONPatchType).Namespace(name.Namespace).Resource(statusResource).Name(name.Name).Body(test).Do(ctx).Into(found)
	switch {
	case apierrors.IsNotFound(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err): // there is none, or another Pod's
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read secretproviderclasspodstatus %s: %w", name, err)
	}
	return found, nil
}

// statusWriter writes status objects off the mounts' path. It keeps no state of the volumes: an event makes it look at
// them.
type statusWriter struct {
	driverName, nodeID string
	apply              func(ctx context.Context, name types.NamespacedName, body []byte) error
	read               func(ctx context.Context, name types.NamespacedName, uid types.UID) (*v1.SecretProviderClassPodStatus, error)
	clock              clock.PassiveClock
	log                *slog.Logger
	queue              workqueue.TypedRateLimitingInterface[types.NamespacedName]
	volumes            atomic.Pointer[func() []*volume.Snapshot]

	mu sync.Mutex
	// written holds the objects that were applied, without the time of the last success.
	written map[types.NamespacedName][]byte
	// earlier holds what an earlier process said of Pods that it mounted volumes for.
	earlier map[types.NamespacedName]earlierStatus
	// plainUntil is until when startedVersion and expires are left out, because the API server's CustomResourceDefinition does not have them.
	plainUntil time.Time
}

// earlierStatus are the versions that a Pod's objects had when it started, as far as an earlier process recorded them.
type earlierStatus struct {
	uid     types.UID
	started map[string]string
}

const (
	// plainFor is for how long startedVersion and expires are left out after the API server refused it.
	plainFor = time.Hour
	// refusedReads is after how many refusals an earlier status object counts as missing: an API server that has just started refuses all.
	refusedReads = 3
)

func newStatusWriter(o Options,
	apply func(ctx context.Context, name types.NamespacedName, body []byte) error,
	read func(ctx context.Context, name types.NamespacedName, uid types.UID) (*v1.SecretProviderClassPodStatus, error),
) *statusWriter {
	return &statusWriter{
		driverName: o.DriverName,
		nodeID:     o.NodeID,
		apply:      apply,
		read:       read,
		clock:      o.Clock,
		log:        o.Log,
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](time.Second, 5*time.Minute),
			workqueue.TypedRateLimitingQueueConfig[types.NamespacedName]{Clock: o.Clock}),
		written: map[types.NamespacedName][]byte{},
		earlier: map[types.NamespacedName]earlierStatus{},
	}
}

// Report implements report.Reporter.
func (w *statusWriter) Report(_ context.Context, e report.Event) {
	switch e.Kind() {
	case report.KindPublished,
		report.KindRefreshed,
		report.KindRecovered,
		report.KindServedStale,
		report.KindServedFallback,
		report.KindRefreshFailed,
		report.KindUnpublished:
	case report.KindPublishFailed,
		report.KindUnpublishFailed,
		report.KindAdopted,
		report.KindConfirmed,
		report.KindWarning,
		report.KindExpiring,
		report.KindSyncFailed,
		report.KindSyncConflict,
		report.KindSynced,
		report.KindPanicked:
		return
	}
	if ref := e.Ref(); ref.Pod.UID != "" {
		w.queue.Add(types.NamespacedName{Namespace: ref.Pod.Namespace, Name: statusName(ref)})
	}
}

// run writes until the queue is shut down.
func (w *statusWriter) run(ctx context.Context) {
	for {
		name, ended := w.queue.Get()
		if ended {
			return
		}
		w.write(ctx, name)
		w.queue.Done(name)
	}
}

// write applies one object where it differs from what was applied last.
func (w *statusWriter) write(ctx context.Context, name types.NamespacedName) {
	status, adopted := w.render(name)
	if status == nil {
		w.queue.Forget(name)
		w.forget(name) // the API server removes the object with its owner, the Pod
		return
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if adopted {
		if err := w.takeUp(ctx, name, status); err != nil {
			w.retry(ctx, name, err)
			return
		}
	}
	// the time of the last success alone is no reason to write: it is written along with what is
	success := status.Annotations[LastSuccessAnnotation]
	compared := comparedBy(status)
	if bytes.Equal(compared, w.lastWritten(name)) {
		w.queue.Forget(name)
		return
	}
	status.Annotations[LastSuccessAnnotation] = success
	if err := w.applyKnown(ctx, name, status); err != nil {
		w.retry(ctx, name, err)
		return
	}
	w.queue.Forget(name)
	w.setWritten(name, compared)
}

func (w *statusWriter) retry(ctx context.Context, name types.NamespacedName, err error) {
	w.log.WarnContext(ctx, "a status object was not written; it is retried", "object", name.String(),
		"attempt", w.queue.NumRequeues(name)+1, logkeys.Error, err)
	w.queue.AddRateLimited(name)
}

// comparedBy is what decides whether an object must be written: all but the time of the last success, which it takes away.
func comparedBy(status *v1.SecretProviderClassPodStatus) []byte {
	delete(status.Annotations, LastSuccessAnnotation)
	return mustJSON(status)
}

// takeUp corrects the started versions of a Pod that an earlier process mounted volumes for, by what that process recorded: the version at
// the start, or, where it recorded none, the version at its last write. An object that is as it should be counts as written.
func (w *statusWriter) takeUp(ctx context.Context, name types.NamespacedName, status *v1.SecretProviderClassPodStatus) error {
	uid := status.OwnerReferences[0].UID
	known, ok := w.earlierOf(name, uid)
	if !ok {
		found, err := w.read(ctx, name, uid)
		if err != nil && (!apierrors.IsForbidden(err) || w.queue.NumRequeues(name) < refusedReads) {
			return err
		}
		known = earlierStatus{uid: uid, started: map[string]string{}}
		if found != nil {
			for _, o := range found.Status.Objects {
				known.started[o.ID] = cmp.Or(o.StartedVersion, o.Version)
			}
			w.setWritten(name, comparedBy(&v1.SecretProviderClassPodStatus{
				TypeMeta: status.TypeMeta,
				ObjectMeta: metav1.ObjectMeta{
					Name:            found.Name,
					Namespace:       found.Namespace,
					Annotations:     found.Annotations,
					Labels:          found.Labels,
					OwnerReferences: found.OwnerReferences,
				},
				Status: found.Status,
			}))
		}
		w.setEarlier(name, known)
	}
	for i := range status.Status.Objects {
		o := &status.Status.Objects[i]
		o.StartedVersion = cmp.Or(known.started[o.ID], o.StartedVersion)
	}
	return nil
}

// applyKnown applies the object, without startedVersion and expires where the API server's CustomResourceDefinition is older than they are.
func (w *statusWriter) applyKnown(ctx context.Context, name types.NamespacedName, status *v1.SecretProviderClassPodStatus) error {
	if w.clock.Now().Before(w.plainUntil) {
		return w.apply(ctx, name, mustJSON(plain(status)))
	}
	err := w.apply(ctx, name, mustJSON(status))
	if err == nil || !strings.Contains(err.Error(), "startedVersion") && !strings.Contains(err.Error(), ".expires") {
		return err
	}
	w.log.WarnContext(ctx, "status objects are written without startedVersion and expires, so that nothing restarts on change: upgrade the "+
		"CustomResourceDefinition secretproviderclasspodstatuses.secrets-store.csi.x-k8s.io", logkeys.Error, err)
	w.plainUntil = w.clock.Now().Add(plainFor)
	return w.apply(ctx, name, mustJSON(plain(status)))
}

// plain is the object with the fields alone that every driver writes.
func plain(status *v1.SecretProviderClassPodStatus) *v1.SecretProviderClassPodStatus {
	status = status.DeepCopy()
	for i := range status.Status.Objects {
		status.Status.Objects[i].StartedVersion, status.Status.Objects[i].Expires = "", nil
	}
	return status
}

func (w *statusWriter) earlierOf(name types.NamespacedName, uid types.UID) (earlierStatus, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	known, ok := w.earlier[name]
	return known, ok && known.uid == uid
}

func (w *statusWriter) setEarlier(name types.NamespacedName, known earlierStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.earlier[name] = known
}

// forget drops what is kept of an object.
func (w *statusWriter) forget(name types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.written, name)
	delete(w.earlier, name)
}

func (w *statusWriter) lastWritten(name types.NamespacedName) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written[name]
}

func (w *statusWriter) setWritten(name types.NamespacedName, body []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written[name] = body
}

// render makes the object from the volumes of its Pod and class; nil where there are none whose content is known. A
// volume of which no content is known, after a restart, is left out: applying would take away what the object says of
// it. Of two Pods of one name the newer one counts. Adopted is true where an earlier process filled one of them.
func (w *statusWriter) render(name types.NamespacedName) (status *v1.SecretProviderClassPodStatus, adopted bool) {
	volumes := w.volumes.Load()
	if volumes == nil {
		return nil, false
	}
	var of []*volume.Snapshot
	for _, s := range (*volumes)() {
		if s.Ref.Pod.Namespace != name.Namespace || s.Objects == nil || statusName(s.Ref) != name.Name {
			continue
		}
		if len(of) > 0 && of[0].Ref.Pod.UID != s.Ref.Pod.UID {
			if s.Since.Before(of[0].Since) {
				continue
			}
			of = nil
		}
		of = append(of, s)
	}
	if len(of) == 0 {
		return nil, false
	}
	return statusOf(of, w.driverName, w.nodeID, name), slices.ContainsFunc(of, func(s *volume.Snapshot) bool { return s.Adopted })
}

// mustJSON cannot fail: the type holds strings, booleans and lists of them.
func mustJSON(status *v1.SecretProviderClassPodStatus) []byte {
	body, err := json.Marshal(status)
	if err != nil {
		panic(err)
	}
	return body
}
