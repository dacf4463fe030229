package restart

import (
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// state is what is kept of one workload between two looks. All of it can be lost: it saves requests and repeated events. Only the reconciler
// of that workload touches it.
type state struct {
	lookedAt time.Time
	// uses are those of the last generation that was read; nil before that.
	uses *uses
	// dueSince is since when the workload is due; zero where it is not.
	dueSince time.Time
	// waits counts the looks in a row that found the workload due, and a rollout under way or a Secret behind its objects.
	waits int
	// failures counts the looks in a row that failed.
	failures int
	// warned is the last text of a warning, and warnedAt when it was an event.
	warned   string
	warnedAt time.Time
}

// pause is the least time between two looks.
func (s *state) pause() time.Duration { return min(lastRetry, lookPause<<min(s.failures, 10)) }

// settle notes that the workload is not due.
func (s *state) settle() { s.dueSince, s.waits = time.Time{}, 0 }

// longer is how long to wait for what does not report its end.
func (s *state) longer() time.Duration {
	s.waits++
	return min(lastWait, firstWait<<min(s.waits-1, 10))
}

// memory is the state of all workloads with the annotation, and who uses what.
type memory struct {
	mu     sync.Mutex
	states map[Key]*state
	// classes and secrets map what is read to its readers.
	classes, secrets map[types.NamespacedName]map[Key]bool
	// unseen are the workloads that the process has not looked at yet; nil before they are known.
	unseen map[Key]bool
	// slots maps workloads that are being restarted to when they stop counting.
	slots map[Key]time.Time
}

func newMemory() *memory {
	return &memory{
		states: map[Key]*state{}, classes: map[types.NamespacedName]map[Key]bool{}, secrets: map[types.NamespacedName]map[Key]bool{},
		slots: map[Key]time.Time{},
	}
}

// of returns the state of a workload.
func (m *memory) of(key Key) *state {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.states[key] == nil {
		m.states[key] = &state{}
	}
	return m.states[key]
}

// forget drops a workload.
func (m *memory) forget(key Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.states[key]; s != nil {
		m.unlink(key, s.uses)
	}
	delete(m.states, key)
	delete(m.slots, key)
}

// use notes what a workload reads.
func (m *memory) use(key Key, s *state, now *uses) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unlink(key, s.uses)
	s.uses = now
	link := func(readers map[types.NamespacedName]map[Key]bool, names []string) {
		for _, name := range names {
			read := types.NamespacedName{Namespace: key.Namespace, Name: name}
			if readers[read] == nil {
				readers[read] = map[Key]bool{}
			}
			readers[read][key] = true
		}
	}
	link(m.classes, now.classes)
	link(m.secrets, now.secrets)
}

// unlink undoes use. The caller holds the lock.
func (m *memory) unlink(key Key, before *uses) {
	if before == nil {
		return
	}
	unlink := func(readers map[types.NamespacedName]map[Key]bool, names []string) {
		for _, name := range names {
			read := types.NamespacedName{Namespace: key.Namespace, Name: name}
			if delete(readers[read], key); len(readers[read]) == 0 {
				delete(readers, read)
			}
		}
	}
	unlink(m.classes, before.classes)
	unlink(m.secrets, before.secrets)
}

// readers returns the workloads that mount the class or read one of the Secrets.
func (m *memory) readers(namespace, class string, secrets []string) []Key {
	m.mu.Lock()
	defer m.mu.Unlock()
	found := maps.Clone(m.classes[types.NamespacedName{Namespace: namespace, Name: class}])
	for _, name := range secrets {
		if found == nil {
			found = map[Key]bool{}
		}
		maps.Copy(found, m.secrets[types.NamespacedName{Namespace: namespace, Name: name}])
	}
	return slices.Collect(maps.Keys(found))
}

// begin notes the workloads that exist when the process begins its work. Until each was looked at nothing is restarted, since it is not known
// which ones are being restarted already.
func (m *memory) begin(list func() ([]Key, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.unseen != nil {
		return nil
	}
	keys, err := list()
	if err != nil {
		return err
	}
	m.unseen = map[Key]bool{}
	for _, key := range keys {
		m.unseen[key] = true
	}
	return nil
}

// seen notes that a workload was looked at.
func (m *memory) seen(key Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.unseen, key)
}

// hold takes a slot for a restart that is under way until the time.
func (m *memory) hold(key Key, until time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slots[key] = until
}

// holds reports whether the workload has a slot.
func (m *memory) holds(key Key) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.slots[key]
	return ok
}

func (m *memory) release(key Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.slots, key)
}

// acquire takes a slot where the bounds permit one: most restarts at the same time, in the cluster and in the workload's namespace.
func (m *memory) acquire(key Key, now time.Time, most, mostInNamespace int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.unseen) > 0 || !m.room(key, now, most, mostInNamespace) {
		return false
	}
	m.slots[key] = now.Add(slotLife)
	return true
}

// free reports whether acquire would find a slot.
func (m *memory) free(key Key, now time.Time, most, mostInNamespace int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.room(key, now, most, mostInNamespace)
}

// room is free for a caller that holds the lock.
func (m *memory) room(key Key, now time.Time, most, mostInNamespace int) bool {
	all, here := 0, 0
	for other, until := range m.slots {
		switch {
		case other == key || now.After(until):
			continue
		case other.Namespace == key.Namespace:
			here++
		}
		all++
	}
	return all < most && here < mostInNamespace
}
