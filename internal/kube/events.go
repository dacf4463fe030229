package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const (
	// maxMessage is what the API server takes in an event's message, in bytes.
	maxMessage = 1024
	// eventBurst and eventInterval bound the events of one Pod: a burst, then one in each interval.
	eventBurst    = 25
	eventInterval = 5 * time.Minute
	// eventQueue bounds the events that wait to be written; more are dropped.
	eventQueue = 1024
	// eventsKnown bounds the events that are remembered so that a repetition is counted, and the Pods whose events are
	// bounded.
	eventsKnown = 4096
	// eventTries bounds how often one event is tried while the API server does not serve.
	eventTries = 5

	typeNormal  = "Normal"
	typeWarning = "Warning"
)

// Events returns a reporter that shows what happened to a Pod's volume as events on the Pod. Put a report.Deduplicated
// in front of it.
func (c *Cluster) Events() report.Reporter { return c.events }

// event is the part of a core/v1 Event that the driver writes.
type event struct {
	APIVersion         string            `json:"apiVersion"`
	Kind               string            `json:"kind"`
	Metadata           eventMetadata     `json:"metadata"`
	InvolvedObject     objectReference   `json:"involvedObject"`
	Reason             string            `json:"reason"`
	Message            string            `json:"message"`
	Source             map[string]string `json:"source"`
	FirstTimestamp     metav1.Time       `json:"firstTimestamp"`
	LastTimestamp      metav1.Time       `json:"lastTimestamp"`
	Count              int               `json:"count"`
	Type               string            `json:"type"`
	ReportingComponent string            `json:"reportingComponent"`
	ReportingInstance  string            `json:"reportingInstance"`
}

type eventMetadata struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

type objectReference struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Namespace  string    `json:"namespace"`
	Name       string    `json:"name"`
	UID        types.UID `json:"uid"`
}

// eventWriter writes events in the background. It counts those that repeat, bounds those of one Pod, and drops what it
// cannot deliver.
type eventWriter struct {
	driverName, nodeID string
	clock              clock.WithTicker
	log                *slog.Logger
	// write creates the event, or, where its count is above one, updates the one of its name.
	write func(ctx context.Context, e *event) error
	queue chan *event

	mu    sync.Mutex
	pods  *lru.Cache // *eventBudget by Pod's uid
	known *lru.Cache // *event, as last queued, by eventKey
}

type eventKey struct{ uid, kind, reason, message string }

type eventBudget struct {
	left int
	at   time.Time
}

func newEventWriter(o Options, write func(context.Context, *event) error) *eventWriter {
	return &eventWriter{
		driverName: o.DriverName, nodeID: o.NodeID, clock: o.Clock, log: o.Log, write: write, queue: make(chan *event, eventQueue),
		pods: lru.New(eventsKnown), known: lru.New(eventsKnown),
	}
}

// Report implements report.Reporter.
func (w *eventWriter) Report(ctx context.Context, e report.Event) {
	says, ok := podEvents()[e.Kind()]
	ref := e.Ref()
	if !ok || ref.Pod.UID == "" {
		return
	}
	if refreshed, ok := e.(report.Refreshed); ok && !refreshed.Changed {
		return
	}
	text := cmp.Or(says.message, e.Message())
	if refreshed, ok := e.(report.Refreshed); ok {
		if changes := refreshed.ComeAndGone(); changes != "" {
			text += ": " + changes
		}
	}
	message := clip("secretproviderclass " + ref.Class + ": " + text)
	made := w.next(ref.Pod, says.kind, says.reason, message)
	if made == nil {
		return
	}
	select {
	case w.queue <- made:
	default:
		w.log.WarnContext(
			ctx,
			"an event is dropped, because too many wait",
			"pod",
			ref.Pod.String(),
			"reason",
			says.reason,
		)
	}
}

// next returns the event to write; nil where the Pod had too many.
func (w *eventWriter) next(pod volume.Pod, kind, reason, message string) *event {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.clock.Now()
	if !w.spend(pod.UID, now) {
		return nil
	}
	key := eventKey{pod.UID, kind, reason, message}
	if found, ok := w.known.Get(key); ok {
		if last, ok := found.(*event); ok {
			again := *last
			again.Count++
			again.LastTimestamp = metav1.NewTime(now)
			w.known.Add(key, &again)
			return &again
		}
	}
	made := &event{
		APIVersion: "v1",
		Kind:       "Event",
		Metadata: eventMetadata{
			Namespace: pod.Namespace,
			Name:      shorten(pod.Name, maxName-17) + "." + strconv.FormatInt(now.UnixNano(), 16),
		},
		InvolvedObject: objectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(pod.UID),
		},
		Reason:             reason,
		Message:            message,
		Source:             map[string]string{"component": w.driverName, "host": w.nodeID},
		FirstTimestamp:     metav1.NewTime(now),
		LastTimestamp:      metav1.NewTime(now),
		Count:              1,
		Type:               kind,
		ReportingComponent: w.driverName,
		ReportingInstance:  shorten(w.nodeID, maxInstance),
	}
	w.known.Add(key, made)
	return made
}

// maxInstance is what the API server takes as an event's reporting instance, in bytes.
const maxInstance = 128

// spend takes one event from the Pod's budget. The caller holds mu.
func (w *eventWriter) spend(uid string, now time.Time) bool {
	budget := &eventBudget{left: eventBurst, at: now}
	if found, ok := w.pods.Get(uid); ok {
		if b, ok := found.(*eventBudget); ok {
			budget = b
		}
	} else {
		w.pods.Add(uid, budget)
	}
	if earned := int(now.Sub(budget.at) / eventInterval); earned > 0 {
		budget.left, budget.at = min(eventBurst, budget.left+earned), budget.at.Add(time.Duration(earned)*eventInterval)
	}
	if budget.left == 0 {
		return false
	}
	budget.left--
	return true
}

// run writes until ctx ends.
func (w *eventWriter) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-w.queue:
			w.deliver(ctx, e)
		}
	}
}

// deliver writes one event, and tries again while the API server does not serve.
func (w *eventWriter) deliver(ctx context.Context, e *event) {
	for try := range eventTries {
		err := w.once(ctx, e)
		if err == nil || ctx.Err() != nil {
			return
		}
		status := apierrors.APIStatus(nil)
		answered := asStatus(err, &status) && status.Status().Code < 500 && !apierrors.IsTooManyRequests(err) &&
			!apierrors.IsUnauthorized(err)
		if answered || try == eventTries-1 {
			w.log.DebugContext(
				ctx,
				"an event is not written",
				"pod",
				e.InvolvedObject.Namespace+"/"+e.InvolvedObject.Name,
				"reason",
				e.Reason,
				"error",
				err,
			)
			return
		}
		timer := w.clock.NewTimer(time.Second << (2 * try))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		}
	}
}

// once writes an event with a time limit. One that was to be counted and is gone is created again.
func (w *eventWriter) once(ctx context.Context, e *event) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := w.write(ctx, e)
	if e.Count > 1 && apierrors.IsNotFound(err) {
		again := *e
		again.Count, again.FirstTimestamp = 1, again.LastTimestamp
		return w.write(ctx, &again)
	}
	return err
}

// writeEvent creates an event, or counts one up.
func (c *Cluster) writeEvent(ctx context.Context, e *event) error {
	request := core(c.api.rest.Post(), e.Metadata.Namespace, "events")
	body := any(e)
	if e.Count > 1 {
		request = core(c.api.rest.Patch(types.MergePatchType), e.Metadata.Namespace, "events", e.Metadata.Name)
		body = map[string]any{"count": e.Count, "lastTimestamp": e.LastTimestamp}
	}
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("event: %w", err)
	}
	return request.SetHeader("Accept", metadataOnly).Body(text).Do(ctx).Error()
}

type podEvent struct{ kind, reason, message string }

// podEvents are the events that people see on a Pod. Reasons are upstream's where it has, or had, one. For a mount that
// failed kubelet has an event too (FailedMount), at each try and around its own text, which may be cut at the end.
func podEvents() map[report.Kind]podEvent {
	return map[report.Kind]podEvent{
		report.KindPublishFailed:  {typeWarning, "FailedToMount", ""},
		report.KindRefreshed:      {typeNormal, "MountRotationComplete", "the mounted files were updated"},
		report.KindRefreshFailed:  {typeWarning, "MountRotationFailed", ""},
		report.KindRecovered:      {typeNormal, "MountRotationRecovered", ""},
		report.KindServedStale:    {typeWarning, "MountedLastKnownGood", ""},
		report.KindServedFallback: {typeWarning, "MountedFromFallback", ""},
		report.KindWarning:        {typeWarning, "SecretProviderClassWarning", ""},
		report.KindExpiring:       {typeWarning, "ObjectExpiring", ""},
		report.KindSynced:         {typeNormal, "SecretRotationComplete", ""},
		report.KindSyncFailed:     {typeWarning, "FailedToCreateSecret", ""},
		report.KindSyncConflict:   {typeWarning, "SecretConflict", ""},
	}
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
