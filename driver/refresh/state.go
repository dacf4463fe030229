package refresh

import (
	"crypto/sha256"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// bound is a publication whose class was resolved. Class and binding are nil for an adopted volume whose class never could be.
type bound struct {
	Publication

	class   *v1.SecretProviderClass
	binding volume.Binding
}

// asksForSame reports whether two resolutions ask for the same of the vault and of the API server.
func (b bound) asksForSame(other bound) bool {
	return b.binding.Key() == other.binding.Key() && (b.class == other.class ||
		reflect.DeepEqual(b.class.Spec.SecretObjects, other.class.Spec.SecretObjects))
}

// volumeState is what the driver knows in memory about one published volume. The mount itself is the source of truth. It is
// immutable.
type volumeState struct {
	bound

	snapshot *volume.Snapshot
	// hash is that of what the files hold; zero where an earlier process wrote them.
	hash [32]byte
	// resolveErr is why the class could not be resolved when it was last looked at; nil where it could.
	resolveErr error
	// expiryMarks maps an object to the last mark before its expiry that was reported.
	expiryMarks map[string]time.Duration
	// sweepAt is when files that were replaced are to be removed; zero where there are none.
	sweepAt time.Time
}

// change is a state before and after. Before is nil for a new volume.
type change struct{ before, after *volumeState }

// sourceState is what is known of one source, from any group.
type sourceState struct {
	hash [32]byte
	// asked is when the newest answer was requested.
	asked time.Time
	// groups counts the groups that hold an answer of the source.
	groups int
}

type classKey struct{ namespace, name string }

// edit is a class that changed, until its volumes are bound to what it is now.
type edit struct {
	// pending is true until a goroutine begins with it, and again where the class changes meanwhile; busy while one works on it.
	pending, busy bool
}

// outdated reports whether held has another answer of a changed source than current.
func outdated(held, current map[volume.SourceKey][32]byte, changed map[volume.SourceKey]bool) bool {
	for key, isChanged := range changed {
		if hash, uses := held[key]; isChanged && uses && hash != current[key] {
			return true
		}
	}
	return false
}

// hashOf is equal for bundles that make the same files of the same class.
func hashOf(binding volume.Binding, bundle *volume.Bundle) [32]byte {
	h := sha256.New()
	h.Write([]byte(binding.Key()))
	if bundle.Stale {
		h.Write([]byte("\x00stale")) // the metadata says so
	}
	sources := slices.SortedFunc(slices.Values(bundle.Sources), func(a, b volume.Source) int {
		return strings.Compare(a.Key.String(), b.Key.String())
	})
	for _, source := range sources {
		h.Write([]byte("\x00" + source.Key.String() + "\x00"))
		h.Write(source.Hash[:])
	}
	return [32]byte(h.Sum(nil))
}

// started adds to the versions that a volume's objects had first those of objects that it did not hold before. An object that leaves the
// class and comes back keeps its own: the Pod still runs with what it read then.
func started(before map[string]string, objects []volume.Object) map[string]string {
	first := map[string]string{}
	for _, o := range objects {
		if _, known := before[o.ID]; !known {
			first[o.ID] = o.Version
		}
	}
	if len(first) == 0 && before != nil {
		return before
	}
	maps.Copy(first, before)
	return first
}

func sizeOf(bundle *volume.Bundle) (size int64) {
	for _, f := range bundle.Files {
		size += int64(len(f.Data))
	}
	return size
}
