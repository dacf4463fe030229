package podsecrets

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/controller/objectevents"
	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/audit"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/nodesync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/secretdata"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// The reasons of events, which are those of the nodes' Secret sync.
const (
	reasonSynced   = "SecretRotationComplete"
	reasonFailed   = "FailedToCreateSecret"
	reasonConflict = "SecretConflict"
	reasonWarning  = "SecretProviderClassWarning"
)

// report makes log lines and events of what happened to a Secret.
func (p *podSecrets) report(ctx context.Context, e nodesync.Event) {
	p.observe(ctx, e)
	log := p.options.Log.With(logkeys.Pod, e.Volume.Pod.String(), logkeys.Class, e.Volume.Class)
	kind, reason := corev1.EventTypeWarning, reasonFailed
	switch e.Kind {
	case nodesync.Synced:
		kind, reason = corev1.EventTypeNormal, reasonSynced
	case nodesync.Conflict:
		reason = reasonConflict
	case nodesync.Left:
		reason = reasonWarning
	case nodesync.Failed:
	}
	if !p.events.event(e.Volume.Pod, e.Volume.Class, kind, reason, e.Message) {
		return // said before
	}
	if e.Kind == nodesync.Synced {
		log.InfoContext(ctx, "a Secret is written", logkeys.Event, e.Message)
		return
	}
	log.WarnContext(ctx, "a Secret is not as its class asks for", logkeys.Reason, e.Reason, logkeys.Error, e.Message)
}

// startSpan begins the span of a group's sync. The Azure SDK's spans of requests are below it.
func (p *podSecrets) startSpan(ctx context.Context, key groupKey, g *snapshot) (context.Context, trace.Span) {
	return p.options.Tracer.Start(ctx, "podsecrets", trace.WithAttributes( //nolint:spancheck // the caller ends it
		attribute.String("k8s.namespace.name", key.namespace),
		attribute.String("keyvault_csi.class", key.class),
		attribute.Int("keyvault_csi.volumes", len(g.refs)),
	))
}

// deliver notes what the Secrets of a group are made from, for the audit log, which gets lines when they are written.
func (p *podSecrets) deliver(key groupKey, g *snapshot, used *v1.SecretProviderClass, binding volume.Binding, bundle *volume.Bundle) {
	if p.options.Audit == nil {
		return
	}
	delivered := map[string]audit.Synced{}
	for i := range used.Spec.SecretObjects {
		o := &used.Spec.SecretObjects[i]
		delivered[o.SecretName] = audit.Synced{
			Namespace: key.namespace, Secret: o.SecretName, ServiceAccount: key.account, Class: key.class, Identity: binding.Identity(),
			FetchedAt: bundle.FetchedAt, Stale: bundle.Stale, Fallback: bundle.Fallback,
			Objects: audit.ObjectsOf(bundle.Objects, secretdata.Used(o, bundle.Files, bundle.Sources)),
		}
	}
	p.store.deliver(g, delivered)
}

// observe counts what happened to a Secret, and writes the audit log's lines where it was written.
func (p *podSecrets) observe(ctx context.Context, e nodesync.Event) {
	switch e.Kind {
	case nodesync.Synced:
		p.options.Metrics.PodSecretWritten("written")
		if p.options.Audit == nil {
			return
		}
		if to, ok := p.store.deliveredTo(e.Volume, e.Secret); ok {
			p.options.Audit.Synced(ctx, to)
		}
	case nodesync.Failed:
		p.options.Metrics.PodSecretWritten("failed")
	case nodesync.Conflict:
		p.options.Metrics.PodSecretWritten("conflict")
	case nodesync.Left:
	}
}

// reportFetch reports a fetch that fails for a new reason, or that succeeds again.
func (p *podSecrets) reportFetch(ctx context.Context, key groupKey, g *snapshot, err error) {
	log := p.options.Log.With(logkeys.Class, key.namespace+"/"+key.class, "serviceaccount", key.account)
	switch {
	case err != nil:
		reason := volume.ReasonOf(err)
		p.options.Metrics.PodSecretsFetched(reason)
		if g.group.failure != reason {
			log.WarnContext(ctx, "the Secrets of Pods are not synced: they keep what they have", logkeys.Reason, reason, logkeys.Error, err)
		}
		g.group.failure = reason
		text := err.Error()
		if reason == volume.ReasonInternal {
			text = "the controller has a defect: its log has the details"
		}
		for _, ref := range g.refs {
			// texts of one reason may differ in times alone
			if p.events.pass(saying{key.namespace, key.class, reasonFailed, string(reason)}, types.UID(ref.Pod.UID)) {
				p.events.write(ref.Pod, key.class, corev1.EventTypeWarning, reasonFailed, "its Secrets are not synced by the controller: "+text)
			}
		}
	case g.group.failure != "":
		p.options.Metrics.PodSecretsFetched("")
		g.group.failure = ""
		log.InfoContext(ctx, "the Secrets of Pods are synced again after a failure")
	default:
		p.options.Metrics.PodSecretsFetched("")
	}
}

const (
	// eventWindow is how long what was said is not said again, and eventsOfOne how many Pods it is said of in that time.
	eventWindow = 10 * time.Minute
	eventsOfOne = 5
	// mostSaid bounds what is remembered.
	mostSaid = 10_000
)

// eventWriter writes events on Pods. The same text about one class is written for a few of its Pods and once in a while for each.
type eventWriter struct {
	recorder events.EventRecorder
	clock    clock.PassiveClock

	mu    sync.Mutex
	said  map[saying]map[types.UID]time.Time
	swept time.Time
}

type saying struct{ namespace, class, reason, text string }

func newEventWriter(r events.EventRecorder, clk clock.PassiveClock) *eventWriter {
	return &eventWriter{recorder: r, clock: clk, said: map[saying]map[types.UID]time.Time{}, swept: clk.Now()}
}

// warn writes a warning about what stays so until somebody changes the Pod, the class or the chart.
func (w *eventWriter) warn(pod volume.Pod, class, text string) {
	w.event(pod, class, corev1.EventTypeWarning, reasonFailed, text)
}

// event writes an event, and reports whether it did.
func (w *eventWriter) event(pod volume.Pod, class, kind, reason, text string) bool {
	if text == "" || !w.pass(saying{pod.Namespace, class, reason, text}, types.UID(pod.UID)) {
		return false
	}
	w.write(pod, class, kind, reason, text)
	return true
}

func (w *eventWriter) write(pod volume.Pod, class, kind, reason, text string) {
	regarding := &corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(pod.UID),
	}
	objectevents.Write(w.recorder, regarding, kind, reason, "SyncSecret", "secretproviderclass "+class+": "+text)
}

func (w *eventWriter) pass(s saying, pod types.UID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.clock.Now()
	w.sweep(now)
	to := w.said[s]
	if to == nil {
		if len(w.said) >= mostSaid {
			return false
		}
		to = map[types.UID]time.Time{}
		w.said[s] = to
	}
	if _, ok := to[pod]; ok || len(to) >= eventsOfOne {
		return false
	}
	to[pod] = now
	return true
}

// sweep forgets what was said longer ago than the window. The caller holds mu.
func (w *eventWriter) sweep(now time.Time) {
	if now.Sub(w.swept) < eventWindow/10 {
		return
	}
	w.swept = now
	for s, to := range w.said {
		for pod, at := range to {
			if now.Sub(at) >= eventWindow {
				delete(to, pod)
			}
		}
		if len(to) == 0 {
			delete(w.said, s)
		}
	}
}
