package secretsync

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// inherit makes the keys that the predecessor wrote the class's own, as if the class had applied them: otherwise a key
// that the class drops one day would stay for ever. It returns what the Secret is now, and the keys. A failure changes
// nothing: the apply then takes what conflicts by force.
func (r *Reconciler) inherit(ctx context.Context, d *Desired, seen *observed) (after *observed, keys []string) {
	if d.Writer.Predecessor == "" || seen.applied != nil {
		return seen, nil
	}
	body, keys := handOver(seen, d.Writer.Predecessor, d.Writer.manager(d.Class.Name))
	if body == nil {
		return seen, nil
	}
	after, err := r.patch(ctx, d, types.JSONPatchType, body, metav1.PatchOptions{})
	if err != nil {
		return seen, nil
	}
	return after, keys
}

// handOver returns the patch that gives the predecessor's data to the manager; nil where there is none. Labels are not
// the apply's.
func handOver(seen *observed, predecessor, manager string) (body []byte, keys []string) {
	var entries []metav1.ManagedFieldsEntry
	data := map[string]json.RawMessage{}
	for _, entry := range seen.managed {
		if entry.Manager == predecessor && entry.Operation == metav1.ManagedFieldsOperationUpdate && entry.FieldsV1 != nil {
			fields, taken := map[string]json.RawMessage{}, map[string]json.RawMessage{}
			if json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields) != nil || json.Unmarshal(fields["f:data"], &taken) != nil {
				entries = append(entries, entry)
				continue
			}
			maps.Copy(data, taken)
			delete(fields, "f:data")
			entry.FieldsV1 = metav1.NewFieldsV1(string(mustMarshal(fields)))
		}
		entries = append(entries, entry)
	}
	delete(data, ".") // of the map itself, which an apply does not own
	if len(data) == 0 {
		return nil, nil
	}
	entries = append(entries, metav1.ManagedFieldsEntry{
		Manager: manager, Operation: metav1.ManagedFieldsOperationApply, APIVersion: "v1", FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(string(mustMarshal(map[string]any{"f:data": data}))),
	})
	for _, key := range slices.Sorted(maps.Keys(data)) {
		keys = append(keys, strings.TrimPrefix(key, "f:"))
	}
	return mustMarshal([]map[string]any{
		{"op": "replace", "path": "/metadata/managedFields", "value": entries},
		{"op": "replace", "path": "/metadata/resourceVersion", "value": seen.version}, // fails where it changed meanwhile
	}), keys
}
