// Package expiry says when an event reports that an object of a vault expires.
package expiry

import (
	"fmt"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const day = 24 * time.Hour

// marksBefore returns how long before an object's expiry a Pod gets an event, the last one first.
func marksBefore() [4]time.Duration { return [...]time.Duration{0, day, 7 * day, 30 * day} }

// Crossed returns the objects that crossed a mark which was not reported yet, and the marks that are reported then.
func Crossed(
	reported map[string]time.Duration, objects []volume.Object, now time.Time,
) (crossed []volume.Object, marks map[string]time.Duration) {
	marks = map[string]time.Duration{}
	for _, o := range objects {
		if o.Expires.IsZero() {
			continue
		}
		key := o.ID + "/" + o.Version
		for _, mark := range marksBefore() {
			if o.Expires.Sub(now) > mark {
				continue
			}
			marks[key] = mark
			if last, ok := reported[key]; !ok || mark < last {
				crossed = append(crossed, o)
			}
			break
		}
	}
	return crossed, marks
}

// Message says in one line when the object expires.
func Message(o volume.Object, left time.Duration) string {
	expires := o.Expires.UTC().Format(time.RFC3339)
	if left <= 0 {
		return fmt.Sprintf("%s version %s of vault %s expired at %s: renew it in the vault", o.ID, o.Version, o.Vault, expires)
	}
	return fmt.Sprintf("%s version %s of vault %s expires at %s, in %d days and %d hours: renew it in the vault",
		o.ID, o.Version, o.Vault, expires, left/day, left%day/time.Hour)
}
