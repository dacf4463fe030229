package secretsync

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// maxSourceID bounds the name of a source in the record, in bytes.
	maxSourceID = 96
	// maxManager is what the API server takes as the name of a field manager, in bytes.
	maxManager = 128
	// shortenedTail is the length of what a name ends in that Shorten cut.
	shortenedTail = 13
)

// DriverRecord and SyncRecord are the prefixes of the annotations that hold the records of classes that Pods mount, and of SecretSyncs.
const (
	DriverRecord = "keyvault-csi/written-"
	SyncRecord   = "keyvault-csi/synced-"
)

// RecordedSource is what a Secret's record says of one source of its values.
type RecordedSource struct {
	// ID names the vault and the object. Where it would be longer than maxSourceID it is cut, and ends in a hash.
	ID string
	// Version is the version that the Secret holds; empty for a list, or where the object does not exist.
	Version string
	// Changed is when the version took the place of another one; zero where the Secret never held another.
	Changed time.Time
}

// Recorded returns what the values that a class or a SecretSync wrote into a Secret were made from, sorted by id; nil where it wrote none.
// Prefix is DriverRecord or SyncRecord.
func Recorded(annotations map[string]string, prefix, class string) (sources []RecordedSource) {
	r := parseRecord(annotations[Writer{Record: prefix}.Annotation(class)])
	if r == nil {
		return nil
	}
	for _, id := range slices.Sorted(maps.Keys(r.Sources)) {
		source := RecordedSource{ID: id, Version: r.Sources[id].Version}
		if changed := r.Sources[id].Changed; changed != nil {
			source.Changed = *changed
		}
		sources = append(sources, source)
	}
	return sources
}

// Names reports whether the source is the object with the id that a status object has: "<type>/<name>", or "<type>/<name>/<index>" of a
// version history.
func (s RecordedSource) Names(object string) bool {
	_, name, _ := strings.Cut(s.ID, "/")
	parts := strings.SplitN(object, "/", 3)
	base := strings.ToLower(strings.Join(parts[:min(2, len(parts))], "/"))
	if rest, ok := strings.CutPrefix(name, base); ok && (rest == "" || rest[0] == '/' || rest[0] == ' ') {
		return true
	}
	cut := len(name) - shortenedTail
	return len(s.ID) >= maxSourceID-shortenedTail && cut > 0 && strings.HasPrefix(base, name[:cut])
}

// manager is the field manager of the class's Secrets.
func (w Writer) manager(class string) string {
	if w.Alone {
		return w.FieldManager
	}
	return Shorten(w.FieldManager+"/"+class, maxManager)
}

// Annotation is the key of the class's record.
func (w Writer) Annotation(class string) string {
	hash := sha256.Sum256([]byte(class))
	return w.Record + hex.EncodeToString(hash[:8])
}

// record is what the last write of a class was made from.
type record struct {
	Class      string    `json:"class"`
	UID        types.UID `json:"uid"`
	Generation int64     `json:"generation"`
	Attributes string    `json:"attributes,omitempty"`
	// Created is when the youngest Pod with these attributes was created.
	Created *time.Time                `json:"podCreated,omitempty"`
	Sources map[string]recordedSource `json:"sources"`
}

type recordedSource struct {
	// Date is nil where the vault did not say.
	Date    *time.Time `json:"date,omitempty"`
	Version string     `json:"version,omitempty"`
	// Changed is when the version took the place of another one, by the clock of who wrote it; nil where it is the first.
	Changed *time.Time `json:"changed,omitempty"`
}

// parseRecord returns nil for what is no record.
func parseRecord(text string) *record {
	r := &record{}
	if text == "" || json.Unmarshal([]byte(text), r) != nil || r.UID == "" {
		return nil
	}
	return r
}

func (r *record) String() string { return string(mustMarshal(r)) }

// recordOf is what a write of d is recorded as. Before is the record that it replaces; may be nil.
func recordOf(d *Desired, before *record) *record {
	r := &record{
		Class: d.Class.Name, UID: d.Class.UID, Generation: d.Class.Generation, Attributes: d.Attributes.Hash,
		Sources: make(map[string]recordedSource, len(d.Sources)),
	}
	created := d.Attributes.Created
	if before != nil && before.Attributes == r.Attributes && before.Created != nil && before.Created.After(created) {
		created = *before.Created
	}
	if !created.IsZero() {
		created = created.UTC()
		r.Created = &created
	}
	for _, s := range d.Sources {
		source := recordedSource{Version: s.Version}
		if !s.Date.IsZero() {
			date := s.Date.UTC()
			source.Date = &date
		}
		r.Sources[Shorten(s.ID, maxSourceID)] = source
	}
	return r
}

// noteChanges says since when the Secret holds each version. Before is the record that r replaces; may be nil.
func (r *record) noteChanges(before *record, now time.Time) *record {
	if before == nil {
		return r
	}
	for id, source := range r.Sources {
		switch was, known := before.Sources[id]; {
		case !known:
			continue
		case was.Version == source.Version:
			source.Changed = was.Changed
		default:
			source.Changed = new(now.UTC().Truncate(time.Second))
		}
		r.Sources[id] = source
	}
	return r
}

// order is how a desired Secret compares with what is recorded.
type order int

const (
	// newer is written.
	newer order = iota
	// equal has nothing to write: the same versions of the same class.
	equal
	// older is not written: values are fetched again.
	older
	// undecided is older or newer: the vault's clock has the same second. Values are fetched again in the next one.
	undecided
	// undated is not written: the vault did not say when it answered, so it may be older.
	undated
	// superseded is of an older version of the class.
	superseded
	// overruled has other volume attributes than a younger Pod.
	overruled
	// otherClass is of another class of the same name.
	otherClass
)

// compare decides about a write over an existing Secret. Was is nil where the class has no record.
func compare(d *Desired, was *record) order {
	is := recordOf(d, nil)
	if was == nil {
		if len(is.Sources) > 0 && is.undated() {
			return undated
		}
		return newer
	}
	switch {
	case was.UID != is.UID:
		return otherClass
	case is.Generation < was.Generation:
		return superseded
	}
	same := is.Generation == was.Generation
	if same && is.Attributes != was.Attributes {
		if !is.younger(was) {
			return overruled
		}
		same = false
	}
	return compareSources(is, was, same)
}

// compareSources compares records of the same class. Same is true where generation and attributes are equal, so that
// equal versions mean equal data.
func compareSources(is, was *record, same bool) order {
	var c comparison
	versions := len(is.Sources) == len(was.Sources)
	for id, now := range is.Sources {
		then, ok := was.Sources[id]
		versions = versions && ok && now.Version == then.Version
		if ok {
			c.add(now, then)
		}
	}
	switch {
	case same && versions:
		return equal
	case c.dateless > 0:
		return undated
	case c.before > 0:
		return older
	case c.ties > 0,
		same && c.shared > 0 && c.after == 0: // other sources in the same second: a list of versions that changed
		return undecided
	}
	return newer
}

// comparison counts how sources compare that two records share.
type comparison struct{ shared, before, after, ties, dateless int }

func (c *comparison) add(now, then recordedSource) {
	c.shared++
	differs := now.Version != then.Version
	switch {
	case now.Date == nil:
		if differs || then.Date != nil {
			c.dateless++
		}
	case then.Date == nil || now.Date.After(*then.Date):
		c.after++
	case now.Date.Before(*then.Date):
		c.before++
	case differs:
		c.ties++
	}
}

// undated says whether a source has no date.
func (r *record) undated() bool {
	for _, s := range r.Sources {
		if s.Date == nil {
			return true
		}
	}
	return false
}

// younger says whether r is of a younger Pod. Of two Pods that were created in one second the greater hash counts as
// younger.
func (r *record) younger(than *record) bool {
	switch {
	case r.Created == nil:
		return false
	case than.Created == nil || r.Created.After(*than.Created):
		return true
	case r.Created.Before(*than.Created):
		return false
	}
	return r.Attributes > than.Attributes
}

// Shorten keeps a name within the limit, in bytes: a longer one ends in a hash of the whole.
func Shorten(name string, limit int) string {
	if len(name) <= limit {
		return name
	}
	hash := sha256.Sum256([]byte(name))
	tail := "-" + hex.EncodeToString(hash[:(shortenedTail-1)/2])
	return strings.TrimRight(name[:limit-len(tail)], "-.") + tail
}
