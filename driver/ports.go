package driver

import (
	"context"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Classes is where SecretProviderClasses come from: the API server, or a directory.
type Classes interface {
	// Get returns the class; the caller must not change it. A class that does not exist is a *volume.Error with
	// reason ClassNotFound, a source that is not ready yet one with reason NotReady.
	Get(ctx context.Context, namespace, name string) (*v1.SecretProviderClass, error)
	// Watch calls changed for each class that was added, edited or removed, until ctx ends. Changed must not block.
	Watch(ctx context.Context, changed func(namespace, name string)) error
	// Ready returns nil when Get can answer, else why it cannot.
	Ready() error
}

// Mirror keeps the Kubernetes Secrets of a class in step with a volume.
type Mirror interface {
	// Apply writes the Secrets that the class asks for from the bundle, unless they stand like that already. It
	// returns when they are written, when ctx ends, or when the API server fails; what is left is retried in the
	// background and reported, and never fails the mount. It does not keep bundle.Files after its own retries end.
	// Of a stale bundle no value is written: it could turn back what another node wrote.
	Apply(ctx context.Context, ref volume.Ref, class *v1.SecretProviderClass, bundle *volume.Bundle)
	// Forget ends all retries for the volume.
	Forget(ref volume.Ref)
}
