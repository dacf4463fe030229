// Package report is how the parts of the driver say what happened.
//
// An Event is one thing that happened, most often to one volume. The types of this package are all events there are. An
// event about a change of a volume carries the volume's snapshots before and after, so that a reporter needs no state
// of its own: metrics, the audit log, status objects and events on Pods are derived from that pair, or read snapshots
// when they are asked.
//
// A Reporter takes events. Log, Recent and Deduplicated are reporters of this package; metrics, audit and internal/kube
// have more. The context of Report is that of the call or refresh in which the event happened: it carries the request
// id and the trace to the log.
package report

import (
	"context"
	"errors"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Kind names the type of an event in logs, in metrics and on the admin page. The set is closed and small.
type Kind string

// The kinds of events, one for each type.
const (
	KindPublished       Kind = "Published"
	KindPublishFailed   Kind = "PublishFailed"
	KindAdopted         Kind = "Adopted"
	KindUnpublished     Kind = "Unpublished"
	KindUnpublishFailed Kind = "UnpublishFailed"
	KindRefreshed       Kind = "Refreshed"
	KindConfirmed       Kind = "Confirmed"
	KindRefreshFailed   Kind = "RefreshFailed"
	KindRecovered       Kind = "Recovered"
	KindServedStale     Kind = "ServedStale"
	KindServedFallback  Kind = "ServedFallback"
	KindWarning         Kind = "Warning"
	KindExpiring        Kind = "Expiring"
	KindSynced          Kind = "Synced"
	KindSyncFailed      Kind = "SyncFailed"
	KindSyncConflict    Kind = "SyncConflict"
	KindPanicked        Kind = "Panicked"
)

// Event is one thing that happened. It holds no secret.
type Event interface {
	// Kind names the event's type.
	Kind() Kind
	// Ref names the volume; it is zero for an event that is about none.
	Ref() volume.Ref
	// Message is one line for a person.
	Message() string
	// Reason is the class of the error; empty where nothing failed.
	Reason() volume.Reason
}

// Reporter receives events. Report must not block.
type Reporter interface {
	Report(ctx context.Context, e Event)
}

// All reports each event to every reporter in order.
type All []Reporter

// Report implements Reporter.
func (a All) Report(ctx context.Context, e Event) {
	for _, r := range a {
		r.Report(ctx, e)
	}
}

// RequestID is the service's id of the request whose failure caused the event; empty where there is none.
func RequestID(e Event) string {
	failed, ok := e.(interface{ cause() error })
	if !ok {
		return ""
	}
	if err, ok := errors.AsType[*volume.Error](failed.cause()); ok {
		return err.RequestID
	}
	return ""
}

// Took is how long what the event is about took; zero where that has no meaning.
func Took(e Event) time.Duration {
	if timed, ok := e.(interface{ took() time.Duration }); ok {
		return timed.took()
	}
	return 0
}

// Failed reports whether the event is about something that went wrong and that people should see.
func Failed(e Event) bool {
	switch e.Kind() {
	case KindPublishFailed,
		KindUnpublishFailed,
		KindRefreshFailed,
		KindServedStale,
		KindServedFallback,
		KindWarning,
		KindExpiring,
		KindSyncFailed,
		KindSyncConflict,
		KindPanicked:
		return true
	case KindPublished, KindAdopted, KindUnpublished, KindRefreshed, KindConfirmed, KindRecovered, KindSynced:
	}
	return false
}
