// Package report is how the parts of the driver say what happened. Logs, metrics, events and status objects are
// implementations of Reporter; nobody reaches into them to record something.
package report

import (
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Kind is what happened to a volume. The set is closed and small enough to be a metric label.
type Kind string

const (
	// Published means that a volume was mounted and filled for the first time.
	Published Kind = "Published"
	// PublishFailed means that a volume could not be mounted.
	PublishFailed Kind = "PublishFailed"
	// Adopted means that a volume which an earlier process filled is kept by this one.
	Adopted Kind = "Adopted"
	// Unpublished means that a volume is gone.
	Unpublished Kind = "Unpublished"
	// UnpublishFailed means that a volume could not be unmounted.
	UnpublishFailed Kind = "UnpublishFailed"
	// Refreshed means that the vault was asked; Changed says whether files were rewritten.
	Refreshed Kind = "Refreshed"
	// Confirmed means that others asked the vault for all that the volume holds, and got the same.
	Confirmed Kind = "Confirmed"
	// RefreshFailed means that the files stay as they were.
	RefreshFailed Kind = "RefreshFailed"
	// Recovered means that a refresh succeeded after one that failed.
	Recovered Kind = "Recovered"
	// ServedStale means that a new pod got last known good values.
	ServedStale Kind = "ServedStale"
	// Warning is a mistake in the class that does not stop the mount.
	Warning Kind = "Warning"
	// Expiring means that a mounted object's end is near or past.
	Expiring Kind = "Expiring"
	// SyncFailed means that a synced Secret could not be written.
	SyncFailed Kind = "SyncFailed"
	// SyncConflict means that a synced Secret belongs to somebody else, in whole or in some keys.
	SyncConflict Kind = "SyncConflict"
	// Synced means that a Secret was written.
	Synced Kind = "Synced"
	// Panicked means that a handler panicked and the caller got an error; Volume is empty.
	Panicked Kind = "Panicked"
)

// Event is one thing that happened to one volume. It holds no secret.
type Event struct {
	Kind   Kind
	Time   time.Time
	Volume volume.Ref
	// Reason is the class of the error; empty where nothing failed.
	Reason volume.Reason
	// RequestID is the service's id of the request that failed; empty where there is none.
	RequestID string
	// TraceID is the W3C id of the trace that it happened in; empty where traces are off.
	TraceID string
	// Identity names who asked the vault; empty where nothing was fetched.
	Identity string
	// Message is one line for a person.
	Message string
	// Changed is true where files were rewritten.
	Changed bool
	// Bundle is what is mounted now; nil where nothing was fetched. Reporters must not keep its Files.
	Bundle *volume.Bundle
	// FetchedAt is when the oldest value that the volume holds left the vault; zero where that is not known.
	FetchedAt time.Time
	// Duration is how long the operation took; zero where that means nothing.
	Duration time.Duration
	// Phases are the parts of Duration, of a publish only.
	Phases Phases
}

// Phases are how long the parts of a publish took.
type Phases struct {
	// Class is finding the class and resolving it for the pod.
	Class time.Duration
	// Token is waiting for the identity's token, where one had to be asked for.
	Token time.Duration
	// Fetch is getting the objects, without Token.
	Fetch time.Duration
	// Write is mounting the tmpfs and writing the files.
	Write time.Duration
	// Sync is writing Kubernetes Secrets.
	Sync time.Duration
}

// Reporter takes events. Report must not block and must not keep Event.Bundle.Files.
type Reporter interface {
	Report(Event)
}

// All reports each event to every reporter in order.
type All []Reporter

// Report implements Reporter.
func (a All) Report(e Event) {
	for _, r := range a {
		r.Report(e)
	}
}
