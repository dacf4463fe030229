package identity

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"go.uber.org/goleak"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const vaultScope = "https://vault.azure.net/.default"

// wire answers requests in place of the network: Entra ID's discovery by itself, tokens as the test says.
type wire struct {
	answer answerer

	mu    sync.Mutex
	forms []string // the bodies and queries of token requests
}

// Do implements policy.Transporter.
func (w *wire) Do(r *http.Request) (*http.Response, error) {
	base := "https://" + r.URL.Host + "/tenant/"
	if strings.HasSuffix(r.URL.Path, "/openid-configuration") {
		return respond(r, http.StatusOK, `{"issuer":"`+base+`v2.0","authorization_endpoint":"`+base+`oauth2/v2.0/authorize",`+
			`"token_endpoint":"`+base+`oauth2/v2.0/token"}`), nil
	}
	form := r.URL.RawQuery
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		form += string(body)
	}
	w.mu.Lock()
	w.forms = append(w.forms, form)
	w.mu.Unlock()
	return w.answer.to(r)
}

func (w *wire) asked() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.forms...)
}

func respond(r *http.Request, status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Request: r, Body: io.NopCloser(strings.NewReader(body)),
		Header: http.Header{"Content-Type": {"application/json"}, "X-Ms-Request-Id": {"request-1"}},
	}
}

// answerer answers token requests.
type answerer interface {
	to(r *http.Request) (*http.Response, error)
}

// answerFunc is a function that answers.
type answerFunc func(*http.Request) (*http.Response, error)

func (f answerFunc) to(r *http.Request) (*http.Response, error) { return f(r) }

// refusing gives the same answer always.
type refusing struct {
	status int
	body   string
}

func (a refusing) to(r *http.Request) (*http.Response, error) {
	return respond(r, a.status, a.body), nil
}

// granting answers with tokens of a life in seconds, each a new one.
type granting struct {
	life string
	n    atomic.Int64
}

func (a *granting) to(r *http.Request) (*http.Response, error) {
	return respond(r, http.StatusOK, fmt.Sprintf(`{"token_type":"Bearer","expires_in":%s,"access_token":"access-%d"}`, a.life, a.n.Add(1))), nil
}

func registry(t *testing.T, w *wire) (*Registry, *testingclock.FakePassiveClock) {
	t.Helper()
	clk := testingclock.NewFakePassiveClock(time.Now())
	r := New(Options{Transport: w, Clock: clk})
	t.Cleanup(r.Close)
	return r, clk
}

func public(c class.Class) *class.Class {
	c.Cloud = cloud.Cloud{Authority: "https://login.microsoftonline.com/"}
	return &c
}

// workload is a class for workload identity.
func workload() *class.Class { return public(class.Class{TenantID: "tenant", ClientID: "client"}) }

// unsigned is a service account token that nobody signed: Entra ID would refuse it.
func unsigned(claims map[string]any) string {
	payload, _ := json.Marshal(claims)
	return "e30." + base64.RawURLEncoding.EncodeToString(payload) + ".c2ln"
}

func tokenOf(subject string, expires time.Time) volume.Token {
	return volume.Token{Expires: expires, Value: unsigned(map[string]any{
		"iss": "https://oidc.example.com/", "sub": subject, "exp": expires.Unix(), "jti": expires.String(),
	})}
}

const appSubject = "system:serviceaccount:default:app"

// fromPod is the request of the pod default/app with a token of its service account.
func fromPod(expires time.Time) volume.Request {
	return volume.Request{
		Pod:    volume.Pod{Namespace: "default", Name: "pod", ServiceAccount: "app"},
		Tokens: map[string]volume.Token{ExchangeAudience: tokenOf(appSubject, expires)},
	}
}

func resolve(t *testing.T, r *Registry, c *class.Class, req volume.Request) *Identity {
	t.Helper()
	id, err := r.Resolve(c, Account{}, req)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func get(t *testing.T, id *Identity) (string, error) {
	t.Helper()
	token, err := id.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{vaultScope}, EnableCAE: true})
	return token.Token, err
}

func mustGet(t *testing.T, id *Identity) string {
	t.Helper()
	token, err := get(t, id)
	if err != nil {
		t.Fatal(err)
	}
	return token
}
