package emulator_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

// The tests of this file hold the emulator to facts from recordings of the real services. docs/emulator.md says which.

const (
	factsTenant = "11111111-1111-1111-1111-111111111111"
	factsClient = "22222222-2222-2222-2222-222222222222"
	factsHost   = "https://contoso.vault.azure.net"
	factsSeed   = `
tenants:
- id: ` + factsTenant + `
  applications:
  - {clientID: ` + factsClient + `, objectID: a1, secrets: [{value: p4ss}]}
  - {clientID: stranger, objectID: b2, secrets: [{value: p4ss}]}
managedIdentities:
- {clientID: ` + factsClient + `, objectID: a1, system: true}
vaults:
- name: contoso
  tenant: ` + factsTenant + `
  grants: [{clientID: ` + factsClient + `, permissions: ["*"]}]
  secrets:
  - {name: db, value: v1, version: ffffffffffffffffffffffffffffffff, created: 2026-01-01T00:00:00Z}
  - name: db
    value: v2
    version: 00000000000000000000000000000000
    contentType: text/plain
    tags: {team: shop}
    created: 2026-01-02T00:00:00Z
    notBefore: 2026-01-01T00:00:00Z
    expires: 2199-01-01T00:00:00Z
  - {name: Alpha, value: a, created: 2026-01-01T00:00:00Z}
  - {name: beta, value: b, disabled: true, created: 2026-01-01T00:00:00Z}
  keys:
  - {name: rsa, type: RSA, created: 2026-01-01T00:00:00Z}
  - {name: ec, type: EC-HSM, curve: P-384, tags: {a: b}, created: 2026-01-01T00:00:00Z}
  - {name: off, type: EC, disabled: true}
  certificates:
  - {name: web, keyType: EC, version: 11111111111111111111111111111111, tags: {c: d}, created: 2026-01-01T00:00:00Z}
  - {name: web, keyType: EC, version: 22222222222222222222222222222222, tags: {c: d}, created: 2026-01-02T00:00:00Z}
- name: policies
  tenant: ` + factsTenant + `
  policies: true
  grants: [{clientID: ` + factsClient + `, permissions: ["secrets/get"]}]
  secrets: [{name: db, value: v}]
`
)

// wire sends requests as they are.
type wire struct {
	*emulator.Server
	t      *testing.T
	client *http.Client
	bearer string
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

func newWire(t *testing.T) *wire {
	t.Helper()
	return newWireWith(t, emulator.Options{})
}

func newWireWith(t *testing.T, o emulator.Options) *wire {
	t.Helper()
	s := emulatortest.StartWith(t, factsSeed, o)
	transport := &http.Transport{
		Proxy:           http.ProxyURL(s.ProxyURL()),
		TLSClientConfig: &tls.Config{RootCAs: s.CAPool(), MinVersion: tls.VersionTLS12},
	}
	t.Cleanup(transport.CloseIdleConnections)
	w := &wire{Server: s, t: t, client: &http.Client{Transport: transport}}
	w.bearer = w.tokenOf(factsClient)
	return w
}

func (w *wire) tokenOf(client string) string {
	w.t.Helper()
	var token struct {
		AccessToken string `json:"access_token"`
	}
	a := w.post("https://login.microsoftonline.com/"+factsTenant+"/oauth2/v2.0/token", credentials(client, "p4ss"))
	if err := json.Unmarshal([]byte(a.body), &token); err != nil || token.AccessToken == "" {
		w.t.Fatalf("no token: %+v", a)
	}
	return token.AccessToken
}

func credentials(client, secret string) url.Values {
	return url.Values{
		"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {secret}, "scope": {"https://vault.azure.net/.default"},
	}
}

func (w *wire) do(r *http.Request) answer {
	w.t.Helper()
	resp, err := w.client.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

func (w *wire) request(method, target, body string) *http.Request {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *wire) post(target string, form url.Values) answer {
	w.t.Helper()
	r := w.request(http.MethodPost, target, form.Encode())
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Client-Request-Id", "33333333-3333-3333-3333-333333333333")
	return w.do(r)
}

// get asks a vault with a token. A path without a host is of the vault contoso, and gets an api-version where it has none.
func (w *wire) get(path string) answer {
	w.t.Helper()
	if !strings.HasPrefix(path, "https://") {
		path = factsHost + path
	}
	if !strings.Contains(path, "api-version=") {
		separator := "?"
		if strings.Contains(path, "?") {
			separator = "&"
		}
		path += separator + "api-version=2025-07-01"
	}
	r := w.request(http.MethodGet, path, "")
	if w.bearer != "" {
		r.Header.Set("Authorization", "Bearer "+w.bearer)
	}
	r.Header.Set("X-Ms-Client-Request-Id", "client-request")
	return w.do(r)
}

// is compares an answer with its status and the form of its body, in which … is anything.
func (a answer) is(t *testing.T, what string, status int, form string) {
	t.Helper()
	pattern := "^" + strings.ReplaceAll(regexp.QuoteMeta(form), "…", ".*") + "$"
	if a.status != status || !regexp.MustCompile(pattern).MatchString(a.body) {
		t.Errorf("%s: %d %s\nwant: %d %s", what, a.status, a.body, status, form)
	}
}

func (a answer) has(t *testing.T, what string, headers map[string]string) {
	t.Helper()
	for name, want := range headers {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s: %s is %q, want %q", what, name, got, want)
		}
	}
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func TestHeadersOfAVault(t *testing.T) {
	w := newWire(t)
	common := map[string]string{
		"Content-Type":                  "application/json; charset=utf-8",
		"Cache-Control":                 "no-cache",
		"Pragma":                        "no-cache",
		"Expires":                       "-1",
		"Strict-Transport-Security":     "max-age=31536000;includeSubDomains",
		"X-Content-Type-Options":        "nosniff",
		"X-Ms-Client-Request-Id":        "client-request",
		"X-Ms-Keyvault-Region":          "emulator",
		"X-Ms-Keyvault-Service-Version": "1.9.3449.1",
		"X-Ms-Keyvault-Network-Info":    "conn_type=Ipv4;addr=203.0.113.7;act_addr_fam=InterNetwork;",
		"Retry-After":                   "",
	}
	check := func(what string, a answer, role, challenge bool) {
		t.Helper()
		a.has(t, what, common)
		if !uuid.MatchString(a.header.Get("X-Ms-Request-Id")) || a.header.Get("Date") == "" || a.header.Get("Content-Length") == "" {
			t.Errorf("%s: %v", what, a.header)
		}
		if got := regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(a.header.Get("X-Ms-Keyvault-Rbac-Assignment-Id")); got != role {
			t.Errorf("%s: role assignment %q", what, a.header.Get("X-Ms-Keyvault-Rbac-Assignment-Id"))
		}
		if got := a.header.Get("WWW-Authenticate") != ""; got != challenge {
			t.Errorf("%s: %q", what, a.header.Get("WWW-Authenticate"))
		}
	}
	check("a secret", w.get("/secrets/db"), true, false)
	check("none", w.get("/secrets/none"), true, false)
	check("a disabled one", w.get("/secrets/beta"), true, false)
	check("by policy", w.get("https://policies.vault.azure.net/secrets/db"), false, false)
	w.AddFault(emulator.Fault{Kind: emulator.FaultThrottle, Count: 1})
	throttled := w.get("/secrets/db")
	check("throttled", throttled, true, false)
	throttled.is(t, "throttled", http.StatusTooManyRequests, `{"error":{"code":"Throttled","message":"Request was not processed because `+
		`too many requests were received. Reason: VaultRequestTypeLimitReached"}}`)
	w.bearer = ""
	challenged := w.get("/secrets/db")
	check("without a token", challenged, false, true)
	challenged.is(t, "without a token", http.StatusUnauthorized,
		`{"error":{"code":"Unauthorized","message":"AKV10000: Request is missing a Bearer, PoP, or MTLS_POP token."}}`)
	challenged.has(t, "without a token", map[string]string{
		"WWW-Authenticate": `Bearer authorization="https://login.microsoftonline.com/` + factsTenant + `", resource="https://vault.azure.net"`,
	})
	w.bearer = w.tokenOf("stranger")
	check("without a role", w.get("/secrets/db"), false, false)
}

func TestBodiesOfSecrets(t *testing.T) {
	w := newWire(t)
	const attributes = `"attributes":{"enabled":true,"nbf":1767225600,"exp":7226582400,"created":1767312000,"updated":1767312000,` +
		`"recoveryLevel":"Recoverable+Purgeable","recoverableDays":90}`
	const latest = `{"value":"v2","contentType":"text/plain","id":"https://contoso.vault.azure.net/secrets/db/00000000000000000000000000000000",` +
		attributes + `,"tags":{"team":"shop"}}`
	for _, path := range []string{"/secrets/db", "/secrets/db/", "/secrets/DB/", "/secrets/db/00000000000000000000000000000000"} {
		w.get(path).is(t, path, http.StatusOK, latest)
	}
	w.get("/secrets/db/?api-version=2016-10-01").is(t, "an old version of the API", http.StatusOK,
		strings.ReplaceAll(latest, `,"recoverableDays":90`, ""))
	w.get("/secrets/db/ffffffffffffffffffffffffffffffff").is(t, "the version before", http.StatusOK, `{"value":"v1","id":"…/secrets/db/f…","attributes":{…}}`)
	const backing = `{"value":"…","contentType":"application/x-pkcs12","id":"…/secrets/web/22222222222222222222222222222222","managed":true,` +
		`"attributes":{…"nbf":…,"exp":…},"kid":"…/keys/web/22222222222222222222222222222222"`
	w.get("/secrets/web").is(t, "a certificate's", http.StatusOK, backing+`,"previousVersion":"11111111111111111111111111111111"}`)
	w.get("/secrets/web?api-version=7.6").is(t, "a certificate's, before previousVersion", http.StatusOK, backing+`}`)
	const notFound = ` was not found in this key vault. If you recently deleted this secret you may be able to recover it using the correct ` +
		`recovery command. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125182"}}`
	w.get("/secrets/none/").is(t, "none", http.StatusNotFound, `{"error":{"code":"SecretNotFound","message":"A secret with (name/id) none`+notFound)
	w.get("/secrets/db/"+strings.Repeat("a", 32)).is(t, "no version", http.StatusNotFound,
		`{"error":{"code":"SecretNotFound","message":"A secret with (name/id) db/`+strings.Repeat("a", 32)+notFound)
	w.get("/secrets/beta/").is(t, "disabled", http.StatusForbidden,
		`{"error":{"code":"Forbidden","message":"Operation get is not allowed on a disabled secret.","innererror":{"code":"SecretDisabled"}}}`)
	w.get("/secrets/bad_name/").is(t, "a bad name", http.StatusBadRequest,
		`{"error":{"code":"BadParameter","message":"The request URI contains an invalid name: bad_name"}}`)
	const pem = "outContentType=application%2Fx-pem-file"
	w.get("/secrets/web/?"+pem).is(t, "PFX as PEM", http.StatusOK, `{"value":"-----BEGIN PRIVATE KEY-----…","contentType":"application/x-pem-file",…}`)
	w.get("/secrets/db/?"+pem).is(t, "text as PEM", http.StatusBadRequest, `{"error":{"code":"BadParameter","message":"The 'Unsupported' to 'PEM' `+
		`transformation is not supported. Only PFX to PEM transformation is supported."}}`)
	w.get("/secrets/db/?api-version=7.6&"+pem).is(t, "before there was such a parameter", http.StatusOK, latest)
}

func TestBodiesOfKeys(t *testing.T) {
	w := newWire(t)
	const recovery = `"recoveryLevel":"Recoverable+Purgeable","recoverableDays":90`
	w.get("/keys/rsa/").is(t, "RSA", http.StatusOK, `{"key":{"kid":"…/keys/rsa/…","kty":"RSA","key_ops":["encrypt","decrypt","sign","verify",`+
		`"wrapKey","unwrapKey"],"n":"…","e":"AQAB"},"attributes":{"enabled":true,"key_size":2048,"created":…,"updated":…,`+recovery+
		`,"exportable":false,"hsmPlatform":"0"}}`)
	w.get("/keys/ec/").is(t, "EC in an HSM", http.StatusOK, `{"key":{"kid":"…","kty":"EC-HSM","key_ops":["sign","verify"],"crv":"P-384","x":"…",`+
		`"y":"…"},"attributes":{"enabled":true,"created":…,"updated":…,`+recovery+`,"exportable":false,"hsmPlatform":"2"},"tags":{"a":"b"}}`)
	for api, want := range map[string]string{
		"7.0":           `"recoveryLevel":"Recoverable+Purgeable"`,
		"7.2":           recovery,
		"7.4-preview.1": recovery + `,"exportable":false`,
		"7.5":           recovery + `,"exportable":false,"hsmPlatform":"0"`,
	} {
		w.get("/keys/rsa/?api-version="+api).is(t, api, http.StatusOK, `{"key":{…},"attributes":{"enabled":true,"created":1767225600,"updated":1767225600,`+want+`}}`)
	}
	w.get("/keys/web/").is(t, "a certificate's", http.StatusOK, `{"key":{"kid":"…/keys/web/22222222222222222222222222222222","kty":"EC",…},`+
		`"attributes":{"enabled":true,"nbf":…,"exp":…,`+recovery+`,"hsmPlatform":"0"},"managed":true}`)
	w.get("/keys/off/").is(t, "a disabled key's public part", http.StatusOK, `{"key":{…},"attributes":{"enabled":false,…}}`)
	w.get("/keys/none/").is(t, "none", http.StatusNotFound, `{"error":{"code":"KeyNotFound","message":"A key with (name/id) none was not found …"}}`)
	w.get("/keys/").is(t, "the list", http.StatusOK, `{"value":[{"kid":"`+factsHost+`/keys/ec","attributes":{…},"tags":{"a":"b"}},`+
		`{"kid":"`+factsHost+`/keys/off",…},{"kid":"`+factsHost+`/keys/rsa","attributes":{"enabled":true,"key_size":2048,…"hsmPlatform":"0"}},`+
		`{"kid":"`+factsHost+`/keys/web","attributes":{…},"managed":true}],"nextLink":null}`)
}

func TestBodiesOfCertificates(t *testing.T) {
	w := newWire(t)
	const ids = `{"id":"…/certificates/web/22222222222222222222222222222222","kid":"…/keys/web/22222222222222222222222222222222",` +
		`"sid":"…/secrets/web/22222222222222222222222222222222","x5t":"…","cer":"MII…","attributes":{"enabled":true,"nbf":…,"exp":…,"created":…,` +
		`"updated":…,"recoveryLevel":"Recoverable+Purgeable","recoverableDays":90},"tags":{"c":"d"}`
	latest := w.get("/certificates/web/")
	latest.is(t, "latest", http.StatusOK, ids+`,"policy":{"id":"…/certificates/web/policy","key_props":{"exportable":true,"kty":"EC","key_size":256,`+
		`"reuse_key":false,"crv":"P-256"},"secret_props":{"contentType":"application/x-pkcs12"},"x509_props":{"subject":"CN=web","sans":{"dns_names":`+
		`["web"]},"ekus":["1.3.6.1.5.5.7.3.1","1.3.6.1.5.5.7.3.2"],"key_usage":["digitalSignature"],"validity_months":12,"basic_constraints":{"ca":`+
		`false}},"lifetime_actions":[{"trigger":{"lifetime_percentage":80},"action":{"action_type":"AutoRenew"}}],"issuer":{"name":"Self"},`+
		`"attributes":{"enabled":true,…}},"pending":{"id":"…/certificates/web/pending"}}`)
	if match := regexp.MustCompile(`"x5t":"([0-9A-Za-z_-]+)"`).FindStringSubmatch(latest.body); match == nil || len(match[1]) != 27 {
		t.Errorf("x5t: %s", latest.body)
	}
	w.get("/certificates/web/22222222222222222222222222222222").is(t, "a version has no policy and no operation", http.StatusOK, ids+`}`)
	w.get("/certificates").is(t, "the list", http.StatusOK, `{"value":[{"id":"`+factsHost+`/certificates/web","x5t":"…","attributes":{"enabled":true,`+
		`"nbf":…,"exp":…,"created":1767312000,"updated":1767312000},"tags":{"c":"d"},"subject":""}],"nextLink":null}`)
	w.get("/certificates/web/versions").is(t, "versions", http.StatusOK, `{"value":[{"id":"…/web/11111111111111111111111111111111","x5t":"…",`+
		`"attributes":{…"updated":…},"tags":{"c":"d"},"subject":""},{"id":"…/web/22222222222222222222222222222222",…}],"nextLink":null}`)
	if err := w.Disable("contoso", "certificates", "web", "", true); err != nil {
		t.Fatal(err)
	}
	w.get("/certificates/web/").is(t, "a disabled one is given", http.StatusOK, `{…"attributes":{"enabled":false,…}`)
	w.get("/keys/web/").is(t, "its key is given", http.StatusOK, `{…"attributes":{"enabled":false,…}`)
	w.get("/secrets/web/").is(t, "its private key is not", http.StatusForbidden, `{…"innererror":{"code":"SecretDisabled"}}}`)
	w.get("/certificates/none/").is(t, "none", http.StatusNotFound, `{"error":{"code":"CertificateNotFound","message":"A certificate with (name/id) none was …"}}`)
}

func TestImportedCertificates(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{Country: []string{"AU"}, Province: []string{"Some State"}, Organization: []string{"Widgits"}},
		NotBefore:             from,
		NotAfter:              from.Add(36500 * 24 * time.Hour),
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment | x509.KeyUsageKeyEncipherment | x509.KeyUsageCRLSign,
		EmailAddresses:        []string{"team@example.com"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	w := newWire(t)
	leaf := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if err := w.SetCertificate("contoso", emulator.Certificate{Name: "given", Leaf: leaf, Secret: "x"}); err != nil {
		t.Fatal(err)
	}
	w.get("/certificates/given").is(t, "no operation, and a policy that says so", http.StatusOK, `{…"policy":{…"key_props":{"exportable":true,"kty":"RSA",`+
		`"key_size":2048,"reuse_key":false},…"x509_props":{"subject":"O=Widgits, S=Some State, C=AU","sans":{"emails":["team@example.com"],"dns_names":`+
		`[],"upns":[]},"ekus":[],"key_usage":["cRLSign","digitalSignature","keyEncipherment","nonRepudiation"],"validity_months":1200,`+
		`"basic_constraints":{"ca":true}},"lifetime_actions":[{…"action":{"action_type":"EmailContacts"}}],"issuer":{"name":"Unknown"},"attributes":{…}}}`)
	w.get("/certificates/given/pending").is(t, "nor elsewhere", http.StatusNotFound,
		`{"error":{"code":"PendingCertificateNotFound","message":"Pending Certificate not found: given"}}`)
	w.get("/secrets/given?outContentType=application/x-pem-file").is(t, "what only says that it is a PFX", http.StatusBadRequest,
		`{"error":{"code":"BadParameter","message":"The 'Unsupported' to 'PEM' transformation is not supported. Only PFX to PEM transformation is supported."}}`)
}

func TestCertificatesThatAreNotIssued(t *testing.T) {
	w := newWire(t)
	if err := w.SetCertificate("contoso", emulator.Certificate{Name: "asked", Version: strings.Repeat("3", 32), Pending: true}); err != nil {
		t.Fatal(err)
	}
	const nothing = `{"id":"…/certificates/asked/33333333333333333333333333333333","attributes":{"enabled":false,"nbf":…,"exp":…,"created":…,"updated":…,` +
		`"recoveryLevel":"Recoverable+Purgeable","recoverableDays":90}`
	w.get("/certificates/asked").is(t, "latest", http.StatusOK, nothing+`,"policy":{…},"pending":{"id":"…/certificates/asked/pending"}}`)
	w.get("/certificates/asked/33333333333333333333333333333333").is(t, "version", http.StatusOK, nothing+`}`)
	w.get("/secrets/asked").is(t, "its secret", http.StatusForbidden, `{…"innererror":{"code":"SecretDisabled"}}}`)
	operation := w.get("/certificates/asked/pending")
	operation.is(t, "operation", http.StatusOK, `{…,"cancellation_requested":false,"status":"inProgress","status_details":"Pending certificate created. …",`+
		`"request_id":"…"}`)
	operation.has(t, "operation", map[string]string{"Retry-After": "10"})
	if err := w.Disable("contoso", "certificates", "asked", "", false); err != nil {
		t.Fatal(err)
	}
	w.get("/certificates/asked").is(t, "issued", http.StatusOK, `{…"x5t":"…","cer":"…","attributes":{"enabled":true,…`)
	w.get("/certificates/asked/pending").is(t, "done", http.StatusOK, `{…,"status":"completed","target":"…/certificates/asked",…}`)
}

// The key of a PEM secret, byte for byte but for what is random: the curve is in the key too, and its usage is at the end.
func TestKeysInPEM(t *testing.T) {
	w := newWire(t)
	for _, kind := range []string{"EC", "RSA"} {
		if err := w.SetCertificate("contoso", emulator.Certificate{Name: kind, KeyType: kind, ContentType: "application/x-pem-file"}); err != nil {
			t.Fatal(err)
		}
		var body struct{ Value string }
		if err := json.Unmarshal([]byte(w.get("/secrets/"+kind).body), &body); err != nil {
			t.Fatal(err)
		}
		key, rest := pem.Decode([]byte(body.Value))
		leaf, _ := pem.Decode(rest)
		if key == nil || leaf == nil || key.Type != "PRIVATE KEY" || leaf.Type != "CERTIFICATE" {
			t.Fatalf("%s: %s", kind, body.Value)
		}
		form := `^3082....02010030` + `0d06092a864886f70d0101010500` + `0482....3082.*$`
		if kind == "EC" {
			form = `^3081a202010030` + `1306072a8648ce3d020106082a8648ce3d030107` + `04793077020101` + `0420[0-9a-f]{64}` +
				`a00a06082a8648ce3d030107` + `a144034200[0-9a-f]{130}` + `a00d300b0603551d0f310403020080$`
		}
		if !regexp.MustCompile(form).MatchString(hex.EncodeToString(key.Bytes)) {
			t.Errorf("%s: %x", kind, key.Bytes)
		}
		if _, err := x509.ParsePKCS8PrivateKey(key.Bytes); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// What tools such as the Azure CLI read beside versions.
func TestBesideVersions(t *testing.T) {
	w := newWire(t)
	w.get("/certificates/web/policy").is(t, "policy", http.StatusOK, `{"id":"…/certificates/web/policy","key_props":{…},…}`)
	operation := w.get("/certificates/web/pending")
	operation.is(t, "operation", http.StatusOK, `{"id":"`+factsHost+`/certificates/web/pending","issuer":{"name":"Self"},"csr":"MI…",`+
		`"cancellation_requested":false,"status":"completed","target":"`+factsHost+`/certificates/web","request_id":"…"}`)
	var body struct{ CSR []byte }
	if err := json.Unmarshal([]byte(operation.body), &body); err != nil {
		t.Fatal(err)
	}
	if csr, err := x509.ParseCertificateRequest(body.CSR); err != nil || csr.CheckSignature() != nil || csr.Subject.CommonName != "web" {
		t.Errorf("%v %v", csr, err)
	}
	w.get("/certificates/none/pending").is(t, "no operation", http.StatusNotFound,
		`{"error":{"code":"PendingCertificateNotFound","message":"Pending Certificate not found: none"}}`)
	w.get("/certificates/none/policy").is(t, "no policy", http.StatusNotFound, `{"error":{"code":"CertificateNotFound","message":"A certificate with …"}}`)
	w.get("/certificates/issuers").is(t, "issuers", http.StatusOK, `{"value":[],"nextLink":null}`)
	w.get("/certificates/issuers/some").is(t, "no issuer", http.StatusNotFound, `{"error":{"code":"CertificateIssuerNotFound","message":"Issuer not found"}}`)
	w.get("/certificates/contacts").is(t, "no contacts", http.StatusNotFound, `{"error":{"code":"ContactsNotFound","message":"Contacts not found"}}`)
	w.get("/keys/rsa/rotationpolicy").is(t, "rotation policy", http.StatusOK,
		`{"lifetimeActions":[{"trigger":{"timeBeforeExpiry":"P30D"},"action":{"type":"Notify"}}],"attributes":null}`)
	w.get("/keys/none/rotationpolicy").is(t, "no key", http.StatusNotFound, `{"error":{"code":"KeyNotFound","message":"A key with (name/id) none was …"}}`)
	for _, operation := range []string{
		"get certificate policy", "get certificate operation", "list certificate issuer", "get certificate issuer", "get certificate contacts",
		"get key rotation policy",
	} {
		if w.Counts()[operation] == 0 {
			t.Errorf("%s is not in %v", operation, w.Counts())
		}
	}
	if err := w.Grant("contoso", factsClient, "keys/get", "certificates/get", "certificates/list"); err != nil {
		t.Fatal(err)
	}
	for path, action := range map[string]string{
		"/keys/rsa/rotationpolicy": "keyrotationpolicies/read", "/certificates/issuers": "certificatecas/read",
		"/certificates/contacts": "certificatecontacts/write",
	} {
		w.get(path).is(t, path+" has a permission of its own", http.StatusForbidden, `{…Action: 'Microsoft.KeyVault/vaults/`+action+`'…}`)
	}
}

func TestLists(t *testing.T) {
	w := newWire(t)
	w.get("/secrets").is(t, "secrets, by name in any letter case", http.StatusOK, `{"value":[{"id":"`+factsHost+`/secrets/Alpha","attributes":{…}},`+
		`{"id":"`+factsHost+`/secrets/beta","attributes":{"enabled":false,…}},{"contentType":"text/plain","id":"`+factsHost+`/secrets/db","attributes":`+
		`{…"created":1767312000,"updated":1767312000,…},"tags":{"team":"shop"}},{"contentType":"application/x-pkcs12","id":"`+factsHost+
		`/secrets/web","managed":true,…}],"nextLink":null}`)
	w.get("/secrets/db/versions").is(t, "versions, by their ids", http.StatusOK, `{"value":[{…"id":"…/secrets/db/0…",…},{"id":"…/secrets/db/f…",…}],"nextLink":null}`)
	w.get("/secrets/none/versions").is(t, "no versions", http.StatusOK, `{"value":[],"nextLink":null}`)
	first := w.get("/secrets/?api-version=7.4&maxresults=3")
	first.is(t, "a page", http.StatusOK, `{"value":[…],"nextLink":"https://contoso.vault.azure.net:443/secrets?api-version=7.4&$skiptoken=…&maxresults=3"}`)
	var page struct {
		Value    []any  `json:"value"`
		NextLink string `json:"nextLink"`
	}
	if err := json.Unmarshal([]byte(first.body), &page); err != nil || len(page.Value) != 3 {
		t.Fatalf("%s: %v", first.body, err)
	}
	w.get(page.NextLink).is(t, "the next page", http.StatusOK, `{"value":[{…/secrets/web"…}],"nextLink":null}`)
	w.get("/secrets/db/versions?maxresults=1").is(t, "a page of versions", http.StatusOK,
		`{"value":[…],"nextLink":"https://contoso.vault.azure.net:443/secrets/db/versions?api-version=2025-07-01&$skiptoken=…&maxresults=1"}`)
	for i := range 100 {
		if _, err := w.SetSecret("contoso", emulator.Secret{Name: fmt.Sprintf("z%03d", i), Value: "v"}); err != nil {
			t.Fatal(err)
		}
	}
	pages := 0
	for next := "/secrets"; next != ""; pages++ {
		page.NextLink = ""
		a := w.get(next)
		if err := json.Unmarshal([]byte(a.body), &page); err != nil || len(page.Value) == 0 || len(page.Value) > 25 {
			t.Fatalf("%s: %v", a.body, err)
		}
		next = page.NextLink
	}
	if pages != 5 { // 104 secrets
		t.Errorf("%d pages", pages)
	}
}

// What changes a version moves its time of update, and that of the list, which is the current version's.
func TestUpdatedMoves(t *testing.T) {
	w := newWire(t)
	listed := func(kind, name string) (created, updated int64, enabled bool) {
		t.Helper()
		var list struct {
			Value []struct {
				ID         string `json:"id"`
				Attributes struct {
					Created, Updated int64
					Enabled          bool
				} `json:"attributes"`
			} `json:"value"`
		}
		if err := json.Unmarshal([]byte(w.get("/"+kind).body), &list); err != nil {
			t.Fatal(err)
		}
		for _, item := range list.Value {
			if strings.HasSuffix(item.ID, "/"+name) {
				return item.Attributes.Created, item.Attributes.Updated, item.Attributes.Enabled
			}
		}
		t.Fatalf("no %s in the list", name)
		return 0, 0, false
	}
	created, updated, _ := listed("secrets", "Alpha")
	if created != 1767225600 || updated != created {
		t.Fatalf("%d %d", created, updated)
	}
	if err := w.SetAttributes("contoso", "secrets", "Alpha", "", emulator.Attributes{Tags: map[string]string{"a": "b"}}); err != nil {
		t.Fatal(err)
	}
	if c, u, _ := listed("secrets", "Alpha"); c != created || u <= updated {
		t.Errorf("tags: %d %d", c, u)
	}
	w.get("/secrets/Alpha").is(t, "tags", http.StatusOK, `{…"tags":{"a":"b"}}`)
	if _, err := w.SetSecret("contoso", emulator.Secret{Name: "Alpha", Value: "b", Created: time.Unix(1800000000, 0)}); err != nil {
		t.Fatal(err)
	}
	if c, u, _ := listed("secrets", "Alpha"); c != 1800000000 || u != c {
		t.Errorf("a new version: %d %d", c, u)
	}
	created, updated, _ = listed("certificates", "web")
	if err := w.Disable("contoso", "certificates", "web", "", true); err != nil {
		t.Fatal(err)
	}
	if c, u, enabled := listed("certificates", "web"); c != created || u <= updated || enabled {
		t.Errorf("disabled: %d %d %t", c, u, enabled)
	}
}

func TestDeletedObjects(t *testing.T) {
	w := newWire(t)
	w.get("/deletedsecrets").is(t, "no live ones in the list", http.StatusOK, `{"value":[],"nextLink":null}`)
	w.get("/deletedsecrets/db").is(t, "a live one", http.StatusNotFound, `{"error":{"code":"SecretNotFound","message":"Deleted Secret not found: db"}}`)
	w.get("/deletedkeys/rsa").is(t, "a live key", http.StatusNotFound, `{"error":{"code":"KeyNotFound","message":"Deleted Key not found: rsa"}}`)
	w.get("/deletedcertificates/web").is(t, "a live certificate", http.StatusNotFound,
		`{"error":{"code":"CertificateNotFound","message":"Deleted Certificate not found: web"}}`)
	const missing = ` with (name/id) none was not found in this key vault. If you recently deleted this …`
	for kind, code := range map[string]string{"secret": "Secret", "key": "Key", "certificate": "Certificate"} {
		w.get("/deleted"+kind+"s/none").is(t, "one that never was", http.StatusNotFound, `{"error":{"code":"`+code+`NotFound","message":"A `+kind+missing)
	}
	for kind, name := range map[string][]string{"secrets": {"db", "beta"}, "keys": {"off"}, "certificates": {"web"}} {
		for _, n := range name {
			if err := w.Delete("contoso", kind, n, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	const deleted = `"recoveryId":"` + factsHost + `/deletedsecrets/db","deletedDate":…,"scheduledPurgeDate":…`
	w.get("/deletedsecrets/db").is(t, "a secret", http.StatusOK, `{`+deleted+`,"contentType":"text/plain","id":"…/secrets/db/0…","attributes":{…},"tags":{…}}`)
	w.get("/deletedsecrets").is(t, "secrets", http.StatusOK, `{"value":[{"recoveryId":"…/deletedsecrets/beta",…"id":"…/secrets/beta",…},{`+deleted+
		`,"contentType":"text/plain","id":"…/secrets/db",…},{"recoveryId":"…/deletedsecrets/web",…,"managed":true,…}],"nextLink":null}`)
	w.get("/deletedsecrets/beta").is(t, "a disabled secret", http.StatusForbidden, `{…"innererror":{"code":"SecretDisabled"}}}`)
	w.get("/deletedkeys/off").is(t, "a disabled key", http.StatusOK, `{"recoveryId":"…","deletedDate":…,"scheduledPurgeDate":…,"key":{…},"attributes":{"enabled":false,…}}`)
	w.get("/deletedkeys").is(t, "keys", http.StatusOK, `{"value":[{"recoveryId":"…/deletedkeys/off","deletedDate":…,"scheduledPurgeDate":…,"kid":"…/keys/off",…},`+
		`{"recoveryId":"…/deletedkeys/web",…,"managed":true}],"nextLink":null}`)
	w.get("/deletedcertificates/web").is(t, "a certificate", http.StatusOK, `{"recoveryId":"…","deletedDate":…,"scheduledPurgeDate":…,"id":"…/certificates/web/2…",…`)
	w.get("/deletedcertificates").is(t, "certificates", http.StatusOK, `{"value":[{"recoveryId":"…","deletedDate":…,"scheduledPurgeDate":…,"id":"…/certificates/web","x5t":…`)
	w.get("/secrets/db").is(t, "as if it were not there", http.StatusNotFound, `{"error":{"code":"SecretNotFound",…`)
	w.get("/secrets/db/versions").is(t, "nor its versions", http.StatusOK, `{"value":[],"nextLink":null}`)
	var dates struct{ DeletedDate, ScheduledPurgeDate int64 }
	if err := json.Unmarshal([]byte(w.get("/deletedsecrets/db").body), &dates); err != nil || dates.ScheduledPurgeDate-dates.DeletedDate != 90*24*60*60 {
		t.Errorf("%+v %v", dates, err)
	}
}

func TestAPIVersions(t *testing.T) {
	w := newWire(t)
	for _, v := range []string{
		"2016-10-01", "7.0", "7.1", "7.2", "7.3", "7.4-preview.1", "7.4", "7.5-preview.1", "7.5", "7.6-preview.1", "7.6-preview.2", "7.6",
		"2025-06-01-preview", "2025-07-01", "2026-01-01-preview", "2026-03-01-preview", "2026-04-01",
	} {
		if a := w.get("/secrets/db/?api-version=" + v); a.status != http.StatusOK {
			t.Errorf("%s: %+v", v, a)
		}
	}
	w.get("/secrets/db/?api-version=8.0").is(t, "an unknown one", http.StatusBadRequest, `{"error":{"code":"BadParameter","message":"The specified version `+
		`(8.0) is not recognized. Consider using the latest supported version (2026-04-01)."}}`)
	r := w.request(http.MethodGet, factsHost+"/secrets/db", "")
	r.Header.Set("Authorization", "Bearer "+w.bearer)
	w.do(r).is(t, "none", http.StatusBadRequest, `{"error":{"code":"BadParameter","message":"api-version must be specified"}}`)
}

func TestRefusalsOfAVault(t *testing.T) {
	w := newWire(t)
	const who = `appid=%s;oid=%s;iss=https://sts.windows.net/` + factsTenant + `/`
	w.get("https://policies.vault.azure.net/secrets").is(t, "by policy", http.StatusForbidden, `{"error":{"code":"Forbidden","message":"The user, group or `+
		`application '`+fmt.Sprintf(who, factsClient, "a1")+`' does not have secrets list permission on key vault 'policies;location=emulator'. For help resolving `+
		`this issue, please see https://go.microsoft.com/fwlink/?linkid=2125287","innererror":{"code":"ForbiddenByPolicy"}}}`)
	w.bearer = w.tokenOf("stranger")
	byRole := func(action, resource string) string {
		return `{"error":{"code":"Forbidden","message":"Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role ` +
			`definitions were changed recently, please observe propagation time.\r\nCaller: ` + fmt.Sprintf(who, "stranger", "b2") + `\r\nAction: ` +
			`'Microsoft.KeyVault/vaults/` + action + `'\r\nResource: '/subscriptions/…/vaults/contoso` + resource + `'\r\nAssignment: (not found)\r\n` +
			`DenyAssignmentId: null\r\nDecisionReason: 'DeniedWithNoValidRBAC' \r\nVault: contoso;location=emulator\r\n","innererror":{"code":"ForbiddenByRbac"}}}`
	}
	w.get("/secrets/db").is(t, "by role", http.StatusForbidden, byRole("secrets/getSecret/action", "/secrets/db"))
	w.get("/secrets").is(t, "a list by role", http.StatusForbidden, byRole("secrets/readMetadata/action", ""))
	w.get("/keys/rsa").is(t, "a key by role", http.StatusForbidden, byRole("keys/read", "/keys/rsa"))
	if err := w.SetNetwork("contoso", "firewall"); err != nil {
		t.Fatal(err)
	}
	w.get("/secrets/db").is(t, "by firewall", http.StatusForbidden, `{"error":{"code":"Forbidden","message":"Client address is not authorized and caller is not a trusted `+
		`service.\r\nClient address: 203.0.113.7\r\nCaller: …\r\nVault: contoso;location=emulator","innererror":{"code":"ForbiddenByFirewall"}}}`)
	token := func(scope string) string {
		form := credentials(factsClient, "p4ss")
		form.Set("scope", scope)
		var body struct {
			AccessToken string `json:"access_token"`
		}
		_ = json.Unmarshal([]byte(w.post("https://login.microsoftonline.com/"+factsTenant+"/oauth2/v2.0/token", form).body), &body)
		return body.AccessToken
	}
	for _, audience := range []string{"https://management.azure.com", "https://vault.azure.net/"} {
		w.bearer = token(audience + "/.default")
		w.get("/secrets/db").is(t, audience, http.StatusUnauthorized,
			`{"error":{"code":"Unauthorized","message":"AKV10022: Invalid audience. Expected https://vault.azure.net, found: `+audience+`."}}`)
	}
}

func TestAnswersOfEntraID(t *testing.T) {
	w := newWire(t)
	const base = "https://login.microsoftonline.com/"
	discovery := w.do(w.request(http.MethodGet, base+"common/discovery/instance?api-version=1.1&authorization_endpoint="+
		url.QueryEscape(base+factsTenant+"/oauth2/v2.0/authorize"), ""))
	discovery.is(t, "discovery", http.StatusOK, `{"tenant_discovery_endpoint":"`+base+factsTenant+`/v2.0/.well-known/openid-configuration","api-version":"1.1",`+
		`"metadata":[{"preferred_network":"login.microsoftonline.com","preferred_cache":"login.windows.net","aliases":["login.microsoftonline.com",`+
		`"login.windows.net","login.microsoft.com","sts.windows.net"]},…"login.usgovcloudapi.net"…]}`)
	discovery.has(t, "discovery", map[string]string{"Cache-Control": "max-age=86400, private", "Pragma": "", "X-Xss-Protection": "0"})
	w.do(w.request(http.MethodGet, base+factsTenant+"/v2.0/.well-known/openid-configuration", "")).is(t, "openid configuration", http.StatusOK,
		`{"token_endpoint":"`+base+factsTenant+`/oauth2/v2.0/token",…"issuer":"`+base+factsTenant+`/v2.0","request_uri_parameter_supported":false,`+
			`"userinfo_endpoint":"https://graph.microsoft.com/oidc/userinfo",…"http_logout_supported":true,…"claims_supported":["sub","iss",…],…,`+
			`"tenant_region_scope":"WW","cloud_instance_name":"microsoftonline.com","cloud_graph_host_name":"graph.windows.net",`+
			`"msgraph_host":"graph.microsoft.com","rbac_url":"https://pas.windows.net"}`)
	w.do(w.request(http.MethodGet, base+"nowhere/v2.0/.well-known/openid-configuration", "")).is(t, "an unknown tenant", http.StatusBadRequest,
		`{"error":"invalid_tenant","error_description":"AADSTS90002: Tenant 'nowhere' not found. Check to make sure you have the correct tenant ID …`)
	token := w.post(base+factsTenant+"/oauth2/v2.0/token", credentials(factsClient, "p4ss"))
	token.is(t, "a token", http.StatusOK, `{"token_type":"Bearer","expires_in":3599,"ext_expires_in":3599,"access_token":"…"}`)
	token.has(t, "a token", map[string]string{
		"Cache-Control": "no-store, no-cache", "Pragma": "no-cache", "Expires": "-1", "X-Ms-Clitelem": "1,0,0,,",
		"Strict-Transport-Security": "max-age=31536000; includeSubDomains", "Client-Request-Id": "33333333-3333-3333-3333-333333333333",
	})
	inBody := credentials(factsClient, "x")
	inBody.Set("client-request-id", "44444444-4444-4444-4444-444444444444")
	r := w.request(http.MethodPost, base+factsTenant+"/oauth2/v2.0/token/?client-request-id=x", inBody.Encode())
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w.do(r).is(t, "the correlation id in the body", http.StatusUnauthorized,
		`{"error":"invalid_client",…Correlation ID: 44444444-4444-4444-4444-444444444444…"correlation_id":"44444444-4444-4444-4444-444444444444",…}`)
	for name, tc := range map[string]struct {
		tenant, client, secret string
		status, code           int
		kind, text             string
	}{
		"a wrong secret": {factsTenant, factsClient, "x", 401, 7000215, "invalid_client", "Invalid client secret provided. Ensure the secret being sent in the request is " +
			"the client secret value, not the client secret ID, for a secret added to app '" + factsClient + "'."},
		"an unknown client": {factsTenant, "nobody", "x", 400, 700016, "unauthorized_client", "Application with identifier 'nobody' was not found in the directory '" +
			factsTenant + "'. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the " +
			"tenant. You may have sent your authentication request to the wrong tenant."},
		"an unknown tenant": {"nowhere", factsClient, "x", 400, 90002, "invalid_request", "Tenant 'nowhere' not found. Check to make sure you have the correct tenant ID " +
			"and are signing into the correct cloud. Check with your subscription administrator, this may happen if there are no active subscriptions for the tenant."},
	} {
		a := w.post(base+tc.tenant+"/oauth2/v2.0/token", credentials(tc.client, tc.secret))
		trace := a.header.Get("X-Ms-Request-Id")
		a.is(t, name, tc.status, fmt.Sprintf(`{"error":"%s","error_description":"AADSTS%d: %s\r\nTrace ID: %s\r\nCorrelation ID: 33333333-3333-3333-3333-333333333333\r\n`+
			`Timestamp: …Z","error_codes":[%d],"timestamp":"…Z","trace_id":"%s","correlation_id":"33333333-3333-3333-3333-333333333333","error_uri":`+
			`"https://login.microsoftonline.com/error?code=%d"}`, tc.kind, tc.code, tc.text, trace, tc.code, trace, tc.code))
		a.has(t, name, map[string]string{"X-Ms-Clitelem": fmt.Sprintf("1,%d,0,,", tc.code)})
	}
}

func TestAnswersOfTheMetadataService(t *testing.T) {
	w := newWire(t)
	const base = "http://169.254.169.254/metadata/identity/oauth2/token"
	ask := func(query, metadata string) answer {
		r := w.request(http.MethodGet, base+query, "")
		if metadata != "" {
			r.Header.Set("Metadata", metadata)
		}
		return w.do(r)
	}
	for _, resource := range []string{"https://vault.azure.net", "https://management.core.windows.net/"} {
		a := ask("?api-version=2018-02-01&resource="+url.QueryEscape(resource), "true")
		a.is(t, resource, http.StatusOK, `{"access_token":"…","client_id":"`+factsClient+`","expires_in":"3600","expires_on":"…","ext_expires_in":"3600",`+
			`"not_before":"…","resource":"`+resource+`","token_type":"Bearer"}`)
		a.has(t, resource, map[string]string{"Server": "IMDS/150.870.65.1475", "Cache-Control": "", "Content-Type": "application/json; charset=utf-8"})
	}
	ask("", "").is(t, "without the header", http.StatusBadRequest, `{"error":"invalid_request","error_description":"Required metadata header not specified"}`)
	ask("?api-version=2018-02-01&resource=r&client_id=nobody", "true").is(t, "an identity that is not assigned", http.StatusBadRequest,
		`{"error":"invalid_request","error_description":"Identity not found"}`)
}

func TestControlRefuses(t *testing.T) {
	w := newWire(t)
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	send := func(path, body string) answer {
		t.Helper()
		resp, err := plain.Do(w.request(http.MethodPost, w.ProxyURL().String()+path, body))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		text, _ := io.ReadAll(resp.Body)
		return answer{resp.StatusCode, resp.Header, strings.TrimSpace(string(text))}
	}
	for _, tc := range []struct{ path, body, want string }{
		{"/faults", `{"kind":"explode"}`, `unknown kind \"explode\": one of challenge, claims, connect,`},
		{"/faults", `{"retryAfter":5}`, "kind is missing: one of"},
		{"/faults", `{"kind":"throttle","retryafterr":5}`, `unknown field \"retryafterr\"`},
		{"/faults", `{"kind":"status"}`, "fault status: status is missing"},
		{"/faults", `{"kind":"latency"}`, "fault latency: delay is missing"},
		{"/faults", `{"kind":"status","status":99}`, "not between 200 and 599"},
		{"/faults", `{"kind":"hang","count":-1}`, "not negative"},
		{"/faults", `{"kind":"hang","operation":"fetch secret"}`, `unknown operation \"fetch secret\"`},
		{"/faults", `{"kind":"hang"} {"kind":"hang"}`, "nothing after it"},
		{"/faults", `kind: hang`, "input: invalid character"},
		{"/vaults/contoso/secrets", `{"name":"x","val":"y"}`, `unknown field \"val\"`},
		{"/vaults/contoso/disable", `{"kind":"secret","name":"db"}`, `unknown kind \"secret\": one of secrets, keys and certificates`},
		{"/vaults/contoso/grants", `{"clientID":"x","permissions":["secrets/gett"]}`, `unknown permission \"secrets/gett\"`},
		{"/vaults/contoso/network", `{"network":"fire"}`, `unknown network \"fire\"`},
		{"/vaults/contoso/forget", `{}`, `unknown change \"forget\"`},
		{"/vaults/nowhere/network", `{"network":""}`, `no vault \"nowhere\"`},
		{"/fault", `{}`, "no such command: POST /fault"},
	} {
		a := send(tc.path, tc.body)
		if a.status < 400 || !strings.HasPrefix(a.body, `{"error":"`) || !strings.Contains(a.body, tc.want) || strings.Contains(a.body, "\n") {
			t.Errorf("%s %s: %d %s", tc.path, tc.body, a.status, a.body)
		}
	}
	if a := w.get("/secrets/db"); a.status != http.StatusOK {
		t.Errorf("a refused fault counts: %+v", a)
	}
	if _, err := emulator.New(emulator.Options{Seed: emulator.Seed{Faults: []emulator.Fault{{Kind: "explode"}}}}); err == nil {
		t.Error("a seed with an unknown fault is taken")
	}
}

func TestCountsDistinguishMethods(t *testing.T) {
	w := newWire(t)
	w.ResetRequests()
	w.get("/secrets/db")
	w.get("/secrets")
	w.get("/deletedsecrets")
	w.get("/certificates/web/policy")
	w.send(http.MethodPut, "/secrets/db", `{"value":"x"}`)
	w.send(http.MethodPatch, "/secrets/db", "{}")
	w.send(http.MethodPost, "/secrets/db/backup", "")
	w.send(http.MethodPost, "/secrets/db/explode", "")
	w.send(http.MethodDelete, "/secrets/db", "")
	w.send(http.MethodPost, "/deletedsecrets/db/recover", "")
	counts := w.Counts()
	for _, operation := range []string{
		"get secret", "list secret", "list deleted secret", "get certificate policy", "put secret", "patch secret", "delete secret",
		"backup secret", "recover deleted secret", "post secret",
	} {
		if counts[operation] != 1 {
			t.Errorf("%s: %v", operation, counts)
		}
	}
	if !slices.ContainsFunc(w.Requests(), func(r emulator.Request) bool { return r.Method == http.MethodPut && r.Operation == "put secret" }) {
		t.Errorf("%+v", w.Requests())
	}
}
