package vault_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
)

// The tests run in a bubble with a clock of its own: waits take no time.

// step is how one request is answered.
type step struct {
	status int
	body   string
	header http.Header
	// hang waits until the request is given up; err fails it.
	hang bool
	err  error
}

// script answers requests in turn; the last step stays.
type script struct {
	steps []step

	mu sync.Mutex
	n  int
}

func (s *script) Do(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	now := s.steps[min(s.n, len(s.steps)-1)]
	s.n++
	s.mu.Unlock()
	switch {
	case now.hang:
		<-r.Context().Done()
		return nil, r.Context().Err()
	case now.err != nil:
		return nil, now.err
	}
	return &http.Response{
		StatusCode: now.status, Status: http.StatusText(now.status), Header: now.header, Request: r,
		Body: io.NopCloser(strings.NewReader(now.body)),
	}, nil
}

func (s *script) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

// saying answers with a status, a body and header lines.
func saying(status int, body string, header ...string) step {
	h := http.Header{}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return step{status: status, body: body, header: h}
}

func fine() step {
	_, _, body := granted(host)("")
	return saying(http.StatusOK, body)
}

// observations are what a pool observed.
type observations struct {
	mu  sync.Mutex
	all []string
}

func (o *observations) note(operation string, reason volume.Reason, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, operation+" "+string(reason))
}

func scripted(t *testing.T, s *script) (*vault.Client, *observations) {
	t.Helper()
	o := &observations{}
	pool := vault.New(vault.Options{
		Transport: s, Clock: clock.RealClock{}, Policies: []policy.Policy{vault.TryTimeout(20 * time.Second)}, Observe: o.note,
	})
	client, err := pool.Client("https://"+host+"/", scope, &bearer{})
	if err != nil {
		t.Fatal(err)
	}
	return client, o
}

func TestWhatMayPassIsTriedAgainWhereAPodWaits(t *testing.T) {
	for name, answer := range map[string]step{
		"503":       saying(http.StatusServiceUnavailable, `{"error":{"code":"ServiceUnavailable"}}`),
		"429":       saying(http.StatusTooManyRequests, `{"error":{"code":"Throttled"}}`, "Retry-After", "7"),
		"HTML 502":  saying(http.StatusBadGateway, "<html>"),
		"reset":     {err: syscall.ECONNRESET},
		"truncated": saying(http.StatusOK, `{"value":"cut`),
		"empty":     saying(http.StatusOK, ""),
		"hang":      {hang: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{steps: []step{answer, answer, fine()}}
				client, observed := scripted(t, s)
				start := time.Now()
				if got, err := get(starting(t), client, class.Secret, "s", ""); err != nil || got.Value != "v" {
					t.Fatalf("got %+v, %v", got, err)
				}
				if s.asked() != 3 || len(observed.all) != 3 || observed.all[2] != "get secret " || observed.all[1] == "get secret " {
					t.Errorf("%d requests, observed %q", s.asked(), observed.all)
				}
				if took := time.Since(start); name == "429" && took < 14*time.Second {
					t.Errorf("took %s: Retry-After was not kept", took)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				s := &script{steps: []step{answer}}
				client, _ := scripted(t, s)
				if _, err := get(t.Context(), client, class.Secret, "s", ""); !volume.ReasonOf(err).Transient() || s.asked() != 1 {
					t.Errorf("a refresh asked %d times: %v", s.asked(), err)
				}
				s = &script{steps: []step{answer}}
				client, _ = scripted(t, s)
				if _, err := get(starting(t), client, class.Secret, "s", ""); !volume.ReasonOf(err).Transient() || s.asked() != 5 {
					t.Errorf("a Pod's start asked %d times: %v", s.asked(), err)
				}
			})
		})
	}
}

// A refresh that is throttled waits for its turn again: what else of its class was answered would be lost. What is neither a refresh nor a
// starting Pod, such as the first try before a fallback vault, is asked once.
func TestThrottledRefreshWaitsForItsTurnAgain(t *testing.T) {
	throttled := saying(http.StatusTooManyRequests, `{"error":{"code":"Throttled"}}`)
	refresh := func(ctx context.Context) context.Context { return limiter.WithHeld(ctx, time.Now()) }
	for name, tt := range map[string]struct {
		claim func(context.Context) context.Context
		steps []step
		asked int
		fails bool
	}{
		"refresh":      {refresh, []step{throttled, throttled, fine()}, 3, false},
		"refresh, 503": {refresh, []step{saying(http.StatusServiceUnavailable, "{}"), fine()}, 1, true},
		"first refresh": {
			func(ctx context.Context) context.Context { return limiter.WithHeld(ctx, time.Time{}) },
			[]step{throttled, fine()}, 2, false,
		},
		"neither": {
			func(ctx context.Context) context.Context { return limiter.WithUrgency(ctx, false) },
			[]step{throttled, fine()}, 1, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{steps: tt.steps}
				client, _ := scripted(t, s)
				if _, err := get(tt.claim(t.Context()), client, class.Secret, "s", ""); (err != nil) != tt.fails || s.asked() != tt.asked {
					t.Errorf("asked %d times: %v", s.asked(), err)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		client, _ := scripted(t, &script{steps: []step{throttled}})
		ctx, cancel := context.WithTimeout(limiter.WithHeld(t.Context(), time.Now()), 30*time.Second)
		defer cancel()
		if _, err := get(ctx, client, class.Secret, "s", ""); volume.ReasonOf(err) != volume.ReasonThrottled {
			t.Errorf("at its deadline: %v", err)
		}
	})
}

// A request that the limiter does not let go before its deadline says so, and not that the vault did not answer.
func TestRequestThatIsNotSentSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []step{saying(http.StatusTooManyRequests, `{"error":{"code":"Throttled"}}`)}}
		limiters := limiter.New(limiter.Options{Clock: clock.RealClock{}, Limits: func(limiter.Key) limiter.Limits { return limiter.Limits{} }})
		pool := vault.New(vault.Options{Transport: s, Clock: clock.RealClock{}, Policies: []policy.Policy{limiters.Policy(limiter.Key{})}})
		client, err := pool.Client("https://"+host+"/", scope, &bearer{})
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			_, _ = get(t.Context(), client, class.Secret, "s", "")
		}
		time.Sleep(20 * time.Second)
		var work sync.WaitGroup
		for range 3 {
			work.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if _, err := get(ctx, client, class.Secret, "s", ""); volume.ReasonOf(err) != volume.ReasonThrottled {
					t.Errorf("%v", err)
				}
			})
		}
		work.Wait()
	})
}

func TestHangEndsWithTheTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := scripted(t, &script{steps: []step{{hang: true}}})
		start := time.Now()
		_, err := get(t.Context(), client, class.Secret, "s", "")
		if volume.ReasonOf(err) != volume.ReasonNetwork || !strings.Contains(err.Error(), "did not answer in time") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took != 20*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestDeadlineNamesTheRealCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := scripted(t, &script{steps: []step{
			saying(http.StatusServiceUnavailable, "{}"), {hang: true},
		}})
		ctx, cancel := context.WithTimeout(starting(t), 10*time.Second)
		defer cancel()
		_, err := get(ctx, client, class.Secret, "s", "")
		if volume.ReasonOf(err) != volume.ReasonUnavailable || !strings.Contains(err.Error(), "answered 503") {
			t.Errorf("got %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		client, _ := scripted(t, &script{steps: []step{{hang: true}}})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := get(ctx, client, class.Secret, "s", ""); !errors.Is(err, context.Canceled) {
			t.Errorf("the caller canceled: %v", err)
		}
	})
}

func TestTheVaultsClockIsPassedOn(t *testing.T) {
	for header, want := range map[string]time.Time{
		"Sun, 01 Mar 2026 12:01:30 GMT": time.Date(2026, 3, 1, 12, 1, 30, 0, time.UTC),
		"soon":                          {},
		"":                              {},
	} {
		_, _, body := granted(host)("")
		client, _ := scripted(t, &script{steps: []step{
			saying(http.StatusOK, body, "Date", header),
		}})
		a, err := client.Ask(t.Context(), volume.SourceKey{Kind: "secret", Name: "s"}, "s")
		if err != nil || !a.Date.Equal(want) {
			t.Errorf("%q: %s, %v", header, a.Date, err)
		}
	}
}

// A list that does not end is an error before it fills the memory.
func TestListsAreBounded(t *testing.T) {
	var page strings.Builder
	for range 5001 {
		page.WriteString(`{"id":"https://` + host + `/secrets/s/` + strings.Repeat("a", 32) + `","attributes":{"enabled":true}},`)
	}
	next := `"nextLink":"https://` + host + `/secrets/s/versions?api-version=7.6"}`
	for name, body := range map[string]string{
		"pages without end":      `{"value":[],` + next,
		"pages of many versions": `{"value":[` + strings.TrimSuffix(page.String(), ",") + `],` + next,
	} {
		s := &script{steps: []step{saying(http.StatusOK, body)}}
		client, _ := scripted(t, s)
		_, err := versions(t.Context(), client, class.Secret, "s")
		if volume.ReasonOf(err) != volume.ReasonUnavailable || s.asked() > 200 {
			t.Errorf("%s: %d requests, %v", name, s.asked(), err)
		}
	}
}

// A vault's name may be a typing mistake: its client does not stay.
func TestClientsThatAreNotUsedAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := vault.New(vault.Options{Transport: &script{}, Clock: clock.RealClock{}})
		client := func(name string) *vault.Client {
			c, err := pool.Client("https://"+name+".vault.azure.net/", scope, &bearer{})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		b := &bearer{}
		mistyped, err := pool.Client("https://mistyped.vault.azure.net/", scope, b)
		if err != nil {
			t.Fatal(err)
		}
		client("used")
		time.Sleep(16 * time.Minute)
		client("used")
		if again, err := pool.Client("https://mistyped.vault.azure.net/", scope, b); err != nil || again == mistyped {
			t.Errorf("the client is kept: %v", err)
		}
	})
}
