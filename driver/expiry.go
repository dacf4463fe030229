package driver

import (
	"fmt"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const day = 24 * time.Hour

// expiryMarks are how long before an object's end a pod is told, the last one first.
var expiryMarks = [...]time.Duration{0, day, 7 * day, 30 * day}

// expiring returns an event for each object of the volume that crossed a mark since the last call.
func (r *rotation) expiring(vol *mounted, bundle *volume.Bundle) []report.Event {
	now := r.d.clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	var events []report.Event
	told := map[string]time.Duration{}
	for _, o := range bundle.Objects {
		if o.Expires.IsZero() {
			continue
		}
		key := o.ID + "/" + o.Version
		left := o.Expires.Sub(now)
		for _, mark := range expiryMarks {
			if left > mark {
				continue
			}
			told[key] = mark
			if last, ok := vol.told[key]; !ok || mark < last {
				events = append(events, report.Event{Kind: report.Expiring, Message: expiryMessage(o, left)})
			}
			break
		}
	}
	vol.told = told
	return events
}

func expiryMessage(o volume.Object, left time.Duration) string {
	end := o.Expires.UTC().Format(time.RFC3339)
	if left <= 0 {
		return fmt.Sprintf("%s version %s of vault %s ended at %s: renew it in the vault", o.ID, o.Version, o.Vault, end)
	}
	return fmt.Sprintf("%s version %s of vault %s ends at %s, in %d days and %d hours: renew it in the vault",
		o.ID, o.Version, o.Vault, end, left/day, left%day/time.Hour)
}
