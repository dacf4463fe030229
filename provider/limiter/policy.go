package limiter

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"k8s.io/utils/clock"
)

// Gates is one gate per host. As an azcore policy it lets each request through its host's gate.
type Gates struct {
	clock  clock.WithDelayedExecution
	limits func(host string) Limits

	mu    sync.Mutex
	gates map[string]*Gate
}

// NewGates returns gates whose limits depend on the host.
func NewGates(clk clock.WithDelayedExecution, limits func(host string) Limits) *Gates {
	return &Gates{clock: clk, limits: limits, gates: map[string]*Gate{}}
}

// Gate returns the gate of a host.
func (g *Gates) Gate(host string) *Gate {
	host = strings.ToLower(host)
	g.mu.Lock()
	defer g.mu.Unlock()
	gate, ok := g.gates[host]
	if !ok {
		gate = newGate(host, g.limits(host), g.clock)
		g.gates[host] = gate
	}
	return gate
}

// Snapshots returns what the gates look like, by host.
func (g *Gates) Snapshots() []Snapshot {
	g.mu.Lock()
	gates := slices.Collect(maps.Values(g.gates))
	g.mu.Unlock()
	all := make([]Snapshot, 0, len(gates))
	for _, gate := range gates {
		all = append(all, gate.snapshot())
	}
	slices.SortFunc(all, func(a, b Snapshot) int { return strings.Compare(a.Host, b.Host) })
	return all
}

// Do implements policy.Policy.
func (g *Gates) Do(req *policy.Request) (*http.Response, error) {
	ctx := req.Raw().Context()
	leave, err := g.Gate(req.Raw().URL.Host).Enter(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := req.Next()
	switch {
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
		leave(GivenUp, 0)
	case err != nil:
		leave(Failed, 0)
	default:
		leave(Judge(resp, g.clock.Now()))
	}
	return resp, err
}

// Judge tells what an answer says about the service, and how long it asks to wait.
func Judge(resp *http.Response, now time.Time) (Outcome, time.Duration) {
	wait := RetryAfter(resp.Header, now)
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		return Throttled, wait
	case resp.StatusCode >= http.StatusInternalServerError, resp.StatusCode == http.StatusRequestTimeout,
		resp.StatusCode == http.StatusGone: // IMDS while it is updated
		return Failed, wait
	}
	return Answered, 0
}

// RetryAfter returns what the service asks to wait (RFC 9110, 10.2.3, in seconds or as a date; also in milliseconds, as
// Azure services do), 0 where it asks nothing.
func RetryAfter(header http.Header, now time.Time) time.Duration {
	for _, name := range []string{"Retry-After-Ms", "X-Ms-Retry-After-Ms"} {
		if ms, err := strconv.ParseInt(header.Get(name), 10, 32); err == nil && ms > 0 {
			return time.Duration(ms) * time.Millisecond
		}
	}
	text := header.Get("Retry-After")
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil && seconds > 0 {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}
