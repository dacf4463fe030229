package driver

import (
	"context"
	"errors"
	"sync"
)

// errInterrupted is why a publish ends when its volume is unpublished meanwhile.
var errInterrupted = errors.New("the volume was unpublished while it was being published")

// targets lets one call at a time work on a target path.
type targets struct {
	mu    sync.Mutex
	slots map[string]*slot
}

type slot struct {
	turn chan struct{} // holds one element while nobody works on the target
	// users counts those that hold or wait for the turn; guarded by targets.mu.
	users int
	// interrupts end the publishes that hold or wait for the turn; guarded by targets.mu.
	interrupts map[*context.CancelCauseFunc]struct{}
}

// lock waits for the target's turn. The caller must call the returned function when it is done.
func (t *targets) lock(ctx context.Context, path string) (unlock func(), err error) {
	s := t.enter(path, nil)
	select {
	case <-s.turn:
		return func() {
			s.turn <- struct{}{}
			t.leave(path, s, nil)
		}, nil
	case <-ctx.Done():
		t.leave(path, s, nil)
		return nil, context.Cause(ctx)
	}
}

// lockInterruptible is lock for a call that interrupt may end: its work must use the returned context.
func (t *targets) lockInterruptible(ctx context.Context, path string) (context.Context, func(), error) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := t.enter(path, &cancel)
	select {
	case <-s.turn:
		return ctx, func() {
			s.turn <- struct{}{}
			t.leave(path, s, &cancel)
			cancel(nil)
		}, nil
	case <-ctx.Done():
		t.leave(path, s, &cancel)
		cancel(nil)
		return nil, nil, context.Cause(ctx)
	}
}

// interrupt ends all interruptible calls on the target.
func (t *targets) interrupt(path string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, ok := t.slots[path]; ok {
		for cancel := range s.interrupts {
			(*cancel)(errInterrupted)
		}
	}
}

func (t *targets) enter(path string, cancel *context.CancelCauseFunc) *slot {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.slots[path]
	if !ok {
		s = &slot{turn: make(chan struct{}, 1), interrupts: map[*context.CancelCauseFunc]struct{}{}}
		s.turn <- struct{}{}
		if t.slots == nil {
			t.slots = map[string]*slot{}
		}
		t.slots[path] = s
	}
	s.users++
	if cancel != nil {
		s.interrupts[cancel] = struct{}{}
	}
	return s
}

func (t *targets) leave(path string, s *slot, cancel *context.CancelCauseFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cancel != nil {
		delete(s.interrupts, cancel)
	}
	if s.users--; s.users == 0 {
		delete(t.slots, path)
	}
}
