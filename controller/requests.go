package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"sigs.k8s.io/controller-runtime/pkg/client"

	syncv1alpha1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/secretsync/v1alpha1"
)

// secretPatches implements secretsync.Secrets. The answers hold metadata alone.
type secretPatches struct{ client metadata.Interface }

// Patch implements secretsync.Secrets.
func (p secretPatches) Patch(
	ctx context.Context, name types.NamespacedName, kind types.PatchType, body []byte, o metav1.PatchOptions,
) (*metav1.PartialObjectMetadata, error) {
	secrets := schema.GroupVersionResource{Group: corev1.GroupName, Version: "v1", Resource: "secrets"}
	return p.client.Resource(secrets).Namespace(name.Namespace).Patch(ctx, name.Name, kind, body, o) //nolint:wrapcheck // secretsync explains it
}

// claims implements secretsync.Classes: what claims a Secret here is the SecretSync of its name.
type claims struct{ reader client.Reader }

// ClassUID implements secretsync.Classes.
func (c claims) ClassUID(ctx context.Context, namespace, name string) (types.UID, error) {
	var s syncv1alpha1.SecretSync
	err := c.reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &s)
	switch {
	case apierrors.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("read secretsync %s/%s: %w", namespace, name, err)
	}
	return s.UID, nil
}

// SecretClasses implements secretsync.Classes.
func (claims) SecretClasses(_ context.Context, _, secret string) ([]string, error) {
	return []string{secret}, nil
}
