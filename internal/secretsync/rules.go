package secretsync

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/secretdata"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Rules bound what is written. The admission policy of the chart holds the driver to the same.
type Rules struct {
	// Types are allowed beside those that always are.
	Types []string
	// Namespaces are those in which Secrets may be written; all but Excluded where empty.
	Namespaces []string
	// Excluded are namespaces in which no Secret is written unless Namespaces names them.
	Excluded []string
}

// Check returns why the Secret is not to be written; a *volume.Error.
func (r Rules) Check(d *Desired) error {
	switch {
	case secretdata.NeverType(d.Type):
		return &volume.Error{Reason: volume.ReasonInvalidClass, Message: fmt.Sprintf(
			"Secrets of the type %s are never written, because they give access to the cluster itself: write another type",
			d.Type,
		)}
	case !secretdata.AllowedType(d.Type, r.Types):
		return &volume.Error{Reason: volume.ReasonInvalidClass, Message: fmt.Sprintf(
			"Secrets of the type %.80q are not allowed: write one of %s, or ask the driver's operator to add it to syncSecret.types in the chart",
			d.Type,
			strings.Join(secretdata.Types(r.Types), ", "),
		)}
	case slices.Contains(r.Namespaces, d.Namespace):
		return nil
	case len(r.Namespaces) > 0 || slices.Contains(r.Excluded, d.Namespace):
		return &volume.Error{Reason: volume.ReasonInvalidClass, Message: fmt.Sprintf(
			"Secrets are not written in the namespace %s: ask the driver's operator to add it to syncSecret.namespaces in the chart",
			d.Namespace,
		)}
	}
	return nil
}
