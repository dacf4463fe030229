// Package nodestatus has the types of what the driver reports about the volumes of its node. The tools read them, also on
// machines where no volume can be mounted.
package nodestatus

import (
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Status is what the driver knows of its node's volumes. It holds no secret.
type Status struct {
	Driver  string   `json:"driver"`
	Version string   `json:"version"`
	Node    string   `json:"node"`
	Volumes []Volume `json:"volumes"`
	Sources []Source `json:"sources"`
}

// Volume is one volume, for people. It holds no secret.
type Volume struct {
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
	Objects []Object `json:"objects"`
}

// Object is one object of a volume.
type Object struct {
	Vault   string    `json:"vault"`
	Object  string    `json:"object"`
	Version string    `json:"version"`
	Path    string    `json:"path"`
	Expires time.Time `json:"expires,omitzero"`
}

// Source is one thing that volumes of the node ask a vault for, as one identity.
type Source struct {
	// Source names the object, and Identity who asks.
	Source   string    `json:"source"`
	Identity string    `json:"identity"`
	AskedAt  time.Time `json:"askedAt"`
	Volumes  int       `json:"volumes"`
}
