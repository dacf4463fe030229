package encode_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	xpkcs12 "golang.org/x/crypto/pkcs12"
	gopkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode"
)

// TestPFXToPEM converts a PFX of every encryption that is met in the wild; the expected bytes are openssl's PEM.
func TestPFXToPEM(t *testing.T) {
	t.Parallel()
	for file, leaf := range map[string]string{
		"openssl1": "rsa", "keyvault": "rsa", "keyvault-ec": "ec", "rc2-128": "rsa", "rc2-40-key": "rsa", "2des": "rsa",
		"3des": "rsa", "3des-sha256": "rsa", "openssl3": "rsa", "openssl3-ec": "ec", "openssl3-ec521": "ec521",
		"openssl3-ed25519": "ed25519", "aes128": "rsa", "aes192-sha384": "rsa", "aes256-sha512": "rsa", "aes256-sha224": "rsa",
		"pbes2-3des": "rsa", "many-rounds": "rsa", "no-mac": "rsa", "no-mac-rc2": "rsa", "plain-certificates": "rsa",
		"plain": "rsa", "plain-no-mac": "rsa", "java": "rsa", "java-legacy": "rsa", "nil-password": "rsa",
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			secret := convert(t, pfxValue(t, file), encode.Options{})
			wantBytes(t, "PEM", secret.Main, pki(t, leaf+".key", leaf+".pem", "intermediate.pem", "root.pem"))
			if secret.Certificates != nil || secret.Keys != nil || len(secret.Warnings) != 0 {
				t.Errorf("extras %d, %d and warnings %q were not asked for", len(secret.Certificates), len(secret.Keys), secret.Warnings)
			}
			if want := certificate(t, leaf).NotAfter; !secret.NotAfter.Equal(want) {
				t.Errorf("ends %v, want %v", secret.NotAfter, want)
			}
		})
	}
}

func TestPFXWithoutKeyOrCertificate(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"no-key", "no-key-rc2"} {
		secret := convert(t, pfxValue(t, file), encode.Options{Split: true})
		want := pki(t, "rsa.pem", "intermediate.pem", "root.pem")
		wantBytes(t, file, secret.Main, want)
		wantBytes(t, file+": .crt", secret.Certificates, want)
		if secret.Keys == nil || len(secret.Keys) != 0 {
			t.Errorf("%s: .key is %q, want an empty file", file, secret.Keys)
		}
		if want := certificate(t, "rsa").NotAfter; !secret.NotAfter.Equal(want) {
			t.Errorf("%s ends %v, want %v", file, secret.NotAfter, want)
		}
	}
	secret := convert(t, pfxValue(t, "no-certificate"), encode.Options{})
	wantBytes(t, "no certificate", secret.Main, pki(t, "rsa.key"))
	if !secret.NotAfter.IsZero() {
		t.Errorf("a PFX without a certificate ends %v", secret.NotAfter)
	}
	secret = convert(t, pfxValue(t, "self"), encode.Options{})
	wantBytes(t, "self-signed", secret.Main, pki(t, "self.key", "self.pem"))
	secret = convert(t, pfxValue(t, "java-secret-key"), encode.Options{})
	wantBytes(t, "Java store with a secret key", secret.Main, pki(t, "rsa.key", "rsa.pem", "intermediate.pem", "root.pem"))
	if len(secret.Warnings) != 1 || !strings.Contains(secret.Warnings[0], "left out: 1") {
		t.Errorf("warnings %q, want one for the secret key", secret.Warnings)
	}
}

// TestUpstreamBytes compares with the decoder that the provider of today uses, as far as that can read a file.
func TestUpstreamBytes(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"openssl1", "keyvault", "keyvault-ec", "3des", "java-legacy", "nil-password"} {
		value := pfxValue(t, file)
		der, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			t.Fatal(err)
		}
		blocks, err := xpkcs12.ToPEM(der, "")
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		var keys, certs []byte
		for _, block := range blocks {
			block.Headers = nil
			if block.Type == "CERTIFICATE" {
				certs = append(certs, pem.EncodeToMemory(block)...)
				continue
			}
			var key any
			if key, err = x509.ParsePKCS1PrivateKey(block.Bytes); err != nil {
				if key, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
					t.Fatal(err)
				}
			}
			if block.Bytes, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
				t.Fatal(err)
			}
			keys = append(keys, pem.EncodeToMemory(block)...)
		}
		secret := convert(t, value, encode.Options{KeepOrder: true, Split: true})
		wantBytes(t, file, secret.Main, slices.Concat(keys, certs))
		wantBytes(t, file+": .key", secret.Keys, keys)
		wantBytes(t, file+": .crt", secret.Certificates, certs)
	}
}

// TestSecondDecoder compares with a decoder that knows today's encryptions, as far as it can read a file.
func TestSecondDecoder(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"openssl3", "openssl3-ec521", "openssl3-ed25519", "aes128", "aes256-sha512", "java", "plain-no-mac", "rc2-128"} {
		value := pfxValue(t, file)
		der, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			t.Fatal(err)
		}
		key, leaf, issuers, err := gopkcs12.DecodeChain(der, "")
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		want := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
		for _, c := range append([]*x509.Certificate{leaf}, issuers...) {
			want = append(want, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
		wantBytes(t, file, convert(t, value, encode.Options{KeepOrder: true}).Main, want)
	}
}

// TestPBMAC1 reads what OpenSSL 3.4 and Java 26 can write; the second decoder's encoder stands in for them.
func TestPBMAC1(t *testing.T) {
	t.Parallel()
	key := privateKey(t, "ec")
	der, err := gopkcs12.Modern2026.Encode(key, certificate(t, "ec"), nil, "")
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "PEM", convert(t, base64.StdEncoding.EncodeToString(der), encode.Options{}).Main, pki(t, "ec.key", "ec.pem"))
	if der, err = gopkcs12.Modern2026.Encode(key, certificate(t, "ec"), nil, "secret"); err != nil {
		t.Fatal(err)
	}
	_, err = encode.ConvertCertificateSecret(base64.StdEncoding.EncodeToString(der), encode.ContentTypePFX, encode.Options{})
	wantError(t, err, "", "password")
}

func TestPFXAsItIs(t *testing.T) {
	t.Parallel()
	value := pfxValue(t, "openssl3")
	lines := value[:100] + "\r\n" + value[100:200] + "\n" + value[200:]
	der, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{value, lines} {
		secret := convert(t, text, encode.Options{PFX: true, Split: true})
		wantBytes(t, "text", secret.Main, []byte(text))
		wantBytes(t, ".crt", secret.Certificates, pki(t, "rsa.pem", "intermediate.pem", "root.pem"))
		wantBytes(t, ".key", secret.Keys, pki(t, "rsa.key"))
		secret = convert(t, text, encode.Options{PFX: true, Split: true, Encoding: encode.EncodingBase64})
		wantBytes(t, "binary", secret.Main, der)
		wantBytes(t, ".key of binary", secret.Keys, pki(t, "rsa.key"))
		if !secret.NotAfter.Equal(certificate(t, "rsa").NotAfter) {
			t.Errorf("ends %v", secret.NotAfter)
		}
		wantBytes(t, "PEM of text in lines", convert(t, text, encode.Options{}).Main,
			pki(t, "rsa.key", "rsa.pem", "intermediate.pem", "root.pem"))
	}
	// What cannot be read is still mounted as it is: only the extras are missing.
	locked := pfxValue(t, "password")
	secret := convert(t, locked, encode.Options{PFX: true, Split: true})
	wantBytes(t, "locked", secret.Main, []byte(locked))
	if len(secret.Certificates)+len(secret.Keys) != 0 || secret.Keys == nil || len(secret.Warnings) != 1 {
		t.Errorf("extras %q %q, warnings %q", secret.Certificates, secret.Keys, secret.Warnings)
	}
}

func TestPEMAsItIs(t *testing.T) {
	t.Parallel()
	text := "Bag Attributes\r\n" + string(pki(t, "root.pem", "rsa.pem")) + "# key\n" + string(pki(t, "rsa.pkcs1.key", "intermediate.pem"))
	for _, contentType := range []string{encode.ContentTypePEM, ""} {
		secret, err := encode.ConvertCertificateSecret(text, contentType, encode.Options{Split: true})
		if err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "PEM", secret.Main, []byte(text))
		wantBytes(t, ".crt", secret.Certificates, pki(t, "root.pem", "rsa.pem", "intermediate.pem"))
		wantBytes(t, ".key", secret.Keys, pki(t, "rsa.pkcs1.key"))
		if !secret.NotAfter.Equal(certificate(t, "rsa").NotAfter) {
			t.Errorf("ends %v, want the leaf's end", secret.NotAfter)
		}
	}
	// Also text that is no PEM at all: the vault says it is, and the pod gets what the vault has.
	secret, err := encode.ConvertCertificateSecret("", encode.ContentTypePEM, encode.Options{Split: true})
	if err != nil || len(secret.Main)+len(secret.Certificates)+len(secret.Keys) != 0 {
		t.Errorf("empty text: %+v, %v", secret, err)
	}
}

func TestContentIsRecognised(t *testing.T) {
	t.Parallel()
	locked := pfxValue(t, "password")
	for _, test := range []struct {
		name, value string
		want        encode.Content
	}{
		{"PEM", string(pki(t, "rsa.key")), encode.PEM},
		{"PEM after text", "Bag Attributes\n" + string(pki(t, "rsa.pem")), encode.PEM},
		{"PFX", pfxValue(t, "keyvault"), encode.PFX},
		{"PFX with a password", locked, encode.PFX},
		{"cut PFX", locked[:len(locked)/8*4], encode.Unknown},
		{"certificate in base64", base64.StdEncoding.EncodeToString(certificate(t, "rsa").Raw), encode.Unknown},
		{"text", "hunter2 is my passphrase", encode.Unknown},
		{"begin without end", "-----BEGIN CERTIFICATE-----\nAAAA\n", encode.Unknown},
		{"nothing", "", encode.Unknown},
	} {
		if got := encode.Recognise(test.value); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
	secret, err := encode.ConvertCertificateSecret(pfxValue(t, "keyvault"), "", encode.Options{})
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "PFX without a content type", secret.Main, pki(t, "rsa.key", "rsa.pem", "intermediate.pem", "root.pem"))
}

func TestCertificateSecretErrors(t *testing.T) {
	t.Parallel()
	good := pfxValue(t, "openssl3")
	der, err := base64.StdEncoding.DecodeString(good)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(der)
	flipped[len(flipped)/2] ^= 1
	for _, test := range []struct {
		name, value, contentType string
		options                  encode.Options
		parts                    []string
	}{
		{"password", pfxValue(t, "password"), encode.ContentTypePFX, encode.Options{}, []string{"password"}},
		{"password, RC2", pfxValue(t, "password-rc2"), encode.ContentTypePFX, encode.Options{}, []string{"password"}},
		{"password, no MAC", pfxValue(t, "password-no-mac"), encode.ContentTypePFX, encode.Options{}, []string{"password"}},
		{"changed", base64.StdEncoding.EncodeToString(flipped), encode.ContentTypePFX, encode.Options{}, nil},
		{"cut", good[:400], encode.ContentTypePFX, encode.Options{}, []string{"damaged"}},
		{"no base64", "hunter2 is my passphrase", encode.ContentTypePFX, encode.Options{}, []string{"base64"}},
		{"PEM as PFX", string(pki(t, "rsa.key")), encode.ContentTypePFX, encode.Options{}, []string{"content type"}},
		{"secp256k1", pfxValue(t, "k256"), encode.ContentTypePFX, encode.Options{}, []string{"private key", "objectFormat: pfx"}},
		{"encoding of PEM", good, encode.ContentTypePFX, encode.Options{Encoding: "base64"}, []string{"objectEncoding", "objectFormat: pfx"}},
		{"encoding of verbatim PEM", string(pki(t, "rsa.key")), encode.ContentTypePEM, encode.Options{Encoding: "hex"}, []string{"hex"}},
		{"content type", good, "text/plain", encode.Options{}, []string{`"text/plain"`, encode.ContentTypePFX}},
		{"letter case", good, "application/X-PKCS12", encode.Options{}, []string{encode.ContentTypePFX}},
		{"unknown content", "hunter2 is my passphrase", "", encode.Options{}, []string{"neither PEM nor PFX"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := encode.ConvertCertificateSecret(test.value, test.contentType, test.options)
			wantError(t, err, test.value, test.parts...)
		})
	}
}

// convert turns a value that is called a PFX into its files.
func convert(t testing.TB, value string, options encode.Options) *encode.CertificateSecret {
	t.Helper()
	secret, err := encode.ConvertCertificateSecret(value, encode.ContentTypePFX, options)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// privateKey returns a key of testdata/pki.
func privateKey(t testing.TB, name string) any {
	t.Helper()
	block, _ := pem.Decode(pki(t, name+".key"))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestTrustBundle(t *testing.T) {
	for name, tc := range map[string]struct {
		value, contentType string
		want               []string // the names of certificates
		err                string
	}{
		"leaf, key and issuers":       {value: string(pki(t, "rsa.key", "rsa.pem", "intermediate.pem", "root.pem")), want: []string{"intermediate", "root"}},
		"the order stays":             {value: string(pki(t, "root.pem", "rsa.pem", "intermediate.pem")), want: []string{"root", "intermediate"}},
		"twice the same":              {value: string(pki(t, "rsa.pem", "root.pem", "root.pem")), want: []string{"root"}},
		"roots alone":                 {value: string(pki(t, "root.pem", "root2.pem")), want: []string{"root", "root2"}},
		"an issuer with its own key":  {value: string(pki(t, "intermediate.key", "intermediate.pem", "root.pem")), want: []string{"root"}},
		"self-signed":                 {value: string(pki(t, "self.key", "self.pem")), want: []string{"self"}},
		"PFX":                         {value: pfxValue(t, "openssl3"), contentType: encode.ContentTypePFX, want: []string{"root", "intermediate"}},
		"an encrypted key is no harm": {value: string(pki(t, "rsa.encrypted.key", "rsa.pem", "root.pem")), want: []string{"root"}},
		"leaf alone":                  {value: string(pki(t, "rsa.key", "rsa.pem")), err: "only the leaf"},
		"no certificate":              {value: "canary-5", err: "no certificate in it"},
		"not readable":                {value: "-----BEGIN CERTIFICATE-----\nY2FuYXJ5\n-----END CERTIFICATE-----\n", err: "can be read"},
	} {
		t.Run(name, func(t *testing.T) {
			got, notAfter, err := encode.TrustBundle(tc.value, tc.contentType)
			if tc.err != "" {
				wantError(t, err, "canary", tc.err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var want []byte
			for _, file := range tc.want {
				want = append(want, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate(t, file).Raw})...)
			}
			wantBytes(t, "bundle", got, want)
			if notAfter.IsZero() || strings.Contains(string(got), "PRIVATE") {
				t.Errorf("ends %v", notAfter)
			}
		})
	}
}
