package encode_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pki returns files of testdata/pki, one after the other.
func pki(t testing.TB, names ...string) []byte {
	t.Helper()
	var text []byte
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join("testdata", "pki", name))
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, data...)
	}
	return text
}

// pfxValue returns a file of testdata/pfx as Key Vault gives it.
func pfxValue(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "pfx", name+".pfx"))
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(data)
}

// certificate returns a certificate of testdata/pki.
func certificate(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	return certificates(t, pki(t, name+".pem"))[0]
}

// certificates parses the CERTIFICATE blocks of a text.
func certificates(t testing.TB, text []byte) []*x509.Certificate {
	t.Helper()
	var list []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return list
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, c)
	}
}

func wantBytes(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\ngot:\n%s\nwant:\n%s", what, got, want)
	}
}

// wantError checks that err is one line that holds each part and no piece of the content.
func wantError(t *testing.T, err error, content string, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	wantLine(t, err.Error(), content, parts...)
}

func wantLine(t *testing.T, line, content string, parts ...string) {
	t.Helper()
	if strings.ContainsAny(line, "\r\n") {
		t.Errorf("more than one line: %q", line)
	}
	for _, part := range parts {
		if !strings.Contains(line, part) {
			t.Errorf("%q does not say %q", line, part)
		}
	}
	const piece = 8
	for i := 0; i+piece <= len(content); i++ {
		if strings.Contains(line, content[i:i+piece]) {
			t.Fatalf("%q holds %q of the content", line, content[i:i+piece])
		}
	}
}
