package encode_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	gopkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode"
)

// FuzzPFX: whatever a PFX is, the result is PEM that parses or an error of one line, and it agrees with a second decoder
// wherever both can read it.
func FuzzPFX(f *testing.F) {
	for _, file := range []string{
		"keyvault", "keyvault-ec", "openssl3-ec", "no-key", "no-mac", "no-mac-rc2", "plain", "plain-no-mac", "plain-certificates",
		"self", "password", "java-secret-key", "pbes2-3des",
	} {
		der, err := base64.StdEncoding.DecodeString(pfxValue(f, file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der, false)
	}
	if der, err := gopkcs12.Modern2026.WithIterations(1).Encode(privateKey(f, "ec"), certificate(f, "ec"), nil, ""); err == nil {
		f.Add(der, true)
	}
	f.Fuzz(func(t *testing.T, der []byte, keepOrder bool) {
		value := base64.StdEncoding.EncodeToString(der)
		encode.Recognise(value)
		secret, err := encode.ConvertCertificateSecret(value, encode.ContentTypePFX, encode.Options{Split: true, KeepOrder: keepOrder})
		if err != nil {
			wantLine(t, err.Error(), "")
			return
		}
		wantBytes(t, "parts", secret.Main, slices.Concat(secret.Keys, secret.Certificates))
		wantOnlyBlocks(t, secret.Keys, "PRIVATE KEY")
		wantOnlyBlocks(t, secret.Certificates, "CERTIFICATE")
		for _, warning := range secret.Warnings {
			wantLine(t, warning, "")
		}
		if !keepOrder {
			return
		}
		key, leaf, issuers, err := gopkcs12.DecodeChain(der, "")
		if err != nil {
			return
		}
		wantBytes(t, "certificates of the second decoder", secret.Certificates,
			certificatePEM(append([]*x509.Certificate{leaf}, issuers...)...))
		if pkcs8, err := x509.MarshalPKCS8PrivateKey(key); err == nil {
			wantBytes(t, "key of the second decoder", secret.Keys, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
		}
	})
}

// FuzzChain orders any selection of certificates, some of them damaged: nothing is lost, nothing comes twice unless the
// order of the file was kept, and an order that is given is one of issuers.
func FuzzChain(f *testing.F) {
	pool := load(f, "rsa", "ec", "intermediate", "intermediate-cross", "root", "root2", "self", "plain-leaf", "plain-ca", "plain-root")
	key := privateKey(f, "rsa")
	f.Add([]byte{0, 2, 4}, []byte(nil))
	f.Add([]byte{4, 2, 0, 4, 4}, []byte(nil))
	f.Add([]byte{9, 8, 7}, []byte(nil))
	f.Add([]byte{2, 3, 4, 5, 0}, pool[0].Raw)
	f.Fuzz(func(t *testing.T, selection, extra []byte) {
		chain := []*x509.Certificate{}
		for _, b := range selection[:min(len(selection), 40)] {
			chain = append(chain, pool[int(b)%len(pool)])
		}
		if len(extra) > 0 {
			chain = append(chain, &x509.Certificate{Raw: extra})
		}
		if len(chain) == 0 {
			return
		}
		der, err := gopkcs12.Passwordless.Encode(key, chain[0], chain[1:], "")
		if err != nil {
			return
		}
		secret := convert(t, base64.StdEncoding.EncodeToString(der), encode.Options{Split: true})
		if len(secret.Warnings) != 0 {
			wantLine(t, secret.Warnings[0], "")
			wantBytes(t, "kept order", secret.Certificates, certificatePEM(chain...))
			return
		}
		got := certificates(t, secret.Certificates)
		for i, c := range got {
			if slices.ContainsFunc(got[:i], c.Equal) {
				t.Errorf("%v twice", c.Subject)
			}
			if i > 0 && !bytes.Equal(got[i-1].RawIssuer, c.RawSubject) && !bytes.Equal(got[i-1].AuthorityKeyId, c.SubjectKeyId) {
				t.Errorf("%v follows %v, which it did not issue", c.Subject, got[i-1].Subject)
			}
		}
		for _, c := range chain {
			if !slices.ContainsFunc(got, func(other *x509.Certificate) bool { return bytes.Equal(c.Raw, other.Raw) }) {
				t.Error("a certificate is lost")
			}
		}
	})
}

// FuzzJWK: a key is PEM that parses to the same numbers, or an error of one line.
func FuzzJWK(f *testing.F) {
	f.Add("RSA", fromBase64URL(f, rfcRSAModulus), []byte{1, 0, 1}, "", []byte(nil), []byte(nil))
	f.Add("EC-HSM", []byte(nil), []byte(nil), "P-256", fromBase64URL(f, rfcECX), fromBase64URL(f, rfcECY))
	f.Add("EC", []byte(nil), []byte(nil), "P-521", []byte{1}, []byte{2})
	f.Fuzz(func(t *testing.T, kty string, n, e []byte, crv string, x, y []byte) {
		text, err := encode.PublicKeyPEM(encode.JWK{Kty: kty, N: n, E: e, Crv: crv, X: x, Y: y})
		if err != nil {
			wantLine(t, err.Error(), "")
			return
		}
		block, rest := pem.Decode(text)
		if block == nil || len(rest) != 0 {
			t.Fatalf("got %q", text)
		}
		if _, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil {
			t.Error(err)
		}
	})
}

// FuzzDecode: what the standard library encodes comes back, and errors hold nothing of the text.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("secret"), "Zm9v\r\nYmFy")
	f.Add([]byte{}, "66zz")
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		for encoding, encoded := range map[string]string{
			encode.EncodingUTF8: string(data), encode.EncodingBase64: base64.StdEncoding.EncodeToString(data),
			encode.EncodingHex: strings.ToUpper(hex.EncodeToString(data)),
		} {
			if got, err := encode.Decode(encoded, encoding); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: got %q, %v, want %q", encoding, got, err, data)
			}
			if _, err := encode.Decode(text, encoding); err != nil {
				wantLine(t, err.Error(), "")
			}
		}
	})
}

// FuzzTLS: the parts of any file are blocks of the right type, or an error of one line; no part is ever an empty block.
func FuzzTLS(f *testing.F) {
	f.Add(pki(f, "rsa.key", "rsa.pem", "intermediate.pem", "root.pem"))
	f.Add(pki(f, "ec.params.pem", "ec.sec1.key", "ec.pem"))
	f.Add(pki(f, "ed25519.key", "ed25519.pem", "root.pem"))
	f.Add(pki(f, "rsa.legacy-encrypted.key"))
	f.Add(pki(f, "rsa.encrypted.key", "k256.key"))
	f.Add([]byte(pfxValue(f, "keyvault")))
	f.Add([]byte(pfxValue(f, "plain-no-mac")))
	f.Fuzz(func(t *testing.T, file []byte) {
		for _, part := range []struct {
			split func([]byte) ([]byte, error)
			types []string
		}{
			{encode.TLSCertificates, []string{"CERTIFICATE"}},
			{encode.TLSKey, []string{"RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY"}},
			{encode.TLSAuthorities, []string{"CERTIFICATE"}},
		} {
			text, err := part.split(file)
			if err != nil {
				wantLine(t, err.Error(), "")
				continue
			}
			if len(text) == 0 {
				t.Error("neither a part nor an error")
			}
			wantOnlyBlocks(t, text, part.types...)
		}
		encode.LeafNotAfter(file)
		certificates, others := encode.SplitPEM(file)
		wantOnlyBlocks(t, certificates, "CERTIFICATE")
		again, none := encode.SplitPEM(others)
		wantBytes(t, "others split again", none, others)
		if len(again) != 0 {
			t.Errorf("certificates %q are left among the others", again)
		}
	})
}

// wantOnlyBlocks checks that a text is PEM blocks of these types and nothing else.
func wantOnlyBlocks(t *testing.T, text []byte, types ...string) {
	t.Helper()
	for len(text) > 0 {
		block, rest := pem.Decode(text)
		if block == nil || !slices.Contains(types, block.Type) {
			t.Fatalf("%q is no block of the types %q", text, types)
		}
		if encoded := pem.EncodeToMemory(block); !bytes.HasPrefix(text, encoded) {
			t.Fatalf("%q stands where %q should", text, encoded)
		}
		text = rest
	}
}
