package kube

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Namespaces decides by a label selector whether a namespace is one of those that an operator chose.
type Namespaces struct {
	api     client
	matches *lookup[bool]
}

// Namespaces returns those that the selector matches. It needs the right to get namespaces.
func (c *Cluster) Namespaces(selector labels.Selector) *Namespaces {
	n := &Namespaces{api: c.api}
	n.matches = newLookup(c, func(ctx context.Context, name types.NamespacedName) (bool, error) {
		found, err := n.api.namespace(ctx, name.Name)
		if err != nil {
			return false, err
		}
		return selector.Matches(labels.Set(found.Labels)), nil
	}, func(matches bool) bool { return matches })
	return n
}

// Match reports whether the selector matches the namespace's labels. A label that is removed is noticed after some
// minutes, one that is added after seconds. While the API server does not answer, what is known stays in use. Errors
// are of type *volume.Error.
func (n *Namespaces) Match(ctx context.Context, namespace string) (bool, error) {
	found, err := n.matches.get(ctx, types.NamespacedName{Name: namespace})
	if err != nil {
		return false, namespaceError(namespace, err)
	}
	return found, nil
}

// namespaceError says what the API server's refusal means for the pod.
func namespaceError(namespace string, err error) error {
	defect, panicked := errors.AsType[*volume.Error](err)
	switch {
	case panicked:
		return defect
	case apierrors.IsForbidden(err):
		return &volume.Error{Reason: volume.ReasonIdentity, Cause: err, Message: fmt.Sprintf(
			"useVMManagedIdentity depends on the labels of the namespace %s, which the driver must not read: its operator grants get on namespaces, as "+
				"the chart does for a selector in nodeIdentity.namespaces",
			namespace,
		)}
	}
	return &volume.Error{Reason: volume.ReasonNotReady, Cause: err, Message: fmt.Sprintf(
		"useVMManagedIdentity depends on the labels of the namespace %s, which cannot be read from the API server: %s: "+
			"kubelet tries again",
		namespace,
		oneLine(err),
	)}
}
