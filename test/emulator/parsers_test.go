package emulator

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

func TestPFXWithTooManyRoundsIsRefused(t *testing.T) {
	type parameters struct {
		Salt   []byte
		Rounds *big.Int
	}
	marshal := func(value any) []byte {
		der, err := asn1.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	of := func(rounds int64) []byte { return marshal(parameters{[]byte("salt"), big.NewInt(rounds)}) }
	for _, tc := range []struct {
		what string
		der  []byte
		want bool
	}{
		{"few", of(600_000), true},
		{"many", of(1 << 31), false},
		{"more than an int64 holds", marshal(parameters{[]byte("salt"), new(big.Int).Lsh(big.NewInt(1), 100)}), false},
		{"many in an octet string", marshal(of(1 << 31)), false},
		{"a number without a salt", marshal(struct{ A, B int64 }{1 << 40, 1 << 40}), true},
		{"no DER", []byte("text"), true},
		{"nothing", nil, true},
	} {
		if got := modestRounds(tc.der, 0); got != tc.want {
			t.Errorf("%s: %v", tc.what, got)
		}
	}
	if _, _, bad := readMaterial(base64.StdEncoding.EncodeToString(of(1<<31)), "", ""); bad == nil || bad.status != http.StatusBadRequest {
		t.Errorf("%+v", bad)
	}
}

func TestDistinguishedNames(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "",
		"CN=shop.example.com":            "CN=shop.example.com",
		"cn=a, O=b,OU = c":               "CN=a, O=b, OU=c",
		`CN="a, b", C=AU`:                "CN=a, b, C=AU",
		`CN="say ""hi"""`:                `CN=say "hi"`,
		`CN=a\, b`:                       "CN=a, b",
		"ST=x, S=y":                      "S=x, S=y",
		"OID.2.5.4.4=Doe, 2.5.4.42=John": "OID.2.5.4.4=Doe, OID.2.5.4.42=John",
		"CN=ä":                           "CN=ä",
	} {
		sequence, err := parseDistinguishedName(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var parts []string
		for _, set := range sequence {
			title, ok := attributeNames[set[0].Type.String()]
			if !ok {
				title = "OID." + set[0].Type.String()
			}
			parts = append([]string{title + "=" + set[0].Value.(string)}, parts...)
		}
		if got := strings.Join(parts, ", "); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// The fuzz targets look for crashes, and for what is taken although it cannot be used.

func FuzzJWK(f *testing.F) {
	f.Add([]byte(`{"kty":"EC","crv":"P-256","x":"AA","y":"AA","d":"AQ"}`))
	f.Add([]byte(`{"kty":"RSA","n":"_w","e":"AQAB","d":"AQ","p":"Aw","q":"BQ"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var key givenJWK
		if json.Unmarshal(body, &key) != nil {
			return
		}
		private, _, err := key.private()
		if err != nil {
			return
		}
		if _, err := jwkOf(private.Public(), key.Kty); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		checkOperations(key.Kty, key.KeyOps)
	})
}

func FuzzCertificateMaterial(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		f.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		f.Fatal(err)
	}
	for _, encoder := range []*pkcs12.Encoder{pkcs12.LegacyDES.WithIterations(1), pkcs12.Modern2023.WithIterations(1)} {
		pfx, err := encoder.Encode(key, leaf, nil, "")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(pfx, "", false)
	}
	text, err := secretOf("application/x-pem-file", []*x509.Certificate{leaf}, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(text), "", true)
	f.Fuzz(func(t *testing.T, content []byte, password string, asPEM bool) {
		value := base64.StdEncoding.EncodeToString(content)
		if asPEM {
			value = string(content)
		}
		m, contentType, bad := readMaterial(value, password, "")
		if bad != nil {
			return
		}
		if _, err := secretOf(contentType, m.chain, m.private); err != nil {
			t.Errorf("%s: %v", contentType, err)
		}
	})
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(`{"key_props":{"kty":"EC","crv":"P-256"},"issuer":{"name":"Self"},"x509_props":{"subject":"CN=a, O=\"b\"","sans":{"dns_names":["a"],` +
		`"ipAddresses":["192.0.2.1"],"uris":["https://a"],"emails":["a@b"]},"ekus":["1.3.6.1.5.5.7.3.1"],"key_usage":["digitalSignature"],` +
		`"validity_months":1},"lifetime_actions":[{"trigger":{"days_before_expiry":1},"action":{"action_type":"AutoRenew"}}]}`))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, body []byte) {
		var in givenPolicy
		if json.Unmarshal(body, &in) != nil {
			return
		}
		p := defaultPolicy()
		if in.over(p) != nil {
			return
		}
		if m, err := p.makeMaterial(key, time.Unix(1_700_000_000, 0)); err == nil {
			x509PropsOf(m.chain[0], false)
		}
	})
}

func FuzzRoute(f *testing.F) {
	f.Add("POST", "/secrets/restore")
	f.Add("PUT", "/keys/a/rotationpolicy")
	f.Add("POST", "//certificates//a/pending/merge")
	f.Fuzz(func(t *testing.T, method, path string) {
		r, ok := parseRoute(method, path)
		if !ok {
			return
		}
		if r.operation(method) == "" || r.readPermission() == "" {
			t.Errorf("%s %s: %+v", method, path, r)
		}
		if w, known := r.write(method); known && (w.permission == "" || w.action == "" || w.do == nil) {
			t.Errorf("%s %s: %+v", method, path, w)
		}
	})
}

// FuzzBearer holds that text which the emulator did not sign is no access token.
func FuzzBearer(f *testing.F) {
	s, err := New(Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	s.state.mu.Lock()
	good := s.accessToken(caller{clientID: "c", objectID: "o", tenant: "t"}, "https://vault.azure.net")
	s.state.mu.Unlock()
	if _, err := s.verify(good); err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{
		"", ".", "..", "...", "a.b.c", good[:len(good)-2], strings.ToLower(good), "eyJhbGciOiJub25lIn0.e30.",
		"eyJhbGciOiJFUzI1NiJ9.e30.AAAA", "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjFlMzA4fQ.AAAA",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s.state.mu.Lock()
		defer s.state.mu.Unlock()
		// Base64 has line breaks that do not count, and spare bits at the end.
		same := strings.HasPrefix(strings.NewReplacer("\r", "", "\n", "").Replace(text), good[:len(good)-1])
		if _, err := s.verify(text); err == nil && !same {
			t.Errorf("taken for a token: %q", text)
		}
	})
}
