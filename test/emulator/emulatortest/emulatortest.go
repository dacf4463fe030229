package emulatortest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

// What Seed has.
const (
	Tenant       = "11111111-1111-1111-1111-111111111111"
	ClientID     = "22222222-2222-2222-2222-222222222222"
	ClientSecret = "p4ssw0rd"
	VaultURL     = "https://contoso.vault.azure.net"
	// ServiceAccount is the subject of tokens of an Issuer that the application takes, from any cluster that StartIssuer made.
	ServiceAccount = "system:serviceaccount:default:app"

	issuerURL = "https://oidc.example.com/cluster/"
)

// Seed is one to begin with: an empty vault, an application that may do everything there, by its client secret and as the service account default/app,
// and a managed identity that is the same.
const Seed = `
tenants:
- id: ` + Tenant + `
  applications:
  - clientID: ` + ClientID + `
    objectID: ` + ClientID + `
    secrets: [{value: ` + ClientSecret + `}]
    federated: [{issuer: "` + issuerURL + `", subject: "` + ServiceAccount + `"}]
managedIdentities:
- {clientID: ` + ClientID + `, objectID: ` + ClientID + `, system: true}
vaults:
- name: contoso
  tenant: ` + Tenant + `
  grants: [{clientID: ` + ClientID + `, permissions: ["*"]}]
`

// Start runs an emulator with the seed until the test ends.
func Start(t testing.TB, seed string) *emulator.Server {
	t.Helper()
	return StartWith(t, seed, emulator.Options{})
}

// StartWith runs an emulator with the seed and options until the test ends.
func StartWith(t testing.TB, seed string, o emulator.Options) *emulator.Server {
	t.Helper()
	parsed, err := emulator.ParseSeed([]byte(seed))
	if err != nil {
		t.Fatal(err)
	}
	o.Seed = parsed
	s, err := emulator.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Environment returns the variables with which a process reaches the emulator.
func Environment(t testing.TB, s *emulator.Server) []string {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, s.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"HTTPS_PROXY=" + s.ProxyURL().String(), "HTTP_PROXY=" + s.ProxyURL().String(), "NO_PROXY=", "SSL_CERT_FILE=" + ca}
}

// Issuer signs service account tokens as a cluster's API server does.
type Issuer struct {
	// URL is the issuer's name.
	URL string
	key *ecdsa.PrivateKey
}

// NewIssuer makes an issuer with a key of its own.
func NewIssuer(url string) (*Issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &Issuer{URL: url, key: key}, nil
}

// StartIssuer makes an issuer that the emulator knows.
func StartIssuer(t testing.TB, s *emulator.Server) *Issuer {
	t.Helper()
	i, err := NewIssuer(issuerURL)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(emulator.Seed{Issuers: []emulator.Issuer{{Issuer: i.URL, PublicKey: i.PublicKey()}}}); err != nil {
		t.Fatal(err)
	}
	return i
}

// PublicKey returns the issuer's public key as PEM.
func (i *Issuer) PublicKey() string {
	der, err := x509.MarshalPKIXPublicKey(i.key.Public())
	if err != nil {
		panic(err) // an ECDSA key marshals
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// Token returns a service account's token for an audience.
func (i *Issuer) Token(namespace, serviceAccount, audience string, lifetime time.Duration) string {
	now := time.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": i.URL, "sub": "system:serviceaccount:" + namespace + ":" + serviceAccount, "aud": []string{audience},
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(lifetime).Unix(), "jti": rand.Text(),
		"kubernetes.io": map[string]any{
			"namespace": namespace, "serviceaccount": map[string]any{"name": serviceAccount, "uid": "sa-uid"},
		},
	})
	signed, err := token.SignedString(i.key)
	if err != nil {
		panic(err) // an ECDSA key signs
	}
	return signed
}
