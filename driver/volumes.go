package driver

import (
	"crypto/sha256"
	"reflect"
	"slices"
	"strings"
	"time"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// mounted is a volume that stands on this node, as far as memory goes. Its fields belong to the rotation's lock.
type mounted struct {
	// target and group never change.
	target string
	group  *int64

	ref     volume.Ref
	class   *v1.SecretProviderClass
	request volume.Request
	binding volume.Binding
	// written is the fingerprint of what the files hold; zero where an earlier process wrote them.
	written [32]byte
	// stale is true while the files are last known good ones.
	stale bool
	// failing is true since a refresh that failed, until one that succeeds.
	failing bool
	// objects are what the files are made of; nil where an earlier process wrote them.
	objects []volume.Object
	// trouble is why the last refresh failed, and misbound why the class could not be resolved when it was last looked at;
	// nil where all is well.
	trouble, misbound error
	// told maps an object to the days-to-expiry mark that was last reported.
	told map[string]time.Duration
}

// sameAsk tells whether two volumes ask for the same of the vault and of the API server.
func (m *mounted) sameAsk(other *mounted) bool {
	a, b := m.class, other.class
	return m.binding.Key() == other.binding.Key() &&
		(a == b || reflect.DeepEqual(a.Spec.SecretObjects, b.Spec.SecretObjects))
}

// fingerprint is equal for bundles that make the same files of the same class.
func fingerprint(binding volume.Binding, bundle *volume.Bundle) [32]byte {
	h := sha256.New()
	h.Write([]byte(binding.Key()))
	for _, s := range slices.SortedFunc(slices.Values(bundle.Sources), func(a, b volume.Source) int {
		return strings.Compare(a.Key.String(), b.Key.String())
	}) {
		h.Write([]byte("\x00" + s.Key.String() + "\x00"))
		h.Write(s.Hash[:])
	}
	return [32]byte(h.Sum(nil))
}
