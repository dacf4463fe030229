package refresh

import (
	"context"
	"fmt"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// ClassEdited notes a class that was added, edited or removed. It does not block.
func (v *Volumes) ClassEdited(namespace, name string) { v.store.edited(classKey{namespace, name}) }

// Refresh makes the volume's group due now. It does not block, and does nothing for a volume that is not known.
func (v *Volumes) Refresh(ref volume.Ref) { v.store.refreshNow(ref, v.Clock.Now()) }

// rebind resolves an edited class again for the volumes that use it. A class that cannot be resolved changes nothing: the volumes
// keep what they have. A panic counts as such.
func (v *Volumes) rebind(ctx context.Context, key classKey) {
	defer v.store.endEdit(key)
	for _, state := range v.store.usersOf(key) {
		err := v.safe.Do(ctx, "resolve an edited class", func() error {
			b, err := v.bind(ctx, state.Publication)
			if err != nil {
				return err
			}
			if c, warning, ok := v.store.rebound(state, b, v.Clock.Now()); ok {
				v.reportRenewed(ctx, c, warning)
			}
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			continue
		}
		// A class is often deleted together with its Pods. For one that is missed, kubelet's next call says so.
		if volume.ReasonOf(err) == volume.ReasonClassNotFound {
			continue
		}
		err = fmt.Errorf("the class changed: %w", err)
		if after := v.store.unresolved(state.Publication, false, v.Clock.Now(), err); after != nil {
			v.Reporter.Report(ctx, report.RefreshFailed{Volume: state.Ref, Err: err, After: after})
		}
	}
}
