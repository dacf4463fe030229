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

	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/flight"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/identity"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
)

// answer is what a vault answered, as the table keeps it.
type answer struct {
	vault.Answer
	// asked is when the request began.
	asked time.Time
	// hash changes when the answer changes.
	hash [sha256.Size]byte
	// read is when the vault gave the object, by its own clock, and got when that was requested, by this node's. Date and asked are later
	// where a list confirmed it.
	read, got time.Time
	// shared is true where the answer is from a request of another caller.
	shared bool
	// stale is true for a last known good answer in place of one that could not be had.
	stale bool
	// absent is why there is no object: it does not exist or is disabled; nil where there is one. Only queries for optional objects
	// get such an answer; others get the error.
	absent *volume.Error
}

// query is a question to the table.
type query struct {
	key volume.SourceKey
	// name is the object's as the class spells it; scope and identity are for the vault.
	name, scope string
	identity    *identity.Identity
	// notBefore is the earliest request whose answer will do.
	notBefore time.Time
	// optional is true where the object may be absent.
	optional bool
	// refresh is true where an answer that is held for the next try of a refresh will do.
	refresh bool
	// keep is how long the answer is kept for later emergencies, beyond the table's own time.
	keep time.Duration
	// refused is why the vault is not to be asked, where no kept answer will do; nil where it is.
	refused error
	// deadline is when the caller gives up; zero where it does not. The table sets it.
	deadline time.Time
}

// table is the one place where answers are shared: by callers at the same time, by those a moment later, and, where a
// class opts in, by those that come while the vault cannot be reached.
type table struct {
	tableOptions
	key     []byte // of the hashes
	flights flight.Group[volume.SourceKey, answer]

	mu      sync.Mutex
	entries map[volume.SourceKey]entry
	timer   clock.Timer
	closed  bool
}

type tableOptions struct {
	clock clock.WithDelayedExecution
	// ttl is how long an answer is shared.
	ttl      time.Duration
	observer Observer
	safe     safe.Handler
	// ask asks the vault.
	ask func(context.Context, query) (vault.Answer, error)
}

// mostPace is how long a list of all objects is kept at least, because it may serve for as long.
const mostPace = 15 * time.Minute

// mostHeld bounds how old an answer is that a refresh which was throttled finds at its next try.
const mostHeld = 10 * time.Minute

type entry struct {
	answer answer
	until  time.Time
	// held is true where the answer is kept for the next try of a refresh.
	held bool
}

func newTable(o tableOptions) *table {
	t := &table{tableOptions: o, key: make([]byte, sha256.Size), entries: map[volume.SourceKey]entry{}}
	_, _ = rand.Read(t.key) // never fails (crypto/rand)
	t.flights.OnJoin = limiter.Promote
	t.flights.OnPanic = func(ctx context.Context, p any) error { return t.safe.Recovered(ctx, "request to a vault", p) }
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

// confirm notes that an answer which is kept was still the vault's at a later time, and keeps it for longer. What is kept may be newer
// by then.
func (t *table) confirm(key volume.SourceKey, held answer, at, date time.Time, d time.Duration) answer {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.entries[key]
	if held.shared = true; !ok || e.answer.hash != held.hash || e.answer.asked.After(at) {
		held.asked, held.Date = at, date
		return held
	}
	e.answer.asked, e.answer.Date = at, date
	if until := at.Add(d); until.After(e.until) {
		e.until = until
	}
	t.entries[key] = e
	held.asked, held.Date = at, date
	return held
}

// held returns a kept answer of any age.
func (t *table) held(key volume.SourceKey) (answer, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.entries[key]
	return e.answer, ok && e.answer.absent == nil
}

// pace returns for how long a list of all objects serves before it is asked for again. All lists have an equal share of one request a
// second, so that the lists of this node together make no more, and a large one does not slow down those of others. The caller holds the
// lock.
func (t *table) pace(pages int) time.Duration {
	lists := 0
	for key := range t.entries {
		if isCatalog(key) {
			lists++
		}
	}
	return min(mostPace, time.Duration(pages*lists)*time.Second)
}

// isCatalog reports whether the key is that of the list of all objects of a kind.
func isCatalog(key volume.SourceKey) bool { return key.List && key.Name == "" && key.Selection == "" }

// get returns an answer to a request that began at or after notBefore: a kept one, that of a request under way, or that
// of a new one.
func (t *table) get(ctx context.Context, q query) (answer, error) {
	if a, ok := t.recent(q); ok {
		t.observer.Source("cached")
		return a, nil
	}
	if q.refused != nil {
		return answer{}, q.refused
	}
	asked := q
	if now := t.clock.Now(); q.notBefore.After(now) {
		q.notBefore = now // no answer is newer than that
	}
	q.deadline, _ = ctx.Deadline()
	for {
		a, shared, err := t.flights.Do(ctx, q.key,
			func(ctx context.Context) (answer, error) {
				if a, ok := t.recent(asked); ok { // a request that ended since the look above
					return a, nil
				}
				return t.request(ctx, q)
			})
		if err == nil && a.absent != nil && !q.optional {
			err = a.absent
		}
		switch {
		case err != nil:
			return answer{}, err
		case shared && a.asked.Before(q.notBefore):
			continue // the request under way had begun too early
		case shared:
			t.observer.Source("joined")
		case a.shared:
			t.observer.Source("cached")
		default:
			t.observer.Source("requested")
		}
		a.shared = a.shared || shared
		return a, nil
	}
}

// request asks the vault and keeps what it answers.
func (t *table) request(ctx context.Context, q query) (answer, error) {
	start := t.clock.Now()
	got, err := t.ask(ctx, q)
	if err != nil {
		reason := volume.ReasonOf(err)
		if refused(reason) {
			t.forget(q.key)
		}
		if reason != volume.ReasonNotFound && reason != volume.ReasonDisabled {
			return answer{}, err
		}
		absent := answer{asked: start, hash: t.hash(vault.Answer{}), absent: asError(err)}
		if q.optional {
			absent = t.keep(q.key, absent, t.ttl)
		}
		return absent, nil
	}
	keep := max(t.ttl, q.keep)
	if isCatalog(q.key) {
		keep = max(keep, mostPace)
	}
	return t.keep(q.key, answer{Answer: got, asked: start, read: got.Date, got: start, hash: t.hash(got)}, keep), nil
}

// recent returns a kept answer that may be shared.
func (t *table) recent(q query) (answer, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.entries[q.key]
	if ok && isCatalog(q.key) && t.clock.Since(e.answer.asked) < t.pace(e.answer.Pages) {
		e.answer.shared = true
		return e.answer, true
	}
	most := t.ttl
	if q.refresh && e.held {
		most = mostHeld
	}
	if !ok || e.answer.asked.Before(q.notBefore) || t.clock.Since(e.answer.asked) > most || e.answer.absent != nil && !q.optional {
		return answer{}, false
	}
	e.answer.shared = true
	return e.answer, true
}

// keeps reports whether there is an answer that is not older than the age.
func (t *table) keeps(key volume.SourceKey, age time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.entries[key]
	return ok && t.clock.Since(e.answer.asked) <= age && e.answer.absent == nil
}

// lastGood returns the newest answer that is not older than the age.
func (t *table) lastGood(key volume.SourceKey, age time.Duration) (answer, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.entries[key]
	if !ok || t.clock.Since(e.answer.asked) > age || e.answer.absent != nil {
		return answer{}, false
	}
	t.observer.Source("stale")
	e.answer.shared, e.answer.stale = true, true
	return e.answer, true
}

// keep remembers an answer; one that another class wants longer stays as long. It returns the newer one of the answer
// and what is kept: a request that took long must not bring an old value back.
func (t *table) keep(key volume.SourceKey, a answer, d time.Duration) answer {
	t.mu.Lock()
	defer t.mu.Unlock()
	had, ok := t.entries[key]
	if ok && had.answer.asked.After(a.asked) {
		return had.answer
	}
	if d <= 0 || t.closed {
		return a
	}
	until := a.asked.Add(d)
	if ok && had.until.After(until) {
		until = had.until
	}
	t.entries[key] = entry{answer: a, until: until}
	t.arm()
	return a
}

// hold keeps an answer for the next try of a refresh.
func (t *table) hold(key volume.SourceKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.entries[key]
	if !ok || t.closed {
		return
	}
	e.held = true
	if until := e.answer.asked.Add(mostHeld); until.After(e.until) {
		e.until = until
	}
	t.entries[key] = e
	t.arm()
}

// forget drops what the vault gave once and now refuses: it must not be served when the vault is away.
func (t *table) forget(key volume.SourceKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.entries, key)
}

// refused returns whether an error says that the identity may not have the object (any more), or that it does not
// exist.
func refused(reason volume.Reason) bool {
	switch reason {
	case volume.ReasonPermission, volume.ReasonFirewall, volume.ReasonNotFound, volume.ReasonDisabled,
		volume.ReasonIdentity, volume.ReasonInvalidClass:
		return true
	default:
		return false
	}
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

// sweep forgets the answers whose time is up. The timer calls it in a goroutine of its own.
func (t *table) sweep() {
	_ = t.safe.Do(context.Background(), "forget answers", func() error {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.closed {
			return nil
		}
		now := t.clock.Now()
		for key, e := range t.entries {
			if !e.until.After(now) {
				delete(t.entries, key)
			}
		}
		t.arm()
		return nil
	})
}

// digest is a keyed hash of a text.
func (t *table) digest(text string) [sha256.Size]byte {
	h := hmac.New(sha256.New, t.key)
	_, _ = h.Write([]byte(text))
	return [sha256.Size]byte(h.Sum(nil))
}

// hash depends on all of an answer that reaches files or reports. It is keyed: it cannot be tested against guesses.
func (t *table) hash(a vault.Answer) [sha256.Size]byte {
	h := hmac.New(sha256.New, t.key)
	a.Date = time.Time{}
	if a.Object != nil {
		bare := *a.Object
		bare.RequestID = ""
		a.Object = &bare
	}
	_ = json.NewEncoder(h).Encode(a) // plain values into a hash: neither can fail
	return [sha256.Size]byte(h.Sum(nil))
}
