package keylock

import (
	"context"
	"errors"
	"sync"
	"testing"
)

func TestOneHolderPerKey(t *testing.T) {
	var l Locks[string]
	var work sync.WaitGroup
	held := 0
	for range 100 {
		work.Go(func() {
			release, err := l.Acquire(t.Context(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			held++ // the race detector sees a second holder
			release()
		})
	}
	other, err := l.Acquire(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	work.Wait()
	other()
	if held != 100 || len(l.keys) != 0 {
		t.Errorf("%d holders, %d keys are left", held, len(l.keys))
	}
}

func TestWaitersEndWithTheirContextOrByInterrupt(t *testing.T) {
	var l Locks[string]
	ctx, release, err := l.AcquireInterruptible(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Acquire(canceled, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled waiter: %v", err)
	}
	cause := errors.New("unpublished")
	l.Interrupt("a", cause)
	<-ctx.Done()
	if got := context.Cause(ctx); !errors.Is(got, cause) {
		t.Errorf("holder: %v", got)
	}
	l.Interrupt("b", cause) // a key without users
	release()
	if len(l.keys) != 0 {
		t.Errorf("%d keys are left", len(l.keys))
	}
}
