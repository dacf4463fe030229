package secretsync

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Secrets patches Secrets. Answers hold metadata alone.
type Secrets interface {
	Patch(ctx context.Context, name types.NamespacedName, kind types.PatchType, body []byte, o metav1.PatchOptions) (
		*metav1.PartialObjectMetadata, error)
}

// Classes reads classes from the API server itself, never from a cache.
type Classes interface {
	// ClassUID returns the UID of the class that exists under the name; empty where there is none.
	ClassUID(ctx context.Context, namespace, name string) (types.UID, error)
	// SecretClasses returns the names of the namespace's classes that ask for the Secret.
	SecretClasses(ctx context.Context, namespace, secret string) ([]string, error)
}

// noVersion is a resourceVersion that no object has: an apply with it creates, and is a conflict where there is a
// Secret.
const noVersion = "1"

// probe asks whether the Secret is the writer's: a patch that changes nothing and holds only where the label is there.
func (r *Reconciler) probe(ctx context.Context, d *Desired) (*observed, error) {
	test := mustMarshal([]map[string]string{{
		"op": "test", "path": "/metadata/labels/" + strings.ReplaceAll(strings.ReplaceAll(d.Writer.Label, "~", "~0"), "/", "~1"),
		"value": d.Writer.LabelValue,
	}})
	seen, err := r.patch(ctx, d, types.JSONPatchType, test, metav1.PatchOptions{})
	status := apierrors.APIStatus(nil)
	switch {
	case apierrors.IsNotFound(err) && !isNamespaceGone(err):
		return &observed{}, nil
	case asStatus(err, &status) && status.Status().Code == http.StatusUnprocessableEntity && !deniedByPolicy(status):
		return nil, errForeign
	}
	return seen, err
}

type applyMetadata struct {
	Name            string                  `json:"name"`
	Namespace       string                  `json:"namespace"`
	UID             types.UID               `json:"uid,omitempty"`
	ResourceVersion string                  `json:"resourceVersion"`
	Labels          map[string]string       `json:"labels"`
	Annotations     map[string]string       `json:"annotations"`
	OwnerReferences []metav1.OwnerReference `json:"ownerReferences,omitempty"`
}

// apply writes the Secret over what was seen, as the class's field manager, with the record and the owners.
func (r *Reconciler) apply(ctx context.Context, d *Desired, seen *observed, as *record, force bool) (*observed, error) {
	annotations := make(map[string]string, len(d.Annotations)+1)
	maps.Copy(annotations, d.Annotations)
	annotations[d.Writer.Annotation(d.Class.Name)] = as.String()
	version := seen.version
	if !seen.exists() {
		version = noVersion
	}
	body := mustMarshal(struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Metadata   applyMetadata     `json:"metadata"`
		Type       string            `json:"type"`
		Data       map[string][]byte `json:"data,omitempty"`
	}{
		APIVersion: "v1",
		Kind:       "Secret",
		Metadata: applyMetadata{
			Name: d.Name, Namespace: d.Namespace, UID: seen.uid, ResourceVersion: version,
			Labels: d.labels(), Annotations: annotations, OwnerReferences: seen.ownersToApply(d),
		},
		Type: d.Type,
		Data: d.Data,
	})
	return r.patch(ctx, d, types.ApplyPatchType, body, metav1.PatchOptions{Force: &force})
}

// addOwners adds owners by their uid. Those that are there stay.
func (r *Reconciler) addOwners(ctx context.Context, d *Desired, seen *observed) (*observed, error) {
	body := mustMarshal(map[string]any{"metadata": map[string]any{
		"uid": seen.uid, "resourceVersion": seen.version, "ownerReferences": seen.missing(d.Owners),
	}})
	after, err := r.patch(ctx, d, types.StrategicMergePatchType, body, metav1.PatchOptions{})
	if ownersForbidden(err) {
		return nil, &ownersForbiddenError{cause: err}
	}
	return after, err
}

func (r *Reconciler) patch(
	ctx context.Context,
	d *Desired,
	kind types.PatchType,
	body []byte,
	o metav1.PatchOptions,
) (*observed, error) {
	o.FieldManager = d.Writer.manager(d.Class.Name)
	got, err := r.secrets.Patch(ctx, types.NamespacedName{Namespace: d.Namespace, Name: d.Name}, kind, body, o)
	if err != nil {
		return nil, err
	}
	return observe(got, d.Writer, d.Class.Name), nil
}

// raced says whether a write failed because the Secret changed, was deleted or came to be since it was last seen.
func raced(err error, seen *observed) bool {
	status := apierrors.APIStatus(nil)
	if !asStatus(err, &status) {
		return false
	}
	switch {
	case apierrors.IsConflict(err) && claimsOf(err) == nil, hasCause(status, "metadata.uid"):
		return true
	case apierrors.IsNotFound(err):
		return seen.exists() && !isNamespaceGone(err)
	case apierrors.IsAlreadyExists(err):
		return true
	}
	return false
}

// mustMarshal cannot fail: what it is given holds strings, bytes and lists of them.
func mustMarshal(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return body
}
