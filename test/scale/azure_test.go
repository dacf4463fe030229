package scale

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// window is what Key Vault counts requests in.
	window = 10 * time.Second
	// vaultLimit is how many reads of secrets Key Vault answers for one vault in a region within a window; regionLimit is how many times
	// that it answers for all vaults of a subscription in the region.
	vaultLimit, regionLimit = 4000, 5
	// tokenLife is how long an access token of Entra ID is valid at least; the model spreads it up to half more, as Entra ID does.
	tokenLife = time.Hour
	// latency is that of each answer.
	latency = 20 * time.Millisecond
)

// count is what one service was asked in one window.
type count struct{ asked, throttled int }

// azure is a model of the vaults of one subscription and region, and of Entra ID. It implements http.RoundTripper.
type azure struct {
	// limit is how many reads a vault answers within a window.
	limit int
	// entraLimit is how many tokens of one client Entra ID gives within a window; 0 means that there is no limit. Entra ID documents none.
	entraLimit int

	mu sync.Mutex
	// down makes every vault answer 503.
	down bool
	// vaults counts by vault and window, entra by window; clients by client and window.
	vaults  map[string]map[int64]*count
	entra   map[int64]*count
	clients map[string]int
	current int64
	region  int
	total   int
	// discovered counts what a client asks Entra ID for before its first token: the endpoints of a tenant and of a cloud.
	discovered int
}

func newAzure() *azure {
	a := &azure{limit: vaultLimit}
	a.reset()
	return a
}

// reset begins to count anew.
func (a *azure) reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.vaults, a.entra, a.clients = map[string]map[int64]*count{}, map[int64]*count{}, map[string]int{}
	a.current, a.region, a.discovered = 0, 0, 0
}

func (a *azure) setDown(down bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down = down
}

// RoundTrip implements http.RoundTripper.
func (a *azure) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		defer func() { _ = req.Body.Close() }()
	}
	timer := time.NewTimer(latency)
	defer timer.Stop()
	select {
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	case <-timer.C:
	}
	name, isVault := strings.CutSuffix(req.URL.Host, ".vault.azure.net")
	switch {
	case isVault:
		return a.vault(req, name), nil
	case strings.HasSuffix(req.URL.Path, "/discovery/instance"):
		a.discover()
		return answer(req, http.StatusOK, 0, map[string]any{
			"tenant_discovery_endpoint": "https://login.microsoftonline.com/tenant/v2.0/.well-known/openid-configuration",
			"metadata": []map[string]any{{
				"preferred_network": "login.microsoftonline.com",
				"preferred_cache":   "login.windows.net",
				"aliases":           []string{"login.microsoftonline.com", "login.windows.net"},
			}},
		}), nil
	case strings.HasSuffix(req.URL.Path, "/openid-configuration"):
		a.discover()
		base := "https://login.microsoftonline.com/tenant"
		return answer(req, http.StatusOK, 0, map[string]any{
			"issuer":                 base + "/v2.0",
			"authorization_endpoint": base + "/oauth2/v2.0/authorize",
			"token_endpoint":         base + "/oauth2/v2.0/token",
		}), nil
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	return a.token(req, string(body)), nil
}

func (a *azure) discover() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.discovered++
}

// vault answers a read of a secret's newest version.
func (a *azure) vault(req *http.Request, name string) *http.Response {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	c := a.countOf(name, now)
	c.asked++
	a.total++
	if a.down {
		return refusal(req, http.StatusServiceUnavailable, 0, "ServiceUnavailable")
	}
	if req.Header.Get("Authorization") == "" { // how the SDK's clients find out whose token a vault takes
		res := refusal(req, http.StatusUnauthorized, 0, "Unauthorized")
		res.Header.Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/tenant", resource="https://vault.azure.net"`)
		return res
	}
	// Requests that are throttled do not count against the limit.
	if c.asked-c.throttled > a.limit || a.region >= regionLimit*a.limit {
		c.throttled++
		wait := 0
		if a.total%2 == 0 { // Key Vault does not always say when to come again
			wait = int(now.Truncate(window).Add(window).Sub(now)/time.Second) + 1
		}
		return refusal(req, http.StatusTooManyRequests, wait, "Throttled")
	}
	a.region++
	secret := strings.Trim(strings.TrimPrefix(req.URL.Path, "/secrets/"), "/")
	return answer(req, http.StatusOK, 0, map[string]any{
		"value":      "value",
		"id":         fmt.Sprintf("https://%s/secrets/%s/%032x", req.URL.Host, secret, 1),
		"attributes": map[string]any{"enabled": true, "created": 1, "updated": 1},
	})
}

// countOf is the count of the vault's present window. The caller holds the lock.
func (a *azure) countOf(vault string, now time.Time) *count {
	at := now.Unix() / int64(window/time.Second)
	if at != a.current {
		a.current, a.region = at, 0
		clear(a.clients)
	}
	if a.vaults[vault] == nil {
		a.vaults[vault] = map[int64]*count{}
	}
	if a.vaults[vault][at] == nil {
		a.vaults[vault][at] = &count{}
	}
	return a.vaults[vault][at]
}

// token answers a request for an access token.
func (a *azure) token(req *http.Request, form string) *http.Response {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	at := now.Unix() / int64(window/time.Second)
	a.countOf("", now) // begins the window
	if a.entra[at] == nil {
		a.entra[at] = &count{}
	}
	a.entra[at].asked++
	a.total++
	_, client, _ := strings.Cut(form, "client_id=")
	client, _, _ = strings.Cut(client, "&")
	if a.clients[client]++; a.entraLimit > 0 && a.clients[client] > a.entraLimit {
		a.entra[at].throttled++
		return answer(req, http.StatusTooManyRequests, int(window/time.Second), map[string]any{"error": "temporarily_unavailable"})
	}
	life := tokenLife + tokenLife/2*time.Duration(a.total%64)/64
	return answer(req, http.StatusOK, 0, map[string]any{
		"token_type":     "Bearer",
		"expires_in":     int(life / time.Second),
		"ext_expires_in": int(life / time.Second),
		"access_token":   "token-" + strconv.Itoa(a.total),
	})
}

func refusal(req *http.Request, status, retryAfter int, code string) *http.Response {
	return answer(req, status, retryAfter, map[string]any{"error": map[string]any{"code": code, "message": code}})
}

func answer(req *http.Request, status, retryAfter int, body map[string]any) *http.Response {
	data, err := json.Marshal(body)
	if err != nil {
		panic(err) // the model's own
	}
	header := http.Header{
		"Content-Type": {"application/json; charset=utf-8"},
		"Date":         {time.Now().UTC().Format(http.TimeFormat)},
	}
	if retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	return &http.Response{
		StatusCode:    status,
		Status:        strconv.Itoa(status) + " " + http.StatusText(status),
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        header,
		Body:          io.NopCloser(bytes.NewReader(data)),
		ContentLength: int64(len(data)),
		Request:       req,
	}
}

// load is what a service was asked over a time.
type load struct {
	// Asked and Throttled are requests in all; Peak is the most in one window.
	Asked, Throttled, Peak int
	// PerSecond is the mean.
	PerSecond float64
}

// throttledShare is the share of requests that were throttled.
func (l load) throttledShare() float64 {
	if l.Asked == 0 {
		return 0
	}
	return float64(l.Throttled) / float64(l.Asked)
}

func sum(over time.Duration, all ...map[int64]*count) (l load) {
	windows := map[int64]int{}
	for _, counts := range all {
		for at, c := range counts {
			l.Asked += c.asked
			l.Throttled += c.throttled
			windows[at] += c.asked
		}
	}
	for _, n := range windows {
		l.Peak = max(l.Peak, n)
	}
	l.PerSecond = float64(l.Asked) / over.Seconds()
	return l
}

// vaultLoad is that of all vaults since the last reset, entraLoad that of Entra ID.
func (a *azure) vaultLoad(over time.Duration) load {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []map[int64]*count
	for _, counts := range a.vaults {
		all = append(all, counts)
	}
	return sum(over, all...)
}

// asked is how often the vaults and Entra ID were asked since the last reset.
func (a *azure) asked() (vault, entra int) {
	vault, entra = a.vaultLoad(time.Hour).Asked, a.entraLoad(time.Hour).Asked
	a.mu.Lock()
	defer a.mu.Unlock()
	return vault, entra + a.discovered
}

func (a *azure) entraLoad(over time.Duration) load {
	a.mu.Lock()
	defer a.mu.Unlock()
	return sum(over, a.entra)
}
