package kube

import (
	"cmp"
	"context"
	"strings"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
)

// maxMessage is what the API server takes in an event's message, in bytes.
const maxMessage = 1024

// startEvents prepares the recorder. It bounds events per pod (a burst of 25, then one in five minutes), counts those
// that repeat, and drops what it cannot deliver.
func (c *Cluster) startEvents(ctx context.Context, core corev1client.CoreV1Interface, o Options) {
	c.broadcaster = record.NewBroadcaster(record.WithContext(ctx))
	c.broadcaster.StartRecordingToSink(&corev1client.EventSinkImpl{Interface: core.Events("")})
	c.recorder = c.broadcaster.NewRecorder(runtime.NewScheme(), corev1.EventSource{Component: o.DriverName, Host: o.NodeID})
}

// Events returns a reporter that shows what happened to a Pod's volume as events on the Pod. Put a report.Deduplicated
// in front of it.
func (c *Cluster) Events() report.Reporter { return eventReporter{c.recorder} }

type eventReporter struct{ recorder record.EventRecorder }

// Report implements report.Reporter.
func (r eventReporter) Report(_ context.Context, e report.Event) {
	says, ok := podEvents[e.Kind()]
	ref := e.Ref()
	if !ok || ref.Pod.UID == "" {
		return
	}
	if refreshed, ok := e.(report.Refreshed); ok && !refreshed.Changed {
		return
	}
	pod := &corev1.ObjectReference{
		APIVersion: "v1",
		Kind:       "Pod",
		Namespace:  ref.Pod.Namespace,
		Name:       ref.Pod.Name,
		UID:        types.UID(ref.Pod.UID),
	}
	r.recorder.Event(pod, says.kind, says.reason, clip("secretproviderclass "+ref.Class+": "+cmp.Or(says.message, e.Message())))
}

// podEvents are the events that people see on a Pod. Reasons are upstream's where it has, or had, one. For a mount that failed kubelet has
// an event too (FailedMount), at each try and around its own text, which may be cut at the end.
var podEvents = map[report.Kind]struct{ kind, reason, message string }{
	report.KindPublishFailed: {corev1.EventTypeWarning, "FailedToMount", ""},
	report.KindRefreshed:     {corev1.EventTypeNormal, "MountRotationComplete", "the mounted files were updated"},
	report.KindRefreshFailed: {corev1.EventTypeWarning, "MountRotationFailed", ""},
	report.KindRecovered:     {corev1.EventTypeNormal, "MountRotationRecovered", ""},
	report.KindServedStale:   {corev1.EventTypeWarning, "MountedLastKnownGood", ""},
	report.KindWarning:       {corev1.EventTypeWarning, "SecretProviderClassWarning", ""},
	report.KindExpiring:      {corev1.EventTypeWarning, "ObjectExpiring", ""},
	report.KindSynced:        {corev1.EventTypeNormal, "SecretRotationComplete", ""},
	report.KindSyncFailed:    {corev1.EventTypeWarning, "FailedToCreateSecret", ""},
	report.KindSyncConflict:  {corev1.EventTypeWarning, "SecretConflict", ""},
}

// clip makes the text one line that the API server takes.
func clip(text string) string {
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "�")
	if len(text) <= maxMessage {
		return text
	}
	const more = "…"
	end := maxMessage - len(more)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + more
}
