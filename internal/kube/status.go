package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

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

// statusWriter writes status objects off the mounts' path. It keeps no state of the volumes: an event makes it look at
// them.
type statusWriter struct {
	driverName, nodeID string
	apply              func(ctx context.Context, name types.NamespacedName, body []byte) error
	log                *slog.Logger
	queue              workqueue.TypedRateLimitingInterface[types.NamespacedName]
	volumes            atomic.Pointer[func() []*volume.Snapshot]

	mu sync.Mutex
	// written holds the objects that were applied, without the time of the last success.
	written map[types.NamespacedName][]byte
}

func newStatusWriter(o Options,
	apply func(ctx context.Context, name types.NamespacedName, body []byte) error,
) *statusWriter {
	return &statusWriter{
		driverName: o.DriverName,
		nodeID:     o.NodeID,
		apply:      apply,
		log:        o.Log,
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](time.Second, 5*time.Minute),
			workqueue.TypedRateLimitingQueueConfig[types.NamespacedName]{Clock: o.Clock}),
		written: map[types.NamespacedName][]byte{},
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
	status := w.render(name)
	if status == nil {
		w.queue.Forget(name)
		w.setWritten(name, nil) // the API server removes the object with its owner, the Pod
		return
	}
	// the time of the last success alone is no reason to write: it is written along with what is
	success := status.Annotations[lastSuccessAnnotation]
	delete(status.Annotations, lastSuccessAnnotation)
	compared := mustJSON(status)
	if bytes.Equal(compared, w.lastWritten(name)) {
		w.queue.Forget(name)
		return
	}
	status.Annotations[lastSuccessAnnotation] = success
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := w.apply(ctx, name, mustJSON(status)); err != nil {
		w.log.WarnContext(ctx, "a status object was not written; it is retried", "object", name.String(),
			"attempt", w.queue.NumRequeues(name)+1, logkeys.Error, err)
		w.queue.AddRateLimited(name)
		return
	}
	w.queue.Forget(name)
	w.setWritten(name, compared)
}

func (w *statusWriter) lastWritten(name types.NamespacedName) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written[name]
}

func (w *statusWriter) setWritten(name types.NamespacedName, body []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if body == nil {
		delete(w.written, name)
		return
	}
	w.written[name] = body
}

// render makes the object from the volumes of its Pod and class; nil where there are none whose content is known. A
// volume of which no content is known, after a restart, is left out: applying would take away what the object says of
// it. Of two Pods of one name the newer one counts.
func (w *statusWriter) render(name types.NamespacedName) *v1.SecretProviderClassPodStatus {
	volumes := w.volumes.Load()
	if volumes == nil {
		return nil
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
		return nil
	}
	return statusOf(of, w.driverName, w.nodeID, name)
}

// mustJSON cannot fail: the type holds strings, booleans and lists of them.
func mustJSON(status *v1.SecretProviderClassPodStatus) []byte {
	body, err := json.Marshal(status)
	if err != nil {
		panic(err)
	}
	return body
}
