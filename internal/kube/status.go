package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
)

// fieldManager owns what the driver applies.
const fieldManager = "keyvault-csi"

// Status returns a reporter that keeps one SecretProviderClassPodStatus for each pod and class, written in the background
// and only when it changes. Put no report.Dedup in front of it.
func (c *Cluster) Status() report.Reporter { return c.status }

// applyStatus writes an object whole, as its only owner: what an earlier writer left in these fields is replaced.
func (c *Cluster) applyStatus(ctx context.Context, name types.NamespacedName, body []byte) error {
	err := c.resources.Patch(types.ApplyPatchType).Namespace(name.Namespace).
		Resource("secretproviderclasspodstatuses").Name(name.Name).
		VersionedParams(&metav1.PatchOptions{FieldManager: fieldManager, Force: new(true)}, metav1.ParameterCodec).
		Body(body).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("apply secretproviderclasspodstatus %s: %w", name, err)
	}
	return nil
}

// statusWriter writes status objects off the mounts' path.
type statusWriter struct {
	driverName, nodeID string
	apply              func(ctx context.Context, name types.NamespacedName, body []byte) error
	log                *slog.Logger
	queue              workqueue.TypedRateLimitingInterface[types.NamespacedName]

	mu      sync.Mutex
	objects map[types.NamespacedName]*statusObject
}

// statusObject is one object: what is mounted by which volumes, and what stands in the API server.
type statusObject struct {
	podUID  string
	volumes map[string]*volumeStatus // by target path
	written []byte
}

func newStatusWriter(o Options,
	apply func(ctx context.Context, name types.NamespacedName, body []byte) error,
) *statusWriter {
	return &statusWriter{
		driverName: o.DriverName, nodeID: o.NodeID, apply: apply, log: o.Log,
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](time.Second, 5*time.Minute),
			workqueue.TypedRateLimitingQueueConfig[types.NamespacedName]{Clock: o.Clock}),
		objects: map[types.NamespacedName]*statusObject{},
	}
}

// Report implements report.Reporter.
func (w *statusWriter) Report(e report.Event) {
	if e.Volume.Pod.UID == "" {
		return
	}
	name := types.NamespacedName{Namespace: e.Volume.Pod.Namespace, Name: statusName(e.Volume)}
	w.mu.Lock()
	defer w.mu.Unlock()
	object := w.objects[name]
	if object != nil && object.podUID != e.Volume.Pod.UID {
		if e.Kind != report.Published {
			return // of a pod that another one of the same name has replaced
		}
		object = nil
	}
	switch e.Kind {
	case report.Published, report.Refreshed, report.Recovered, report.ServedStale:
		if e.Bundle == nil {
			return
		}
		if object == nil {
			object = &statusObject{podUID: e.Volume.Pod.UID, volumes: map[string]*volumeStatus{}}
			w.objects[name] = object
		}
		object.volumes[e.Volume.TargetPath] = mountedStatus(e)
	case report.RefreshFailed:
		// A volume of which no content is known, after a restart, is left out: applying would take away what the
		// object says of it.
		if object == nil || object.volumes[e.Volume.TargetPath] == nil {
			return
		}
		object.volumes[e.Volume.TargetPath].failed(e)
	case report.Unpublished:
		// the API server removes the object with its owner, the Pod
		if object != nil {
			delete(object.volumes, e.Volume.TargetPath)
			if len(object.volumes) == 0 {
				delete(w.objects, name)
				return
			}
		}
	case report.PublishFailed, report.UnpublishFailed, report.Adopted, report.Confirmed, report.Warning, report.Expiring, report.SyncFailed, report.SyncConflict, report.Synced,
		report.Panicked:
		return
	}
	if object != nil {
		w.queue.Add(name)
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
	body, seen, ok := w.render(name)
	if !ok {
		w.queue.Forget(name)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := w.apply(ctx, name, body); err != nil {
		w.log.WarnContext(ctx, "a status object is not written; it is tried again", "object", name.String(),
			"attempt", w.queue.NumRequeues(name)+1, "error", err)
		w.queue.AddRateLimited(name)
		return
	}
	w.queue.Forget(name)
	w.mu.Lock()
	defer w.mu.Unlock()
	if object := w.objects[name]; object != nil {
		object.written = seen
	}
}

// render returns what to apply and what to compare the next one with; ok is false where nothing is to do.
func (w *statusWriter) render(name types.NamespacedName) (body, seen []byte, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	object := w.objects[name]
	if object == nil {
		return nil, nil, false
	}
	status := object.merge(w.driverName, w.nodeID, name)
	// the time of the last success alone is no reason to write: it is told along with what is
	success := status.Annotations[lastSuccessAnnotation]
	delete(status.Annotations, lastSuccessAnnotation)
	seen = mustJSON(status)
	if bytes.Equal(seen, object.written) {
		return nil, nil, false
	}
	status.Annotations[lastSuccessAnnotation] = success
	return mustJSON(status), seen, true
}

// mustJSON cannot fail: the type holds strings, booleans and lists of them.
func mustJSON(status *v1.SecretProviderClassPodStatus) []byte {
	body, err := json.Marshal(status)
	if err != nil {
		panic(err)
	}
	return body
}
