package volume

import (
	"context"
	"io/fs"
	"time"
)

// File is one file of a volume.
type File struct {
	// Path is relative to the volume's root, slash separated and clean.
	Path string
	// Mode holds permission bits only.
	Mode fs.FileMode
	// Owner and Group are numeric ids; nil where nothing is said. The volume's own group goes before Group unless GroupWins.
	Owner, Group *int64
	GroupWins    bool
	Data         []byte
	// Same reports whether the file may keep what it holds now in place of Data; only equal bytes may where it is nil.
	Same func(current []byte) bool
	// Source is what the file was made from; Others are what it was made from too.
	Source SourceKey
	Others []SourceKey
	// Template is true where a template made the file.
	Template bool
}

// Object is what the status object says of one fetched object.
type Object struct {
	// ID is "<type>/<name>", or "<type>/<name>/<index>" of a version history.
	ID string
	// Version is the version that the vault answered with.
	Version string
	// Path is the first file that the object fills.
	Path string
	// Vault is the vault's host name.
	Vault string
	// RequestID is the vault's x-ms-request-id of the answer, empty if it sent none.
	RequestID string
	// Cached is true where the value came from a request made for another volume.
	Cached bool
	// NotBefore and Expires are zero where the vault states none. For certificates, the earlier of the attribute's
	// and the certificate's own end.
	NotBefore, Expires time.Time
}

// SourceKey names one thing that is asked of a vault as one identity: a version of an object, the list of an object's versions, or the
// list of all objects of a kind. Requests with an equal key share their answer.
type SourceKey struct {
	// Identity is the key of the identity that asks.
	Identity string
	// Vault is the vault's URL.
	Vault string
	// Kind is the object's type: "secret", "key" or "cert".
	Kind string
	// Name is in lower case, since Key Vault's names have no case. It is empty for the list of all objects.
	Name string
	// Version is empty for the newest one.
	Version string
	// List is true for the list of the object's versions, or of all objects.
	List bool
	// Selection is the text of a selection, for what it takes from the list of all objects; empty for the list itself.
	Selection string
}

// String names the object for people, without the identity.
func (k SourceKey) String() string {
	if k.Name == "" {
		if k.Selection == "" {
			return k.Vault + k.Kind + " (list)"
		}
		return k.Vault + k.Kind + " (" + k.Selection + ")"
	}
	text := k.Vault + k.Kind + "/" + k.Name
	if k.Version != "" {
		text += "/" + k.Version
	}
	if k.List {
		text += " (versions)"
	}
	return text
}

// Source is one answer that a bundle is made of.
type Source struct {
	Key SourceKey
	// Hash changes when the answer changes. It is keyed per process: it cannot be tested against guesses.
	Hash [32]byte
	// Version is the version that the vault answered with; empty for a list, or where the object does not exist.
	Version string
	// Asked is when the request began, by this node's clock.
	Asked time.Time
	// Date is when the vault answered, by the vault's clock (the Date header, whole seconds); zero where it sent none.
	// A cached answer keeps its own.
	Date time.Time
}

// Bundle is the whole content of a volume, fetched as one.
type Bundle struct {
	Files   []File
	Objects []Object
	Sources []Source
	// Absent are paths of files that optional objects would make, which do not exist now or are disabled.
	Absent []string
	// FetchedAt is when the oldest value in the bundle left the vault.
	FetchedAt time.Time
	// TokenWait is how long the fetch waited for the identity's token; zero where it had one.
	TokenWait time.Duration
	// Stale is true where a value is a last known good one, given because the vault could not be reached.
	Stale bool
	// Fallback is the host of a fallback vault that gave a value, because the object's own vault could not be reached; empty otherwise.
	Fallback string
	// Cause is why the bundle is stale or of a fallback vault; nil otherwise.
	Cause error
	// Detection says how the fetch found out what changed; empty where the class asks for nothing special.
	Detection Detection
	// Warnings are for the pod's owner; one line each, no secret.
	Warnings []string
}

// Provisional returns whether something in the bundle is there only because a vault could not be reached: the next good answer of the
// vault replaces it.
func (b *Bundle) Provisional() bool { return b.Stale || b.Fallback != "" }

// Detection is how a fetch finds out what changed in a vault. The set is closed and small enough to be a metric label.
type Detection string

const (
	// DetectionList means that the vault's objects were listed, and what changed was got.
	DetectionList Detection = "list"
	// DetectionGet means that each object was got, although the class asks for lists, because there is nothing yet to compare.
	DetectionGet Detection = "get"
	// DetectionRefused means that each object was got, because the identity may not list.
	DetectionRefused Detection = "get, listing is refused"
	// DetectionCostly means that each object was got, because a list would need more requests.
	DetectionCostly Detection = "get, a list needs more requests"
)

// Priority orders requests that wait for the same vault.
type Priority int

const (
	// PriorityRefresh can wait.
	PriorityRefresh Priority = iota
	// PriorityMount is for a Pod that waits to start: it goes first.
	PriorityMount
)

// FetchOptions say how fresh and how urgent.
type FetchOptions struct {
	// NotBefore is the oldest answer that may be shared: one asked for earlier is asked for again.
	NotBefore time.Time
	Priority  Priority
	// Held is when what a refresh replaces was fetched; zero where it replaces nothing. Where the vault throttles, the oldest goes first.
	Held time.Time
	// AllowStale permits last known good values where the class opted in (staleIfError).
	AllowStale bool
	// Interval is how often the same is fetched; 0 where it is not fetched again. Values that a later fetch compares with a list are
	// kept for longer than that.
	Interval time.Duration
}

// Binding is a class resolved for one identity: what to fetch, as whom. It is made without a request to the vault.
type Binding interface {
	// Key is equal for volumes that get the same bundle: same parsed class, same identity.
	Key() string
	// ScheduleKey is equal for bindings that should be refreshed at the same moment, because they may share sources.
	ScheduleKey() string
	// Identity names who asks, for logs and audit; no secret.
	Identity() string
	// RotationInterval is the class's own interval; ok is false where the class leaves it to the driver. 0 means never.
	RotationInterval() (interval time.Duration, ok bool)
	// Warnings are mistakes in the class that do not stop a mount; one line each.
	Warnings() []string
	// Fetch asks the vault for what is not shared already. It fails whole: no partial bundle. Errors are of type
	// *Error.
	Fetch(ctx context.Context, opts FetchOptions) (*Bundle, error)
}

// Provider turns requests into bindings.
type Provider interface {
	// Bind resolves a class for a pod, and takes the request's tokens as the newest of its identity. It does not talk
	// to vault or Entra, costs microseconds when the class is known, and is called at every republish. It may return the
	// request's Known binding. Errors are of type *Error and name every mistake of the class.
	Bind(ctx context.Context, req Request) (Binding, error)
}
