package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// identityPrefix begins the annotations that are kept of a ServiceAccount.
const identityPrefix = "azure.workload.identity/"

// Annotations returns the annotations of a ServiceAccount that name an identity. It implements provider.Accounts. They
// are read once and then kept: an edit is seen after some minutes, an annotation where there was none after seconds.
// While the API server does not answer, what is known stays in use. Errors are of type *volume.Error.
func (c *Cluster) Annotations(ctx context.Context, namespace, name string) (map[string]string, error) {
	key := types.NamespacedName{Namespace: namespace, Name: name}
	found, err := c.accounts.get(ctx, key)
	if err != nil {
		return nil, accountError(key, err)
	}
	return found, nil
}

// readAccount asks the API server for the metadata alone: a ServiceAccount may name Secrets.
func (c *Cluster) readAccount(ctx context.Context, name types.NamespacedName) (map[string]string, error) {
	found, err := c.api.getMetadata(ctx, name.Namespace, "serviceaccounts", name.Name)
	if err != nil {
		return nil, err
	}
	kept := map[string]string{}
	for key, value := range found.Annotations {
		if strings.HasPrefix(key, identityPrefix) {
			kept[key] = value
		}
	}
	return kept, nil
}

// accountError says what the API server's refusal means for the pod.
func accountError(name types.NamespacedName, err error) error {
	defect, panicked := errors.AsType[*volume.Error](err)
	switch {
	case panicked:
		return defect
	case apierrors.IsNotFound(err):
		return &volume.Error{Reason: volume.ReasonIdentity, Cause: err, Message: fmt.Sprintf(
			"serviceaccount %s does not exist: create it, or set clientID and tenantID in the class", name)}
	case apierrors.IsForbidden(err):
		return &volume.Error{Reason: volume.ReasonIdentity, Cause: err, Message: fmt.Sprintf(
			"serviceaccount %s must not be read by the driver: its operator sets serviceAccountAnnotations.enabled in the chart; "+
				"or set clientID and tenantID in the class",
			name,
		)}
	}
	return &volume.Error{Reason: volume.ReasonNotReady, Cause: err, Message: fmt.Sprintf(
		"serviceaccount %s cannot be read from the API server: %s: kubelet tries again", name, oneLine(err))}
}
