package secretsync

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// observationAge is how long an answer of the API server is trusted without a probe. A write that builds on an older
// one is safe all the same, since it carries the resourceVersion; this bounds how long a Secret that was deleted goes
// unnoticed by Pods that start.
const observationAge = 10 * time.Second

// Known is what the caller keeps of a Secret between calls. The zero value knows nothing. It is not safe for concurrent
// use.
type Known struct {
	// seen is the last answer; nil where there was none, or the Secret changed since.
	seen *observed
	at   time.Time
	// hash is that of the desired Secret that was last applied or found in place, and version the Secret's after that.
	hash    [32]byte
	version string
}

// Forget makes the next call ask the API server.
func (k *Known) Forget() { k.seen = nil }

// Holds says whether the Secret was brought in step with the hash, and with all of these owners, when it was last
// looked at.
func (k *Known) Holds(hash [32]byte, owners []metav1.OwnerReference) bool {
	return k.seen != nil && k.seen.exists() && k.hash == hash && len(k.seen.missing(owners)) == 0
}

// Fresh says whether the last answer is recent enough to build on.
func (k *Known) Fresh(now time.Time) bool { return k.seen != nil && now.Sub(k.at) < observationAge }

// observed is one answer of the API server about a Secret.
type observed struct {
	uid     types.UID // empty where there is no Secret
	version string
	// terminating is true where the Secret is being deleted and finalizers hold it.
	terminating bool
	owners      []metav1.OwnerReference
	// record is the class's own; nil where it has none.
	record *record
	// applied are the fields that the class's field manager owns by apply; nil where it never applied.
	applied *appliedFields
	// managed are the fields of all managers; nil where the class's own has applied before.
	managed []metav1.ManagedFieldsEntry
	// stringData is true where somebody applied stringData. That changes data and leaves its fields to the class's
	// manager.
	stringData bool
}

func (o *observed) exists() bool { return o.uid != "" }

// appliedFields are those of one field manager.
type appliedFields struct {
	data, labels, annotations map[string]bool
	owners                    map[types.UID]bool
	kind                      bool // type
}

func observe(o *metav1.PartialObjectMetadata, w Writer, class string) *observed {
	seen := &observed{
		uid: o.UID, version: o.ResourceVersion, terminating: o.DeletionTimestamp != nil, owners: o.OwnerReferences,
		record: parseRecord(o.Annotations[w.Annotation(class)]),
	}
	manager := w.manager(class)
	for _, entry := range o.ManagedFields {
		if entry.FieldsV1 != nil && bytes.Contains(entry.FieldsV1.GetRawBytes(), []byte(`"f:stringData"`)) {
			seen.stringData = true
		}
		if entry.Manager == manager && entry.Operation == metav1.ManagedFieldsOperationApply && entry.FieldsV1 != nil {
			seen.applied = parseApplied(entry.FieldsV1.GetRawBytes())
		}
	}
	if seen.applied == nil {
		seen.managed = o.ManagedFields
	}
	return seen
}

func parseApplied(raw []byte) *appliedFields {
	type tree = map[string]json.RawMessage
	var root struct {
		Data     tree            `json:"f:data"`
		Type     json.RawMessage `json:"f:type"`
		Metadata struct {
			Labels      tree `json:"f:labels"`
			Annotations tree `json:"f:annotations"`
			Owners      tree `json:"f:ownerReferences"`
		} `json:"f:metadata"`
	}
	if json.Unmarshal(raw, &root) != nil {
		return nil
	}
	names := func(fields tree) map[string]bool {
		set := make(map[string]bool, len(fields))
		for field := range fields {
			if name, ok := strings.CutPrefix(field, "f:"); ok {
				set[name] = true
			}
		}
		return set
	}
	applied := &appliedFields{
		data: names(root.Data), labels: names(root.Metadata.Labels), annotations: names(root.Metadata.Annotations),
		owners: map[types.UID]bool{}, kind: root.Type != nil,
	}
	for field := range root.Metadata.Owners {
		var key struct{ UID types.UID }
		if text, ok := strings.CutPrefix(field, "k:"); ok && json.Unmarshal([]byte(text), &key) == nil {
			applied.owners[key.UID] = true
		}
	}
	return applied
}

// intact reports whether the class's field manager owns exactly the fields that an apply of d sets: then none of them
// was changed since the last apply.
func (o *observed) intact(d *Desired) bool {
	a := o.applied
	if a == nil || o.stringData || !a.kind || len(a.data) != len(d.Data) {
		return false
	}
	for key := range d.Data {
		if !a.data[key] {
			return false
		}
	}
	labels, annotations := d.labels(), d.Annotations
	if len(a.labels) != len(labels) || len(a.annotations) != len(annotations)+1 ||
		!a.annotations[d.Writer.Annotation(d.Class.Name)] {
		return false
	}
	for key := range labels {
		if !a.labels[key] {
			return false
		}
	}
	for key := range annotations {
		if !a.annotations[key] {
			return false
		}
	}
	return true
}

// labels are the class's with the ownership label.
func (d *Desired) labels() map[string]string {
	labels := make(map[string]string, len(d.Labels)+1)
	maps.Copy(labels, d.Labels)
	labels[d.Writer.Label] = d.Writer.LabelValue
	return labels
}

// missing are the owners that the Secret lacks, each once.
func (o *observed) missing(owners []metav1.OwnerReference) (missing []metav1.OwnerReference) {
	have := make(map[types.UID]bool, len(o.owners)+len(owners))
	for _, owner := range o.owners {
		have[owner.UID] = true
	}
	for _, owner := range owners {
		if !have[owner.UID] {
			have[owner.UID] = true
			missing = append(missing, owner)
		}
	}
	return missing
}

// kept are the owners that the next apply repeats: what a field manager applied once and leaves out is removed.
func (o *observed) kept() (kept []metav1.OwnerReference) {
	if o.applied == nil {
		return nil
	}
	for _, owner := range o.owners {
		if o.applied.owners[owner.UID] {
			kept = append(kept, owner)
		}
	}
	return kept
}

// ownersToApply are the owners that an apply sets.
func (o *observed) ownersToApply(d *Desired) []metav1.OwnerReference {
	if d.OwnerPolicy == ExactOwners {
		return d.Owners
	}
	return slices.Concat(o.kept(), o.missing(d.Owners))
}

// ownersMissing says whether owners alone are a reason to write.
func (o *observed) ownersMissing(d *Desired) bool {
	if len(o.missing(d.Owners)) > 0 {
		return true
	}
	return d.OwnerPolicy == ExactOwners && o.applied != nil && len(o.kept()) != len(d.Owners)
}
