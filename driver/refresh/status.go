package refresh

import (
	"cmp"
	"slices"
	"strings"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/nodestatus"
)

// Status returns what is known now.
func (v *Volumes) Status() ([]nodestatus.Volume, []nodestatus.Source) {
	volumes, sources := v.store.status()
	for i := range volumes {
		volumes[i].MountLacks = v.Mounts.Lacks(volumes[i].Target)
	}
	slices.SortFunc(volumes, func(a, b nodestatus.Volume) int {
		return cmp.Or(
			strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Pod, b.Pod), strings.Compare(a.Target, b.Target))
	})
	slices.SortFunc(sources, func(a, b nodestatus.Source) int {
		return cmp.Or(strings.Compare(a.Source, b.Source), strings.Compare(a.Identity, b.Identity))
	})
	return volumes, sources
}

// statusOf needs the store's lock.
func (g *refreshGroup) statusOf(state *volumeState) nodestatus.Volume {
	s := state.snapshot
	status := nodestatus.Volume{
		Namespace:      s.Ref.Pod.Namespace,
		Pod:            s.Ref.Pod.Name,
		PodUID:         s.Ref.Pod.UID,
		ServiceAccount: s.Ref.Pod.ServiceAccount,
		Class:          s.Ref.Class,
		Identity:       s.Identity,
		Target:         s.Ref.TargetPath,
		FetchedAt:      s.FetchedAt,
		NextRefresh:    g.due,
		Refreshing:     g.busy,
		Stale:          s.Stale,
		Fallback:       s.Fallback,

		ChangeDetection: s.Detection,
		Failures:        g.failures,
		Objects:         make([]nodestatus.Object, 0, len(s.Objects)),
	}
	if s.Failure != nil {
		status.Reason, status.Error = s.Failure.Reason, s.Failure.Latest
	}
	for _, o := range s.Objects {
		status.Objects = append(status.Objects, nodestatus.Object{
			Vault:   o.Vault,
			Object:  o.ID,
			Version: o.Version,
			Path:    o.Path,
			Expires: o.Expires,
		})
	}
	return status
}
