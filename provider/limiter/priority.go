package limiter

import (
	"context"
	"math"
	"sync/atomic"
	"time"
)

type claimKey struct{}

// claim says how a request is ordered among those that wait. It travels with a context, and can rise while the request waits.
type claim struct {
	urgent atomic.Bool
	// held is when what a refresh replaces was fetched, in nanoseconds since 1970; unknown where the request is not one of a refresh.
	held atomic.Int64
}

const unknown = math.MaxInt64

func newClaim(urgent bool, held int64) *claim {
	c := &claim{}
	c.urgent.Store(urgent)
	c.held.Store(held)
	return c
}

func claimOf(ctx context.Context) *claim {
	c, _ := ctx.Value(claimKey{}).(*claim)
	return c
}

// WithUrgency returns a context whose requests go before others where urgent is true: those that a starting Pod waits
// for.
func WithUrgency(ctx context.Context, urgent bool) context.Context {
	return context.WithValue(ctx, claimKey{}, newClaim(urgent, unknown))
}

// WithHeld returns a context for the requests of a refresh that replaces what was fetched at the moment; the zero time means that it replaces nothing.
// Among requests that are not urgent those go first that replace the oldest, so that each has its turn however long the queue is.
func WithHeld(ctx context.Context, since time.Time) context.Context {
	held := int64(0)
	if !since.IsZero() {
		held = since.UnixNano()
	}
	return context.WithValue(ctx, claimKey{}, newClaim(Urgent(ctx), held))
}

// Urgent returns whether the context's requests go before others.
func Urgent(ctx context.Context) bool {
	c := claimOf(ctx)
	return c != nil && c.urgent.Load()
}

// Patient returns whether the context's requests are those of a refresh (WithHeld): where the service throttles one, it waits for its turn
// again.
func Patient(ctx context.Context) bool {
	c := claimOf(ctx)
	return c != nil && c.held.Load() != unknown
}

// before reports whether the claim goes before another one that waits for longer; both may be nil.
func (c *claim) before(other *claim) bool {
	switch {
	case c == nil:
		return false
	case other == nil:
		return c.urgent.Load() || c.held.Load() != unknown
	case c.urgent.Load() != other.urgent.Load():
		return c.urgent.Load()
	}
	return !c.urgent.Load() && c.held.Load() < other.held.Load()
}

// Promote lets a waiting request go as early as that of the context which joined it would: a starting Pod now waits for it too, or a refresh
// of older files.
func Promote(waiting, joiner context.Context) {
	c, joined := claimOf(waiting), claimOf(joiner)
	if c == nil || joined == nil {
		return
	}
	if joined.urgent.Load() {
		c.urgent.Store(true)
	}
	for {
		held, older := c.held.Load(), joined.held.Load()
		if older >= held || c.held.CompareAndSwap(held, older) {
			return
		}
	}
}
