package identity

import (
	"context"
	"sync"
	"time"
)

type waitKey struct{}

// Wait collects how long the requests of a context waited for tokens that had to be asked for.
type Wait struct {
	mu      sync.Mutex
	longest time.Duration
}

// WithWait returns a context whose waits for tokens are collected.
func WithWait(ctx context.Context) (context.Context, *Wait) {
	w := &Wait{}
	return context.WithValue(ctx, waitKey{}, w), w
}

// Longest returns the longest wait: requests that go in parallel wait for the same token.
func (w *Wait) Longest() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.longest
}

// noteWait adds to the context's Wait, if it has one.
func noteWait(ctx context.Context, took time.Duration) {
	if w, ok := ctx.Value(waitKey{}).(*Wait); ok {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.longest = max(w.longest, took)
	}
}
