package system

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// blocks returns the PEM blocks of a text.
func blocks(t *testing.T, text string) (found []*pem.Block) {
	t.Helper()
	rest := []byte(text)
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			if len(strings.TrimSpace(string(rest))) > 0 {
				t.Fatalf("not PEM: %.60q", rest)
			}
			return found
		}
		found = append(found, b)
	}
}

func TestKeysAndCertificates(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed+`
  keys:
  - {name: rsa, type: RSA}
  - {name: rsa-hsm, type: RSA-HSM}
  - {name: p256, type: EC, curve: P-256}
  - {name: p384, type: EC-HSM, curve: P-384}
  - {name: p521, type: EC, curve: P-521}
  - {name: p256k, type: EC, curve: P-256K}
  - {name: oct, type: oct}
  certificates:
  - {name: pfx, subject: a.example.com, chain: 2}
  - {name: pem, contentType: application/x-pem-file, chain: 1, keyType: EC}
  - {name: closed, notExportable: true, chain: 1}
`)
	objects := `array:
- "{objectName: rsa, objectType: key}"
- "{objectName: rsa-hsm, objectType: key}"
- "{objectName: p256, objectType: key}"
- "{objectName: p384, objectType: key}"
- "{objectName: p521, objectType: key}"
- "{objectName: pfx, objectType: cert, objectAlias: leaf.pem}"
- "{objectName: pfx, objectType: key, objectAlias: public.pem}"
- "{objectName: pfx, objectType: secret, objectAlias: tls/pair.pem, writeCertAndKeyInSeparateFiles: true}"
- "{objectName: pfx, objectType: secret, objectAlias: pair.pfx, objectFormat: pfx, objectEncoding: base64}"
- "{objectName: pem, objectType: secret}"
- "{objectName: closed, objectType: secret}"
`
	n.Class("all", map[string]string{"objects": objects})
	must(t, n.Publish("a", "all"))
	for name, check := range map[string]func(any) bool{
		"rsa":     func(k any) bool { _, ok := k.(*rsa.PublicKey); return ok },
		"rsa-hsm": func(k any) bool { _, ok := k.(*rsa.PublicKey); return ok },
		"p256":    func(k any) bool { e, ok := k.(*ecdsa.PublicKey); return ok && e.Params().BitSize == 256 },
		"p384":    func(k any) bool { e, ok := k.(*ecdsa.PublicKey); return ok && e.Params().BitSize == 384 },
		"p521":    func(k any) bool { e, ok := k.(*ecdsa.PublicKey); return ok && e.Params().BitSize == 521 },
	} {
		b := blocks(t, n.Read("a", name))
		if len(b) != 1 || b[0].Type != "PUBLIC KEY" {
			t.Fatalf("%s: %v", name, b)
		}
		key, err := x509.ParsePKIXPublicKey(b[0].Bytes)
		if err != nil || !check(key) {
			t.Errorf("%s: %T %v", name, key, err)
		}
	}
	pair, err := tls.X509KeyPair([]byte(n.Read("a", "tls/pair.pem")), []byte(n.Read("a", "tls/pair.pem")))
	must(t, err)
	if len(pair.Certificate) != 3 {
		t.Errorf("%d certificates, want the leaf and two issuers", len(pair.Certificate))
	}
	all := blocks(t, n.Read("a", "tls/pair.pem"))
	if all[0].Type != "PRIVATE KEY" {
		t.Errorf("the key is not first: %s", all[0].Type)
	}
	for i := 1; i+1 < len(all); i++ {
		child, errChild := x509.ParseCertificate(all[i].Bytes)
		parent, errParent := x509.ParseCertificate(all[i+1].Bytes)
		if errChild != nil || errParent != nil || child.CheckSignatureFrom(parent) != nil {
			t.Errorf("certificate %d is not issued by the next one", i)
		}
	}
	leaf := blocks(t, n.Read("a", "leaf.pem"))
	if len(leaf) != 1 || string(leaf[0].Bytes) != string(pair.Certificate[0]) {
		t.Error("objectType cert is not the leaf")
	}
	if _, err := tls.X509KeyPair([]byte(n.Read("a", "tls/pair.pem.crt")), []byte(n.Read("a", "tls/pair.pem.key"))); err != nil {
		t.Errorf("separate files: %v", err)
	}
	if text := n.Read("a", "pair.pfx"); text[0] != 0x30 {
		t.Errorf("the PFX is not binary: % x", text[:4])
	}
	if _, err := tls.X509KeyPair([]byte(n.Read("a", "pem")), []byte(n.Read("a", "pem"))); err != nil {
		t.Errorf("pem: %v", err)
	}
	for _, b := range blocks(t, n.Read("a", "closed")) {
		if b.Type != "CERTIFICATE" {
			t.Errorf("closed holds a %s", b.Type)
		}
	}
	for name, want := range map[string]string{"p256k": "P-256K", "oct": "oct"} {
		n.Class(name, map[string]string{"objects": "array:\n- \"{objectName: " + name + ", objectType: key}\"\n"})
		if err := n.Publish(name, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// errorOf is nil for an empty message.
func errorOf(message string) error {
	if message == "" {
		return nil
	}
	return errors.New(message)
}

func TestVersions(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed+"pageSize: 2\nshortPages: true\n")
	created := time.Now().Add(-time.Hour)
	var versions []string
	for i, value := range []string{"v0", "v1", "v2", "v3", "v4", "v5"} {
		v, err := n.Emulator.SetSecret(kubelet.Vault, emulator.Secret{Name: "s", Value: value, Created: created.Add(time.Duration(i) * time.Minute)})
		must(t, err)
		versions = append(versions, v)
	}
	must(t, n.Emulator.Disable(kubelet.Vault, "secrets", "s", versions[4], true))
	one := func(name string, fields ...string) string {
		n.Class(name, map[string]string{"objects": "array:\n- |\n  objectName: s\n  objectType: secret\n  " + strings.Join(fields, "\n  ") + "\n"})
		err := n.Publish(name, name)
		if err != nil {
			return err.Error()
		}
		return ""
	}
	must(t, errorOf(one("pinned", "objectVersion: "+versions[1])))
	if got := n.Read("pinned", "s"); got != "v1" {
		t.Errorf("pinned: %q", got)
	}
	must(t, errorOf(one("latest", "objectVersion: latest")))
	if got := n.Read("latest", "s"); got != "v5" {
		t.Errorf("latest: %q", got)
	}
	must(t, errorOf(one("history", "objectVersionHistory: 3", "objectAlias: h")))
	if got := n.Read("history", "h/0") + n.Read("history", "h/1") + n.Read("history", "h/2"); got != "v5v3v2" {
		t.Errorf("history: %q", got)
	}
	if _, err := os.Stat(n.Target("history") + "/h/3"); err == nil {
		t.Error("one version too many")
	}
	must(t, errorOf(one("from", "objectVersionHistory: 2", "objectVersion: "+versions[2])))
	if got := n.Read("from", "s/0") + n.Read("from", "s/1"); got != "v2v1" {
		t.Errorf("from: %q", got)
	}
	if message := one("absent", "objectVersionHistory: 2", "objectVersion: 00000000000000000000000000000000"); !strings.Contains(message, "start from") {
		t.Errorf("absent: %s", message)
	}
	if message := one("disabled", "objectVersionHistory: 2", "objectVersion: "+versions[4]); !strings.Contains(message, "no enabled version") {
		t.Errorf("disabled: %s", message)
	}
}
