package kube

import (
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

// Events returns a reporter that tells people what happened to a pod's volume, as events on the Pod. Put a report.Dedup
// in front of it.
func (c *Cluster) Events() report.Reporter { return eventReporter{c.recorder} }

type eventReporter struct{ recorder record.EventRecorder }

// Report implements report.Reporter.
func (r eventReporter) Report(e report.Event) {
	said, ok := sayings[e.Kind]
	if !ok || e.Kind == report.Refreshed && !e.Changed || e.Volume.Pod.UID == "" {
		return
	}
	pod := &corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: e.Volume.Pod.Namespace, Name: e.Volume.Pod.Name,
		UID: types.UID(e.Volume.Pod.UID),
	}
	message := e.Message
	if said.message != "" {
		message = said.message
	}
	r.recorder.Event(pod, said.kind, said.reason, clip("secretproviderclass "+e.Volume.Class+": "+message))
}

// sayings are the events of the kinds that people are told of; reasons are upstream's where it has, or had, one. Of a mount
// that failed kubelet tells too (FailedMount), at each try and inside words of its own, which may be cut at the end.
var sayings = map[report.Kind]struct{ kind, reason, message string }{
	report.PublishFailed: {corev1.EventTypeWarning, "FailedToMount", ""},
	report.Refreshed:     {corev1.EventTypeNormal, "MountRotationComplete", "the mounted files were updated"},
	report.RefreshFailed: {corev1.EventTypeWarning, "MountRotationFailed", ""},
	report.Recovered:     {corev1.EventTypeNormal, "MountRotationRecovered", ""},
	report.ServedStale:   {corev1.EventTypeWarning, "MountedLastKnownGood", ""},
	report.Warning:       {corev1.EventTypeWarning, "SecretProviderClassWarning", ""},
	report.Expiring:      {corev1.EventTypeWarning, "ObjectExpiring", ""},
	report.Synced:        {corev1.EventTypeNormal, "SecretRotationComplete", ""},
	report.SyncFailed:    {corev1.EventTypeWarning, "FailedToCreateSecret", ""},
	report.SyncConflict:  {corev1.EventTypeWarning, "SecretConflict", ""},
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
