package controller

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyvault-csi/keyvault-csi-driver/controller/timing"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// syncState is what is kept of one SecretSync between two syncs. Only the reconciler of that object touches it.
type syncState struct {
	timing.Timing

	// known is what is known of the Secret.
	known secretsync.Known
	// expiryMarks maps an object to the last mark before its expiry that an event reported.
	expiryMarks map[string]time.Duration
	// warned is the last text of warnings, so that each is an event once.
	warned string
	// failure is why the Secret does not hold what the vault holds; empty where it does.
	failure volume.Reason
}

// standing is whether an object is in step, for the metrics.
type standing struct {
	// unsynced is since when the object is not what it asks for; zero where it is.
	unsynced time.Time
	failing  bool
}

// states holds the state of each object.
type states struct {
	mu        sync.Mutex
	all       map[types.NamespacedName]*syncState
	standings map[types.NamespacedName]standing
}

func newStates() *states {
	return &states{all: map[types.NamespacedName]*syncState{}, standings: map[types.NamespacedName]standing{}}
}

// waits notes that an object asks for something new since now, unless it waits or fails already.
func (s *states) waits(name types.NamespacedName, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.standings[name].unsynced.IsZero() {
		s.standings[name] = standing{unsynced: now}
	}
}

// settled notes what came of a sync that ended now.
func (s *states) settled(name types.NamespacedName, now time.Time, failing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	since := s.standings[name].unsynced
	switch {
	case !failing:
		since = time.Time{}
	case since.IsZero():
		since = now
	}
	s.standings[name] = standing{unsynced: since, failing: failing}
}

// summary counts the objects by how they are.
func (s *states) summary() (n metrics.SyncStates) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.standings {
		switch {
		case one.failing:
			n.Failing++
		case one.unsynced.IsZero():
			n.Synced++
		default:
			n.Waiting++
		}
		if !one.unsynced.IsZero() && (n.Oldest.IsZero() || one.unsynced.Before(n.Oldest)) {
			n.Oldest = one.unsynced
		}
	}
	return n
}

// of returns the state of an object, a new one where there is none.
func (s *states) of(name types.NamespacedName) *syncState {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, ok := s.all[name]
	if !ok {
		state = &syncState{}
		s.all[name] = state
	}
	return state
}

// drop forgets an object.
func (s *states) drop(name types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, name)
	delete(s.standings, name)
}
