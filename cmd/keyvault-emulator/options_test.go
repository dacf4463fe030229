package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

// authorityFiles makes a certificate as Helm's genCA does (RSA, PKCS #1), and returns the files.
func authorityFiles(t *testing.T, isCA bool) (certificate, key string) {
	t.Helper()
	signer, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "given"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(
			time.Hour,
		),
		IsCA:                  isCA,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certificate, key = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	for path, block := range map[string]*pem.Block{
		certificate: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(signer)},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key
}

func TestAnAuthorityThatIsGivenSignsWhatIsServed(t *testing.T) {
	f := flags{}
	f.caFile, f.caKeyFile = authorityFiles(t, true)
	o, err := f.options(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	server, err := emulator.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	given, err := os.ReadFile(f.caFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(server.CAPEM(), given) {
		t.Error("the authority is another one")
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(given)
	transport := &http.Transport{
		Proxy:           http.ProxyURL(server.ProxyURL()),
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(
		t.Context(),
		http.MethodGet,
		"https://login.microsoftonline.com/",
		http.NoBody,
	)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
}

func TestAuthoritiesThatAreNone(t *testing.T) {
	leaf, leafKey := authorityFiles(t, false)
	_, otherKey := authorityFiles(t, true)
	for name, tc := range map[string]struct{ f flags }{
		"go together":         {flags{caFile: leaf}},
		"no such file":        {flags{caFile: leaf, caKeyFile: leaf + ".none"}},
		"not that of an auth": {flags{caFile: leaf, caKeyFile: leafKey}},
		"does not match":      {flags{caFile: leaf, caKeyFile: otherKey}},
	} {
		o, err := tc.f.options(t.Context(), slog.New(slog.DiscardHandler))
		if err == nil {
			_, err = emulator.New(o)
		}
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheClusterIsAnIssuer(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			_, _ = fmt.Fprint(
				w,
				`{"issuer":"https://kubernetes.default.svc","jwks_uri":"https://192.0.2.1/unreachable"}`,
			)
		case "/openid/v1/jwks":
			_, _ = fmt.Fprintf(
				w,
				`{"keys":[{"kty":"RSA","kid":"k","n":%q,"e":"AQAB"}]}`,
				base64.RawURLEncoding.EncodeToString(key.N.Bytes()),
			)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	issuer, err := discover(t.Context(), server.Client(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := emulator.ParseSeed([]byte(`
tenants:
- id: t
  applications:
  - clientID: c
    federated:
    - {issuer: cluster, subject: a}
    - {issuer: "https://other.example", subject: b}
`))
	if err != nil {
		t.Fatal(err)
	}
	seed.AddCluster(issuer)
	federated := seed.Tenants[0].Applications[0].Federated
	if federated[0].Issuer != "https://kubernetes.default.svc" || federated[1].Issuer != "https://other.example" {
		t.Errorf("federated %+v", federated)
	}
	if _, err := emulator.New(emulator.Options{Seed: seed}); err != nil {
		t.Error(err)
	}
	if _, err := discover(
		t.Context(),
		server.Client(),
		server.URL+"/none",
	); err == nil ||
		!strings.Contains(err.Error(), "404") {
		t.Errorf("a server that is none: %v", err)
	}
}
