// Package limiter keeps the requests to one service at a pace that it bears: one gate per host with a rate that adapts, a
// moment before which nothing is sent, and a bound on what is under way. Urgent requests go first.
package limiter

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Limits are those of one gate.
type Limits struct {
	// Rate is how many requests a second the gate lets through at most, once Burst is used up.
	Rate float64
	// Burst is how many requests go at once after a quiet time.
	Burst int
	// InFlight bounds the requests under way.
	InFlight int
}

const (
	// slowest is the rate below which no throttling pushes a gate, in requests a second.
	slowest = 0.5
	// recovery is the share of the full rate that a gate regains in each second without throttling.
	recovery = 0.02
	// tripping is how many failures in a row open the circuit.
	tripping = 5
	// The waits without Retry-After: they double from the first to the last.
	firstWait = time.Second
	lastWait  = time.Minute
	// longest bounds what a service may ask to wait: an absurd Retry-After must not silence the driver until its restart.
	longest = time.Hour
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
	// GivenUp means that the caller ended the request: it says nothing about the service.
	GivenUp
)

// Gate is the pace of one service.
type Gate struct {
	host   string
	limits Limits
	clock  clock.WithDelayedExecution

	mu        sync.Mutex
	rate      float64
	tokens    float64
	filled    time.Time
	raised    time.Time
	notBefore time.Time
	reason    volume.Reason // why notBefore stands
	failures  int           // in a row, throttling included
	inFlight  int
	waiters   []*waiter
	timer     clock.Timer
	throttled uint64
	// verdicts counts how often the gate closed. What was sent before the last verdict says nothing new: a connection that
	// breaks under 64 requests is one failure, not 64.
	verdicts uint64
}

type waiter struct {
	ctx context.Context //nolint:containedctx // its urgency may rise while it waits
	// granted is closed when the waiter may go; failed holds why it may not.
	granted chan struct{}
	failed  error
	// sent is the gate's number of verdicts when the waiter was let through.
	sent uint64
}

func newGate(host string, limits Limits, clk clock.WithDelayedExecution) *Gate {
	now := clk.Now()
	return &Gate{
		host: host, limits: limits, clock: clk, rate: limits.Rate, tokens: float64(limits.Burst), filled: now, raised: now,
	}
}

// Enter waits until a request may be sent. The caller must call leave with how it ended, and with what the service asked
// to wait (0: nothing). Where the wait would outlast the caller's deadline, Enter fails at once with the cause.
func (g *Gate) Enter(ctx context.Context) (leave func(Outcome, time.Duration), err error) {
	w := &waiter{ctx: ctx, granted: make(chan struct{})}
	g.mu.Lock()
	g.waiters = append(g.waiters, w)
	g.dispatch()
	g.mu.Unlock()
	select {
	case <-w.granted:
	case <-ctx.Done():
		if g.remove(w) {
			return nil, context.Cause(ctx)
		}
		<-w.granted // it was let through meanwhile
	}
	if w.failed != nil {
		return nil, w.failed
	}
	var once sync.Once
	return func(o Outcome, wait time.Duration) { once.Do(func() { g.leave(w.sent, o, wait) }) }, nil
}

// remove takes a waiter out; it returns false where the waiter was dealt with already.
func (g *Gate) remove(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, other := range g.waiters {
		if other == w {
			g.waiters = append(g.waiters[:i], g.waiters[i+1:]...)
			g.dispatch()
			return true
		}
	}
	return false
}

// dispatch lets through who may go, and sets the timer for the next one. The caller holds the lock.
func (g *Gate) dispatch() {
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	now := g.clock.Now()
	g.refill(now)
	g.refuseHopeless(now)
	for len(g.waiters) > 0 {
		if g.inFlight >= g.allowed() {
			return // the next leave goes on
		}
		if wait := g.wait(now); wait > 0 {
			g.timer = g.clock.AfterFunc(wait, func() {
				g.mu.Lock()
				defer g.mu.Unlock()
				g.dispatch()
			})
			return
		}
		i := g.first()
		w := g.waiters[i]
		g.waiters = append(g.waiters[:i], g.waiters[i+1:]...)
		g.tokens--
		g.inFlight++
		w.sent = g.verdicts
		close(w.granted)
	}
}

// first returns the oldest urgent waiter, else the oldest.
func (g *Gate) first() int {
	for i, w := range g.waiters {
		if Urgent(w.ctx) {
			return i
		}
	}
	return 0
}

// allowed is how many requests may be under way: one as a probe while the circuit is open.
func (g *Gate) allowed() int {
	if g.failures >= tripping {
		return 1
	}
	return g.limits.InFlight
}

func (g *Gate) wait(now time.Time) time.Duration {
	wait := g.notBefore.Sub(now)
	if g.tokens < 1 {
		wait = max(wait, time.Duration((1-g.tokens)/g.rate*float64(time.Second))+time.Microsecond)
	}
	return wait
}

func (g *Gate) refill(now time.Time) {
	if seconds := now.Sub(g.filled).Seconds(); seconds > 0 {
		g.tokens = min(float64(g.limits.Burst), g.tokens+seconds*g.rate)
		g.filled = now
	}
}

// refuseHopeless fails the waiters whose deadline lies before anything is sent again.
func (g *Gate) refuseHopeless(now time.Time) {
	if !g.notBefore.After(now) {
		return
	}
	kept := g.waiters[:0]
	for _, w := range g.waiters {
		if deadline, ok := w.ctx.Deadline(); ok && deadline.Before(g.notBefore) {
			w.failed = g.closed(now)
			close(w.granted)
			continue
		}
		kept = append(kept, w)
	}
	clear(g.waiters[len(kept):])
	g.waiters = kept
}

func (g *Gate) closed(now time.Time) error {
	wait := g.notBefore.Sub(now)
	message := fmt.Sprintf("%s does not answer: nothing is sent to it for %s", g.host, wait.Round(time.Second))
	if g.reason == volume.ReasonThrottled {
		message = fmt.Sprintf("%s asked for fewer requests: nothing is sent to it for %s; if this goes on, spread the "+
			"load over more vaults or rotate less often", g.host, wait.Round(time.Second))
	}
	return &volume.Error{Reason: g.reason, Message: message, RetryAfter: wait}
}

func (g *Gate) leave(sent uint64, o Outcome, asked time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inFlight--
	now := g.clock.Now()
	g.refill(now)
	asked = min(asked, longest)
	news := sent == g.verdicts
	switch o {
	case Answered:
		g.failures = 0
		if since := now.Sub(g.raised).Seconds(); since >= 1 {
			g.rate = min(g.limits.Rate, g.rate+since*recovery*g.limits.Rate)
			g.raised = now
		}
	case Throttled:
		g.throttled++
		if news {
			g.failures++
			g.rate, g.raised = max(slowest, g.rate/2), now
			if asked == 0 {
				asked = backoff(g.failures)
			}
		}
		g.tokens = min(g.tokens, 1)
		g.close(now, asked, volume.ReasonThrottled)
	case Failed:
		if news {
			g.failures++
			if asked == 0 && g.failures >= tripping {
				asked = backoff(g.failures - tripping + 1)
			}
		}
		g.close(now, asked, volume.ReasonUnavailable)
	case GivenUp:
	}
	g.dispatch()
}

// close holds everything back for a while, at least as long as it is held back already.
func (g *Gate) close(now time.Time, wait time.Duration, reason volume.Reason) {
	if wait <= 0 {
		return
	}
	g.verdicts++
	if until := now.Add(wait); until.After(g.notBefore) {
		g.notBefore, g.reason = until, reason
	}
}

// backoff returns the wait after the given number of failures in a row, with jitter.
func backoff(failures int) time.Duration {
	wait := lastWait
	if shift := failures - 1; shift < 6 {
		wait = min(lastWait, firstWait<<shift)
	}
	return wait/2 + rand.N(wait/2+1) //nolint:gosec // jitter is no secret
}

// Snapshot is what a gate looks like now.
type Snapshot struct {
	Host string `json:"host"`
	// Rate is in requests a second.
	Rate float64 `json:"rate"`
	// NotBefore is zero where nothing is held back.
	NotBefore time.Time `json:"notBefore,omitzero"`
	InFlight  int       `json:"inFlight"`
	Waiting   int       `json:"waiting"`
	// Throttled counts the answers that asked for fewer requests.
	Throttled uint64 `json:"throttled"`
	// Open is true while the service does not answer and only a probe is sent now and then.
	Open bool `json:"open"`
}

func (g *Gate) snapshot() Snapshot {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Snapshot{
		Host: g.host, Rate: g.rate, InFlight: g.inFlight, Waiting: len(g.waiters), Throttled: g.throttled,
		Open: g.failures >= tripping,
	}
	if g.notBefore.After(g.clock.Now()) {
		s.NotBefore = g.notBefore
	}
	return s
}
