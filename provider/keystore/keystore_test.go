package keystore_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/keystore"
)

// identity makes a key of a CA's and a leaf's certificate for it.
func identity(t *testing.T, key crypto.Signer) keystore.Identity {
	t.Helper()
	authority := newKey(t)
	root := certify(t, "Root", authority, authority, nil)
	return keystore.Identity{Key: key, Chain: []*x509.Certificate{root, certify(t, "web", key, authority, root)}}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func certify(t *testing.T, name string, key, authority crypto.Signer, issuer *x509.Certificate) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(int64(len(name))),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		NotAfter:              time.Date(2046, 1, 2, 3, 4, 5, 0, time.UTC),
		IsCA:                  issuer == nil,
		BasicConstraintsValid: true,
	}
	if issuer == nil {
		issuer = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), authority)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var passwords = []string{"changeit", "p", "with space 'quotes\" $x \\ `", "pässwörd €", "日本語のパスワード", strings.Repeat("long", 64)}

// A PKCS#12 file is read by a decoder that is not ours, with each password and kind of key.
func TestPKCS12(t *testing.T) {
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{large, newKey(t), edwards} {
		id := identity(t, key)
		for _, password := range passwords {
			data, err := keystore.PKCS12(id, password)
			if err != nil {
				t.Fatal(err)
			}
			gotKey, leaf, issuers, err := pkcs12.DecodeChain(data, password)
			if err != nil {
				t.Fatalf("%q: %v", password, err)
			}
			if !key.Public().(interface{ Equal(x crypto.PublicKey) bool }).Equal(gotKey.(crypto.Signer).Public()) ||
				!leaf.Equal(id.Chain[1]) || len(issuers) != 1 || !issuers[0].Equal(id.Chain[0]) {
				t.Errorf("%q: another key or chain came back", password)
			}
			if _, _, _, err := pkcs12.DecodeChain(data, password+"x"); err == nil {
				t.Errorf("%q: another password opens it", password)
			}
		}
	}
}

// The same inputs make the same bytes, and any other input makes other salts.
func TestDeterministic(t *testing.T) {
	id, other := identity(t, newKey(t)), identity(t, newKey(t))
	for name, make := range map[string]func(id keystore.Identity, password string) ([]byte, error){
		"pkcs12":       keystore.PKCS12,
		"jks":          func(id keystore.Identity, p string) ([]byte, error) { return keystore.JKS("web", id, p) },
		"pkcs12 trust": func(id keystore.Identity, p string) ([]byte, error) { return keystore.PKCS12TrustStore(id.Chain, p) },
		"jks trust":    func(id keystore.Identity, p string) ([]byte, error) { return keystore.JKSTrustStore(id.Chain, p) },
	} {
		seen := map[string]string{}
		for input, of := range map[string]keystore.Identity{"first": id, "second": other} {
			for _, password := range []string{"changeit", "changeis"} {
				first, err := make(of, password)
				if err != nil {
					t.Fatal(err)
				}
				second, err := make(of, password)
				if err != nil || !bytes.Equal(first, second) {
					t.Errorf("%s: the same inputs made other bytes: %v", name, err)
				}
				key := string(first)
				if same, ok := seen[key]; ok {
					t.Errorf("%s: %s has the bytes of %s", name, input+password, same)
				}
				seen[key] = input + password
			}
		}
	}
}

func TestWrongInputs(t *testing.T) {
	id := identity(t, newKey(t))
	for want, password := range map[string]string{
		"the password is empty":              "",
		"not UTF-8":                          "hunter2\xff",
		"control character":                  "hunter2\n",
		"cannot write (above U+FFFF)":        "hunter2😀",
		"the password has 2800 bytes":        strings.Repeat("hunter2", 400),
		"the password has a control charact": "\x00hunter2",
	} {
		_, first := keystore.PKCS12(id, password)
		_, second := keystore.JKS("web", id, password)
		_, third := keystore.PKCS12TrustStore(id.Chain, password)
		_, fourth := keystore.JKSTrustStore(id.Chain, password)
		for _, err := range []error{first, second, third, fourth} {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v, want %q", err, want)
			}
		}
	}
	if _, err := keystore.PKCS12(keystore.Identity{Key: newKey(t), Chain: id.Chain}, "changeit"); err == nil ||
		!strings.Contains(err.Error(), "none of the certificates belongs to the private key") {
		t.Errorf("another key: %v", err)
	}
	if _, err := keystore.JKSTrustStore(nil, "changeit"); err == nil || !strings.Contains(err.Error(), "no certificate to trust") {
		t.Errorf("nothing to trust: %v", err)
	}
}
