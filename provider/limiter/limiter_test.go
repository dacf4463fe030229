package limiter

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// The tests run in a bubble with a clock of its own: times are exact, and nothing waits for real.

// fixed is a limiter with a highest rate.
func fixed(rate float64, burst, inFlight int) *Limiter {
	return newLimiter("kv.vault.azure.net", Limits{Rate: rate, Burst: burst, InFlight: inFlight, Advice: "be patient"}, Options{Clock: clock.RealClock{}})
}

func acquire(t *testing.T, l *Limiter) Release {
	t.Helper()
	release, err := l.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return release
}

// waiting lets goroutines queue at a limiter and remembers in which order they were let through.
type waiting struct {
	limiter *Limiter
	work    sync.WaitGroup

	mu       sync.Mutex
	order    []string
	releases []Release
}

func (w *waiting) queue(ctx context.Context, name string) {
	w.work.Go(func() {
		release, err := w.limiter.Acquire(ctx)
		if err != nil {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.order, w.releases = append(w.order, name), append(w.releases, release)
	})
	synctest.Wait()
}

// answer ends the oldest request that was let through.
func (w *waiting) answer(o Outcome) {
	w.mu.Lock()
	release := w.releases[0]
	w.releases = w.releases[1:]
	w.mu.Unlock()
	release(o, 0)
	synctest.Wait()
}

// pending reports whether a request that was let through is not answered.
func (w *waiting) pending() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.releases) > 0
}

func (w *waiting) acquired() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.order)
}

func about(got, want time.Duration) bool { return got >= want && got <= want+time.Millisecond }

func TestRateAfterTheBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, start := fixed(10, 5, 64), time.Now()
		for range 5 {
			acquire(t, l)(Answered, 0)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("the burst took %s", took)
		}
		for range 20 {
			acquire(t, l)(Answered, 0)
		}
		if took := time.Since(start); !about(took, 2*time.Second) {
			t.Errorf("20 more at 10 a second took %s", took)
		}
	})
}

func TestInFlightIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &waiting{limiter: fixed(1000, 1000, 2)}
		for _, name := range []string{"a", "b", "c"} {
			w.queue(t.Context(), name)
		}
		if got := w.acquired(); !slices.Equal(got, []string{"a", "b"}) {
			t.Fatalf("entered: %v", got)
		}
		if s := w.limiter.snapshot(); s.InFlight != 2 || s.Waiting != 1 {
			t.Errorf("snapshot: %+v", s)
		}
		w.answer(Answered)
		if got := w.acquired(); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("entered: %v", got)
		}
		w.work.Wait()
	})
}

func TestThrottlingHalvesTheRateWhichRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fixed(100, 200, 64)
		for i, want := range []float64{50, 25, 12.5} {
			acquire(t, l)(Throttled, time.Second)
			if s := l.snapshot(); s.Rate != want || s.Throttled != uint64(i+1) {
				t.Fatalf("after %d: %+v", i+1, s)
			}
		}
		before, rises := l.snapshot().Rate, 0
		for range 60 {
			acquire(t, l)(Answered, 0)
			if now := l.snapshot().Rate; now > before {
				before, rises = now, rises+1
			}
			time.Sleep(time.Second)
		}
		if before != 100 || rises < 40 {
			t.Errorf("rate %v after a minute of answers, in %d steps", before, rises)
		}
		for range 20 {
			acquire(t, l)(Throttled, time.Second)
		}
		if s := l.snapshot(); s.Rate != lowestRate {
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
				l, start := fixed(100, 200, 64), time.Now()
				acquire(t, l)(tc.outcome, tc.asked)
				most := tc.want // nodes that are throttled together do not come back together
				if tc.outcome == Throttled {
					most += min(tc.want/4, longestJitter)
				}
				if wait := l.snapshot().NotBefore.Sub(start); wait < tc.want || wait > most {
					t.Errorf("not before %s", wait)
				}
				acquire(t, l)(Answered, 0)
				if took := time.Since(start); took < tc.want || took > most+time.Millisecond {
					t.Errorf("let through after %s", took)
				}
				if s := l.snapshot(); !s.NotBefore.IsZero() {
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
				l := fixed(100, 200, 64)
				if outcome == Failed {
					for range failuresToOpen - 1 {
						acquire(t, l)(Failed, 0)
					}
				}
				for i, seconds := range []int{1, 2, 4, 8, 16, 32, 60, 60, 60} {
					acquire(t, l)(outcome, 0)
					want := time.Duration(seconds) * time.Second
					if outcome == Throttled {
						want = min(want, longestThrottled)
					}
					if wait := time.Until(l.snapshot().NotBefore); wait < want/2 || wait > want {
						t.Errorf("wait %d is %s, want %s to %s", i, wait, want/2, want)
					}
				}
			})
		})
	}
}

// A connection that carries many requests and breaks, or one burst that is throttled, is one failure: it must not close
// the limiter for long.
func TestOneBurstIsOneFailure(t *testing.T) {
	for name, outcome := range map[string]Outcome{"429": Throttled, "broken connection": Failed} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, start := fixed(100, 200, 64), time.Now()
				var releases []Release
				for range 64 {
					releases = append(releases, acquire(t, l))
				}
				for _, release := range releases {
					release(outcome, 0)
				}
				s := l.snapshot()
				if wait := s.NotBefore.Sub(start); wait < firstBackoff/2 || wait > firstBackoff {
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
		w := &waiting{limiter: fixed(100, 200, 64)}
		for i := range failuresToOpen {
			if s := w.limiter.snapshot(); s.Open || !s.NotBefore.IsZero() {
				t.Fatalf("after %d failures: %+v", i, s)
			}
			acquire(t, w.limiter)(Failed, 0)
		}
		if s := w.limiter.snapshot(); !s.Open || s.NotBefore.IsZero() {
			t.Fatalf("after %d failures: %+v", failuresToOpen, s)
		}
		for _, name := range []string{"a", "b", "c"} {
			w.queue(t.Context(), name)
		}
		if got := w.acquired(); len(got) != 0 {
			t.Fatalf("entered an open circuit: %v", got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := w.acquired(); !slices.Equal(got, []string{"a"}) {
			t.Fatalf("entered as a probe: %v", got)
		}
		w.answer(Failed)
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := w.acquired(); !slices.Equal(got, []string{"a", "b"}) {
			t.Fatalf("entered as a second probe: %v", got)
		}
		w.answer(Answered)
		if got := w.acquired(); !slices.Equal(got, []string{"a", "b", "c"}) || w.limiter.snapshot().Open {
			t.Errorf("after an answer: %v %+v", got, w.limiter.snapshot())
		}
		w.work.Wait()
	})
}

func TestAProbeThatIsCanceledLetsTheNextGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &waiting{limiter: fixed(100, 200, 64)}
		for range failuresToOpen {
			acquire(t, w.limiter)(Failed, 0)
		}
		w.queue(t.Context(), "a")
		w.queue(t.Context(), "b")
		time.Sleep(time.Minute)
		synctest.Wait()
		w.answer(Canceled)
		if got := w.acquired(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("entered: %v", got)
		}
		if !w.limiter.snapshot().Open {
			t.Error("a request that was given up closed the circuit")
		}
		w.work.Wait()
	})
}

func TestUrgentGoFirstAndMayBecomeUrgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &waiting{limiter: fixed(1000, 1000, 1)}
		refresh := WithUrgency(t.Context(), false)
		joined := WithUrgency(t.Context(), false)
		mount := WithUrgency(t.Context(), true)
		w.queue(refresh, "under way")
		w.queue(refresh, "refresh 1")
		w.queue(joined, "refresh 2, joined")
		w.queue(mount, "mount 1")
		w.queue(mount, "mount 2")
		w.queue(t.Context(), "without priority")
		Promote(refresh, t.Context()) // who joins is not urgent: nothing changes
		Promote(joined, mount)
		for range 6 {
			w.answer(Answered)
		}
		want := []string{"under way", "refresh 2, joined", "mount 1", "mount 2", "refresh 1", "without priority"}
		if got := w.acquired(); !slices.Equal(got, want) {
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
				l := fixed(100, 1, 1)
				release := acquire(t, l)
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
				defer cancel()
				early := make(chan error, 1)
				go func() {
					_, err := l.Acquire(ctx)
					early <- err
				}()
				synctest.Wait()
				start := time.Now()
				release(tc.outcome, 200*time.Second)
				_, late := l.Acquire(ctx)
				for which, err := range map[string]error{"before": <-early, "after": late} {
					e, ok := errors.AsType[*volume.Error](err)
					if !ok || e.Reason != tc.reason || e.RetryAfter < 200*time.Second || e.RetryAfter > 210*time.Second {
						t.Errorf("who came %s: %#v", which, err)
					}
				}
				if took := time.Since(start); took != 0 {
					t.Errorf("failed after %s", took)
				}
				patient, cancel := context.WithTimeout(t.Context(), 300*time.Second)
				defer cancel()
				if _, err := l.Acquire(patient); err != nil {
					t.Errorf("who can wait: %v", err)
				}
			})
		})
	}
}

func TestACanceledWaiterLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &waiting{limiter: fixed(1000, 1000, 1)}
		release := acquire(t, w.limiter)
		mine := errors.New("pod deleted")
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, err := w.limiter.Acquire(ctx)
			gone <- err
		}()
		synctest.Wait()
		w.queue(t.Context(), "next")
		cancel(mine)
		if err := <-gone; !errors.Is(err, mine) {
			t.Errorf("got %v", err)
		}
		release(Answered, 0)
		release(Answered, 0) // a second time changes nothing
		synctest.Wait()
		if got := w.acquired(); !slices.Equal(got, []string{"next"}) || w.limiter.snapshot().InFlight != 1 {
			t.Errorf("entered %v, %+v", got, w.limiter.snapshot())
		}
		w.work.Wait()
	})
}

func TestManyAtOnceKeepTheBound(t *testing.T) {
	l := fixed(1e6, 1000, 8)
	var work sync.WaitGroup
	for i := range 200 {
		work.Go(func() {
			ctx, cancel := context.WithCancel(WithUrgency(t.Context(), i%3 == 0))
			defer cancel()
			if i%7 == 0 {
				cancel()
			}
			release, err := l.Acquire(ctx)
			if err != nil {
				return
			}
			if s := l.snapshot(); s.InFlight > 8 {
				t.Errorf("%d in flight", s.InFlight)
			}
			release(Answered, 0)
		})
	}
	work.Wait()
	if s := l.snapshot(); s.InFlight != 0 || s.Waiting != 0 {
		t.Errorf("left over: %+v", s)
	}
}

// learning is a limiter that knows nothing about its service.
func learning() *Limiter {
	return newLimiter("kv.vault.azure.net", Limits{InFlight: 64, Advice: "be patient"}, Options{Clock: clock.RealClock{}})
}

func TestNoRateIsLimitedBeforeTheServiceThrottles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, start := learning(), time.Now()
		for range 10000 {
			acquire(t, l)(Answered, 0)
		}
		if took := time.Since(start); took != 0 || l.snapshot().Rate != 0 {
			t.Errorf("took %s: %+v", took, l.snapshot())
		}
	})
}

func TestThrottlingStartsALimitAtHalfOfWhatWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := learning()
		for range 300 { // 100 in each 10 seconds count no more
			acquire(t, l)(Answered, 0)
		}
		time.Sleep(20 * time.Second)
		for range 10 { // 20 a second
			for range 20 {
				acquire(t, l)(Answered, 0)
			}
			time.Sleep(time.Second)
		}
		acquire(t, l)(Throttled, time.Second)
		if s := l.snapshot(); s.Rate < 9 || s.Rate > 10.5 {
			t.Fatalf("%+v", s)
		}
		acquire(t, l) // after the second
		start := time.Now()
		for range 100 {
			acquire(t, l)(Canceled, 0)
		}
		if took := time.Since(start); took < 8*time.Second || took > 11*time.Second {
			t.Errorf("100 requests took %s", took)
		}
		acquire(t, l)(Answered, 0)
		before, rises := l.snapshot().Rate, 0
		for range 120 {
			time.Sleep(time.Second)
			acquire(t, l)(Answered, 0)
			if now := l.snapshot().Rate; now > before && now < before*1.1 {
				before, rises = now, rises+1
			}
		}
		if rises < 120 || before < 30 {
			t.Errorf("the rate is %v after %d rises", before, rises)
		}
		time.Sleep(time.Minute)
		acquire(t, l)(Answered, 0)
		if s := l.snapshot(); s.Rate != 0 {
			t.Errorf("still limited: %+v", s)
		}
	})
}

// A limiter that is closed, or full, holds those that wait, and nothing else.
func TestWhoWaitsForADeadServiceTakesNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := learning()
		for range failuresToOpen {
			acquire(t, l)(Failed, 0)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		for range 500 {
			waiting.Go(func() {
				if release, err := l.Acquire(ctx); err == nil {
					release(Failed, 0)
				}
			})
		}
		synctest.Wait()
		if s := l.snapshot(); s.InFlight != 0 || s.Waiting != 500 {
			t.Errorf("%+v", s)
		}
		cancel()
		waiting.Wait()
	})
}

func TestNoTurnBeforeTheDeadlineSaysWhy(t *testing.T) {
	for name, tc := range map[string]struct {
		limits Limits
		reason volume.Reason
		want   string
	}{
		"full": {Limits{InFlight: 1}, volume.ReasonUnavailable, "kv.vault.azure.net was not asked in time: 1 requests to it are under way and 0 wait"},
		"slow": {Limits{Rate: 0.001, Burst: 1, InFlight: 64, Advice: "be patient"}, volume.ReasonThrottled, "gets 0.0 a second, and 0 wait; if this goes on, be patient"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLimiter("kv.vault.azure.net", tc.limits, Options{Clock: clock.RealClock{}})
				acquire(t, l)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := l.Acquire(ctx)
				if volume.ReasonOf(err) != tc.reason || !strings.Contains(err.Error(), tc.want) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

func TestRefreshesOfTheOldestGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, now := &waiting{limiter: fixed(1000, 1000, 1)}, time.Now()
		joined := WithHeld(t.Context(), now)
		w.queue(t.Context(), "under way")
		w.queue(t.Context(), "no refresh")
		w.queue(WithHeld(t.Context(), now.Add(-time.Minute)), "a minute")
		w.queue(joined, "two hours, joined")
		w.queue(WithHeld(t.Context(), now.Add(-time.Hour)), "an hour")
		w.queue(WithHeld(t.Context(), now.Add(-time.Hour)), "an hour too")
		w.queue(WithHeld(t.Context(), time.Time{}), "nothing")
		w.queue(WithUrgency(t.Context(), true), "mount")
		Promote(joined, WithHeld(t.Context(), now.Add(-2*time.Hour)))
		for range 8 {
			w.answer(Answered)
		}
		want := []string{"under way", "mount", "nothing", "two hours, joined", "an hour", "an hour too", "a minute", "no refresh"}
		if got := w.acquired(); !slices.Equal(got, want) {
			t.Errorf("order %q", got)
		}
		w.work.Wait()
	})
}

// At the lowest rate a refresh waits for about twenty seconds, a starting Pod for two.
func TestUrgentRequestsDoNotWaitForTheLowestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := learning()
		for range 10 {
			acquire(t, l)(Throttled, time.Second)
		}
		if s := l.snapshot(); s.Rate != lowestRate {
			t.Fatalf("%+v", s)
		}
		for range 5 {
			start := time.Now()
			release, err := l.Acquire(WithUrgency(t.Context(), true))
			if err != nil {
				t.Fatal(err)
			}
			release(Throttled, 0)
			if took := time.Since(start); took > longestThrottled+urgentPause {
				t.Errorf("an urgent request waited for %s", took)
			}
		}
		start := time.Now()
		release, err := l.Acquire(WithHeld(t.Context(), time.Now()))
		if err != nil {
			t.Fatal(err)
		}
		release(Answered, 0)
		if took := time.Since(start); took < 5*time.Second || took > 35*time.Second {
			t.Errorf("a refresh waited for %s", took)
		}
	})
}

// A starting Pod that joins the request of a refresh does not wait for the refresh's turn.
func TestJoinedRequestsDoNotWaitForTheLowestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := learning()
		for range 10 {
			acquire(t, l)(Throttled, time.Second)
		}
		time.Sleep(2 * time.Second)
		w, ctx := &waiting{limiter: l}, WithHeld(t.Context(), time.Now())
		w.queue(ctx, "refresh")
		if len(w.acquired()) > 0 {
			t.Fatal("the refresh did not wait")
		}
		Promote(ctx, WithUrgency(t.Context(), true))
		time.Sleep(urgentPause + time.Millisecond)
		synctest.Wait()
		if len(w.acquired()) == 0 {
			t.Error("the Pod waits for the turn of the refresh")
		}
		w.work.Wait()
	})
}

// A node whose refreshes are late raises its rate faster than one whose refreshes are not, and no limit is lifted under a queue.
func TestLateNodesTakeTheirShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rateAfter := func(age time.Duration) float64 {
			l := learning()
			for range 5 {
				acquire(t, l)(Throttled, time.Second)
			}
			w := &waiting{limiter: l}
			ctx, cancel := context.WithCancel(t.Context())
			for range 100 {
				w.queue(WithHeld(ctx, time.Now().Add(-age)), "refresh")
			}
			for range 60 {
				time.Sleep(time.Second)
				synctest.Wait()
				if w.pending() {
					w.answer(Answered)
				}
			}
			rate := l.snapshot().Rate
			cancel()
			w.work.Wait()
			return rate
		}
		late, fresh := rateAfter(30*time.Minute), rateAfter(0)
		if fresh == 0 || late < 2*fresh {
			t.Errorf("rates after a minute: %.2f where late, %.2f where not", late, fresh)
		}
	})
}
