package engine_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/render"
)

// chain makes a leaf's key and certificate and its root's certificate, as PEM.
func chain(t *testing.T) (key *ecdsa.PrivateKey, keyText, leaf, root []byte) {
	t.Helper()
	certify := func(name string, public *ecdsa.PublicKey, issuer *x509.Certificate, by *ecdsa.PrivateKey) []byte {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: issuer == nil, BasicConstraintsValid: true,
			NotBefore: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), NotAfter: time.Date(2046, 1, 1, 0, 0, 0, 0, time.UTC),
		}
		if issuer == nil {
			issuer = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, issuer, public, by)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	keys := [2]*ecdsa.PrivateKey{}
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	rootDER := certify("Root", &keys[0].PublicKey, nil, keys[0])
	issuer, err := x509.ParseCertificate(rootDER)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(keys[1])
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return keys[1], block("PRIVATE KEY", keyDER), block("CERTIFICATE", certify("web", &keys[1].PublicKey, issuer, keys[0])),
		block("CERTIFICATE", rootDER)
}

// Key stores, trust stores and bundles come from a certificate's file, PEM or PFX.
func TestStores(t *testing.T) {
	key, keyText, leaf, root := chain(t)
	web := bytes.Join([][]byte{keyText, leaf, root}, nil)
	_, _, other, otherRoot := chain(t)
	certificate := func(text []byte) *x509.Certificate {
		block, _ := pem.Decode(text)
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	pfx, err := pkcs12.Modern2023.Encode(key, certificate(leaf), []*x509.Certificate{certificate(root)}, "")
	if err != nil {
		t.Fatal(err)
	}
	given := map[string][]byte{
		"web": web, "pfx": []byte(base64.StdEncoding.EncodeToString(pfx)), "other": append(other, otherRoot...), "word": []byte("changeit"),
		"wrong": []byte("change\nit"), "leaf": leaf,
	}
	made := func(text string) ([]byte, *render.Failure) {
		t.Helper()
		reads := []string{}
		for path := range given {
			reads = append(reads, path)
		}
		got := run(t, render.Request{Files: given, Templates: []render.Task{{Path: "out", Text: text, Reads: reads}}})[0]
		return got.Data, got.Failure
	}
	for _, from := range []string{"web", "pfx"} {
		store, failure := made(`{{ pkcs12 "` + from + `" (file "word") }}`)
		if failure != nil {
			t.Fatal(failure)
		}
		got, gotLeaf, issuers, err := pkcs12.DecodeChain(store, "changeit")
		if err != nil || !key.Equal(got) || !gotLeaf.Equal(certificate(leaf)) || len(issuers) != 1 {
			t.Errorf("%s: %v, %d issuers", from, err, len(issuers))
		}
		again, _ := made(`{{ pkcs12 "` + from + `" (file "word") }}`)
		if !bytes.Equal(store, again) {
			t.Errorf("%s: other bytes the second time", from)
		}
		if store, failure := made(`{{ jks "` + from + `" (file "word") }}`); failure != nil || !bytes.HasPrefix(store, []byte{0xFE, 0xED, 0xFE, 0xED}) {
			t.Errorf("%s: no JKS: %+v", from, failure)
		}
	}
	trust, failure := made(`{{ pkcs12TrustStore (caBundle "web" "other" "pfx") (file "word") }}`)
	if failure != nil {
		t.Fatal(failure)
	}
	if trusted, err := pkcs12.DecodeTrustStore(trust, "changeit"); err != nil || len(trusted) != 2 {
		t.Errorf("trust store: %d certificates, %v", len(trusted), err)
	}
	if bundle, failure := made(`{{ caBundle "web" "pfx" "other" }}`); failure != nil || string(bundle) != string(root)+string(otherRoot) {
		t.Errorf("bundle: %s, %+v", bundle, failure)
	}
	if text, failure := made(`{{ pemCertificates "web" }}`); failure != nil || string(text) != string(leaf)+string(root) {
		t.Errorf("certificates: %s, %+v", text, failure)
	}
	if text, failure := made(`{{ pemKey "web" }}`); failure != nil || !strings.HasPrefix(string(text), "-----BEGIN EC PRIVATE KEY-----") {
		t.Errorf("key: %+v", failure)
	}
	for text, want := range map[string]string{
		`{{ jks "leaf" (file "word") }}`:       `file "leaf": the file holds no private key`,
		`{{ pkcs12 "word" (file "word") }}`:    `file "word": the file is neither PEM nor PFX`,
		`{{ jks "web" (file "wrong") }}`:       "the password has a control character",
		`{{ jks "web" "" }}`:                   "the password is empty",
		`{{ caBundle "leaf" }}`:                `file "leaf": the file holds no certificate of an issuer`,
		`{{ jksTrustStore (file "leaf") "" }}`: "the password is empty",
	} {
		if _, failure := made(text); failure == nil || !strings.Contains(failure.Problem, want) || failure.Line != 1 || failure.Function == "" {
			t.Errorf("%s: %+v, want %q", text, failure, want)
		}
	}
}
