// Package flight lets concurrent callers that want the same thing share one call, which ends when nobody waits for it any
// more. Unlike x/sync/singleflight a caller that gives up neither ends nor keeps alive what others wait for.
package flight

import (
	"context"
	"errors"
	"sync"
)

// ErrClosed is returned after Close.
var ErrClosed = errors.New("the driver is stopping")

// Group runs at most one call per key at a time.
type Group[K comparable, V any] struct {
	// OnJoin is told when a caller joins a call that is under way; may be nil. It must not block.
	OnJoin func(call, joiner context.Context)

	mu     sync.Mutex
	calls  map[K]*call[V]
	closed bool
	work   sync.WaitGroup
}

type call[V any] struct {
	ctx     context.Context //nolint:containedctx // it is the call's own, made here
	cancel  context.CancelFunc
	waiters int
	done    chan struct{}
	value   V
	err     error
}

// Do returns what fn returns for the key, from a call under way where there is one; shared tells which. The call runs
// with the values of the first caller's context; it is cancelled when the last caller's context ended.
func (g *Group[K, V]) Do(ctx context.Context, key K, fn func(context.Context) (V, error)) (value V, shared bool, err error) {
	if err := ctx.Err(); err != nil {
		return value, false, context.Cause(ctx)
	}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return value, false, ErrClosed
	}
	c, shared := g.calls[key]
	if !shared {
		c = g.start(ctx, key, fn)
	} else if g.OnJoin != nil {
		g.OnJoin(c.ctx, ctx)
	}
	c.waiters++
	g.mu.Unlock()
	select {
	case <-c.done:
		return c.value, shared, c.err
	case <-ctx.Done():
		g.mu.Lock()
		defer g.mu.Unlock()
		if c.waiters--; c.waiters == 0 {
			c.cancel()
			if g.calls[key] == c { // a new caller must not join a call that was given up
				delete(g.calls, key)
			}
		}
		return value, shared, context.Cause(ctx)
	}
}

func (g *Group[K, V]) start(ctx context.Context, key K, fn func(context.Context) (V, error)) *call[V] {
	callCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &call[V]{ctx: callCtx, cancel: cancel, done: make(chan struct{})}
	if g.calls == nil {
		g.calls = map[K]*call[V]{}
	}
	g.calls[key] = c
	g.work.Go(func() {
		defer cancel()
		c.value, c.err = fn(callCtx)
		g.mu.Lock()
		if g.calls[key] == c {
			delete(g.calls, key)
		}
		g.mu.Unlock()
		close(c.done)
	})
	return c
}

// Close cancels all calls and waits for them.
func (g *Group[K, V]) Close() {
	g.mu.Lock()
	g.closed = true
	for _, c := range g.calls {
		c.cancel()
	}
	g.mu.Unlock()
	g.work.Wait()
}
