package identity

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

func TestConcurrentCallersShareOneTokenRequest(t *testing.T) {
	release := make(chan struct{})
	grant := &granting{life: "3599"}
	w := &wire{answer: answerFunc(func(r *http.Request) (*http.Response, error) { <-release; return grant.to(r) })}
	r, clk := registry(t, w)
	id := resolve(t, r, workload(), fromPod(clk.Now().Add(time.Hour)))
	var work sync.WaitGroup
	for range 50 {
		work.Go(func() {
			if token, err := get(t, id); err != nil || token != "access-1" {
				t.Errorf("got %q, %v", token, err)
			}
		})
	}
	close(release)
	work.Wait()
	mustGet(t, id)
	if n := len(w.asked()); n != 1 {
		t.Errorf("%d token requests", n)
	}
}

func TestTokenIsRenewedBeforeItsEnd(t *testing.T) {
	w := &wire{answer: &granting{life: "240"}} // so short that the SDK's own cache never serves it
	r, clk := registry(t, w)
	id := resolve(t, r, workload(), fromPod(clk.Now().Add(time.Hour)))
	first := mustGet(t, id)
	clk.SetTime(clk.Now().Add(3*time.Minute + 30*time.Second))
	if token := mustGet(t, id); token != first {
		t.Error("renewed before nine tenths of its life")
	}
	clk.SetTime(clk.Now().Add(10 * time.Second))
	if token := mustGet(t, id); token == first {
		t.Error("not renewed in the last tenth of its life")
	}
}

func TestTokenServesToItsEndWhileEntraIsAway(t *testing.T) {
	for name, fail := range map[string]answerer{
		"503":    refusing{http.StatusServiceUnavailable, "<html>"},
		"broken": answerFunc(func(*http.Request) (*http.Response, error) { return nil, errors.New("connection reset") }),
	} {
		t.Run(name, func(t *testing.T) {
			w := &wire{answer: &granting{life: "240"}}
			r, clk := registry(t, w)
			id := resolve(t, r, workload(), fromPod(clk.Now().Add(time.Hour)))
			first := mustGet(t, id)
			w.answer = fail
			for _, step := range []time.Duration{220 * time.Second, time.Second, 10 * time.Second} {
				clk.SetTime(clk.Now().Add(step))
				if token := mustGet(t, id); token != first {
					t.Errorf("got %q", token)
				}
			}
			if n := len(w.asked()); n != 2 {
				t.Errorf("%d token requests: after a failure others must not try at once", n)
			}
			clk.SetTime(clk.Now().Add(10 * time.Second))
			if token, err := get(t, id); err == nil {
				t.Errorf("after its end: %q", token)
			}
		})
	}
}

func TestCallerThatGivesUpGetsItsCause(t *testing.T) {
	w := &wire{answer: answerFunc(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})}
	r, clk := registry(t, w)
	id := resolve(t, r, workload(), fromPod(clk.Now().Add(time.Hour)))
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	if _, err := id.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{vaultScope}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestExpiredServiceAccountTokenIsNotSent(t *testing.T) {
	w := &wire{answer: &granting{life: "3599"}}
	r, clk := registry(t, w)
	id := resolve(t, r, workload(), fromPod(clk.Now().Add(10*time.Minute)))
	clk.SetTime(clk.Now().Add(11 * time.Minute))
	_, err := get(t, id)
	e, ok := errors.AsType[*volume.Error](err)
	if !ok || e.Reason != volume.ReasonTokenExpired || !strings.Contains(e.Message, "requiresRepublish: true") {
		t.Errorf("got %v", err)
	}
	if n := len(w.asked()); n != 0 {
		t.Errorf("%d token requests", n)
	}
	// the republish brings a fresh one
	fresh := fromPod(clk.Now().Add(time.Hour))
	if again := resolve(t, r, workload(), fresh); again != id {
		t.Error("another identity for the same pod")
	}
	mustGet(t, id)
	if form := w.asked()[0]; !strings.Contains(form, fresh.Tokens[ExchangeAudience].Value) {
		t.Error("the fresh token was not sent")
	}
}

func TestTheNewestServiceAccountTokenIsSent(t *testing.T) {
	w := &wire{answer: &granting{life: "240"}}
	r, clk := registry(t, w)
	newer, older := fromPod(clk.Now().Add(2*time.Hour)), fromPod(clk.Now().Add(time.Hour))
	id := resolve(t, r, workload(), newer)
	resolve(t, r, workload(), older) // another pod of the same service account
	mustGet(t, id)
	if form := w.asked()[0]; !strings.Contains(form, newer.Tokens[ExchangeAudience].Value) {
		t.Error("an older token took the place of a newer one")
	}
}

func renew(t *testing.T, id *Identity, refused string) (string, error) {
	t.Helper()
	token, err := id.Renew(t.Context(), policy.TokenRequestOptions{Scopes: []string{vaultScope}, EnableCAE: true}, refused)
	return token.Token, err
}

func TestRefusedTokenIsRenewedOnce(t *testing.T) {
	w := &wire{answer: &granting{life: "3599"}}
	r, clk := registry(t, w)
	id := resolve(t, r, workload(), fromPod(clk.Now().Add(time.Hour)))
	first := mustGet(t, id)
	second, err := renew(t, id, first)
	if err != nil || second == first {
		t.Errorf("got %q, %v", second, err)
	}
	// a late refusal, of a request that was under way, gets the token that is there already
	if token, err := renew(t, id, first); err != nil || token != second {
		t.Errorf("got %q, %v", token, err)
	}
	if token := mustGet(t, id); token != second || len(w.asked()) != 2 {
		t.Errorf("got %q after %d requests", token, len(w.asked()))
	}
}

// One vault's refusal takes no token away from the others.
func TestTokenThatCannotBeRenewedStays(t *testing.T) {
	t.Run("Entra ID is away", func(t *testing.T) {
		w := &wire{answer: &granting{life: "3599"}}
		r, clk := registry(t, w)
		id := resolve(t, r, workload(), fromPod(clk.Now().Add(time.Hour)))
		first := mustGet(t, id)
		w.answer = refusing{http.StatusServiceUnavailable, "<html>"}
		if token, err := renew(t, id, first); err == nil {
			t.Errorf("got %q", token)
		}
		if token := mustGet(t, id); token != first {
			t.Errorf("got %q", token)
		}
	})
	t.Run("managed identity", func(t *testing.T) {
		w := &wire{answer: refusing{http.StatusOK, `{"access_token":"same","expires_in":"86399","expires_on":"4102444800","token_type":"Bearer",` +
			`"resource":"https://vault.azure.net"}`}}
		r, _ := registry(t, w)
		// an id of its own: the SDK keeps the tokens of managed identities for the whole process
		id := resolve(t, r, public(class.Class{Mode: class.ManagedIdentity, ManagedClientID: rand.Text()}), volume.Request{})
		first := mustGet(t, id)
		if token, err := renew(t, id, first); err != nil || token != first {
			t.Errorf("got %q, %v", token, err)
		}
		if token := mustGet(t, id); token != first || len(w.asked()) != 1 {
			t.Errorf("got %q after %d requests", token, len(w.asked()))
		}
	})
}

func TestIdentitiesAreIsolated(t *testing.T) {
	w := &wire{}
	w.answer = answerFunc(func(r *http.Request) (*http.Response, error) { // the token names the client that asked
		client := r.Header.Get("Test-Client")
		return respond(r, http.StatusOK, `{"token_type":"Bearer","expires_in":3599,"access_token":"token-of-`+client+`"}`), nil
	})
	r, clk := registry(t, w)
	r.options.Policies = []policy.Policy{clientMarker{}}
	var work sync.WaitGroup
	for i := range 40 {
		client := "client-" + string(rune('a'+i%4))
		work.Go(func() {
			c := workload()
			c.ClientID = client
			id, err := r.Resolve(c, Account{}, fromPod(clk.Now().Add(time.Hour)))
			if err != nil {
				t.Error(err)
				return
			}
			if token, err := get(t, id); err != nil || token != "token-of-"+client {
				t.Errorf("%s got %q, %v", client, token, err)
			}
		})
	}
	work.Wait()
	if n := len(w.asked()); n != 4 {
		t.Errorf("%d token requests for 4 identities", n)
	}
}

// clientMarker puts the form's client id into a header.
type clientMarker struct{}

// Do implements policy.Policy.
func (clientMarker) Do(req *policy.Request) (*http.Response, error) {
	raw := req.Raw()
	if raw.Method == http.MethodPost {
		if err := req.RewindBody(); err != nil {
			return nil, err
		}
		copied := raw.Clone(raw.Context())
		if err := copied.ParseForm(); err != nil {
			return nil, err
		}
		raw.Header.Set("Test-Client", copied.PostForm.Get("client_id"))
		if err := req.RewindBody(); err != nil {
			return nil, err
		}
	}
	return req.Next()
}

func TestIdentityThatNobodyUsesIsForgotten(t *testing.T) {
	w := &wire{answer: &granting{life: "3599"}}
	r, clk := registry(t, w)
	id := resolve(t, r, workload(), fromPod(clk.Now().Add(24*time.Hour)))
	clk.SetTime(clk.Now().Add(90 * time.Minute))
	if resolve(t, r, workload(), fromPod(clk.Now().Add(24*time.Hour))) != id {
		t.Error("forgotten while it is in use")
	}
	clk.SetTime(clk.Now().Add(3 * time.Hour))
	if resolve(t, r, workload(), fromPod(clk.Now().Add(24*time.Hour))) == id {
		t.Error("remembered although nobody used it for hours")
	}
}
