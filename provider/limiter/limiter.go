package limiter

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Limits are those of one limiter.
type Limits struct {
	// InFlight bounds the requests under way; 0 means that they are not bounded.
	InFlight int
	// Rate is the highest number of requests a second, once Burst is used up; 0 means that there is no limit until the
	// service throttles.
	Rate float64
	// Burst is how many requests go at once after a quiet time. It counts with Rate only.
	Burst int
	// Advice says what a person can do where the service goes on throttling.
	Advice string
}

const (
	// lowestRate is the rate below which no throttling pushes a limiter, in requests a second. 8,000 nodes at this rate are what one vault
	// bears.
	lowestRate = 0.05
	// lowestFirst is the rate below which the first throttling does not push a limiter: what passes soon must not delay refreshes for minutes.
	lowestFirst = 0.5
	// urgentPause is how long an urgent request waits after the last one for its turn, however low the rate is.
	urgentPause = 2 * time.Second
	// recovery is how much the rate rises in each second without throttling, as a share of what it was when it began.
	recovery = 0.02
	// mostLate bounds how much faster the rate of a node rises whose refreshes are late.
	mostLate = 40
	// lifted is how many times the rate that it began with a learned rate must reach until there is no limit any more.
	lifted = 4
	// failuresToOpen is how many failures in a row open the circuit breaker.
	failuresToOpen = 5
	// The backoff without Retry-After: it doubles from the first to the last.
	firstBackoff = time.Second
	lastBackoff  = time.Minute
	// longestThrottled bounds the backoff after throttling: the rate is lowered as well, and who waits for minutes loses its share to others.
	longestThrottled = 16 * time.Second
	// longestJitter bounds what is added to a Retry-After, so that not all nodes come at the moment that it names.
	longestJitter = 10 * time.Second
)

// Outcome is how a request ended.
type Outcome int

const (
	// Answered means that the service did its work, if only to refuse.
	Answered Outcome = iota
	// Throttled means that the service asks for fewer requests.
	Throttled
	// Failed means that the service did not answer, or not with an answer.
	Failed
	// Canceled means that the caller ended the request: it says nothing about the service.
	Canceled
)

// Release returns a limiter. It takes how the request ended, and how long the service asked to wait (0: nothing). Only
// the first call counts.
type Release func(outcome Outcome, retryAfter time.Duration)

// Limiter bounds the requests to one service.
type Limiter struct {
	name   string
	limits Limits
	clock  clock.WithDelayedExecution
	// onPanic is that of Options.
	onPanic func(value any)

	mu sync.Mutex
	// rate is in requests a second; 0 means that the rate is not limited. base is the rate when the limit began.
	rate, base float64
	raised     time.Time
	tokens     float64
	filled     time.Time
	sent       history
	last       time.Time // when a request was sent
	notBefore  time.Time
	reason     volume.Reason // of notBefore
	failures   int           // in a row, throttling included
	inFlight   int
	waiters    []*waiter
	timer      clock.Timer
	throttled  uint64
	used       time.Time
	// closings counts how often notBefore was set. A request that was sent before the last closing brings no news: a
	// connection that breaks under 64 requests is one failure, not 64.
	closings uint64
}

type waiter struct {
	ctx   context.Context
	claim *claim // of ctx
	// done is closed when the waiter may go; failed holds why it may not.
	done   chan struct{}
	failed error
	// closings is the limiter's count when the waiter's request was sent.
	closings uint64
}

func newLimiter(name string, limits Limits, o Options) *Limiter {
	now := o.Clock.Now()
	return &Limiter{
		name:    name,
		limits:  limits,
		clock:   o.Clock,
		onPanic: o.OnPanic,
		rate:    limits.Rate,
		base:    limits.Rate,
		tokens:  float64(limits.Burst),
		filled:  now,
		raised:  now,
		used:    now,
	}
}

// Acquire waits until a request may be sent. Where that is later than the context's deadline it fails at once, with an
// error of type *volume.Error that says why. It returns the context's cause where the caller cancels.
func (l *Limiter) Acquire(ctx context.Context) (Release, error) {
	w := &waiter{ctx: ctx, claim: claimOf(ctx), done: make(chan struct{})}
	l.mu.Lock()
	l.used = l.clock.Now()
	l.waiters = append(l.waiters, w)
	l.dispatch()
	l.mu.Unlock()
	select {
	case <-w.done:
	case <-ctx.Done():
		if l.remove(w) {
			return nil, l.noTurn(context.Cause(ctx))
		}
		<-w.done // it may go, or may not, since a moment
	}
	if w.failed != nil {
		return nil, w.failed
	}
	var once sync.Once
	return func(o Outcome, retryAfter time.Duration) {
		once.Do(func() { l.release(w.closings, o, retryAfter) })
	}, nil
}

// remove takes a waiter out; it returns false where the waiter is done already.
func (l *Limiter) remove(w *waiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, other := range l.waiters {
		if other == w {
			l.waiters = append(l.waiters[:i], l.waiters[i+1:]...)
			l.dispatch()
			return true
		}
	}
	return false
}

// noTurn explains why a request was not sent before its deadline.
func (l *Limiter) noTurn(cause error) error {
	if !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &volume.Error{Reason: volume.ReasonUnavailable, Cause: cause}
	e.Message = fmt.Sprintf("%s was not asked in time: %d requests to it are under way and %d wait", l.name, l.inFlight,
		len(l.waiters))
	if l.rate > 0 && l.inFlight < l.allowed() {
		e.Reason = volume.ReasonThrottled
		e.Message = fmt.Sprintf(
			"%s was not asked in time: it asked for fewer requests, gets %.1f a second, and %d wait; if this goes "+
				"on, %s", l.name, l.rate, len(l.waiters), l.limits.Advice)
	}
	return e
}

// dispatch lets those go that may, and sets the timer for the next one. The caller holds the lock.
func (l *Limiter) dispatch() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	now := l.clock.Now()
	l.refill(now)
	l.failHopeless(now)
	for len(l.waiters) > 0 {
		if l.inFlight >= l.allowed() {
			return // the next release goes on
		}
		i := l.first()
		w := l.waiters[i]
		if wait := l.wait(now, w); wait > 0 {
			// sooner than its turn, because what waits may have become urgent by then (Promote)
			l.timer = l.clock.AfterFunc(max(l.notBefore.Sub(now), min(wait, urgentPause)), l.resume)
			return
		}
		l.waiters = append(l.waiters[:i], l.waiters[i+1:]...)
		l.tokens = max(0, l.tokens-1)
		l.inFlight++
		l.sent.add(now)
		l.last = now
		w.closings = l.closings
		close(w.done)
	}
}

// resume is what the timer calls, in a goroutine of its own.
func (l *Limiter) resume() {
	defer func() {
		if p := recover(); p != nil && l.onPanic != nil {
			l.onPanic(p)
		}
	}()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatch()
}

// first returns the waiter that goes next: the oldest urgent one, else that of the refresh which replaces the oldest.
func (l *Limiter) first() (next int) {
	for i, w := range l.waiters {
		if w.claim.before(l.waiters[next].claim) {
			next = i
		}
	}
	return next
}

// allowed is how many requests may be under way: one as a probe while the circuit breaker is open.
func (l *Limiter) allowed() int {
	switch {
	case l.open():
		return 1
	case l.limits.InFlight == 0:
		return int(^uint(0) >> 1)
	}
	return l.limits.InFlight
}

func (l *Limiter) open() bool { return l.failures >= failuresToOpen }

// wait is how long the waiter that is next may not go.
func (l *Limiter) wait(now time.Time, next *waiter) time.Duration {
	wait := l.notBefore.Sub(now)
	if l.rate == 0 || l.tokens >= 1 {
		return wait
	}
	turn := time.Duration((1-l.tokens)/l.rate*float64(time.Second)) + time.Microsecond
	if next.claim != nil && next.claim.urgent.Load() {
		turn = min(turn, l.last.Add(urgentPause).Sub(now))
	}
	return max(wait, turn)
}

// refill adds the tokens of the time that has passed.
func (l *Limiter) refill(now time.Time) {
	burst := max(1, l.rate)
	if l.limits.Rate > 0 {
		burst = float64(l.limits.Burst)
	}
	seconds := now.Sub(l.filled).Seconds()
	if l.rate == 0 {
		l.tokens = burst
	} else if seconds > 0 {
		l.tokens = min(burst, l.tokens+seconds*l.rate)
	}
	l.filled = now
}

// failHopeless fails the waiters whose deadline is before anything is sent again.
func (l *Limiter) failHopeless(now time.Time) {
	if !l.notBefore.After(now) {
		return
	}
	kept := l.waiters[:0]
	for _, w := range l.waiters {
		if deadline, ok := w.ctx.Deadline(); ok && deadline.Before(l.notBefore) {
			w.failed = l.closed(now)
			close(w.done)
			continue
		}
		kept = append(kept, w)
	}
	clear(l.waiters[len(kept):])
	l.waiters = kept
}

func (l *Limiter) closed(now time.Time) error {
	wait := l.notBefore.Sub(now)
	message := fmt.Sprintf("%s does not answer: nothing is sent to it for %s", l.name, wait.Round(time.Second))
	if l.reason == volume.ReasonThrottled {
		message = fmt.Sprintf("%s asked for fewer requests: nothing is sent to it for %s; if this goes on, %s", l.name,
			wait.Round(time.Second), l.limits.Advice)
	}
	return &volume.Error{Reason: l.reason, Message: message, RetryAfter: wait}
}

func (l *Limiter) release(closings uint64, o Outcome, retryAfter time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inFlight--
	now := l.clock.Now()
	l.refill(now)
	l.used = now
	retryAfter = min(retryAfter, LongestRetryAfter)
	news := closings == l.closings
	switch o {
	case Answered:
		l.failures = 0
		l.raise(now)
	case Throttled:
		l.throttled++
		if news {
			l.failures++
			l.lower(now)
			if retryAfter == 0 {
				retryAfter = backoff(l.failures, longestThrottled)
			} else {
				retryAfter += rand.N(min(retryAfter/4, longestJitter) + 1) //nolint:gosec // jitter is no secret
			}
		}
		l.close(now, retryAfter, volume.ReasonThrottled)
	case Failed:
		if news {
			l.failures++
			if retryAfter == 0 && l.open() {
				retryAfter = backoff(l.failures-failuresToOpen+1, lastBackoff)
			}
		}
		l.close(now, retryAfter, volume.ReasonUnavailable)
	case Canceled:
	}
	l.dispatch()
}

// lower halves the rate.
func (l *Limiter) lower(now time.Time) {
	before := l.rate
	switch {
	case before == 0:
		before = max(2*lowestFirst, l.sent.rate(now))
		l.base = before / 2
	case l.limits.Rate == 0:
		l.base = min(l.base, before) // what was sent before it throttled first was a burst, if the service does not bear that now
	}
	l.rate, l.raised, l.filled = max(lowestRate, before/2), now, now
	// A service that counts in windows of ten seconds would else be asked at the same point of each, where it throttles each time.
	l.tokens = rand.Float64() - 0.5 //nolint:gosec // jitter is no secret
}

// late is how many minutes old that is which the next waiting refresh replaces, at most mostLate; 0 where none waits. Nodes know nothing of
// each other: those that are late raise their rate faster, so that they take their share from those that are not.
func (l *Limiter) late(now time.Time) float64 {
	held := int64(unknown)
	for _, w := range l.waiters {
		if w.claim != nil {
			held = min(held, w.claim.held.Load())
		}
	}
	if held == unknown {
		return 0
	}
	return min(mostLate, now.Sub(time.Unix(0, held)).Minutes())
}

// raise lets the rate rise by the time that has passed, and lifts a learned limit in the end.
func (l *Limiter) raise(now time.Time) {
	since := now.Sub(l.raised).Seconds()
	if l.rate == 0 || since < 1 {
		return
	}
	l.rate += since * recovery * max(l.base, lowestRate*l.late(now))
	l.raised = now
	switch highest := l.limits.Rate; {
	case highest > 0:
		l.rate = min(highest, l.rate)
	case l.rate >= lifted*l.base && len(l.waiters) == 0: // else all that wait would go at once
		l.rate = 0
	}
}

// close lets nothing through for a while, at least as long as it is closed already.
func (l *Limiter) close(now time.Time, wait time.Duration, reason volume.Reason) {
	if wait <= 0 {
		return
	}
	l.closings++
	if until := now.Add(wait); until.After(l.notBefore) {
		l.notBefore, l.reason = until, reason
	}
}

// backoff returns the wait after the given number of failures in a row, at most the longest, with jitter.
func backoff(failures int, longest time.Duration) time.Duration {
	wait := longest
	if shift := failures - 1; shift < 6 {
		wait = min(longest, firstBackoff<<shift)
	}
	return wait/2 + rand.N(wait/2+1) //nolint:gosec // jitter is no secret
}

// idle returns whether the limiter holds nothing that anybody needs.
func (l *Limiter) idle(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inFlight == 0 && len(l.waiters) == 0 && !l.notBefore.After(now) && now.Sub(l.used) > idleTime
}

func (l *Limiter) snapshot() Snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Snapshot{
		Rate:      l.rate,
		InFlight:  l.inFlight,
		Waiting:   len(l.waiters),
		Throttled: l.throttled,
		Open:      l.open(),
	}
	if l.notBefore.After(l.clock.Now()) {
		s.NotBefore = l.notBefore
	}
	return s
}

// historySeconds is how far back the rate of what was sent is measured.
const historySeconds = 10

// history counts requests by second.
type history struct {
	counts [historySeconds]int
	second [historySeconds]int64 // the Unix time that a count is of
}

func (h *history) add(now time.Time) {
	second := now.Unix()
	i := second % historySeconds
	if h.second[i] != second {
		h.second[i], h.counts[i] = second, 0
	}
	h.counts[i]++
}

// rate is the mean over the last seconds, in requests a second.
func (h *history) rate(now time.Time) float64 {
	total := 0
	for i, second := range h.second {
		if age := now.Unix() - second; age >= 0 && age < historySeconds {
			total += h.counts[i]
		}
	}
	return float64(total) / historySeconds
}
