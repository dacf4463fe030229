package emulator

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // x5t is a SHA-1 thumbprint
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// until is when what these tests sign ends: in 2100.
const until = 4_102_444_800

// fixed is the same text on each call: a fuzz target runs in several processes, which exchange what one of them signed.
func fixed(name string, size int) (text []byte) {
	for i := byte(0); len(text) < size; i++ {
		sum := sha256.Sum256(append([]byte(name), i))
		text = append(text, sum[:]...)
	}
	return text[:size]
}

// fixedRSA is a key of 2048 bits that is always the same.
func fixedRSA(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	one := big.NewInt(1)
	key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: one, E: 65537}}
	totient := one
	for _, name := range []string{"p", "q"} {
		prime := new(big.Int).SetBytes(fixed(name, 128))
		for _, bit := range []int{0, 1022, 1023} {
			prime.SetBit(prime, bit, 1)
		}
		for !prime.ProbablyPrime(20) {
			prime.Add(prime, big.NewInt(2))
		}
		key.Primes = append(key.Primes, prime)
		key.N = new(big.Int).Mul(key.N, prime)
		totient = new(big.Int).Mul(totient, new(big.Int).Sub(prime, one))
	}
	key.D = new(big.Int).ModInverse(big.NewInt(int64(key.E)), totient)
	key.Precompute()
	if err := key.Validate(); err != nil {
		t.Fatal(err)
	}
	return key
}

// assertions are client assertions that Entra ID takes, of an application of a tenant, in each form.
func assertions(t testing.TB, s *Server, tenant, client string) []string {
	t.Helper()
	clusterKey, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), fixed("cluster", 32))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(clusterKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	clientKey := fixedRSA(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app"}, NotAfter: time.Unix(until, 0)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, clientKey.Public(), clientKey)
	if err != nil {
		t.Fatal(err)
	}
	const issuer, subject = "https://oidc.example.com/", "system:serviceaccount:default:app"
	if _, err := s.Reload(Seed{
		Issuers: []Issuer{{Issuer: issuer, PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}},
		Tenants: []Tenant{{ID: tenant, Applications: []Application{{
			ClientID:     client,
			Certificates: []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}))},
			Federated:    []Federated{{Issuer: issuer, Subject: subject}},
		}}}},
	}); err != nil {
		t.Fatal(err)
	}
	sign := func(method jwt.SigningMethod, key crypto.Signer, header, claims map[string]any) string {
		token := jwt.NewWithClaims(method, jwt.MapClaims(claims))
		maps.Copy(token.Header, header)
		text, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	own := map[string]any{
		"iss": client, "sub": client, "aud": "https://login.microsoftonline.com/" + tenant + "/oauth2/v2.0/token", "exp": until, "jti": "1",
	}
	of := map[string]any{"iss": issuer, "sub": subject, "aud": []string{exchangeAudience}, "exp": until, "nbf": 0}
	sum, legacy := sha256.Sum256(certificate), sha1.Sum(certificate) //nolint:gosec // see above
	return []string{
		sign(jwt.SigningMethodES256, clusterKey, map[string]any{"kid": "k"}, of),
		sign(jwt.SigningMethodPS256, clientKey, map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(sum[:])}, own),
		sign(jwt.SigningMethodRS256, clientKey, map[string]any{"x5t": base64.StdEncoding.EncodeToString(legacy[:])}, own),
	}
}

// FuzzClientAssertion sends assertions to the token endpoint. What is taken has the header and the claims of one that was signed; everything else is
// refused in Entra ID's own way.
func FuzzClientAssertion(f *testing.F) {
	const tenant, client = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
	s, err := New(Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	handler := s.boundBodies(s.serveTLS)
	ask := func(ctx context.Context, assertion string) *httptest.ResponseRecorder {
		form := url.Values{
			"grant_type": {"client_credentials"}, "client_id": {client}, "scope": {"https://vault.azure.net/.default"},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {assertion},
		}
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "https://login.microsoftonline.com/"+tenant+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		handler(w, r)
		return w
	}
	signed := map[string]bool{} // header and claims
	for _, text := range assertions(f, s, tenant, client) {
		if a := ask(f.Context(), text); a.Code != http.StatusOK {
			f.Fatalf("%d %s", a.Code, a.Body)
		}
		dot := strings.LastIndexByte(text, '.')
		signed[text[:dot]] = true
		head, claims, _ := strings.Cut(text[:dot], ".")
		none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
		for _, seed := range []string{text, text[:dot], text[:dot+1], none + "." + claims + ".", head + ".e30." + text[dot+1:], text + ".", strings.ToUpper(text)} {
			f.Add(seed)
		}
	}
	for _, text := range []string{"", ".", "..", "a.b.c", "eyJ4NXQiOjF9.e30.", "eyJhbGciOiJIUzI1NiIsIng1dCI6IiJ9.e30.AAAA", "eyJhbGciOjF9.bnVsbA.AAAA"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a := ask(t.Context(), text)
		if a.Code == http.StatusOK {
			if dot := strings.LastIndexByte(text, '.'); dot < 0 || !signed[text[:dot]] {
				t.Errorf("taken for an assertion: %q", text)
			}
			return
		}
		var problem oauthProblem
		if err := json.Unmarshal(a.Body.Bytes(), &problem); err != nil || a.Code != http.StatusBadRequest && a.Code != http.StatusUnauthorized ||
			problem.Error == "" || len(problem.Codes) != 1 || !strings.HasPrefix(problem.Description, "AADSTS") {
			t.Errorf("%q: %d %s", text, a.Code, a.Body)
		}
	})
}
