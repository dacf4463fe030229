package limiter

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// The tests run in a bubble with a clock of its own: times are exact, and nothing waits for real.

func gateOf(rate float64, burst, inFlight int) *Gate {
	return newGate("kv.vault.azure.net", Limits{Rate: rate, Burst: burst, InFlight: inFlight}, clock.RealClock{})
}

func enter(t *testing.T, g *Gate) func(Outcome, time.Duration) {
	t.Helper()
	leave, err := g.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return leave
}

// waiting lets goroutines queue at a gate and remembers in which order they were let through.
type waiting struct {
	gate *Gate
	work sync.WaitGroup

	mu     sync.Mutex
	order  []string
	leaves []func(Outcome, time.Duration)
}

func (w *waiting) queue(ctx context.Context, name string) {
	w.work.Go(func() {
		leave, err := w.gate.Enter(ctx)
		if err != nil {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.order, w.leaves = append(w.order, name), append(w.leaves, leave)
	})
	synctest.Wait()
}

// answer ends the oldest request that was let through.
func (w *waiting) answer(o Outcome) {
	w.mu.Lock()
	leave := w.leaves[0]
	w.leaves = w.leaves[1:]
	w.mu.Unlock()
	leave(o, 0)
	synctest.Wait()
}

func (w *waiting) entered() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.order)
}

func about(got, want time.Duration) bool { return got >= want && got <= want+time.Millisecond }

func TestRateAfterTheBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, start := gateOf(10, 5, 64), time.Now()
		for range 5 {
			enter(t, g)(Answered, 0)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("the burst took %s", took)
		}
		for range 20 {
			enter(t, g)(Answered, 0)
		}
		if took := time.Since(start); !about(took, 2*time.Second) {
			t.Errorf("20 more at 10 a second took %s", took)
		}
	})
}

func TestInFlightIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &waiting{gate: gateOf(1000, 1000, 2)}
		for _, name := range []string{"a", "b", "c"} {
			w.queue(t.Context(), name)
		}
		if got := w.entered(); !slices.Equal(got, []string{"a", "b"}) {
			t.Fatalf("entered: %v", got)
		}
		if s := w.gate.snapshot(); s.InFlight != 2 || s.Waiting != 1 {
			t.Errorf("snapshot: %+v", s)
		}
		w.answer(Answered)
		if got := w.entered(); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("entered: %v", got)
		}
		w.work.Wait()
	})
}

func TestThrottlingHalvesTheRateWhichRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gateOf(100, 200, 64)
		for i, want := range []float64{50, 25, 12.5} {
			enter(t, g)(Throttled, time.Second)
			if s := g.snapshot(); s.Rate != want || s.Throttled != uint64(i+1) {
				t.Fatalf("after %d: %+v", i+1, s)
			}
		}
		before, rises := g.snapshot().Rate, 0
		for range 60 {
			enter(t, g)(Answered, 0)
			if now := g.snapshot().Rate; now > before {
				before, rises = now, rises+1
			}
			time.Sleep(time.Second)
		}
		if before != 100 || rises < 40 {
			t.Errorf("rate %v after a minute of answers, in %d steps", before, rises)
		}
		for range 20 {
			enter(t, g)(Throttled, time.Second)
		}
		if s := g.snapshot(); s.Rate != slowest {
			t.Errorf("rate after 20 refusals: %v", s.Rate)
		}
	})
}

func TestRetryAfterIsKept(t *testing.T) {
	for name, tc := range map[string]struct {
		outcome     Outcome
		asked, want time.Duration
	}{
		"429":           {Throttled, 7 * time.Second, 7 * time.Second},
		"above 60 s":    {Throttled, 10 * time.Minute, 10 * time.Minute},
		"503":           {Failed, 90 * time.Second, 90 * time.Second},
		"out of reason": {Throttled, 1 << 60, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, start := gateOf(100, 200, 64), time.Now()
				enter(t, g)(tc.outcome, tc.asked)
				if s := g.snapshot(); !s.NotBefore.Equal(start.Add(tc.want)) {
					t.Errorf("not before %s", s.NotBefore.Sub(start))
				}
				enter(t, g)(Answered, 0)
				if took := time.Since(start); !about(took, tc.want) {
					t.Errorf("let through after %s", took)
				}
				if s := g.snapshot(); !s.NotBefore.IsZero() {
					t.Errorf("still held back: %+v", s)
				}
			})
		})
	}
}

func TestWaitsWithoutRetryAfterDouble(t *testing.T) {
	for name, outcome := range map[string]Outcome{"429": Throttled, "no answer": Failed} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := gateOf(100, 200, 64)
				if outcome == Failed {
					for range tripping - 1 {
						enter(t, g)(Failed, 0)
					}
				}
				for i, seconds := range []int{1, 2, 4, 8, 16, 32, 60, 60, 60} {
					enter(t, g)(outcome, 0)
					want := time.Duration(seconds) * time.Second
					if wait := time.Until(g.snapshot().NotBefore); wait < want/2 || wait > want {
						t.Errorf("wait %d is %s, want %s to %s", i, wait, want/2, want)
					}
				}
			})
		})
	}
}

// A connection that carries many requests and breaks, or one burst that is throttled, is one failure: it must not close the
// gate for long.
func TestOneBurstIsOneVerdict(t *testing.T) {
	for name, outcome := range map[string]Outcome{"429": Throttled, "broken connection": Failed} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, start := gateOf(100, 200, 64), time.Now()
				var leaves []func(Outcome, time.Duration)
				for range 64 {
					leaves = append(leaves, enter(t, g))
				}
				for _, leave := range leaves {
					leave(outcome, 0)
				}
				s := g.snapshot()
				if wait := s.NotBefore.Sub(start); wait < firstWait/2 || wait > firstWait {
					t.Errorf("held back for %s", wait)
				}
				if outcome == Throttled && (s.Rate != 50 || s.Throttled != 64) {
					t.Errorf("snapshot: %+v", s)
				}
			})
		})
	}
}

func TestCircuitOpensForOneProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &waiting{gate: gateOf(100, 200, 64)}
		for i := range tripping {
			if s := w.gate.snapshot(); s.Open || !s.NotBefore.IsZero() {
				t.Fatalf("after %d failures: %+v", i, s)
			}
			enter(t, w.gate)(Failed, 0)
		}
		if s := w.gate.snapshot(); !s.Open || s.NotBefore.IsZero() {
			t.Fatalf("after %d failures: %+v", tripping, s)
		}
		for _, name := range []string{"a", "b", "c"} {
			w.queue(t.Context(), name)
		}
		if got := w.entered(); len(got) != 0 {
			t.Fatalf("entered an open circuit: %v", got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := w.entered(); !slices.Equal(got, []string{"a"}) {
			t.Fatalf("entered as a probe: %v", got)
		}
		w.answer(Failed)
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := w.entered(); !slices.Equal(got, []string{"a", "b"}) {
			t.Fatalf("entered as a second probe: %v", got)
		}
		w.answer(Answered)
		if got := w.entered(); !slices.Equal(got, []string{"a", "b", "c"}) || w.gate.snapshot().Open {
			t.Errorf("after an answer: %v %+v", got, w.gate.snapshot())
		}
		w.work.Wait()
	})
}

func TestAProbeThatIsGivenUpLetsTheNextGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &waiting{gate: gateOf(100, 200, 64)}
		for range tripping {
			enter(t, w.gate)(Failed, 0)
		}
		w.queue(t.Context(), "a")
		w.queue(t.Context(), "b")
		time.Sleep(time.Minute)
		synctest.Wait()
		w.answer(GivenUp)
		if got := w.entered(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("entered: %v", got)
		}
		if !w.gate.snapshot().Open {
			t.Error("a request that was given up closed the circuit")
		}
		w.work.Wait()
	})
}

func TestUrgentGoFirstAndMayBecomeUrgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &waiting{gate: gateOf(1000, 1000, 1)}
		rotation := WithUrgency(t.Context(), false)
		joined := WithUrgency(t.Context(), false)
		mount := WithUrgency(t.Context(), true)
		w.queue(rotation, "under way")
		w.queue(rotation, "rotation 1")
		w.queue(joined, "rotation 2, joined")
		w.queue(mount, "mount 1")
		w.queue(mount, "mount 2")
		w.queue(t.Context(), "nobody's")
		Promote(rotation, t.Context()) // who joins is not urgent: nothing changes
		Promote(joined, mount)
		for range 6 {
			w.answer(Answered)
		}
		want := []string{"under way", "rotation 2, joined", "mount 1", "mount 2", "rotation 1", "nobody's"}
		if got := w.entered(); !slices.Equal(got, want) {
			t.Errorf("order %q", got)
		}
		w.work.Wait()
	})
}

func TestHopelessWaitsFailAtOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		outcome Outcome
		reason  volume.Reason
	}{"throttled": {Throttled, volume.ReasonThrottled}, "failed": {Failed, volume.ReasonUnavailable}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := gateOf(100, 1, 1)
				leave := enter(t, g)
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
				defer cancel()
				early := make(chan error, 1)
				go func() {
					_, err := g.Enter(ctx)
					early <- err
				}()
				synctest.Wait()
				start := time.Now()
				leave(tc.outcome, 200*time.Second)
				_, late := g.Enter(ctx)
				for which, err := range map[string]error{"before": <-early, "after": late} {
					e, ok := errors.AsType[*volume.Error](err)
					if !ok || e.Reason != tc.reason || e.RetryAfter != 200*time.Second {
						t.Errorf("who came %s: %#v", which, err)
					}
				}
				if took := time.Since(start); took != 0 {
					t.Errorf("told after %s", took)
				}
				patient, cancel := context.WithTimeout(t.Context(), 300*time.Second)
				defer cancel()
				if _, err := g.Enter(patient); err != nil {
					t.Errorf("who can wait: %v", err)
				}
			})
		})
	}
}

func TestCancelledWaiterLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &waiting{gate: gateOf(1000, 1000, 1)}
		leave := enter(t, w.gate)
		mine := errors.New("pod deleted")
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, err := w.gate.Enter(ctx)
			gone <- err
		}()
		synctest.Wait()
		w.queue(t.Context(), "next")
		cancel(mine)
		if err := <-gone; !errors.Is(err, mine) {
			t.Errorf("got %v", err)
		}
		leave(Answered, 0)
		leave(Answered, 0) // a second time changes nothing
		synctest.Wait()
		if got := w.entered(); !slices.Equal(got, []string{"next"}) || w.gate.snapshot().InFlight != 1 {
			t.Errorf("entered %v, %+v", got, w.gate.snapshot())
		}
		w.work.Wait()
	})
}

func TestManyAtOnceKeepTheBound(t *testing.T) {
	g := gateOf(1e6, 1000, 8)
	var work sync.WaitGroup
	for i := range 200 {
		work.Go(func() {
			ctx, cancel := context.WithCancel(WithUrgency(t.Context(), i%3 == 0))
			defer cancel()
			if i%7 == 0 {
				cancel()
			}
			leave, err := g.Enter(ctx)
			if err != nil {
				return
			}
			if s := g.snapshot(); s.InFlight > 8 {
				t.Errorf("%d in flight", s.InFlight)
			}
			leave(Answered, 0)
		})
	}
	work.Wait()
	if s := g.snapshot(); s.InFlight != 0 || s.Waiting != 0 {
		t.Errorf("left over: %+v", s)
	}
}
