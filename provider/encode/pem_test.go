package encode_test

import (
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode"
)

func TestCertificatePEM(t *testing.T) {
	t.Parallel()
	got, err := encode.CertificatePEM(certificate(t, "rsa").Raw)
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "certificate", got, pki(t, "rsa.pem"))
	// The bytes are not judged.
	if got, err = encode.CertificatePEM([]byte("any")); err != nil || string(got) != "-----BEGIN CERTIFICATE-----\nYW55\n-----END CERTIFICATE-----\n" {
		t.Errorf("got %q, %v", got, err)
	}
	_, err = encode.CertificatePEM(nil)
	wantError(t, err, "", "empty")
}

func TestSplitPEM(t *testing.T) {
	t.Parallel()
	headers := "-----BEGIN OTHER-----\nA: b\nC: d\n\nYW55\n-----END OTHER-----\n"
	text := "before\n" + string(pki(t, "root.pem", "rsa.key")) + "between\r\n" +
		strings.ReplaceAll(string(pki(t, "rsa.pem")), "\n", "\r\n") + headers + string(pki(t, "ec.params.pem")) + "after"
	certificates, others := encode.SplitPEM([]byte(text))
	wantBytes(t, "certificates", certificates, pki(t, "root.pem", "rsa.pem"))
	wantBytes(t, "others", others, append(append(pki(t, "rsa.key"), headers...), pki(t, "ec.params.pem")...))

	certificates, others = encode.SplitPEM([]byte("no block"))
	if certificates == nil || others == nil || len(certificates)+len(others) != 0 {
		t.Errorf("got %q and %q, want two empty files", certificates, others)
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ encoding, text, want string }{
		{"", "pässword\x00\xff", "pässword\x00\xff"},
		{"utf-8", " \n", " \n"},
		{"utf-8", "", ""},
		// RFC 4648, section 10.
		{"base64", "Zm9vYg==", "foob"},
		{"base64", "Zm9v\r\nYmFy\n", "foobar"},
		{"base64", "", ""},
		{"base64", "+/+/", "\xfb\xff\xbf"},
		{"hex", "666F6f6261", "fooba"},
		{"hex", "", ""},
	} {
		got, err := encode.Decode(test.text, test.encoding)
		if err != nil || string(got) != test.want || got == nil {
			t.Errorf("%s %q: got %q, %v, want %q", test.encoding, test.text, got, err, test.want)
		}
	}
	for _, test := range []struct {
		encoding, text string
		parts          []string
	}{
		{"base64", "hunter2!passphrase", []string{"objectEncoding is base64", "byte 7 of 18"}},
		{"base64", "Zm9vYg", []string{"objectEncoding is base64"}},
		{"base64", "Zm9v Ymfy", []string{"byte 4"}},
		{"base64", "-_-_", []string{"byte 0", "standard alphabet"}},
		{"hex", "66zz", []string{"objectEncoding is hex", "byte 2 of 4"}},
		{"hex", "666", []string{"odd number of digits (3)"}},
		{"hex", "ü!", []string{"hex"}},
		{"hex", "66\n", []string{"hex"}},
		{"utf-16", "hunter2!passphrase", []string{`"utf-16"`, "hex"}},
	} {
		got, err := encode.Decode(test.text, test.encoding)
		if len(got) != 0 {
			t.Errorf("%s %q: got %q besides the error", test.encoding, test.text, got)
		}
		wantError(t, err, test.text, test.parts...)
	}
}
