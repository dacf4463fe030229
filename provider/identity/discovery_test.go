package identity

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
)

// counting counts discovery requests, and answers the first ones as the test says.
type counting struct {
	*wire
	n      atomic.Int64
	answer func(n int64, r *http.Request) *http.Response // nil where the wire answers
}

func (c *counting) Do(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "/openid-configuration") {
		n := c.n.Add(1)
		time.Sleep(time.Millisecond) // so that others come meanwhile
		if c.answer != nil {
			if resp := c.answer(n, r); resp != nil {
				return resp, nil
			}
		}
	}
	return c.wire.Do(r)
}

func TestDiscoveryIsFetchedOncePerTenant(t *testing.T) {
	c := &counting{wire: &wire{answer: &granting{life: "3599"}}}
	r := New(Options{Transport: c, Clock: clock.RealClock{}})
	t.Cleanup(r.Close)
	var work sync.WaitGroup
	for i := range 100 {
		work.Go(func() {
			parsed := workload()
			parsed.ClientID = fmt.Sprintf("client-%d", i)
			id, err := r.Resolve(parsed, Account{}, fromPod(time.Now().Add(time.Hour)))
			if err == nil {
				_, err = get(t, id)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	if n := c.n.Load(); n != 1 || len(c.asked()) != 100 {
		t.Errorf("%d discovery requests, %d token requests", n, len(c.asked()))
	}
}

func TestOnlyADiscoveryDocumentIsKept(t *testing.T) {
	for name, answer := range map[string]func(*http.Request) *http.Response{
		"503":    func(r *http.Request) *http.Response { return respond(r, http.StatusServiceUnavailable, "{}") },
		"a page": func(r *http.Request) *http.Response { return respond(r, http.StatusOK, "<html>") },
		"no use": func(r *http.Request) *http.Response { return respond(r, http.StatusOK, "{}") },
	} {
		t.Run(name, func(t *testing.T) {
			c := &counting{wire: &wire{answer: &granting{life: "3599"}}}
			c.answer = func(n int64, r *http.Request) *http.Response {
				if n == 1 {
					return answer(r)
				}
				return nil
			}
			r := New(Options{Transport: c, Clock: clock.RealClock{}})
			t.Cleanup(r.Close)
			id := resolve(t, r, workload(), fromPod(time.Now().Add(time.Hour)))
			if _, err := get(t, id); volume.ReasonOf(err) != volume.ReasonUnavailable {
				t.Errorf("got %v", err)
			}
			mustGet(t, id)
		})
	}
}

// One client's 429 must not stop the other clients and tenants of a node.
func TestThrottlingCountsForTheClient(t *testing.T) {
	grant := &granting{life: "3599"}
	w := &wire{answer: answerFunc(func(r *http.Request) (*http.Response, error) {
		if err := r.ParseForm(); err != nil {
			return nil, err
		}
		return grant.to(r)
	})}
	throttled := answerFunc(func(r *http.Request) (*http.Response, error) {
		resp := respond(r, http.StatusTooManyRequests, `{"error":"temporarily_unavailable"}`)
		resp.Header.Set("Retry-After", "3000")
		return resp, nil
	})
	limiters := limiter.New(limiter.Options{Clock: clock.RealClock{}, Limits: func(limiter.Key) limiter.Limits {
		return limiter.Limits{Advice: "use more identities"}
	}})
	r := New(Options{Transport: w, Clock: clock.RealClock{}, Limiters: limiters})
	t.Cleanup(r.Close)
	identityOf := func(client string) *Identity {
		parsed := workload()
		parsed.ClientID = client
		return resolve(t, r, parsed, fromPod(time.Now().Add(time.Hour)))
	}
	grants := w.answer
	w.answer = throttled
	_, err := get(t, identityOf("busy"))
	e, ok := errors.AsType[*volume.Error](err)
	if !ok || e.Reason != volume.ReasonThrottled || e.RetryAfter != 50*time.Minute ||
		!strings.Contains(e.Message, "login.microsoftonline.com asked for fewer token requests of workload identity busy") {
		t.Errorf("got %v", err)
	}
	w.answer = grants
	mustGet(t, identityOf("calm"))
	all := limiters.Snapshots()
	if len(all) != 1 || !all[0].NotBefore.IsZero() || len(all[0].Quotas) != 1 || all[0].Quotas[0].Quota != "client busy of tenant tenant" {
		t.Errorf("%+v", all)
	}
}

// A discovery document says where the SDK sends service account tokens and client secrets.
func TestCredentialsDoNotFollowADiscoveryDocument(t *testing.T) {
	for host, ok := range map[string]bool{
		"login.microsoftonline.com": true, "westeurope.login.microsoft.com": true,
		"evil.example.com": false, "login.microsoftonline.com.evil.example": false, "evil-login.microsoft.com": false,
	} {
		t.Run(host, func(t *testing.T) {
			c := &counting{wire: &wire{answer: &granting{life: "3599"}}}
			c.answer = func(_ int64, r *http.Request) *http.Response {
				const base = "https://login.microsoftonline.com/tenant/"
				return respond(r, http.StatusOK, `{"issuer":"`+base+`v2.0","authorization_endpoint":"`+base+`authorize",`+
					`"token_endpoint":"https://`+host+`/tenant/oauth2/v2.0/token"}`)
			}
			r := New(Options{Transport: c, Clock: clock.RealClock{}})
			t.Cleanup(r.Close)
			_, err := get(t, resolve(t, r, workload(), fromPod(time.Now().Add(time.Hour))))
			if (err == nil) != ok || len(c.asked()) != map[bool]int{true: 1}[ok] {
				t.Errorf("%d token requests, %v", len(c.asked()), err)
			}
			if !ok {
				check(t, err, volume.ReasonUnavailable, []string{"login.microsoftonline.com names another host"})
			}
		})
	}
}
