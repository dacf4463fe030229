package flight

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrClosed is returned after Close.
var ErrClosed = errors.New("the driver is stopping")

// Group runs at most one call per key at a time.
type Group[K comparable, V any] struct {
	// OnJoin is called when a caller joins a call that is under way; may be nil. It must not block.
	OnJoin func(call, joiner context.Context)
	// OnPanic returns the error that callers get where their call panics; may be nil. It is called in the goroutine
	// that panics.
	OnPanic func(ctx context.Context, value any) error

	mu     sync.Mutex
	calls  map[K]*call[V]
	closed bool
	work   sync.WaitGroup
}

type call[V any] struct {
	ctx     context.Context // it is the call's own, made here
	cancel  context.CancelFunc
	waiters int
	done    chan struct{}
	value   V
	err     error
}

// Do returns what fn returns for the key, from a call under way where there is one; shared says which. The call runs
// with the values of the first caller's context; it is canceled when the last caller's context has ended.
func (g *Group[K, V]) Do(
	ctx context.Context,
	key K,
	fn func(context.Context) (V, error),
) (value V, shared bool, err error) {
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
		c.value, c.err = g.guard(callCtx, fn)
		g.mu.Lock()
		if g.calls[key] == c {
			delete(g.calls, key)
		}
		g.mu.Unlock()
		close(c.done)
	})
	return c
}

// guard runs a call. A panic in it becomes its error.
func (g *Group[K, V]) guard(ctx context.Context, fn func(context.Context) (V, error)) (value V, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a call: %T", p)
			if g.OnPanic != nil {
				err = g.OnPanic(ctx, p)
			}
		}
	}()
	return fn(ctx)
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
