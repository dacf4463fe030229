package encode_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode"
)

// TestTLSPair checks tls.crt and tls.key of each kind of file; the expected keys are openssl's.
func TestTLSPair(t *testing.T) {
	t.Parallel()
	binary, err := base64.StdEncoding.DecodeString(pfxValue(t, "openssl3"))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ file, certificates, key []byte }{
		"PKCS#8 RSA, key first": {pki(t, "rsa.key", "rsa.pem", "intermediate.pem"), pki(t, "rsa.pem", "intermediate.pem"), pki(t, "rsa.pkcs1.key")},
		"PKCS#1 RSA, key last":  {pki(t, "rsa.pem", "rsa.pkcs1.key"), pki(t, "rsa.pem"), pki(t, "rsa.pkcs1.key")},
		"PKCS#8 EC":             {pki(t, "ec.key", "ec.pem", "root.pem", "intermediate.pem"), pki(t, "ec.pem", "root.pem", "intermediate.pem"), pki(t, "ec.sec1.key")},
		"SEC 1 EC with its parameters": {
			append(pki(t, "ec.pem"), slices.Concat(pki(t, "ec.params.pem"), pki(t, "ec.sec1.key"))...), pki(t, "ec.pem"), pki(t, "ec.sec1.key"),
		},
		"parameters after the key": {pki(t, "ec.pem", "ec.sec1.key", "ec.params.pem"), pki(t, "ec.pem"), pki(t, "ec.sec1.key")},
		"Ed25519":                  {pki(t, "ed25519.key", "ed25519.pem"), pki(t, "ed25519.pem"), pki(t, "ed25519.key")},
		"two keys, the last":       {pki(t, "ec.key", "rsa.key", "rsa.pem"), pki(t, "rsa.pem"), pki(t, "rsa.pkcs1.key")},
		"text around":              {[]byte("subject: x\r\n" + strings.ReplaceAll(string(pki(t, "rsa.pem", "rsa.key")), "\n", "\r\n")), pki(t, "rsa.pem"), pki(t, "rsa.pkcs1.key")},
		"PFX in base64":            {[]byte(pfxValue(t, "keyvault")), pki(t, "rsa.pem", "intermediate.pem", "root.pem"), pki(t, "rsa.pkcs1.key")},
		"PFX, binary":              {binary, pki(t, "rsa.pem", "intermediate.pem", "root.pem"), pki(t, "rsa.pkcs1.key")},
		"PFX, EC":                  {[]byte(pfxValue(t, "openssl3-ec")), pki(t, "ec.pem", "intermediate.pem", "root.pem"), pki(t, "ec.sec1.key")},
		"PFX, Ed25519":             {[]byte(pfxValue(t, "openssl3-ed25519")), pki(t, "ed25519.pem", "intermediate.pem", "root.pem"), pki(t, "ed25519.key")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			certs, err := encode.TLSCertificates(test.file)
			if err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "tls.crt", certs, test.certificates)
			key, err := encode.TLSKey(test.file)
			if err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "tls.key", key, test.key)
			if _, err := tls.X509KeyPair(certs, key); err != nil {
				t.Errorf("the pair cannot serve: %v", err)
			}
		})
	}
}

func TestTLSPartsFromSeparateFiles(t *testing.T) {
	t.Parallel()
	certs, err := encode.TLSCertificates(pki(t, "rsa.pem", "intermediate.pem"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := encode.TLSKey(pki(t, "rsa.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(certs, key); err != nil {
		t.Error(err)
	}
}

func TestTLSAuthorities(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ file, want []byte }{
		"chain with its key":     {pki(t, "rsa.key", "rsa.pem", "intermediate.pem", "root.pem"), pki(t, "intermediate.pem", "root.pem")},
		"key last, leaf last":    {pki(t, "root.pem", "intermediate.pem", "rsa.pem", "rsa.key"), pki(t, "root.pem", "intermediate.pem")},
		"chain without a key":    {pki(t, "rsa.pem", "intermediate.pem"), pki(t, "intermediate.pem")},
		"another leaf":           {pki(t, "rsa.key", "ec.pem", "rsa.pem", "root.pem"), pki(t, "ec.pem", "root.pem")},
		"another leaf, no key":   {pki(t, "rsa.pem", "ec.pem", "root.pem"), pki(t, "ec.pem", "root.pem")},
		"CA bundle":              {pki(t, "root.pem", "root2.pem", "intermediate.pem"), pki(t, "root.pem", "root2.pem", "intermediate.pem")},
		"one CA":                 {pki(t, "root.pem"), pki(t, "root.pem")},
		"intermediate CA's key":  {pki(t, "intermediate.key", "intermediate.pem", "root.pem"), pki(t, "root.pem")},
		"self-signed leaf":       {pki(t, "self.key", "self.pem"), pki(t, "self.pem")},
		"self-signed, no key":    {pki(t, "self.pem"), pki(t, "self.pem")},
		"PFX":                    {[]byte(pfxValue(t, "keyvault")), pki(t, "intermediate.pem", "root.pem")},
		"PFX without a key":      {[]byte(pfxValue(t, "no-key")), pki(t, "intermediate.pem", "root.pem")},
		"root without extension": {pki(t, "plain-root.pem", "root.pem"), pki(t, "plain-root.pem", "root.pem")},
	} {
		got, err := encode.TLSAuthorities(test.file)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		wantBytes(t, name, got, test.want)
		if !x509.NewCertPool().AppendCertsFromPEM(got) {
			t.Errorf("%s: no pool can be made", name)
		}
	}
}

func TestTLSErrors(t *testing.T) {
	t.Parallel()
	garbage := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("hunter2 is my passphrase")})
	badCertificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("hunter2 is my passphrase")})
	for name, test := range map[string]struct {
		split func([]byte) ([]byte, error)
		file  []byte
		parts []string
	}{
		"encrypted PKCS#8":     {encode.TLSKey, pki(t, "rsa.encrypted.key", "rsa.pem"), []string{"encrypted"}},
		"encrypted EC":         {encode.TLSKey, pki(t, "ec.encrypted.key"), []string{"encrypted"}},
		"encrypted Ed25519":    {encode.TLSKey, pki(t, "ed25519.encrypted.key"), []string{"encrypted"}},
		"encrypted PKCS#1":     {encode.TLSKey, pki(t, "rsa.legacy-encrypted.key"), []string{"encrypted"}},
		"unreadable key":       {encode.TLSKey, garbage, []string{"cannot be read"}},
		"key too big":          {encode.TLSKey, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: make([]byte, 1<<20)}), []string{"limit"}},
		"secp256k1 key":        {encode.TLSKey, pki(t, "k256.key"), []string{"P-256"}},
		"no key":               {encode.TLSKey, pki(t, "rsa.pem"), []string{"tls.key", "exportable"}},
		"PFX without a key":    {encode.TLSKey, []byte(pfxValue(t, "no-key")), []string{"tls.key", "exportable"}},
		"PFX with a password":  {encode.TLSKey, []byte(pfxValue(t, "password")), []string{"password"}},
		"text as key":          {encode.TLSKey, []byte("hunter2 is my passphrase"), []string{"neither PEM nor PFX"}},
		"nothing as key":       {encode.TLSKey, nil, []string{"neither PEM nor PFX"}},
		"no certificate":       {encode.TLSCertificates, pki(t, "rsa.key"), []string{"tls.crt"}},
		"PFX, no certificate":  {encode.TLSCertificates, []byte(pfxValue(t, "no-certificate")), []string{"tls.crt"}},
		"text as certificate":  {encode.TLSCertificates, []byte("hunter2 is my passphrase"), []string{"neither PEM nor PFX"}},
		"leaf alone":           {encode.TLSAuthorities, pki(t, "rsa.key", "rsa.pem"), []string{"ca.crt"}},
		"bad certificate":      {encode.TLSAuthorities, badCertificate, []string{"certificate 1 of 1"}},
		"key unreadable, CA":   {encode.TLSAuthorities, append(garbage, pki(t, "root.pem")...), []string{"cannot be read"}},
		"text as certificates": {encode.TLSAuthorities, []byte("hunter2 is my passphrase"), []string{"neither PEM nor PFX"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := test.split(test.file)
			if len(got) != 0 {
				t.Errorf("got %q besides the error", got)
			}
			wantError(t, err, pemBody(test.file[:min(len(test.file), 4096)]), test.parts...)
		})
	}
}

// pemBody returns a file without the lines that begin and end blocks, whose words errors use too.
func pemBody(file []byte) string {
	var body strings.Builder
	for line := range strings.Lines(string(file)) {
		if !strings.HasPrefix(line, "-----") && !strings.Contains(line, ": ") {
			body.WriteString(line)
		}
	}
	return body.String()
}

func TestLeafNotAfter(t *testing.T) {
	t.Parallel()
	leaf := certificate(t, "rsa")
	binary, err := base64.StdEncoding.DecodeString(pfxValue(t, "keyvault"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"DER":                   leaf.Raw,
		"PEM":                   pki(t, "rsa.pem"),
		"chain, root first":     pki(t, "root.pem", "intermediate.pem", "rsa.pem"),
		"key decides":           pki(t, "self.pem", "ec.pem", "rsa.key", "rsa.pem"),
		"encrypted key":         pki(t, "rsa.encrypted.key", "rsa.pem", "root.pem"),
		"PFX in base64":         []byte(pfxValue(t, "openssl3")),
		"PFX, binary":           binary,
		"PFX without a key":     []byte(pfxValue(t, "no-key")),
		"no single leaf: first": pki(t, "rsa.pem", "self.pem"),
	} {
		if got, ok := encode.LeafNotAfter(data); !ok || !got.Equal(leaf.NotAfter) {
			t.Errorf("%s: got %v %v, want %v", name, got, ok, leaf.NotAfter)
		}
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "text": []byte("hunter2 is my passphrase"), "key": pki(t, "rsa.key"),
		"PFX without a certificate": []byte(pfxValue(t, "no-certificate")), "locked PFX": []byte(pfxValue(t, "password")),
	} {
		if got, ok := encode.LeafNotAfter(data); ok || !got.IsZero() {
			t.Errorf("%s: got %v %v", name, got, ok)
		}
	}
}
