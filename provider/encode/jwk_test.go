package encode_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode"
)

// Public keys of the RFCs, in base64url.
const (
	// RFC 7517, appendix A.1.
	rfcRSAModulus = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMst" +
		"n64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbIS" +
		"D08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
	rfcECX = "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4"
	rfcECY = "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"
	// RFC 7518, appendix C.
	aliceX = "gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0"
	aliceY = "SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps"
	// RFC 8037, appendix A.2.
	rfcEd25519X = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwaaPJHURo"
)

func TestPublicKeysOfTheRFCs(t *testing.T) {
	t.Parallel()
	n := fromBase64URL(t, rfcRSAModulus)
	for _, kty := range []string{"RSA", "RSA-HSM"} {
		public, ok := parsePublicKey(t, encode.JWK{Kty: kty, N: n, E: fromBase64URL(t, "AQAB")}).(*rsa.PublicKey)
		if !ok || public.E != 65537 || !bytes.Equal(public.N.Bytes(), n) {
			t.Errorf("%s: got %+v", kty, public)
		}
	}
	for _, point := range [][2]string{{rfcECX, rfcECY}, {aliceX, aliceY}} {
		for _, kty := range []string{"EC", "EC-HSM"} {
			x, y := fromBase64URL(t, point[0]), fromBase64URL(t, point[1])
			public, ok := parsePublicKey(t, encode.JWK{Kty: kty, Crv: "P-256", X: x, Y: y}).(*ecdsa.PublicKey)
			if !ok {
				t.Fatalf("%s: got %T", kty, public)
			}
			if got, err := public.Bytes(); err != nil || !bytes.Equal(got, append(append([]byte{4}, x...), y...)) {
				t.Errorf("%s: got point %x, %v", kty, got, err)
			}
		}
	}
	_, err := encode.PublicKeyPEM(encode.JWK{Kty: "OKP", Crv: "Ed25519", X: fromBase64URL(t, rfcEd25519X)})
	wantError(t, err, "", `"OKP"`, "RSA or EC")
}

// An exponent may be longer than 31 bits. The expected bytes are those of RFC 5280 and RFC 8017, put together by hand.
func TestPublicKeyWithALongExponent(t *testing.T) {
	t.Parallel()
	n, e := fromBase64URL(t, rfcRSAModulus), []byte{2, 0, 0, 0, 1}
	got, err := encode.PublicKeyPEM(encode.JWK{Kty: "RSA", N: n, E: e})
	if err != nil {
		t.Fatal(err)
	}
	element := func(tag byte, content ...byte) []byte {
		size := []byte{byte(len(content) & 0xff)}
		if len(content) > 127 {
			size = []byte{0x82, byte(len(content) >> 8), byte(len(content) & 0xff)} //nolint:gosec // shorter than 64 KiB
		}
		return slices.Concat([]byte{tag}, size, content)
	}
	key := element(0x30, slices.Concat(element(2, append([]byte{0}, n...)...), element(2, e...))...)
	rsaEncryption := []byte{0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00}
	want := element(0x30, slices.Concat(rsaEncryption, element(3, append([]byte{0}, key...)...))...)
	if block, _ := pem.Decode(got); block == nil || !bytes.Equal(block.Bytes, want) {
		t.Errorf("got %s, want %x", got, want)
	}
}

// TestPublicKeysOfOpenSSL expects the bytes that openssl writes for the same key.
func TestPublicKeysOfOpenSSL(t *testing.T) {
	t.Parallel()
	for name, curve := range map[string]string{"rsa": "", "ec": "P-256", "ec521": "P-521"} {
		want := pki(t, name+".pub")
		block, _ := pem.Decode(want)
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		var key encode.JWK
		switch public := public.(type) {
		case *rsa.PublicKey:
			key = encode.JWK{Kty: "RSA-HSM", N: public.N.Bytes(), E: big.NewInt(int64(public.E)).Bytes()}
		case *ecdsa.PublicKey:
			key = jwkOf(t, public, curve)
		}
		got, err := encode.PublicKeyPEM(key)
		if err != nil {
			t.Fatal(err)
		}
		wantBytes(t, name, got, want)
	}
}

// TestCoordinatesOfAnyLength: senders disagree on whether coordinates keep their leading zeros.
func TestCoordinatesOfAnyLength(t *testing.T) {
	t.Parallel()
	for name, curve := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		var key encode.JWK
		var public *ecdsa.PublicKey
		for key.X == nil || key.X[0] != 0 {
			made, err := ecdsa.GenerateKey(curve, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			public = &made.PublicKey
			key = jwkOf(t, public, name)
		}
		for _, x := range [][]byte{key.X, bytes.TrimLeft(key.X, "\x00"), append(make([]byte, 9), key.X...)} {
			key.X = x
			if got := parsePublicKey(t, key); !public.Equal(got) {
				t.Errorf("%s with %d bytes of x: got another key", name, len(x))
			}
		}
	}
}

func TestJWKErrors(t *testing.T) {
	t.Parallel()
	n, e := fromBase64URL(t, rfcRSAModulus), []byte{1, 0, 1}
	x, y := fromBase64URL(t, rfcECX), fromBase64URL(t, rfcECY)
	even := append(bytes.Clone(n[:len(n)-1]), 2)
	for name, test := range map[string]struct {
		key   encode.JWK
		parts []string
	}{
		"nothing":          {encode.JWK{}, []string{"kty"}},
		"symmetric":        {encode.JWK{Kty: "oct"}, []string{"oct", "secret"}},
		"symmetric, HSM":   {encode.JWK{Kty: "oct-HSM"}, []string{"oct-HSM"}},
		"unknown type":     {encode.JWK{Kty: strings.Repeat("\nx", 100)}, []string{"not supported"}},
		"no modulus":       {encode.JWK{Kty: "RSA", E: e}, []string{"(n)"}},
		"zero modulus":     {encode.JWK{Kty: "RSA", N: make([]byte, 256), E: e}, []string{"(n)"}},
		"small modulus":    {encode.JWK{Kty: "RSA", N: n[:64], E: e}, []string{"(n)", "512"}},
		"even modulus":     {encode.JWK{Kty: "RSA", N: even, E: e}, []string{"(n)"}},
		"huge modulus":     {encode.JWK{Kty: "RSA", N: bytes.Repeat([]byte{255}, 4096), E: e}, []string{"(n)"}},
		"no exponent":      {encode.JWK{Kty: "RSA", N: n}, []string{"(e)"}},
		"exponent 1":       {encode.JWK{Kty: "RSA", N: n, E: []byte{1}}, []string{"(e)"}},
		"even exponent":    {encode.JWK{Kty: "RSA", N: n, E: []byte{4}}, []string{"(e)"}},
		"huge exponent":    {encode.JWK{Kty: "RSA", N: n, E: n}, []string{"(e)"}},
		"no curve":         {encode.JWK{Kty: "EC", X: x, Y: y}, []string{"crv"}},
		"secp256k1":        {encode.JWK{Kty: "EC", Crv: "P-256K", X: x, Y: y}, []string{"P-256K", "P-384"}},
		"SECP256K1":        {encode.JWK{Kty: "EC-HSM", Crv: "SECP256K1", X: x, Y: y}, []string{"SECP256K1"}},
		"unknown curve":    {encode.JWK{Kty: "EC", Crv: "P-192", X: x, Y: y}, []string{"P-192"}},
		"off the curve":    {encode.JWK{Kty: "EC", Crv: "P-256", X: y, Y: x}, []string{"P-256"}},
		"at infinity":      {encode.JWK{Kty: "EC", Crv: "P-256", X: make([]byte, 32), Y: make([]byte, 32)}, []string{"P-256"}},
		"no y":             {encode.JWK{Kty: "EC", Crv: "P-256", X: x}, []string{"coordinates of 32 and 0 bytes", "P-256"}},
		"no x":             {encode.JWK{Kty: "EC", Crv: "P-256", Y: y}, []string{"coordinates of 0 and 32 bytes", "P-256"}},
		"too long":         {encode.JWK{Kty: "EC", Crv: "P-256", X: append([]byte{1}, x...), Y: y}, []string{"33"}},
		"of another curve": {encode.JWK{Kty: "EC", Crv: "P-521", X: x, Y: y}, []string{"P-521"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := encode.PublicKeyPEM(test.key)
			if len(got) != 0 {
				t.Errorf("got %q besides the error", got)
			}
			wantError(t, err, "", test.parts...)
		})
	}
}

// jwkOf returns a key with coordinates of the full length.
func jwkOf(t *testing.T, public *ecdsa.PublicKey, curve string) encode.JWK {
	t.Helper()
	point, err := public.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	half := len(point) / 2
	return encode.JWK{Kty: "EC", Crv: curve, X: point[1 : 1+half], Y: point[1+half:]}
}

// parsePublicKey converts a key and reads the PEM with the standard library.
func parsePublicKey(t *testing.T, key encode.JWK) any {
	t.Helper()
	text, err := encode.PublicKeyPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" || len(block.Headers) != 0 || len(rest) != 0 {
		t.Fatalf("got %q, want one PUBLIC KEY block", text)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return public
}

func fromBase64URL(t testing.TB, text string) []byte {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
