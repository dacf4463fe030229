package driver

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Status is what the driver knows of its node's volumes. It holds no secret.
type Status struct {
	Driver  string         `json:"driver"`
	Version string         `json:"version"`
	Node    string         `json:"node"`
	Volumes []VolumeStatus `json:"volumes"`
	Sources []SourceStatus `json:"sources"`
}

// VolumeStatus is one volume.
type VolumeStatus struct {
	Namespace      string `json:"namespace"`
	Pod            string `json:"pod"`
	PodUID         string `json:"podUID"`
	ServiceAccount string `json:"serviceAccount"`
	Class          string `json:"class"`
	Identity       string `json:"identity"`
	Target         string `json:"target"`
	// FetchedAt is when the oldest value of the volume left the vault; zero where an earlier process filled it.
	FetchedAt time.Time `json:"fetchedAt,omitzero"`
	// NextRefresh is zero where the volume is not refreshed, or is being refreshed now.
	NextRefresh time.Time `json:"nextRefresh,omitzero"`
	// Refreshing is true while the vault is being asked.
	Refreshing bool `json:"refreshing,omitempty"`
	// Stale is true where the pod started from last known good values.
	Stale bool `json:"stale,omitempty"`
	// Reason and Error say why the files are not fresh; empty where they are.
	Reason volume.Reason `json:"reason,omitempty"`
	Error  string        `json:"error,omitempty"`
	// Failures counts the refreshes in a row that failed.
	Failures int `json:"failures,omitempty"`
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
func (d *Driver) Status() Status {
	return d.rotation.status(Status{Driver: d.name, Version: d.version, Node: d.nodeID})
}

func (r *rotation) status(s Status) Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Volumes = make([]VolumeStatus, 0, len(r.volumes))
	users := map[volume.SourceKey]int{}
	identities := map[volume.SourceKey]string{}
	for _, g := range r.groups {
		for _, vol := range g.volumes {
			s.Volumes = append(s.Volumes, g.volumeStatus(vol))
		}
		for key := range g.digests {
			users[key] += len(g.volumes)
			identities[key] = g.binding.Identity()
		}
	}
	s.Sources = make([]SourceStatus, 0, len(r.sources))
	for key, known := range r.sources {
		s.Sources = append(s.Sources, SourceStatus{Source: key.String(), Identity: identities[key], AskedAt: known.at, Volumes: users[key]})
	}
	slices.SortFunc(s.Volumes, func(a, b VolumeStatus) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Pod, b.Pod), strings.Compare(a.Target, b.Target))
	})
	slices.SortFunc(s.Sources, func(a, b SourceStatus) int {
		return cmp.Or(strings.Compare(a.Source, b.Source), strings.Compare(a.Identity, b.Identity))
	})
	return s
}

// volumeStatus needs the rotation's lock.
func (g *group) volumeStatus(vol *mounted) VolumeStatus {
	v := VolumeStatus{
		Namespace: vol.ref.Pod.Namespace, Pod: vol.ref.Pod.Name, PodUID: vol.ref.Pod.UID, ServiceAccount: vol.ref.Pod.ServiceAccount,
		Class: vol.ref.Class, Identity: vol.binding.Identity(), Target: vol.target,
		FetchedAt: g.fetched, NextRefresh: g.due, Refreshing: g.busy, Stale: vol.stale, Failures: g.failures,
		Objects: make([]ObjectStatus, 0, len(vol.objects)),
	}
	if trouble := cmp.Or(vol.misbound, vol.trouble); trouble != nil {
		v.Reason, v.Error = volume.ReasonOf(trouble), trouble.Error()
	}
	for _, o := range vol.objects {
		v.Objects = append(v.Objects, ObjectStatus{Vault: o.Vault, Object: o.ID, Version: o.Version, Path: o.Path, Expires: o.Expires})
	}
	return v
}
