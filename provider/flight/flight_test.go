package flight

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type result struct {
	value  int
	shared bool
	err    error
}

// do calls Do in a goroutine of its own.
func do(ctx context.Context, g *Group[string, int], key string, fn func(context.Context) (int, error)) <-chan result {
	c := make(chan result, 1)
	go func() {
		v, shared, err := g.Do(ctx, key, fn)
		c <- result{v, shared, err}
	}()
	synctest.Wait()
	return c
}

func never(context.Context) (int, error) { panic("a second call") }

func TestCallersShareOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group[string, int]
		release := make(chan struct{})
		first := do(t.Context(), &g, "k", func(context.Context) (int, error) { <-release; return 7, nil })
		second := do(t.Context(), &g, "k", never)
		other := do(t.Context(), &g, "other", func(context.Context) (int, error) { return 1, errors.New("its own") })
		if got := <-other; got.err == nil || got.shared {
			t.Errorf("another key: %+v", got)
		}
		close(release)
		if got := <-first; got != (result{value: 7}) {
			t.Errorf("first: %+v", got)
		}
		if got := <-second; got != (result{value: 7, shared: true}) {
			t.Errorf("second: %+v", got)
		}
		again := do(t.Context(), &g, "k", func(context.Context) (int, error) { return 8, nil })
		if got := <-again; got != (result{value: 8}) {
			t.Errorf("after it: %+v", got)
		}
		g.Close()
	})
}

func TestACallLivesAsLongAsSomebodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group[string, int]
		release := make(chan struct{})
		var ended atomic.Bool
		fn := func(ctx context.Context) (int, error) {
			select {
			case <-release:
				return 7, nil
			case <-ctx.Done():
				ended.Store(true)
				return 0, ctx.Err()
			}
		}
		mine := errors.New("pod deleted")
		ctx, cancel := context.WithCancelCause(t.Context())
		first, second := do(ctx, &g, "k", fn), do(t.Context(), &g, "k", never)
		cancel(mine)
		if got := <-first; !errors.Is(got.err, mine) {
			t.Errorf("who gave up: %+v", got)
		}
		synctest.Wait()
		if ended.Load() {
			t.Error("the call ended although somebody waits")
		}
		close(release)
		if got := <-second; got.err != nil || got.value != 7 {
			t.Errorf("who stayed: %+v", got)
		}
		g.Close()
	})
}

func TestACallEndsWhenNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group[string, int]
		ended := make(chan struct{})
		release := make(chan struct{})
		fn := func(ctx context.Context) (int, error) {
			<-ctx.Done()
			close(ended)
			<-release // it takes its time to end
			return 0, ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		first, second := do(ctx, &g, "k", fn), do(ctx, &g, "k", never)
		cancel()
		<-first
		<-second
		<-ended
		// a new caller must not get the end of what others gave up
		if got := <-do(t.Context(), &g, "k", func(context.Context) (int, error) { return 9, nil }); got != (result{value: 9}) {
			t.Errorf("new caller: %+v", got)
		}
		close(release)
		g.Close()
	})
}

func TestTheCallKeepsTheFirstCallersValuesAndDropsItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		var joined []any
		g := Group[string, int]{OnJoin: func(call, joiner context.Context) {
			joined = append(joined, call.Value(key{}), joiner.Value(key{}))
		}}
		release := make(chan struct{})
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "first"), 1)
		defer cancel()
		var got any
		var deadline bool
		first := do(ctx, &g, "k", func(ctx context.Context) (int, error) {
			<-release
			got = ctx.Value(key{})
			_, deadline = ctx.Deadline()
			return 7, ctx.Err()
		})
		second := do(context.WithValue(t.Context(), key{}, "second"), &g, "k", never)
		if r := <-first; !errors.Is(r.err, context.DeadlineExceeded) {
			t.Errorf("first: %+v", r)
		}
		close(release)
		if r := <-second; r.err != nil {
			t.Errorf("second: %+v", r)
		}
		if got != "first" || deadline {
			t.Errorf("the call saw %v, deadline %t", got, deadline)
		}
		if len(joined) != 2 || joined[0] != "first" || joined[1] != "second" {
			t.Errorf("joined: %v", joined)
		}
		g.Close()
	})
}

func TestCloseEndsCallsAndRefusesNewOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group[string, int]
		waits := do(t.Context(), &g, "k", func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		g.Close()
		if got := <-waits; !errors.Is(got.err, context.Canceled) {
			t.Errorf("under way: %+v", got)
		}
		if got := <-do(t.Context(), &g, "k", never); !errors.Is(got.err, ErrClosed) {
			t.Errorf("after Close: %+v", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if got := <-do(ctx, &g, "k", never); !errors.Is(got.err, context.Canceled) {
			t.Errorf("who had given up before: %+v", got)
		}
	})
}

func TestManyCallersAndKeys(t *testing.T) {
	var g Group[int, int]
	var work sync.WaitGroup
	for i := range 500 {
		work.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i%5 == 0 {
				go cancel()
			}
			key := i % 10
			v, _, err := g.Do(ctx, key, func(ctx context.Context) (int, error) { return key, ctx.Err() })
			if err == nil && v != key {
				t.Errorf("key %d got %d", key, v)
			}
		})
	}
	work.Wait()
	g.Close()
}

func TestAPanicIsTheErrorOfItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stack string
		g := Group[string, int]{OnPanic: func(_ context.Context, value any) error {
			stack = string(debug.Stack())
			return fmt.Errorf("recovered %v", value)
		}}
		release := make(chan struct{})
		first := do(t.Context(), &g, "k", func(context.Context) (int, error) { <-release; return explode() })
		second := do(t.Context(), &g, "k", never)
		close(release)
		for _, got := range []result{<-first, <-second} {
			if got.err == nil || got.err.Error() != "recovered the canary" {
				t.Errorf("got %+v", got)
			}
		}
		if !strings.Contains(stack, "explode") {
			t.Errorf("the stack is not that of the panic:\n%s", stack)
		}
		g.OnPanic = nil
		if got := <-do(t.Context(), &g, "k", func(context.Context) (int, error) { return explode() }); got.err == nil ||
			strings.Contains(got.err.Error(), "canary") {
			t.Errorf("without a handler: %v", got.err)
		}
		g.Close()
	})
}

func explode() (int, error) { panic("the canary") }
