package scale

import (
	"testing"
	"time"
)

const interval = 2 * time.Minute

// The fleets of these tests are small, and their vault bears as much less, so that each node gets what one of a large fleet gets.

func TestSteadyFleetSpreadsItsRequests(t *testing.T) {
	s := shape{nodes: 60, classes: 5, objects: 2, interval: interval, limit: 120}
	inBubble(t, s, func(f *fleet) {
		f.pass(10 * time.Minute)
		got := f.figures("steady")
		want := s.sources() * int(got.Over/interval)
		if got.Vault.Asked > want*101/100 || got.Vault.Throttled > 0 || got.Missed > 0 || got.Worst > interval*12/10 {
			t.Errorf("%d requests, want %d: %+v", got.Vault.Asked, want, got)
		}
		if even := want * int(window/time.Second) / int(got.Over/time.Second); got.Vault.Peak > even*17/10 {
			t.Errorf("%d requests in one window, %d in the mean", got.Vault.Peak, even)
		}
	})
}

// The large fleets have one volume for each group: it asks for what any number of replicas asks for.
func TestReplicasAskOnce(t *testing.T) {
	asked := map[int]int{}
	for _, replicas := range []int{1, 22} {
		inBubble(t, shape{nodes: 3, classes: 5, objects: 1, replicas: replicas, interval: interval}, func(f *fleet) {
			f.pass(10 * time.Minute)
			asked[replicas] = f.figures("").Vault.Asked
		})
	}
	if asked[1] != asked[22] || asked[1] == 0 {
		t.Errorf("requests by replicas: %v", asked)
	}
}

// At 2.3 times what a vault bears each group has its turn, and the vault's whole limit goes into files.
func TestOverloadIsFairAndBounded(t *testing.T) {
	s := shape{nodes: 20, classes: 5, objects: 5, interval: interval, limit: 18}
	inBubble(t, s, func(f *fleet) {
		f.pass(10 * time.Minute) // the limiters learn
		f.measure()
		f.pass(30 * time.Minute)
		got := f.figures("overload")
		t.Logf("%+v", got)
		// all could be refreshed each 4.6 minutes, were every request answered and each in turn
		if got.Missed > 0 || got.Worst > 25*time.Minute || got.Late > 16*time.Minute || got.Median > 9*time.Minute {
			t.Errorf("not fair: %+v", got)
		}
		if got.Vault.throttledShare() > 0.45 {
			t.Errorf("%.0f %% of the requests are throttled", 100*got.Vault.throttledShare())
		}
	})
}

func TestOutageEndsWithoutAHerd(t *testing.T) {
	s := shape{nodes: 30, classes: 5, objects: 1, interval: interval, limit: 50}
	inBubble(t, s, func(f *fleet) {
		f.azure.setDown(true)
		f.measure()
		f.pass(time.Minute)
		steady := s.sources() / int(interval/time.Minute)
		if first := f.figures("").Vault.Asked; first > 4*steady {
			t.Errorf("%d requests in the first minute, %d is the steady load", first, steady)
		}
		f.measure()
		f.pass(59 * time.Minute)
		if rest := f.figures("").Vault.Asked; rest > 59*2*steady {
			t.Errorf("%d requests in the rest of the hour", rest)
		}
		f.azure.setDown(false)
		f.measure()
		took := f.until(time.Now(), 5*time.Minute)
		if got := f.figures("outage"); took > 4*time.Minute || got.Vault.Throttled > 0 {
			t.Errorf("fresh after %s: %+v", took, got)
		}
	})
}

// A mass restart of drivers, and a roll-out, ask for each source once more.
func TestRestarts(t *testing.T) {
	for name, over := range map[string]time.Duration{"all at once": 0, "a roll-out": 4 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			s := shape{nodes: 60, classes: 5, objects: 1, interval: interval, limit: 100}
			inBubble(t, s, func(f *fleet) {
				took := f.restartAll(over, over)
				got := f.figures(name)
				if extra := got.Vault.Asked - int(float64(s.sources())*(got.Over.Seconds()/interval.Seconds())); extra > s.sources()*11/10 {
					t.Errorf("%d requests more than in steady state, for %d sources: %+v", extra, s.sources(), got)
				}
				if got.Vault.Throttled > 0 || got.Missed > 0 || took > over+4*time.Minute {
					t.Errorf("%s: %+v", took, got)
				}
			})
		})
	}
}

// Pods that start go before refreshes, and a wave of them is bounded by the vault alone.
func TestWaveOfPodStarts(t *testing.T) {
	s := shape{nodes: 50, classes: 4, objects: 2, interval: interval, limit: 150}
	inBubble(t, s, func(f *fleet) {
		f.startWave(10, time.Minute)
		f.pass(5 * time.Minute)
		got := f.figures("wave")
		t.Logf("%+v", got)
		if got.Starts != 500 || got.LastStart > time.Minute || got.Missed > 0 {
			t.Errorf("%+v", got)
		}
		if most := got.Starts*s.objects + s.sources()*int(got.Over/interval+1); got.Vault.Asked-got.Vault.Throttled > most {
			t.Errorf("%d requests: 500 Pods of %d groups", got.Vault.Asked, s.nodes*s.classes)
		}
	})
}

// A request to refresh a class that all nodes use follows within its spread, with one request for each node and object.
func TestForcedRefreshOfAllNodes(t *testing.T) {
	s := shape{nodes: 60, classes: 3, objects: 1, interval: interval, limit: 400}
	inBubble(t, s, func(f *fleet) {
		f.measure()
		since := f.forceRefresh(0, "push/5s")
		if took := f.untilClass(0, since, time.Minute); took > 7*time.Second {
			t.Errorf("all nodes follow after %s", took)
		}
		if got := f.figures("push"); got.Vault.Throttled > 0 {
			t.Errorf("%+v", got)
		}
	})
}
