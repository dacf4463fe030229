package limiter

import (
	"context"
	"sync/atomic"
)

type urgencyKey struct{}

// urgency travels with a context; it can rise while a request waits.
type urgency struct{ high atomic.Bool }

// WithUrgency returns a context whose requests go before others where urgent is true: those that a starting Pod waits
// for.
func WithUrgency(ctx context.Context, urgent bool) context.Context {
	u := &urgency{}
	u.high.Store(urgent)
	return context.WithValue(ctx, urgencyKey{}, u)
}

// Urgent returns whether the context's requests go before others.
func Urgent(ctx context.Context) bool {
	u, ok := ctx.Value(urgencyKey{}).(*urgency)
	return ok && u.high.Load()
}

// Promote makes a waiting request urgent where the context that joined it is: a starting Pod now waits for it too.
func Promote(waiting, joiner context.Context) {
	if u, ok := waiting.Value(urgencyKey{}).(*urgency); ok && Urgent(joiner) {
		u.high.Store(true)
	}
}
