package push

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
)

// issuer is an OpenID provider.
type issuer struct {
	*httptest.Server

	mu       sync.Mutex
	key      *rsa.PrivateKey
	id       string
	away     bool
	claims   string // what the metadata says the issuer is; itself where empty
	requests int
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{id: "one", key: newKey(t)}
	i.Server = httptest.NewTLSServer(http.HandlerFunc(i.answer))
	t.Cleanup(i.Close)
	return i
}

func newKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (i *issuer) answer(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.requests++
	switch {
	case i.away:
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.URL.Path == "/tenant/.well-known/openid-configuration":
		name := i.URL + "/tenant/"
		if i.claims != "" {
			name = i.claims
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": name, "jwks_uri": i.URL + "/keys"})
	case r.URL.Path == "/keys":
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: i.id, Use: "sig"}}})
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// token returns one of the issuer; edit may change it before it is signed.
func (i *issuer) token(t *testing.T, now time.Time, edit func(jwt.MapClaims, map[string]any)) string {
	t.Helper()
	claims := jwt.MapClaims{
		"iss": i.URL + "/tenant/", "aud": "api://events", "exp": now.Add(time.Hour).Unix(), "nbf": now.Add(-time.Minute).Unix(), "iat": now.Unix(),
	}
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	token.Header["kid"] = i.id
	if edit != nil {
		edit(claims, token.Header)
	}
	signed, err := token.SignedString(i.key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// door is a hook that listens.
type door struct {
	*issuer

	clock  *clocktesting.FakeClock
	url    string
	client *http.Client
	dir    string
	mu     sync.Mutex
	served [][]Event
	fail   error
	why    []string
}

func openDoor(t *testing.T) *door {
	t.Helper()
	d := &door{issuer: newIssuer(t), clock: clocktesting.NewFakeClock(time.Now()), dir: t.TempDir()}
	d.writeCertificate(t, "first")
	address := make(chan net.Addr, 1)
	log := slog.New(slog.DiscardHandler)
	h := &hook{
		address: "127.0.0.1:0", certFile: d.dir + "/tls.crt", keyFile: d.dir + "/tls.key",
		verifier: newVerifier(d.URL+"/tenant/", "api://events", d.Client().Transport, d.clock),
		log:      log, safe: safe.Handler{Log: log}, slots: make(chan struct{}, mostDeliveries),
		listening: func(a net.Addr) { address <- a },
		serve: func(_ context.Context, events []Event) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.served = append(d.served, events)
			return d.fail
		},
		refuse: func(_ context.Context, why outcome, text string) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.why = append(d.why, string(why)+": "+text)
		},
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- h.Start(ctx) }()
	t.Cleanup(func() {
		stop()
		d.client.CloseIdleConnections()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case a := <-address:
		d.url = "https://" + a.String() + "/"
	case err := <-ended:
		t.Fatal(err)
	}
	d.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // its name is looked at
	return d
}

// writeCertificate replaces the hook's certificate.
func (d *door) writeCertificate(t *testing.T, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{"tls.key": {Type: "PRIVATE KEY", Bytes: private}, "tls.crt": {Type: "CERTIFICATE", Bytes: der}} {
		next := filepath.Join(d.dir, "next")
		if err := os.WriteFile(next, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, filepath.Join(d.dir, file)); err != nil {
			t.Fatal(err)
		}
	}
}

// answered is what the hook answered beside the body.
type answered struct {
	StatusCode int
	Header     http.Header
}

func (d *door) send(t *testing.T, method, token, body string, header ...string) (answered, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, d.url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := d.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answered{answer.StatusCode, answer.Header}, string(text)
}

func TestHookServesDeliveries(t *testing.T) {
	d := openDoor(t)
	good := d.token(t, d.clock.Now(), nil)
	body := event("shop.vault.azure.net", "secrets", "db", "1")
	if answer, text := d.send(t, http.MethodPost, good, "["+body+","+body+`,{"id":"x"}]`); answer.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", answer.StatusCode, text)
	}
	if len(d.served) != 1 || len(d.served[0]) != 2 || len(d.why) != 1 {
		t.Errorf("%v, %v", d.served, d.why)
	}
	d.fail = errors.New("the API server is away")
	if answer, _ := d.send(t, http.MethodPost, good, body); answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%d where the event is to come again", answer.StatusCode)
	}
	for name, tc := range map[string]struct {
		method, body string
		want         int
	}{
		"no JSON":        {http.MethodPost, "hello", http.StatusBadRequest},
		"a big body":     {http.MethodPost, strings.Repeat("x", mostBytes+1), http.StatusRequestEntityTooLarge},
		"another method": {http.MethodGet, "", http.StatusMethodNotAllowed},
	} {
		if answer, _ := d.send(t, tc.method, good, tc.body); answer.StatusCode != tc.want {
			t.Errorf("%s: %d", name, answer.StatusCode)
		}
	}
}

func TestHandshakes(t *testing.T) {
	d := openDoor(t)
	answer, _ := d.send(t, http.MethodOptions, "", "", "WebHook-Request-Origin", "eventgrid.azure.net")
	if answer.StatusCode != http.StatusOK || answer.Header.Get("WebHook-Allowed-Origin") != "eventgrid.azure.net" ||
		answer.Header.Get("WebHook-Allowed-Rate") == "" {
		t.Errorf("CloudEvents: %d %v", answer.StatusCode, answer.Header)
	}
	if answer, _ := d.send(t, http.MethodOptions, "", ""); answer.StatusCode != http.StatusBadRequest {
		t.Errorf("without an origin: %d", answer.StatusCode)
	}
	const body = `[{"id":"1","eventType":"Microsoft.EventGrid.SubscriptionValidationEvent","data":{"validationCode":"512d38b6-c7b8"}}]`
	good := d.token(t, d.clock.Now(), nil)
	answer, text := d.send(t, http.MethodPost, good, body, "aeg-event-type", "SubscriptionValidation")
	if answer.StatusCode != http.StatusOK || strings.TrimSpace(text) != `{"validationResponse":"512d38b6-c7b8"}` {
		t.Errorf("Event Grid schema: %d %s", answer.StatusCode, text)
	}
	if answer, text := d.send(t, http.MethodPost, "", body, "aeg-event-type", "SubscriptionValidation"); answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a token: %d %s", answer.StatusCode, text)
	}
	if len(d.served) != 0 {
		t.Errorf("handshakes are served as events: %v", d.served)
	}
}

func TestTokensThatAreRefused(t *testing.T) {
	d := openDoor(t)
	now := d.clock.Now()
	other := newIssuer(t)
	set := func(claim string, value any) func(jwt.MapClaims, map[string]any) {
		return func(claims jwt.MapClaims, _ map[string]any) { claims[claim] = value }
	}
	good := d.token(t, now, nil)
	parts := strings.Split(good, ".")
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"iss": d.URL + "/tenant/", "aud": "api://events", "exp": now.Add(time.Hour).Unix()}).
		SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&d.key.PublicKey)})
	shared, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"iss": d.URL + "/tenant/", "aud": "api://events", "exp": now.Add(time.Hour).Unix()}).
		SignedString(public)
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"none":               "",
		"no token":           "hello",
		"not signed":         none,
		"a shared key":       shared,
		"another audience":   d.token(t, now, set("aud", "api://other")),
		"no audience":        d.token(t, now, func(c jwt.MapClaims, _ map[string]any) { delete(c, "aud") }),
		"another issuer":     d.token(t, now, set("iss", "https://sts.windows.net/other/")),
		"expired":            d.token(t, now, set("exp", now.Add(-time.Second).Unix())),
		"without an expiry":  d.token(t, now, func(c jwt.MapClaims, _ map[string]any) { delete(c, "exp") }),
		"not valid yet":      d.token(t, now, set("nbf", now.Add(time.Hour).Unix())),
		"a foreign key":      other.token(t, now, set("iss", d.URL+"/tenant/")),
		"an unknown key id":  d.token(t, now, func(_ jwt.MapClaims, h map[string]any) { h["kid"] = "other" }),
		"changed claims":     parts[0] + "." + strings.Split(d.token(t, now, set("oid", "x")), ".")[1] + "." + parts[2],
		"a cut signature":    good[:len(good)-10],
		"a token that is 1M": strings.Repeat("x", 30_000),
	} {
		answer, text := d.send(t, http.MethodPost, token, event("shop.vault.azure.net", "secrets", "db", "1"))
		if answer.StatusCode != http.StatusUnauthorized || token != "" && strings.Contains(text, token) {
			t.Errorf("%s: %d %s", name, answer.StatusCode, text)
		}
	}
	for _, text := range d.why {
		if strings.Contains(text, parts[0]) {
			t.Errorf("a token is logged: %s", text)
		}
	}
	if len(d.served) != 0 {
		t.Errorf("served: %v", d.served)
	}
	if answer, text := d.send(t, http.MethodPost, good, "[]"); answer.StatusCode != http.StatusOK {
		t.Errorf("the good one: %d %s", answer.StatusCode, text)
	}
	if other.requests != 0 || d.requests > 4 {
		t.Errorf("forged tokens made %d requests to the issuer, and %d to another", d.requests, other.requests)
	}
}

// TestIssuerKeys: keys are followed when the issuer changes them, kept while it is away, and not asked for by a flood.
func TestIssuerKeys(t *testing.T) {
	d := openDoor(t)
	post := func() int {
		answer, _ := d.send(t, http.MethodPost, d.token(t, d.clock.Now(), nil), "[]")
		return answer.StatusCode
	}
	d.issuer.mu.Lock()
	d.away = true
	d.issuer.mu.Unlock()
	if got := post(); got != http.StatusServiceUnavailable {
		t.Errorf("%d although the token may be good", got)
	}
	d.issuer.mu.Lock()
	d.away = false
	d.issuer.mu.Unlock()
	d.clock.Step(keysPause)
	if got := post(); got != http.StatusOK {
		t.Errorf("%d", got)
	}
	before := d.requests
	d.issuer.mu.Lock()
	d.key, d.id = newKey(t), "two"
	d.issuer.mu.Unlock()
	d.clock.Step(keysPause)
	for range 100 {
		if got := post(); got != http.StatusOK {
			t.Fatalf("%d with the new key", got)
		}
	}
	if d.requests != before+2 {
		t.Errorf("%d requests to the issuer", d.requests-before)
	}
	d.issuer.mu.Lock()
	d.away = true
	d.issuer.mu.Unlock()
	d.clock.Step(keysLife + time.Hour)
	if got := post(); got != http.StatusOK {
		t.Errorf("%d while the issuer is away", got)
	}
	d.issuer.mu.Lock()
	d.away, d.claims = false, "https://sts.windows.net/other/"
	d.key, d.id = newKey(t), "three"
	d.issuer.mu.Unlock()
	d.clock.Step(keysPause)
	if got := post(); got == http.StatusOK {
		t.Error("the metadata of another issuer is believed")
	}
}

// TestCertificateIsReloaded: a new certificate is used without a restart.
func TestCertificateIsReloaded(t *testing.T) {
	d := openDoor(t)
	d.writeCertificate(t, "second")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		conn, err := new(tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext( //nolint:gosec // its name is looked at
			t.Context(), "tcp", strings.Trim(strings.TrimPrefix(d.url, "https://"), "/"))
		if err != nil {
			t.Fatal(err)
		}
		name := conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
		_ = conn.Close()
		if name == "second" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the certificate is still %q", name)
		}
	}
}

func TestOptionsOfTheHook(t *testing.T) {
	good := Options{Listen: ":8443", CertFile: "a", KeyFile: "b", Issuer: "https://sts.windows.net/t/", Audience: "api://events"}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, edit := range map[string]func(*Options){
		"no issuer": func(o *Options) { o.Issuer = "" }, "no audience": func(o *Options) { o.Audience = "" },
		"no certificate": func(o *Options) { o.CertFile = "" }, "no key": func(o *Options) { o.KeyFile = "" },
		"a plain issuer": func(o *Options) { o.Issuer = "http://sts.windows.net/t/" },
		"a queue that is asked without a pause": func(o *Options) {
			o.QueueURL, o.QueueInterval = "https://shop.queue.core.windows.net/events", 0
		},
	} {
		o := good
		edit(&o)
		if err := o.Check(); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
