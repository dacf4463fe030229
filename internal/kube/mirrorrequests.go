package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/secretdata"
)

// The driver has no right to read Secrets. Each of these requests is a patch, and asks for the metadata alone, so that no
// value comes back.

// maxManager is what the API server takes as the name of a field manager, in bytes.
const maxManager = 128

// managerOf is the field manager of a class's Secrets.
func managerOf(class string) string { return shorten(fieldManager+"/"+class, maxManager) }

// probe asks whether a Secret is ours: a patch that changes nothing and holds only where the label is there. It returns nil where
// there is none.
func (m *Mirror) probe(ctx context.Context, t *target) (*metav1.PartialObjectMetadata, error) {
	test := mustMarshal([]map[string]string{{
		"op": "test", "path": "/metadata/labels/" + strings.ReplaceAll(secretdata.ManagedLabel, "/", "~1"), "value": secretdata.Managed,
	}})
	found, err := m.patch(ctx, t, types.JSONPatchType, test, metav1.PatchOptions{})
	status := apierrors.APIStatus(nil)
	switch {
	case apierrors.IsNotFound(err):
		t.known, t.print = known{}, [32]byte{}
		return nil, nil
	case asStatus(err, &status) && status.Status().Code == http.StatusUnprocessableEntity && !deniedByPolicy(status):
		t.known, t.print = known{}, [32]byte{}
		return nil, foreign(t.secretKey)
	}
	return found, err
}

// applySecret applies the Secret as the class's field manager. Where the Secret is known, the request is about that one
// alone: one that was deleted and made anew by somebody is not touched.
func (m *Mirror) applySecret(ctx context.Context, t *target, s *secretdata.Secret, force bool) error {
	type meta struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace"`
		UID         types.UID         `json:"uid,omitempty"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	body := mustMarshal(struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Metadata   meta              `json:"metadata"`
		Type       string            `json:"type"`
		Data       map[string][]byte `json:"data,omitempty"`
	}{
		"v1", "Secret", meta{s.Name, t.namespace, t.known.uid, s.Labels, s.Annotations}, string(s.Type), s.Data,
	})
	_, err := m.patch(ctx, t, types.ApplyPatchType, body, metav1.PatchOptions{Force: &force})
	return err
}

// addOwners adds owners by their uid; those that are there stay.
func (m *Mirror) addOwners(ctx context.Context, t *target, owners []metav1.OwnerReference) error {
	body := mustMarshal(map[string]any{"metadata": map[string]any{"uid": t.known.uid, "ownerReferences": owners}})
	_, err := m.patch(ctx, t, types.StrategicMergePatchType, body, metav1.PatchOptions{})
	if apierrors.IsForbidden(err) {
		return ownersForbidden(t.secretKey, err)
	}
	return err
}

// patch sends one patch and notes what the API server says of the Secret.
func (m *Mirror) patch(ctx context.Context, t *target, kind types.PatchType, body []byte, o metav1.PatchOptions) (*metav1.PartialObjectMetadata, error) {
	ctx, cancel := context.WithTimeout(ctx, m.requestTimeout)
	defer cancel()
	o.FieldManager = managerOf(t.class)
	got, err := m.secrets.Namespace(t.namespace).Patch(ctx, t.secret, kind, body, o)
	switch {
	case err == nil:
		t.known = knownOf(got, o.FieldManager)
		return got, nil
	case t.known.uid != "" && replaced(err):
		return nil, errVanished
	case apierrors.IsNotFound(err):
		return nil, err //nolint:wrapcheck // explain does, and reads it
	}
	return nil, fmt.Errorf("patch: %w", err)
}

// replaced says whether a Secret that is known by its uid is gone, or another one has its name.
func replaced(err error) bool {
	status := apierrors.APIStatus(nil)
	if !asStatus(err, &status) {
		return false
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) && claimsOf(err) == nil {
		return true
	}
	return hasCause(status, "metadata.uid")
}

func knownOf(o *metav1.PartialObjectMetadata, manager string) known {
	k := known{uid: o.UID, version: o.ResourceVersion, owners: map[types.UID]bool{}}
	for _, owner := range o.OwnerReferences {
		k.owners[owner.UID] = true
	}
	for _, entry := range o.ManagedFields {
		if entry.Manager == manager && entry.Operation == metav1.ManagedFieldsOperationApply && entry.Time != nil {
			k.wrote = entry.Time.Time
		}
	}
	return k
}

// mustMarshal cannot fail: what it is given holds strings, bytes and lists of them.
func mustMarshal(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return body
}
