package refresh

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// VolumeStatus is one volume, for people. It holds no secret.
type VolumeStatus struct {
	Namespace      string `json:"namespace"`
	Pod            string `json:"pod"`
	PodUID         string `json:"podUID"`
	ServiceAccount string `json:"serviceAccount"`
	Class          string `json:"class"`
	Identity       string `json:"identity"`
	Target         string `json:"target"`
	// FetchedAt is when the oldest value of the volume was requested; zero where an earlier process filled it.
	FetchedAt time.Time `json:"fetchedAt,omitzero"`
	// NextRefresh is zero where the volume is not refreshed, or is being refreshed now.
	NextRefresh time.Time `json:"nextRefresh,omitzero"`
	// Refreshing is true while the vault is being asked.
	Refreshing bool `json:"refreshing,omitempty"`
	// Stale is true where the Pod started from last known good values.
	Stale bool `json:"stale,omitempty"`
	// Fallback is the host of the fallback vault that the Pod started with.
	Fallback string `json:"fallback,omitempty"`
	// ChangeDetection says how the last fetch found out what changed; empty where the class asks for nothing special.
	ChangeDetection volume.Detection `json:"changeDetection,omitempty"`
	// Reason and Error say why the files are not fresh; empty where they are.
	Reason volume.Reason `json:"reason,omitempty"`
	Error  string        `json:"error,omitempty"`
	// Failures counts the refreshes in a row that failed.
	Failures int `json:"failures,omitempty"`
	// MountLacks names mount options of this driver that the volume has not, because another driver mounted it. It has them
	// when its Pod is replaced.
	MountLacks []string `json:"mountLacks,omitempty"`
	// Objects are empty until the first fetch in this process.
	Objects []ObjectStatus `json:"objects"`
}

// ObjectStatus is one object of a volume.
type ObjectStatus struct {
	Vault   string    `json:"vault"`
	Object  string    `json:"object"`
	Version string    `json:"version"`
	Path    string    `json:"path"`
	Expires time.Time `json:"expires,omitzero"`
}

// SourceStatus is one thing that volumes of the node ask a vault for, as one identity.
type SourceStatus struct {
	// Source names the object, and Identity who asks.
	Source   string    `json:"source"`
	Identity string    `json:"identity"`
	AskedAt  time.Time `json:"askedAt"`
	Volumes  int       `json:"volumes"`
}

// Status returns what is known now.
func (v *Volumes) Status() ([]VolumeStatus, []SourceStatus) {
	volumes, sources := v.store.status()
	for i := range volumes {
		volumes[i].MountLacks = v.Mounts.Lacks(volumes[i].Target)
	}
	slices.SortFunc(volumes, func(a, b VolumeStatus) int {
		return cmp.Or(
			strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Pod, b.Pod), strings.Compare(a.Target, b.Target))
	})
	slices.SortFunc(sources, func(a, b SourceStatus) int {
		return cmp.Or(strings.Compare(a.Source, b.Source), strings.Compare(a.Identity, b.Identity))
	})
	return volumes, sources
}

// statusOf needs the store's lock.
func (g *refreshGroup) statusOf(state *volumeState) VolumeStatus {
	s := state.snapshot
	status := VolumeStatus{
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
		Objects:         make([]ObjectStatus, 0, len(s.Objects)),
	}
	if s.Failure != nil {
		status.Reason, status.Error = s.Failure.Reason, s.Failure.Latest
	}
	for _, o := range s.Objects {
		status.Objects = append(status.Objects, ObjectStatus{
			Vault:   o.Vault,
			Object:  o.ID,
			Version: o.Version,
			Path:    o.Path,
			Expires: o.Expires,
		})
	}
	return status
}
