package report

import (
	"slices"
	"sync"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// mostTroubles bounds what Recent remembers.
const mostTroubles = 100

// Trouble is one thing that went wrong, once or again and again.
type Trouble struct {
	Kind      Kind          `json:"kind"`
	Reason    volume.Reason `json:"reason,omitempty"`
	Namespace string        `json:"namespace,omitempty"`
	Pod       string        `json:"pod,omitempty"`
	Class     string        `json:"class,omitempty"`
	Message   string        `json:"message"`
	// RequestID is the service's id of the last request that failed.
	RequestID string    `json:"requestID,omitempty"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Count     int       `json:"count"`
}

// Recent remembers the last things that went wrong.
type Recent struct {
	mu       sync.Mutex
	troubles []Trouble
}

// Report implements Reporter.
func (r *Recent) Report(e Event) {
	switch e.Kind {
	case PublishFailed, UnpublishFailed, RefreshFailed, ServedStale, Warning, Expiring, SyncFailed, SyncConflict, Panicked:
	case Published, Adopted, Unpublished, Refreshed, Confirmed, Recovered, Synced:
		return
	}
	fresh := Trouble{
		Kind: e.Kind, Reason: e.Reason, Namespace: e.Volume.Pod.Namespace, Pod: e.Volume.Pod.Name, Class: e.Volume.Class,
		Message: e.Message, RequestID: e.RequestID, First: e.Time, Last: e.Time, Count: 1,
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	known := slices.IndexFunc(r.troubles, func(t Trouble) bool {
		return t.Kind == fresh.Kind && t.Reason == fresh.Reason && t.Namespace == fresh.Namespace && t.Pod == fresh.Pod &&
			t.Class == fresh.Class && (t.Message == fresh.Message || fresh.Kind == PublishFailed || fresh.Kind == RefreshFailed)
	})
	if known >= 0 {
		fresh.First, fresh.Count = r.troubles[known].First, r.troubles[known].Count+1
		r.troubles = slices.Delete(r.troubles, known, known+1)
	}
	r.troubles = append(r.troubles, fresh)
	if len(r.troubles) > mostTroubles {
		r.troubles = slices.Delete(r.troubles, 0, 1)
	}
}

// Troubles returns what is remembered, the newest first.
func (r *Recent) Troubles() []Trouble {
	r.mu.Lock()
	defer r.mu.Unlock()
	newest := slices.Clone(r.troubles)
	slices.Reverse(newest)
	return newest
}
