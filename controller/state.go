package controller

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyvault-csi/keyvault-csi-driver/controller/timing"
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

// states holds the state of each object.
type states struct {
	mu  sync.Mutex
	all map[types.NamespacedName]*syncState
}

func newStates() *states { return &states{all: map[types.NamespacedName]*syncState{}} }

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
}
