package provider

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/flight"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
)

// answer is what the vault said.
type answer struct {
	object   *vault.Object
	versions []vault.Attributes
	// at is when it was asked, date when it was answered by the vault's clock.
	at, date time.Time
	digest   [sha256.Size]byte
	// shared is true where the answer was asked for somebody else.
	shared bool
}

// table is the one place where answers are shared: by callers at the same time, by those a moment later, and, where a class
// opts in, by those who come while the vault cannot be reached. The identity is part of each key.
type table struct {
	clock    clock.WithDelayedExecution
	ttl      time.Duration
	salt     []byte
	observer Observer
	flights  flight.Group[volume.SourceKey, answer]

	mu      sync.Mutex
	entries map[volume.SourceKey]entry
	timer   clock.Timer
	closed  bool
}

type entry struct {
	answer answer
	until  time.Time
}

func newTable(clk clock.WithDelayedExecution, ttl time.Duration, observer Observer) *table {
	t := &table{clock: clk, ttl: ttl, salt: make([]byte, 32), observer: observer, entries: map[volume.SourceKey]entry{}}
	_, _ = rand.Read(t.salt) // never fails (crypto/rand)
	t.flights.OnJoin = limiter.Promote
	return t
}

func (t *table) close() {
	t.flights.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	clear(t.entries)
	if t.timer != nil {
		t.timer.Stop()
	}
}

// get returns an answer that was asked for at or after notBefore, from a request under way or of somebody else where
// there is one. It is kept for the table's time, or longer for later emergencies where keep says so.
func (t *table) get(ctx context.Context, s volume.SourceKey, notBefore time.Time, keep time.Duration,
	ask func(context.Context) (answer, error),
) (answer, error) {
	if a, ok := t.kept(s, notBefore); ok {
		t.observer.Source("cached")
		return a, nil
	}
	if now := t.clock.Now(); notBefore.After(now) {
		notBefore = now // no answer is newer than that
	}
	for {
		a, shared, err := t.flights.Do(ctx, s, func(ctx context.Context) (answer, error) {
			start := t.clock.Now()
			a, err := ask(ctx)
			if err != nil {
				if refused(volume.ReasonOf(err)) {
					t.forget(s)
				}
				return a, err
			}
			a.at = start
			a.digest = t.digest(a)
			return t.keep(s, a, max(t.ttl, keep)), nil
		})
		switch {
		case err != nil:
			return a, err
		case shared && a.at.Before(notBefore):
			continue // the request under way had begun too early
		case shared:
			t.observer.Source("joined")
		default:
			t.observer.Source("requested")
		}
		a.shared = shared
		return a, nil
	}
}

func (t *table) kept(s volume.SourceKey, notBefore time.Time) (answer, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.entries[s]
	if !ok || e.answer.at.Before(notBefore) || t.clock.Since(e.answer.at) > t.ttl {
		return answer{}, false
	}
	e.answer.shared = true
	return e.answer, true
}

// lastGood returns the newest answer that is not older than the age.
func (t *table) lastGood(s volume.SourceKey, age time.Duration) (answer, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.entries[s]
	if !ok || t.clock.Since(e.answer.at) > age {
		return answer{}, false
	}
	t.observer.Source("stale")
	e.answer.shared = true
	return e.answer, true
}

// keep remembers an answer; one that another class wants longer stays as long. It returns the newer one of the answer and
// what is kept: a request that took long must not bring an old value back.
func (t *table) keep(s volume.SourceKey, a answer, d time.Duration) answer {
	t.mu.Lock()
	defer t.mu.Unlock()
	had, ok := t.entries[s]
	if ok && had.answer.at.After(a.at) {
		return had.answer
	}
	if d <= 0 || t.closed {
		return a
	}
	until := a.at.Add(d)
	if ok && had.until.After(until) {
		until = had.until
	}
	t.entries[s] = entry{answer: a, until: until}
	t.arm()
	return a
}

// forget drops what the vault gave once and now refuses: it must not be served when the vault is away.
func (t *table) forget(s volume.SourceKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.entries, s)
}

// refused returns whether an error says that the identity may not have the object (any more), or that it does not exist.
func refused(reason volume.Reason) bool {
	switch reason {
	case volume.ReasonPermission, volume.ReasonFirewall, volume.ReasonNotFound, volume.ReasonDisabled, volume.ReasonIdentity,
		volume.ReasonInvalidClass:
		return true
	case volume.ReasonDNS, volume.ReasonProxy, volume.ReasonNetwork, volume.ReasonUnavailable, volume.ReasonThrottled,
		volume.ReasonInvalidRequest, volume.ReasonClassNotFound, volume.ReasonInvalidContent, volume.ReasonNotReady,
		volume.ReasonFilesystem, volume.ReasonInternal, volume.ReasonTokenExpired:
	}
	return false
}

// arm sets the timer for the next answer to forget. The caller holds the lock.
func (t *table) arm() {
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	var next time.Time
	for _, e := range t.entries {
		if next.IsZero() || e.until.Before(next) {
			next = e.until
		}
	}
	if !next.IsZero() {
		t.timer = t.clock.AfterFunc(next.Sub(t.clock.Now())+time.Millisecond, t.sweep)
	}
}

func (t *table) sweep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	now := t.clock.Now()
	for s, e := range t.entries {
		if !e.until.After(now) {
			delete(t.entries, s)
		}
	}
	t.arm()
}

// digest depends on all of an answer that reaches files or reports.
func (t *table) digest(a answer) [sha256.Size]byte {
	h := hmac.New(sha256.New, t.salt)
	data := struct {
		Object   *vault.Object
		Versions []vault.Attributes
	}{Versions: a.versions}
	if a.object != nil {
		bare := *a.object
		bare.RequestID = ""
		data.Object = &bare
	}
	_ = json.NewEncoder(h).Encode(data) // plain values into a hash: neither can fail
	return [sha256.Size]byte(h.Sum(nil))
}
