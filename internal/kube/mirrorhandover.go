package kube

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// upstreamManager is the field manager of what the Secrets Store CSI Driver wrote, which it did by update.
const upstreamManager = "csi-secrets-store"

// inherit makes the keys that the Secrets Store CSI Driver wrote the class's own, as if the class had applied them: else a key that
// the class drops one day would stay for ever. The same request adds the owners that are missing. It returns the keys. A failure is
// none: the apply then takes what conflicts by force.
func (m *Mirror) inherit(ctx context.Context, t *target, found *metav1.PartialObjectMetadata, missing []metav1.OwnerReference) (keys []string) {
	body, keys := handOver(found, managerOf(t.class), missing)
	if body == nil {
		return nil
	}
	_, err := m.patch(ctx, t, types.JSONPatchType, body, metav1.PatchOptions{})
	if apierrors.IsForbidden(err) && len(missing) > 0 {
		return m.inherit(ctx, t, found, nil) // owners may not be changed here, keys may
	}
	if err != nil {
		return nil
	}
	return keys
}

// handOver returns the patch that hands data over to the manager and adds owners; nil where there is nothing to hand over, or that was
// done before. Labels are not the apply's.
func handOver(found *metav1.PartialObjectMetadata, manager string, owners []metav1.OwnerReference) (body []byte, keys []string) {
	var entries []metav1.ManagedFieldsEntry
	data := map[string]json.RawMessage{}
	for _, entry := range found.ManagedFields {
		if entry.Manager == manager && entry.Operation == metav1.ManagedFieldsOperationApply {
			return nil, nil
		}
		if entry.Manager == upstreamManager && entry.Operation == metav1.ManagedFieldsOperationUpdate && entry.FieldsV1 != nil {
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
	patch := []map[string]any{
		{"op": "replace", "path": "/metadata/managedFields", "value": entries},
		{"op": "replace", "path": "/metadata/resourceVersion", "value": found.ResourceVersion}, // fails where it changed meanwhile
	}
	if len(owners) > 0 {
		patch = append(patch, map[string]any{
			"op": "add", "path": "/metadata/ownerReferences", "value": slices.Concat(found.OwnerReferences, owners),
		})
	}
	return mustMarshal(patch), keys
}
