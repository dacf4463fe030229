package push

import (
	"maps"
	"math"
	"sync"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/schedule"
)

const (
	// vaultRate is how many requests a second the refreshes that events cause may send to one vault. A vault allows 4,000 GETs in ten
	// seconds: what is left is for polls, for Pods that start, and for other clusters.
	vaultRate = 80
	// vaultBurst is how many requests may be sent at once before that. Few nodes follow an event without any spread.
	vaultBurst = 400
	// mostVaults is from how many vaults on those without pending requests are forgotten.
	mostVaults = 256
)

// budget knows how many requests each vault is yet to get from refreshes that were asked for.
type budget struct {
	mu     sync.Mutex
	vaults map[string]pending
}

// pending is how many requests were to come at a moment. They become fewer by vaultRate.
type pending struct {
	requests float64
	at       time.Time
}

func newBudget() *budget { return &budget{vaults: map[string]pending{}} }

// left is what is pending now.
func (p pending) left(now time.Time) float64 {
	return max(0, p.requests-vaultRate*max(0, now.Sub(p.at).Seconds()))
}

// spread adds the requests that each of the nodes sends by host, and returns within which time they are to be sent.
func (b *budget) spread(requests map[string]int, nodes int, now time.Time) (spread time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.vaults) >= mostVaults {
		maps.DeleteFunc(b.vaults, func(_ string, p pending) bool { return p.left(now) == 0 })
	}
	for host, each := range requests {
		total := b.vaults[host].left(now) + float64(each)*float64(nodes)
		// more than what the longest spread takes cannot be spread
		total = min(total, vaultBurst+vaultRate*schedule.MaxSpread.Seconds())
		b.vaults[host] = pending{requests: total, at: now}
		seconds := max(0, total-vaultBurst) / vaultRate
		spread = max(spread, time.Duration(math.Ceil(seconds*10))*(time.Second/10))
	}
	return min(spread, schedule.MaxSpread)
}
