package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Published means that a volume was mounted and filled.
type Published struct {
	After    *volume.Snapshot
	Duration time.Duration
	// Phases are the parts of Duration.
	Phases Phases
	succeeded
}

// Phases are how long the parts of a publish took.
type Phases struct {
	// Class is finding the class and resolving it for the Pod.
	Class time.Duration
	// Token is waiting for the identity's token, where one had to be requested.
	Token time.Duration
	// Fetch is getting the objects, without Token.
	Fetch time.Duration
	// Write is mounting the tmpfs and writing the files.
	Write time.Duration
	// Sync is writing Kubernetes Secrets.
	Sync time.Duration
}

// Kind implements Event.
func (Published) Kind() Kind { return KindPublished }

// Ref implements Event.
func (e Published) Ref() volume.Ref { return e.After.Ref }

// Message implements Event.
func (Published) Message() string { return "mounted" }

func (e Published) took() time.Duration { return e.Duration }

// PublishFailed means that a volume could not be mounted.
type PublishFailed struct {
	Volume   volume.Ref
	Err      error
	Duration time.Duration
}

// Kind implements Event.
func (PublishFailed) Kind() Kind { return KindPublishFailed }

// Ref implements Event.
func (e PublishFailed) Ref() volume.Ref { return e.Volume }

// Message implements Event.
func (e PublishFailed) Message() string { return e.Err.Error() }

// Reason implements Event.
func (e PublishFailed) Reason() volume.Reason { return volume.ReasonOf(e.Err) }

func (e PublishFailed) cause() error        { return e.Err }
func (e PublishFailed) took() time.Duration { return e.Duration }

// Adopted means that this process found a volume that an earlier process filled.
type Adopted struct {
	After *volume.Snapshot
	succeeded
}

// Kind implements Event.
func (Adopted) Kind() Kind { return KindAdopted }

// Ref implements Event.
func (e Adopted) Ref() volume.Ref { return e.After.Ref }

// Message implements Event.
func (Adopted) Message() string { return "adopted: an earlier process of the driver mounted it" }

// Unpublished means that a volume was unmounted.
type Unpublished struct {
	Volume volume.Ref
	// Before is nil where this process did not know the volume.
	Before *volume.Snapshot
	succeeded
}

// Kind implements Event.
func (Unpublished) Kind() Kind { return KindUnpublished }

// Ref implements Event.
func (e Unpublished) Ref() volume.Ref { return e.Volume }

// Message implements Event.
func (e Unpublished) Message() string {
	if e.Before == nil {
		return "unmounted; its Pod" + podUID(e.Volume.TargetPath) + " is unknown, because this process of the driver did not mount it"
	}
	return "unmounted"
}

// podUID says what a target path tells of the Pod; empty where it is not a path of kubelet's.
func podUID(target string) string {
	_, rest, _ := strings.Cut(target, "/pods/")
	uid, _, ok := strings.Cut(rest, "/volumes/")
	if !ok {
		return ""
	}
	return " with the UID " + uid
}

// UnpublishFailed means that a volume could not be unmounted.
type UnpublishFailed struct {
	Volume volume.Ref
	Err    error
}

// Kind implements Event.
func (UnpublishFailed) Kind() Kind { return KindUnpublishFailed }

// Ref implements Event.
func (e UnpublishFailed) Ref() volume.Ref { return e.Volume }

// Message implements Event.
func (e UnpublishFailed) Message() string { return e.Err.Error() }

// Reason implements Event.
func (e UnpublishFailed) Reason() volume.Reason { return volume.ReasonOf(e.Err) }

func (e UnpublishFailed) cause() error { return e.Err }

// Refreshed means that the vault was asked with success.
type Refreshed struct {
	Before, After *volume.Snapshot
	// Changed is true where files were rewritten.
	Changed bool
	// Duration is the time up to the volume's files.
	Duration time.Duration
	succeeded
}

// Kind implements Event.
func (Refreshed) Kind() Kind { return KindRefreshed }

// Ref implements Event.
func (e Refreshed) Ref() volume.Ref { return e.After.Ref }

// Message implements Event.
func (Refreshed) Message() string { return "refreshed" }

func (e Refreshed) took() time.Duration { return e.Duration }

// ComeAndGone says which objects the volume holds now and did not before, and the other way round; empty where these are the same or
// where it is not known what it held. New versions are neither.
func (e Refreshed) ComeAndGone() string {
	if e.Before == nil || len(e.Before.Objects) == 0 {
		return ""
	}
	var parts []string
	for _, part := range []struct {
		what     string
		from, to *volume.Snapshot
	}{{"new: ", e.Before, e.After}, {"gone: ", e.After, e.Before}} {
		if names := without(part.to.Objects, part.from.Objects); len(names) > 0 {
			more := ""
			if len(names) > mostNamed {
				more = fmt.Sprintf(" and %d more", len(names)-mostNamed)
				names = names[:mostNamed]
			}
			parts = append(parts, part.what+strings.Join(names, ", ")+more)
		}
	}
	return strings.Join(parts, "; ")
}

// mostNamed bounds the objects that one line names.
const mostNamed = 10

// without returns the ids of objects that are not among others.
func without(objects, others []volume.Object) (ids []string) {
	type object struct{ vault, id, path string }
	have := make(map[object]bool, len(others))
	for _, o := range others {
		have[object{o.Vault, o.ID, o.Path}] = true
	}
	for _, o := range objects {
		if !have[object{o.Vault, o.ID, o.Path}] {
			ids = append(ids, o.ID)
		}
	}
	return ids
}

// Confirmed means that requests for other volumes of the same identity answered what the volume holds.
type Confirmed struct {
	Before, After *volume.Snapshot
	succeeded
}

// Kind implements Event.
func (Confirmed) Kind() Kind { return KindConfirmed }

// Ref implements Event.
func (e Confirmed) Ref() volume.Ref { return e.After.Ref }

// Message implements Event.
func (Confirmed) Message() string { return "confirmed by the requests of other volumes" }

// RefreshFailed means that a volume could not be refreshed. Its files stay as they are.
type RefreshFailed struct {
	Volume volume.Ref
	Err    error
	// After is nil where this process does not know the volume.
	After *volume.Snapshot
}

// Kind implements Event.
func (RefreshFailed) Kind() Kind { return KindRefreshFailed }

// Ref implements Event.
func (e RefreshFailed) Ref() volume.Ref { return e.Volume }

// Message implements Event.
func (e RefreshFailed) Message() string { return "the files stay as they are: " + e.Err.Error() }

// Reason implements Event.
func (e RefreshFailed) Reason() volume.Reason { return volume.ReasonOf(e.Err) }

func (e RefreshFailed) cause() error { return e.Err }

// Recovered means that a refresh succeeded after one that failed.
type Recovered struct {
	After *volume.Snapshot
	succeeded
}

// Kind implements Event.
func (Recovered) Kind() Kind { return KindRecovered }

// Ref implements Event.
func (e Recovered) Ref() volume.Ref { return e.After.Ref }

// Message implements Event.
func (Recovered) Message() string { return "refreshed again after a failure" }

// ServedStale means that a Pod started from last known good values, because the vault could not be reached.
type ServedStale struct {
	After *volume.Snapshot
	// Err is why the vault could not be reached.
	Err error
}

// Kind implements Event.
func (ServedStale) Kind() Kind { return KindServedStale }

// Ref implements Event.
func (e ServedStale) Ref() volume.Ref { return e.After.Ref }

// Message implements Event.
func (e ServedStale) Message() string {
	text := "started from last known good values of " + e.After.FetchedAt.UTC().Format(time.RFC3339)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Reason implements Event.
func (e ServedStale) Reason() volume.Reason { return volume.ReasonOf(e.Err) }

func (e ServedStale) cause() error { return e.Err }

// ServedFallback means that a Pod started with values of a fallback vault, because its own vault could not be reached.
type ServedFallback struct {
	After *volume.Snapshot
	// Err is why the vault could not be reached.
	Err error
}

// Kind implements Event.
func (ServedFallback) Kind() Kind { return KindServedFallback }

// Ref implements Event.
func (e ServedFallback) Ref() volume.Ref { return e.After.Ref }

// Message implements Event.
func (e ServedFallback) Message() string {
	text := "started with values of the fallback vault " + e.After.Fallback
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Reason implements Event.
func (e ServedFallback) Reason() volume.Reason { return volume.ReasonOf(e.Err) }

func (e ServedFallback) cause() error { return e.Err }

// Warning is a mistake that does not stop the mount, for the owner of the Pod or of the class.
type Warning struct {
	Volume volume.Ref
	Text   string
}

// Kind implements Event.
func (Warning) Kind() Kind { return KindWarning }

// Ref implements Event.
func (e Warning) Ref() volume.Ref { return e.Volume }

// Message implements Event.
func (e Warning) Message() string { return e.Text }

// Reason implements Event.
func (Warning) Reason() volume.Reason { return "" }

// Expiring means that the expiry of a mounted object is near or past.
type Expiring struct {
	Volume volume.Ref
	Text   string
}

// Kind implements Event.
func (Expiring) Kind() Kind { return KindExpiring }

// Ref implements Event.
func (e Expiring) Ref() volume.Ref { return e.Volume }

// Message implements Event.
func (e Expiring) Message() string { return e.Text }

// Reason implements Event.
func (Expiring) Reason() volume.Reason { return "" }

// SecretWritten means that a Kubernetes Secret was created or updated.
type SecretWritten struct {
	Volume   volume.Ref
	Text     string
	Duration time.Duration
	succeeded
}

// Kind implements Event.
func (SecretWritten) Kind() Kind { return KindSynced }

// Ref implements Event.
func (e SecretWritten) Ref() volume.Ref { return e.Volume }

// Message implements Event.
func (e SecretWritten) Message() string { return e.Text }

func (e SecretWritten) took() time.Duration { return e.Duration }

// SecretFailed means that a Kubernetes Secret could not be written.
type SecretFailed struct {
	Volume volume.Ref
	Text   string
	// Class is the class of the error.
	Class volume.Reason
}

// Kind implements Event.
func (SecretFailed) Kind() Kind { return KindSyncFailed }

// Ref implements Event.
func (e SecretFailed) Ref() volume.Ref { return e.Volume }

// Message implements Event.
func (e SecretFailed) Message() string { return e.Text }

// Reason implements Event.
func (e SecretFailed) Reason() volume.Reason { return e.Class }

// SecretConflict means that a Kubernetes Secret, or some of its keys, has another owner.
type SecretConflict struct {
	Volume volume.Ref
	Text   string
}

// Kind implements Event.
func (SecretConflict) Kind() Kind { return KindSyncConflict }

// Ref implements Event.
func (e SecretConflict) Ref() volume.Ref { return e.Volume }

// Message implements Event.
func (e SecretConflict) Message() string { return e.Text }

// Reason implements Event.
func (SecretConflict) Reason() volume.Reason { return "" }

// Panicked means that a defect of the driver ended a call or a background task, and nothing else.
type Panicked struct {
	// Where names the task.
	Where string
}

// Kind implements Event.
func (Panicked) Kind() Kind { return KindPanicked }

// Ref implements Event.
func (Panicked) Ref() volume.Ref { return volume.Ref{} }

// Message implements Event.
func (e Panicked) Message() string { return e.Where }

// Reason implements Event.
func (Panicked) Reason() volume.Reason { return volume.ReasonInternal }

// succeeded is embedded by events that are about no failure.
type succeeded struct{}

// Reason implements Event.
func (succeeded) Reason() volume.Reason { return "" }
