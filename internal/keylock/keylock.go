// Package keylock is a lock per key. A key without a holder and waiters costs no memory.
package keylock

import (
	"context"
	"sync"
)

// Locks let one holder at a time work on a key. The zero value is ready to use.
type Locks[K comparable] struct {
	mu   sync.Mutex
	keys map[K]*lock
}

type lock struct {
	// token holds one element while the key is free.
	token chan struct{}
	// users counts those that hold or wait for the key; guarded by Locks.mu.
	users int
	// cancels end the interruptible users; guarded by Locks.mu.
	cancels map[*context.CancelCauseFunc]struct{}
}

// Acquire waits for the key. The caller must call release when it is done. The error is the context's cause.
func (l *Locks[K]) Acquire(ctx context.Context, key K) (release func(), err error) {
	_, release, err = l.acquire(ctx, key, nil)
	return release, err
}

// AcquireInterruptible is Acquire for work that Interrupt may end: the work must use the returned context.
func (l *Locks[K]) AcquireInterruptible(ctx context.Context, key K) (context.Context, func(), error) {
	ctx, cancel := context.WithCancelCause(ctx)
	ctx, release, err := l.acquire(ctx, key, &cancel)
	if err != nil {
		cancel(nil)
		return nil, nil, err
	}
	return ctx, func() {
		release()
		cancel(nil)
	}, nil
}

// Interrupt ends all interruptible holders and waiters of the key with the cause.
func (l *Locks[K]) Interrupt(key K, cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if one, ok := l.keys[key]; ok {
		for cancel := range one.cancels {
			(*cancel)(cause)
		}
	}
}

func (l *Locks[K]) acquire(
	ctx context.Context,
	key K,
	cancel *context.CancelCauseFunc,
) (context.Context, func(), error) {
	one := l.join(key, cancel)
	select {
	case <-one.token:
		return ctx, func() {
			one.token <- struct{}{}
			l.leave(key, one, cancel)
		}, nil
	case <-ctx.Done():
		l.leave(key, one, cancel)
		return nil, nil, context.Cause(ctx)
	}
}

func (l *Locks[K]) join(key K, cancel *context.CancelCauseFunc) *lock {
	l.mu.Lock()
	defer l.mu.Unlock()
	one, ok := l.keys[key]
	if !ok {
		one = &lock{token: make(chan struct{}, 1)}
		one.token <- struct{}{}
		if l.keys == nil {
			l.keys = map[K]*lock{}
		}
		l.keys[key] = one
	}
	one.users++
	if cancel != nil {
		if one.cancels == nil {
			one.cancels = map[*context.CancelCauseFunc]struct{}{}
		}
		one.cancels[cancel] = struct{}{}
	}
	return one
}

func (l *Locks[K]) leave(key K, one *lock, cancel *context.CancelCauseFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(one.cancels, cancel)
	if one.users--; one.users == 0 {
		delete(l.keys, key)
	}
}
