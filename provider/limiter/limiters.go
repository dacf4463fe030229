package limiter

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"k8s.io/utils/clock"
)

// idleTime is how long a limiter is kept that is not used.
const idleTime = 10 * time.Minute

// Key names a limiter.
type Key struct {
	// Host is the service's host name, in lower case.
	Host string
	// Quota is what the service counts requests by, in words that a message can hold, such as "client X of tenant Y".
	// It is empty for the host itself.
	Quota string
}

func (k Key) String() string {
	if k.Quota == "" {
		return k.Host
	}
	return k.Host + " (" + k.Quota + ")"
}

// Options configure New.
type Options struct {
	Clock clock.WithDelayedExecution
	// Limits gives the limits of a limiter.
	Limits func(Key) Limits
	// OnPanic is called where a timer's function panics; may be nil. It is called in the goroutine that panics.
	OnPanic func(value any)
}

// Limiters keeps a limiter per host, and per quota where a service has several.
type Limiters struct {
	options Options

	mu       sync.Mutex
	limiters map[Key]*Limiter
	swept    time.Time
}

// New returns limiters, of which there are none yet.
func New(o Options) *Limiters {
	return &Limiters{options: o, limiters: map[Key]*Limiter{}, swept: o.Clock.Now()}
}

// Limiter returns the limiter of a key.
func (l *Limiters) Limiter(k Key) *Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.options.Clock.Now(); now.Sub(l.swept) > idleTime {
		l.sweep(now)
	}
	limiter, ok := l.limiters[k]
	if !ok {
		limiter = newLimiter(k.String(), l.options.Limits(k), l.options)
		l.limiters[k] = limiter
	}
	return limiter
}

// sweep drops the limiters that are not used. The caller holds the lock.
func (l *Limiters) sweep(now time.Time) {
	l.swept = now
	for k, limiter := range l.limiters {
		if limiter.idle(now) {
			delete(l.limiters, k)
		}
	}
}

// Snapshot is what the limiters of a host look like now.
type Snapshot struct {
	// Host is the host name, Quota what Quotas are counted by; empty for the host itself.
	Host  string `json:"host"`
	Quota string `json:"quota,omitempty"`
	// Rate is in requests a second; 0 means that the rate is not limited.
	Rate float64 `json:"rate"`
	// NotBefore is when the next request may be sent; zero where it may be sent now.
	NotBefore time.Time `json:"notBefore,omitzero"`
	// InFlight is the number of requests under way, Waiting that of those that wait to be sent.
	InFlight int `json:"inFlight"`
	Waiting  int `json:"waiting"`
	// Throttled counts the answers that asked for fewer requests, those of quotas included.
	Throttled uint64 `json:"throttled"`
	// Open is true while the service does not answer and only a probe is sent now and then.
	Open bool `json:"open"`
	// Quotas are those of the host that are limited now.
	Quotas []Snapshot `json:"quotas,omitempty"`
}

// Snapshots returns what the limiters look like, one for each host, sorted by host.
func (l *Limiters) Snapshots() []Snapshot {
	l.mu.Lock()
	l.sweep(l.options.Clock.Now())
	hosts := map[string]*Snapshot{}
	quotas := map[string][]Snapshot{}
	for k, limiter := range l.limiters {
		s := limiter.snapshot()
		s.Host, s.Quota = k.Host, k.Quota
		if k.Quota == "" {
			hosts[k.Host] = &s
			continue
		}
		quotas[k.Host] = append(quotas[k.Host], s)
	}
	l.mu.Unlock()
	for host, all := range quotas {
		h, ok := hosts[host]
		if !ok {
			h = &Snapshot{Host: host}
			hosts[host] = h
		}
		for _, s := range all {
			h.Waiting += s.Waiting
			h.Throttled += s.Throttled
			if s.Rate > 0 || !s.NotBefore.IsZero() {
				h.Quotas = append(h.Quotas, s)
			}
		}
		slices.SortFunc(h.Quotas, byKey)
	}
	all := make([]Snapshot, 0, len(hosts))
	for _, s := range hosts {
		all = append(all, *s)
	}
	slices.SortFunc(all, byKey)
	return all
}

func byKey(a, b Snapshot) int {
	return cmp.Or(strings.Compare(a.Host, b.Host), strings.Compare(a.Quota, b.Quota))
}

// Policy returns an azcore policy that sends each request when its limiters allow it. An empty host is the request's
// own. Where the quota is not empty, answers that throttle count for the quota, and all others for the host.
func (l *Limiters) Policy(k Key) policy.Policy { return &limitPolicy{limiters: l, key: k} }

type limitPolicy struct {
	limiters *Limiters
	key      Key
}

// Do implements policy.Policy.
func (p *limitPolicy) Do(req *policy.Request) (*http.Response, error) {
	ctx := req.Raw().Context()
	host, quota := Key{Host: p.key.Host}, Key{Host: p.key.Host, Quota: p.key.Quota}
	if host.Host == "" {
		host.Host = strings.ToLower(req.Raw().URL.Host)
		quota.Host = host.Host
	}
	// the quota's first: who waits for it holds nothing of the host's
	releaseQuota := Release(func(Outcome, time.Duration) {})
	if quota != host {
		var err error
		if releaseQuota, err = p.limiters.Limiter(quota).Acquire(ctx); err != nil {
			return nil, err
		}
		defer releaseQuota(Canceled, 0) // unless it was released before
	}
	releaseHost, err := p.limiters.Limiter(host).Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer releaseHost(Canceled, 0)
	resp, err := req.Next()
	switch {
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
	case err != nil:
		releaseHost(Failed, 0)
	default:
		outcome, wait := Judge(resp, p.limiters.options.Clock.Now())
		if outcome == Throttled && quota != host {
			releaseQuota(Throttled, wait)
			outcome, wait = Answered, 0
		} else if outcome == Answered {
			releaseQuota(Answered, 0)
		}
		releaseHost(outcome, wait)
	}
	return resp, err
}

// Judge returns what an answer says about the service, and how long it asks to wait.
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
