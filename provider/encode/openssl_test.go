//go:build openssl

// These tests let openssl read what the package writes, and make PFX files anew. They need the openssl command, version 3:
//
//	go test -tags openssl ./provider/encode/
package encode_test

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode"
)

func TestOpenSSLReadsPEM(t *testing.T) {
	t.Parallel()
	for _, leaf := range []string{"rsa", "ec", "ec521", "ed25519"} {
		folder := t.TempDir()
		key, certs, pfx := filepath.Join("testdata", "pki", leaf+".key"), filepath.Join(folder, "chain.pem"), filepath.Join(folder, "pfx")
		write(t, certs, pki(t, leaf+".pem", "root.pem", "intermediate.pem"))
		openssl(t, "pkcs12", "-export", "-inkey", key, "-in", certs, "-passout", "pass:", "-out", pfx)
		der, err := os.ReadFile(pfx)
		if err != nil {
			t.Fatal(err)
		}
		secret := convert(t, base64.StdEncoding.EncodeToString(der), encode.Options{Split: true})
		main, crt := filepath.Join(folder, "main"), filepath.Join(folder, "crt")
		write(t, main, secret.Main)
		write(t, crt, secret.Certificates)

		// The key is the certificate's, in both forms, and the first certificate is the leaf.
		want := openssl(t, "pkey", "-in", key, "-pubout")
		wantBytes(t, leaf+": public key of the file", openssl(t, "pkey", "-in", main, "-pubout"), want)
		wantBytes(t, leaf+": public key of the first certificate", openssl(t, "x509", "-in", main, "-noout", "-pubkey"), want)
		tlsKey, err := encode.TLSKey(secret.Main)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(folder, "tls.key"), tlsKey)
		wantBytes(t, leaf+": public key of tls.key", openssl(t, "pkey", "-in", filepath.Join(folder, "tls.key"), "-pubout"), want)
		if block, _ := pem.Decode(tlsKey); leaf != "ed25519" && block.Type == "PRIVATE KEY" {
			t.Errorf("%s: tls.key is a %s", leaf, block.Type)
		}

		authorities, err := encode.TLSAuthorities(secret.Main)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(folder, "ca.crt"), authorities)
		said := openssl(t, "verify", "-show_chain", "-CAfile", filepath.Join(folder, "ca.crt"), crt)
		if !bytes.Contains(said, []byte("depth=2")) {
			t.Errorf("%s: openssl verify said %s", leaf, said)
		}
	}
}

func TestOpenSSLReadsPublicKey(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key.pub")
	for crv, key := range map[string]encode.JWK{
		"prime256v1": {Kty: "EC", Crv: "P-256", X: fromBase64URL(t, rfcECX), Y: fromBase64URL(t, rfcECY)},
		"65537":      {Kty: "RSA", N: fromBase64URL(t, rfcRSAModulus), E: []byte{1, 0, 1}},
	} {
		text, err := encode.PublicKeyPEM(key)
		if err != nil {
			t.Fatal(err)
		}
		write(t, file, text)
		if said := string(openssl(t, "pkey", "-pubin", "-in", file, "-noout", "-text_pub")); !strings.Contains(said, crv) {
			t.Errorf("openssl said %s, want %s", said, crv)
		}
	}
}

func openssl(t *testing.T, arguments ...string) []byte {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "openssl", arguments...).CombinedOutput() //nolint:gosec // fixed arguments
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(arguments, " "), err, output)
	}
	return output
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
