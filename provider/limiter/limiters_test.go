package limiter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"go.uber.org/goleak"
	"k8s.io/utils/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		header, value string
		want          time.Duration
	}{
		"nothing":           {"Retry-After", "", 0},
		"seconds":           {"Retry-After", "17", 17 * time.Second},
		"above 60 s":        {"Retry-After", "600", 10 * time.Minute},
		"zero":              {"Retry-After", "0", 0},
		"negative":          {"Retry-After", "-5", 0},
		"date":              {"Retry-After", "Sun, 01 Mar 2026 12:01:30 GMT", 90 * time.Second},
		"date, RFC 850":     {"Retry-After", "Sunday, 01-Mar-26 12:01:30 GMT", 90 * time.Second},
		"date in the past":  {"Retry-After", "Sun, 01 Mar 2026 11:00:00 GMT", 0},
		"rubbish":           {"Retry-After", "soon", 0},
		"68 years":          {"Retry-After", "2147483647", time.Hour},
		"too big":           {"Retry-After", "99999999999999999999", time.Hour},
		"too small":         {"Retry-After", "-99999999999999999999", 0},
		"date far away":     {"Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT", time.Hour},
		"many millis":       {"Retry-After-Ms", "9223372036854775807", time.Hour},
		"milliseconds":      {"Retry-After-Ms", "250", 250 * time.Millisecond},
		"Azure's own":       {"X-Ms-Retry-After-Ms", "1500", 1500 * time.Millisecond},
		"rubbish as millis": {"Retry-After-Ms", "1.5", 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := RetryAfter(http.Header{tc.header: {tc.value}}, now); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"", "1", "-1", "600", "2147483647", "Sun, 01 Mar 2026 12:01:30 GMT", "1e3", " 5"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		for _, name := range []string{"Retry-After", "Retry-After-Ms", "X-Ms-Retry-After-Ms"} {
			if got := RetryAfter(http.Header{name: {value}}, now); got < 0 || got > LongestRetryAfter {
				t.Errorf("%s: %q gives %s", name, value, got)
			}
		}
	})
}

func TestJudge(t *testing.T) {
	for status, want := range map[int]Outcome{
		200: Answered, 302: Answered, 400: Answered, 401: Answered, 403: Answered, 404: Answered, 408: Failed, 410: Failed,
		429: Throttled, 500: Failed, 502: Failed, 503: Failed, 504: Failed,
	} {
		got, wait := Judge(&http.Response{StatusCode: status, Header: http.Header{"Retry-After": {"9"}}}, time.Now())
		if got != want {
			t.Errorf("%d: %v", status, got)
		}
		if (wait == 0) != (want == Answered) {
			t.Errorf("%d: wait %s", status, wait)
		}
	}
}

// transport answers requests without a network.
type transport func(*http.Request) (*http.Response, error)

func (f transport) Do(r *http.Request) (*http.Response, error) { return f(r) }

func answer(r *http.Request, status int) *http.Response {
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Header: http.Header{}, Request: r, Body: io.NopCloser(strings.NewReader("{}")),
	}
}

// send sends a request of a quota through a pipeline of its own.
func send(t *testing.T, ctx context.Context, l *Limiters, quota, url string, to transport) error { //nolint:revive // t is of a test
	t.Helper()
	req, err := runtime.NewRequest(ctx, http.MethodGet, url)
	if err != nil {
		t.Fatal(err)
	}
	pipeline := runtime.NewPipeline("test", "v0", runtime.PipelineOptions{PerRetry: []policy.Policy{l.Policy(Key{Quota: quota})}}, &policy.ClientOptions{
		Transport: to, Retry: policy.RetryOptions{MaxRetries: -1},
	})
	resp, err := pipeline.Do(req)
	if err == nil {
		_ = resp.Body.Close()
	}
	return err
}

func newLimiters() *Limiters {
	return New(Options{Clock: clock.RealClock{}, Limits: func(k Key) Limits {
		if k.Host == "small.example" {
			return Limits{Rate: 1, Burst: 1, InFlight: 1}
		}
		if k.Quota != "" {
			return Limits{Advice: "wait"}
		}
		return Limits{Rate: 100, Burst: 200, InFlight: 64, Advice: "wait"}
	}})
}

func TestEachHostHasItsOwnLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, start := newLimiters(), time.Now()
		throttling := func(r *http.Request) (*http.Response, error) {
			if r.URL.Host == "ok.example" {
				return answer(r, http.StatusOK), nil
			}
			resp := answer(r, http.StatusTooManyRequests)
			resp.Header.Set("Retry-After", "40")
			return resp, nil
		}
		for _, url := range []string{"https://SMALL.example/", "https://ok.example/", "https://ok.example/"} {
			if err := send(t, t.Context(), g, "", url, throttling); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("took %s", took)
		}
		all := g.Snapshots()
		if len(all) != 2 || all[0].Host != "ok.example" || all[0].Throttled != 0 || all[1].Host != "small.example" ||
			all[1].NotBefore.Before(start.Add(40*time.Second)) || all[1].NotBefore.After(start.Add(50*time.Second)) || all[1].Rate != 0.5 {
			t.Errorf("snapshots: %+v", all)
		}
	})
}

func TestWhatAnErrorSaysAboutTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newLimiters()
		broken := errors.New("broken")
		failing := func(*http.Request) (*http.Response, error) { return nil, broken }
		for range failuresToOpen {
			ctx, cancel := context.WithCancel(t.Context())
			err := send(t, ctx, g, "", "https://kv.example/", func(*http.Request) (*http.Response, error) {
				cancel()
				return nil, ctx.Err()
			})
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		if s := g.Snapshots()[0]; s.Open || s.InFlight != 0 {
			t.Errorf("callers that gave up count against the service: %+v", s)
		}
		for range failuresToOpen {
			if err := send(t, t.Context(), g, "", "https://kv.example/", failing); !errors.Is(err, broken) {
				t.Fatal(err)
			}
		}
		if s := g.Snapshots()[0]; !s.Open || s.InFlight != 0 {
			t.Errorf("after errors: %+v", s)
		}
	})
}

const entra = "https://login.example/token"

// throttlingOne answers 429 with a Retry-After to one client's requests.
func throttlingOne(t *testing.T, l *Limiters, quota string, status int) error {
	t.Helper()
	return send(t, t.Context(), l, quota, entra, func(r *http.Request) (*http.Response, error) {
		resp := answer(r, status)
		resp.Header.Set("Retry-After", "300")
		return resp, nil
	})
}

func answering(r *http.Request) (*http.Response, error) { return answer(r, http.StatusOK), nil }

// Entra ID throttles by tenant and client: one client's 429 must not stop the others of the node.
func TestThrottlingCountsForTheQuotaAndFailuresForTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, start := newLimiters(), time.Now()
		if err := throttlingOne(t, l, "client a of tenant x", http.StatusTooManyRequests); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for quota, want := range map[string]string{
			"client b of tenant x": "", "client a of tenant y": "",
			"client a of tenant x": "login.example (client a of tenant x) asked for fewer requests: nothing is sent to it for 5m",
		} {
			if err := send(t, ctx, l, quota, entra, answering); (err != nil) != (want != "") || err != nil && !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%s: %v", quota, err)
			}
		}
		all := l.Snapshots()
		if len(all) != 1 || all[0].Host != "login.example" || all[0].Throttled != 1 || !all[0].NotBefore.IsZero() || len(all[0].Quotas) != 1 ||
			all[0].Quotas[0].Quota != "client a of tenant x" || all[0].Quotas[0].NotBefore.Before(start.Add(300*time.Second)) {
			t.Errorf("%+v", all)
		}
		if err := throttlingOne(t, l, "client b of tenant x", http.StatusServiceUnavailable); err != nil {
			t.Fatal(err)
		}
		if err := send(t, ctx, l, "client a of tenant y", entra, answering); err == nil || !strings.Contains(err.Error(), "login.example does not answer") {
			t.Errorf("after a 503 with Retry-After: %v", err)
		}
		if time.Since(start) != 0 {
			t.Errorf("took %s", time.Since(start))
		}
	})
}

// Who waits for its quota holds nothing of the host's.
func TestAClosedQuotaHoldsNoSlotOfTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiters()
		if err := throttlingOne(t, l, "a", http.StatusTooManyRequests); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		for range 500 {
			waiting.Go(func() { _ = send(t, ctx, l, "a", entra, answering) })
		}
		synctest.Wait()
		if s := l.Snapshots()[0]; s.Waiting != 500 || s.InFlight != 0 {
			t.Errorf("%+v", s)
		}
		if err := send(t, t.Context(), l, "b", entra, answering); err != nil {
			t.Error(err)
		}
		cancel()
		waiting.Wait()
	})
}

func TestLimitersThatAreNotUsedAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiters()
		for i := range 300 {
			host := fmt.Sprintf("https://vault-%d.example/", i)
			for range failuresToOpen {
				_ = send(t, t.Context(), l, "", host, func(*http.Request) (*http.Response, error) { return nil, errors.New("no such host") })
			}
		}
		if err := throttlingOne(t, l, "a", http.StatusTooManyRequests); err != nil {
			t.Fatal(err)
		}
		if n := len(l.Snapshots()); n != 301 {
			t.Errorf("%d hosts", n)
		}
		time.Sleep(5 * time.Minute)
		if err := send(t, t.Context(), l, "", "https://used.example/", answering); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Minute)
		if all := l.Snapshots(); len(all) != 1 || all[0].Host != "used.example" {
			t.Errorf("%+v", all)
		}
		// what a service asked for is not forgotten before its time
		if err := send(t, t.Context(), l, "", "https://slow.example/", func(r *http.Request) (*http.Response, error) {
			resp := answer(r, http.StatusTooManyRequests)
			resp.Header.Set("Retry-After", "3600")
			return resp, nil
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Minute)
		if all := l.Snapshots(); len(all) != 1 || all[0].Host != "slow.example" {
			t.Errorf("%+v", all)
		}
	})
}
