package push

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/schedule"
)

// TestSpread: few nodes follow at once; with many, and with many classes that are refreshed together, no vault gets more than it allows.
func TestSpread(t *testing.T) {
	for _, tc := range []struct {
		nodes, objects, classes int
		within                  time.Duration // the longest spread
	}{
		{1, 1, 1, 0},
		{5, 20, 4, 0},
		{5, 20, 8, 5 * time.Second},
		{100, 10, 1, 10 * time.Second},
		{5000, 1, 1, time.Minute},
		{5000, 10, 1, 11 * time.Minute},
		{5000, 10, 5, time.Hour},
		{5000, 1, 40, time.Hour},
	} {
		t.Run(fmt.Sprintf("%d nodes, %d objects, %d classes", tc.nodes, tc.objects, tc.classes), func(t *testing.T) {
			b, start := newBudget(), time.Now()
			var sent []time.Duration
			for class := range tc.classes {
				spread := b.spread(map[string]int{"v": tc.objects}, tc.nodes, start)
				if spread > tc.within {
					t.Errorf("a spread of %s", spread)
				}
				for node := range tc.nodes {
					at := schedule.Schedule{Node: fmt.Sprint("node-", node)}.Spread(fmt.Sprint("class-", class), 0, spread)
					for range tc.objects {
						sent = append(sent, at)
					}
				}
			}
			slices.Sort(sent)
			first, most := 0, 0
			for i, at := range sent {
				for at-sent[first] >= 10*time.Second {
					first++
				}
				most = max(most, i-first+1)
			}
			if most > 4000 {
				t.Errorf("%d requests in ten seconds", most)
			}
		})
	}
}

func TestBudgetIsPaidBack(t *testing.T) {
	b, now := newBudget(), time.Now()
	if got := b.spread(map[string]int{"a": 10}, 5000, now); got < 9*time.Minute {
		t.Errorf("a spread of %s", got)
	}
	if got := b.spread(map[string]int{"b": 1}, 5, now); got != 0 {
		t.Errorf("another vault waits %s", got)
	}
	if got := b.spread(map[string]int{"a": 1, "b": 1}, 5, now); got < 9*time.Minute {
		t.Errorf("a spread of %s although the vault has much to do", got)
	}
	if got := b.spread(map[string]int{"a": 1}, 5, now.Add(11*time.Minute)); got != 0 {
		t.Errorf("a spread of %s when all is done", got)
	}
	for i := range 10_000 {
		b.spread(map[string]int{fmt.Sprint("vault-", i): 1}, 1, now.Add(time.Duration(i)*time.Second))
	}
	if len(b.vaults) > mostVaults {
		t.Errorf("%d vaults are remembered", len(b.vaults))
	}
}
