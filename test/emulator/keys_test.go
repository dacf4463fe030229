package emulator_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

func b64(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

func TestCreateKeys(t *testing.T) {
	w := newWire(t)
	created := w.send(http.MethodPost, "/keys/new/create", `{"attributes":{"exp":2524611661,"nbf":2208992461},"key_size":2048,"kty":"RSA",`+
		`"public_exponent":65537,"tags":{"key":"value"}}`)
	created.is(t, "RSA", http.StatusOK, `{"key":{"kid":"`+factsHost+`/keys/new/…","kty":"RSA","key_ops":["encrypt","decrypt","sign","verify",`+
		`"wrapKey","unwrapKey"],"n":"…","e":"AQAB"},"attributes":{"enabled":true,"key_size":2048,"nbf":2208992461,"exp":2524611661,"created":…,`+
		`"updated":…,`+recovery+`,"exportable":false,"hsmPlatform":"0"},"tags":{"key":"value"}}`)
	w.get("/keys/new").is(t, "get", http.StatusOK, created.body)
	for _, tc := range []struct{ body, form string }{
		{`{"kty":"EC"}`, `{"key":{"kid":"…","kty":"EC","key_ops":["sign","verify"],"crv":"P-256","x":"…","y":"…"},"attributes":{"enabled":true,…"hsmPlatform":"0"}}`},
		{`{"kty":"EC-HSM","crv":"P-384"}`, `{"key":{…"kty":"EC-HSM",…"crv":"P-384",…"hsmPlatform":"2"}}`},
		{`{"kty":"EC","crv":"P-521","key_ops":["sign"]}`, `{"key":{…"key_ops":["sign"],"crv":"P-521",…}}`},
		{`{"kty":"RSA-HSM","key_size":3072,"key_ops":["encrypt","decrypt"]}`, `{"key":{…"kty":"RSA-HSM","key_ops":["encrypt","decrypt"],"n":"…"key_size":3072,…}}`},
		{`{"kty":"EC","attributes":{"enabled":false}}`, `{…"attributes":{"enabled":false,…}}`},
	} {
		w.send(http.MethodPost, "/keys/other/create", tc.body).is(t, tc.body, http.StatusOK, tc.form)
	}
	refused := func(message, inner string) string {
		return `{"error":{"code":"BadParameter","message":"` + message + `","innererror":{"code":"` + inner + `"}}}`
	}
	for body, form := range map[string]string{
		`{"kty":"oct"}`:                                 refused("Invalid kty value: oct", "KeyTypeNotSupported"),
		`{"kty":"oct-HSM"}`:                             refused("Invalid kty value: oct-HSM", "KeyTypeNotSupported"),
		`{}`:                                            refused("Invalid kty value: ", "KeyTypeNotSupported"),
		`{"kty":"RSA","key_size":1024}`:                 refused(`Unsupported key size (1024). Supported sizes are [2048, 3072, 4096]`, "KeySizeNotSupported"),
		`{"kty":"RSA","key_size":1000000}`:              refused(`Unsupported key size (1000000). Supported sizes are [2048, 3072, 4096]`, "KeySizeNotSupported"),
		`{"kty":"EC","crv":"P-224"}`:                    refused(`Unsupported curve: P-224.…`, "KeyCurveNotSupported"),
		`{"kty":"RSA","public_exponent":3}`:             `{"error":{"code":"BadParameter","message":"…"}}`,
		`{"kty":"RSA","key_ops":["eat"]}`:               `{…"Unsupported key operation(s): \"eat\". Supported values are \"encrypt\", \"decrypt\", \"sign\", \"verify\", \"wrapKey\", \"unwrapKey\"."}}`,
		`{"kty":"EC","key_ops":["wrapKey"]}`:            `{…"Unsupported key operation(s): \"wrapKey\". Supported values are \"sign\", \"verify\"."}}`,
		`{"kty":"EC","attributes":{"exportable":true}}`: `{"error":{"code":"BadParameter",…}}`,
		`{"kty":1}`:                                     `{"error":{"code":"BadParameter","message":"Property  has invalid value\r\n"}}`,
	} {
		w.send(http.MethodPost, "/keys/bad/create", body).is(t, body, http.StatusBadRequest, form)
	}
	w.send(http.MethodPost, "/keys/web/create", `{"kty":"EC"}`).is(t, "a certificate's", http.StatusForbidden, `{…}`)
	w.send(http.MethodDelete, "/keys/ec", "")
	w.send(http.MethodPost, "/keys/ec/create", `{"kty":"EC"}`).is(t, "a deleted one's name", http.StatusConflict, `{…"Key ec is currently in a `+
		`deleted but recoverable state, and its name cannot be reused; in this state, the key can only be recovered or purged."…}`)
}

func TestUpdateKeys(t *testing.T) {
	w := newWire(t)
	w.send(http.MethodPatch, "/keys/rsa", `{"attributes":{"enabled":false},"key_ops":["verify"],"tags":{"c":"d"}}`).is(t, "update", http.StatusOK,
		`{"key":{"kid":"…","kty":"RSA","key_ops":["verify"],…},"attributes":{"enabled":false,…"created":1767225600,"updated":1…},"tags":{"c":"d"}}`)
	w.get("/keys/rsa").is(t, "get", http.StatusOK, `{…"key_ops":["verify"],…"enabled":false,…}`)
	w.send(http.MethodPatch, "/keys/ec", `{"key_ops":["encrypt"]}`).is(t, "operations of another type", http.StatusBadRequest, `{…Unsupported key operation(s)…}`)
	w.send(http.MethodPatch, "/keys/none", `{}`).is(t, "none", http.StatusNotFound, `{…}`)
}

// jwkNumber is a number as JSON Web Keys have it.
func jwkNumber(n *big.Int) string { return b64(n.Bytes()) }

func rsaJWK(key *rsa.PrivateKey, operations string) string {
	return fmt.Sprintf(`{"kty":"RSA","key_ops":[%s],"n":%q,"e":"AQAB","d":%q,"p":%q,"q":%q}`, operations, jwkNumber(key.N), jwkNumber(key.D),
		jwkNumber(key.Primes[0]), jwkNumber(key.Primes[1]))
}

func ecJWK(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	public, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	private, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	half := len(public) / 2
	return fmt.Sprintf(`{"kty":"EC","crv":%q,"x":%q,"y":%q,"d":%q}`, key.Params().Name, b64(public[1:1+half]), b64(public[1+half:]), b64(private))
}

func TestImportKeys(t *testing.T) {
	w := newWire(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	w.send(http.MethodPut, "/keys/in", `{"Hsm":true,"key":`+rsaJWK(key, `"encrypt"`)+`}`).is(t, "RSA", http.StatusOK, `{"key":{"kid":"…/keys/in/…",`+
		`"kty":"RSA-HSM","key_ops":["encrypt"],"n":"`+jwkNumber(key.N)+`","e":"AQAB"},"attributes":{"enabled":true,…"hsmPlatform":"2"}}`)
	w.send(http.MethodPut, "/keys/in", `{"key":`+rsaJWK(key, `"sign"`)+`,"tags":{"a":"b"}}`).is(t, "in software", http.StatusOK, `{…"kty":"RSA",…"tags":{"a":"b"}}`)
	digest := sha256.Sum256([]byte("text"))
	signed := w.send(http.MethodPost, "/keys/in/sign", `{"alg":"RS256","value":"`+b64(digest[:])+`"}`)
	signature, err := base64.RawURLEncoding.DecodeString(signed.field(t, "value"))
	if err != nil || rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, digest[:], signature) != nil {
		t.Errorf("the imported key does not sign: %+v", signed)
	}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		ec, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		w.send(http.MethodPut, "/keys/in", `{"key":`+ecJWK(t, ec)+`}`).is(t, curve.Params().Name, http.StatusOK,
			`{"key":{…"kty":"EC","key_ops":["sign","verify"],"crv":"`+curve.Params().Name+`",…}}`)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const invalid = `{"error":{"code":"BadParameter","message":"The property \"key\" must be a valid JsonWebKey object."}}`
	mixed := rsaJWK(&rsa.PrivateKey{PublicKey: key.PublicKey, D: key.D, Primes: other.Primes}, "")
	small := rsaJWK(&rsa.PrivateKey{PublicKey: rsa.PublicKey{N: big.NewInt(15)}, D: big.NewInt(3), Primes: []*big.Int{big.NewInt(3), big.NewInt(5)}}, "")
	valid := ecJWK(t, ec)
	for body, form := range map[string]string{
		`{}`:                                  invalid,
		`{"key":null}`:                        invalid,
		`{"key":{"kty":"RSA"}}`:               `{…"Unsupported key size (0). Supported sizes are [2048, 3072, 4096]"…}`,
		`{"key":{"kty":"oct"}}`:               `{…"Invalid kty value: oct","innererror":{"code":"KeyTypeNotSupported"}}}`,
		`{"key":` + mixed + `}`:               invalid,
		`{"key":` + small + `}`:               `{…"Unsupported key size (4)…}`,
		`{"key":{"kty":"EC","crv":"P-256"}}`:  invalid,
		`{"key":{"kty":"EC","crv":"P-256K"}}`: `{…"Unsupported curve: P-256K.…}`,
		`{"key":` + strings.Replace(valid, `"d":"`, `"d":"____AAAA`, 1) + `}`:                                  invalid,
		`{"key":` + strings.Replace(valid, `"x":"`, `"x":"AA`, 1) + `}`:                                        invalid,
		`{"key":` + strings.Replace(valid, `"EC"`, `"EC","key_ops":["encrypt"]`, 1) + `}`:                      `{…Unsupported key operation(s)…}`,
		`{"key":{"kty":"RSA","n":"` + strings.Repeat("_", 40000) + `","e":"AQAB","d":"AQ","p":"AQ","q":"AQ"}}`: `{…"BadParameter"…}`,
	} {
		w.send(http.MethodPut, "/keys/bad", body).is(t, body[:min(len(body), 80)], http.StatusBadRequest, form)
	}
}

func TestRotateKeys(t *testing.T) {
	w := newWire(t)
	w.get("/keys/ec/rotationpolicy").is(t, "none was set", http.StatusOK,
		`{"lifetimeActions":[{"trigger":{"timeBeforeExpiry":"P30D"},"action":{"type":"Notify"}}],"attributes":null}`)
	set := w.send(http.MethodPut, "/keys/ec/rotationpolicy", `{"attributes":{"expiryTime":"P90D"},"lifetimeActions":[{"action":{"type":"Rotate"},`+
		`"trigger":{"timeAfterCreate":"P30D"}}]}`)
	set.is(t, "set", http.StatusOK, `{"id":"`+factsHost+`/keys/ec/rotationpolicy","lifetimeActions":[{"trigger":{"timeAfterCreate":"P30D"},`+
		`"action":{"type":"Rotate"}},{"trigger":{"timeBeforeExpiry":"P30D"},"action":{"type":"Notify"}}],"attributes":{"expiryTime":"P90D",`+
		`"created":…,"updated":…}}`)
	w.get("/keys/ec/rotationpolicy").is(t, "get", http.StatusOK, set.body)
	before := w.get("/keys/ec")
	rotated := w.send(http.MethodPost, "/keys/ec/rotate", "")
	rotated.is(t, "rotate", http.StatusOK, `{"key":{"kid":"…/keys/ec/…","kty":"EC-HSM","key_ops":["sign","verify"],"crv":"P-384","x":"…","y":"…"},`+
		`"attributes":{"enabled":true,"exp":…,"created":…,"updated":…,`+recovery+`,"exportable":false,"hsmPlatform":"2"},"tags":{"a":"b"}}`)
	var body struct {
		Attributes struct {
			Expires int64 `json:"exp"`
			Created int64 `json:"created"`
		} `json:"attributes"`
	}
	if err := json.Unmarshal([]byte(rotated.body), &body); err != nil {
		t.Fatal(err)
	}
	if d := body.Attributes.Expires - body.Attributes.Created; d < 90*86400-2 || d > 90*86400+1 {
		t.Errorf("expires %d seconds after it was made", d)
	}
	if before.body == rotated.body {
		t.Error("the same version")
	}
	w.get("/keys/ec").is(t, "get", http.StatusOK, rotated.body)
	w.send(http.MethodPut, "/keys/rsa/rotationpolicy", `{"lifetimeActions":[{"trigger":{"timeBeforeExpiry":"P30D"},"action":{"type":"notify"}}],`+
		`"attributes":{}}`).is(t, "Notify alone", http.StatusOK, `{"id":"…","lifetimeActions":[{"trigger":{"timeBeforeExpiry":"P30D"},"action":`+
		`{"type":"Notify"}}],"attributes":{"created":…,"updated":…}}`)
	w.send(http.MethodPost, "/keys/none/rotate", "").is(t, "rotate none", http.StatusNotFound, `{…"KeyNotFound"…}`)
	for _, bad := range []string{
		`{"attributes":{"expiryTime":"soon"}}`,
		`{"attributes":{"expiryTime":"P27D"}}`,
		`{"attributes":{"expiryTime":"P"}}`,
		`{"lifetimeActions":[{"action":{"type":"Explode"},"trigger":{"timeAfterCreate":"P30D"}}]}`,
		`{"lifetimeActions":[{"action":{"type":"Rotate"},"trigger":{}}]}`,
		`{"lifetimeActions":[{"action":{"type":"Rotate"},"trigger":{"timeAfterCreate":"P30D","timeBeforeExpiry":"P30D"}}]}`,
		`{"lifetimeActions":[{"action":{"type":"Rotate"},"trigger":{"timeAfterCreate":"P0D"}}]}`,
		`{"lifetimeActions":1}`,
	} {
		w.send(http.MethodPut, "/keys/ec/rotationpolicy", bad).is(t, bad, http.StatusBadRequest, `{"error":{"code":"BadParameter",…}}`)
	}
}

// publicKey reads the public part of a key's answer, independently of the emulator.
func publicKey(t *testing.T, a answer) crypto.PublicKey {
	t.Helper()
	var body struct {
		Key struct{ N, E, Crv, X, Y string }
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil {
		t.Fatal(err)
	}
	number := func(text string) *big.Int {
		raw, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return new(big.Int).SetBytes(raw)
	}
	if body.Key.N != "" {
		return &rsa.PublicKey{N: number(body.Key.N), E: int(number(body.Key.E).Int64())}
	}
	curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[body.Key.Crv]
	return &ecdsa.PublicKey{Curve: curve, X: number(body.Key.X), Y: number(body.Key.Y)} //nolint:staticcheck // what a client builds
}

func TestSignAndVerify(t *testing.T) {
	w := newWire(t)
	w.send(http.MethodPost, "/keys/RSA1/create", `{"kty":"RSA"}`)
	w.send(http.MethodPost, "/keys/EC256/create", `{"kty":"EC"}`)
	w.send(http.MethodPost, "/keys/EC384/create", `{"kty":"EC","crv":"P-384"}`)
	w.send(http.MethodPost, "/keys/EC521/create", `{"kty":"EC-HSM","crv":"P-521"}`)
	for _, tc := range []struct {
		alg, key string
		hash     crypto.Hash
	}{
		{"RS256", "RSA1", crypto.SHA256},
		{"RS384", "RSA1", crypto.SHA384},
		{"RS512", "RSA1", crypto.SHA512},
		{"PS256", "RSA1", crypto.SHA256},
		{"PS384", "RSA1", crypto.SHA384},
		{"PS512", "RSA1", crypto.SHA512},
		{"ES256", "EC256", crypto.SHA256},
		{"ES384", "EC384", crypto.SHA384},
		{"ES512", "EC521", crypto.SHA512},
		{"ES256", "web", crypto.SHA256},
	} {
		h := tc.hash.New()
		h.Write([]byte("text"))
		digest := h.Sum(nil)
		key := w.get("/keys/" + tc.key)
		signed := w.send(http.MethodPost, "/keys/"+tc.key+"/sign", `{"alg":"`+tc.alg+`","value":"`+b64(digest)+`"}`)
		signed.is(t, tc.alg, http.StatusOK, `{"kid":"`+factsHost+`/keys/`+tc.key+`/…","value":"…"}`)
		signature, err := base64.RawURLEncoding.DecodeString(signed.field(t, "value"))
		if err != nil {
			t.Fatal(err)
		}
		valid := false
		switch public := publicKey(t, key).(type) {
		case *rsa.PublicKey:
			if tc.alg[0] == 'P' {
				valid = rsa.VerifyPSS(public, tc.hash, digest, signature, &rsa.PSSOptions{SaltLength: tc.hash.Size()}) == nil
			} else {
				valid = rsa.VerifyPKCS1v15(public, tc.hash, digest, signature) == nil
			}
		case *ecdsa.PublicKey:
			half := len(signature) / 2
			valid = half == (public.Params().BitSize+7)/8 && ecdsa.Verify(public, digest, new(big.Int).SetBytes(signature[:half]),
				new(big.Int).SetBytes(signature[half:]))
		}
		if !valid {
			t.Errorf("%s: the signature does not verify", tc.alg)
		}
		verify := func(digest, signature []byte) answer {
			return w.send(http.MethodPost, "/keys/"+tc.key+"/verify", `{"alg":"`+tc.alg+`","digest":"`+b64(digest)+`","value":"`+b64(signature)+`"}`)
		}
		verify(digest, signature).is(t, tc.alg, http.StatusOK, `{"value":true}`)
		verify(digest, signature[1:]).is(t, tc.alg+" of a short signature", http.StatusOK, `{"value":false}`)
		digest[0]++
		verify(digest, signature).is(t, tc.alg+" of another digest", http.StatusOK, `{"value":false}`)
		verify(digest[1:], signature).is(t, tc.alg+" of a short digest", http.StatusBadRequest,
			fmt.Sprintf(`{…"Invalid length of 'digest': %d bytes. %s requires %d bytes, encoded with base64url."}}`, len(digest)-1, tc.alg, len(digest)))
	}
	kid := w.get("/keys/EC256").body
	kid, _, _ = strings.Cut(kid[len(`{"key":{"kid":"`):], `"`)
	version := kid[strings.LastIndexByte(kid, '/')+1:]
	value := `","value":"` + strings.Repeat("A", 43) + `"}`
	w.send(http.MethodPost, "/keys/EC256/"+version+"/sign", `{"alg":"ES256`+value).is(t, "of a version", http.StatusOK, `{"kid":"`+kid+`",…}`)
	for _, tc := range []struct{ key, alg, form string }{
		{"EC256", "RS256", `{"error":{"code":"BadParameter","message":"Key and signing algorithm are incompatible. Key ` + kid + ` is of type 'EC', and ` +
			`algorithm 'RS256' can only be used with a key of type 'RSA' or 'RSA-HSM'."}}`},
		{"EC256", "ES384", `{…Key ` + kid + ` uses curve 'P-256', and algorithm 'ES384' can only be used with curve 'P-384'."}}`},
		{"EC256", "ES256K", `{…uses curve 'P-256', and algorithm 'ES256K' can only be used with curve 'P-256K'."}}`},
		{"EC256", "HS256", `{…"BadParameter"…}`},
		{"RSA1", "RSA-OAEP", `{…"BadParameter"…}`},
	} {
		w.send(http.MethodPost, "/keys/"+tc.key+"/sign", `{"alg":"`+tc.alg+value).is(t, tc.key+" "+tc.alg, http.StatusBadRequest, tc.form)
	}
	w.send(http.MethodPost, "/keys/RSA1/sign", `{"alg":"RS256","value":"?"}`).is(t, "no base64url", http.StatusBadRequest, `{…"Property  has invalid value\r\n"}}`)
	w.send(http.MethodPost, "/keys/none/sign", `{"alg":"RS256`+value).is(t, "none", http.StatusNotFound, `{…"KeyNotFound"…}`)
}

func TestEncryptAndWrap(t *testing.T) {
	w := newWire(t)
	plain := b64([]byte("plaintext"))
	for _, alg := range []string{"RSA1_5", "RSA-OAEP", "RSA-OAEP-256"} {
		for _, pair := range [][2]string{{"encrypt", "decrypt"}, {"wrapkey", "unwrapkey"}} {
			out := w.send(http.MethodPost, "/keys/rsa/"+pair[0], `{"alg":"`+alg+`","value":"`+plain+`"}`)
			out.is(t, alg, http.StatusOK, `{"kid":"`+factsHost+`/keys/rsa/…","value":"…"}`)
			w.send(http.MethodPost, "/keys/rsa/"+pair[1], `{"alg":"`+alg+`","value":"`+out.field(t, "value")+`"}`).is(t, alg, http.StatusOK,
				`{"kid":"…","value":"`+plain+`"}`)
			broken := `{"alg":"` + alg + `","value":"` + strings.Repeat("A", 342) + `"}`
			w.send(http.MethodPost, "/keys/rsa/"+pair[1], broken).is(t, alg+" of what was not encrypted", http.StatusBadRequest, `{…"BadParameter"…}`)
		}
	}
	public, ok := publicKey(t, w.get("/keys/rsa")).(*rsa.PublicKey)
	if !ok {
		t.Fatal("no RSA key")
	}
	local, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public, []byte("local"), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.send(http.MethodPost, "/keys/rsa/decrypt", `{"alg":"RSA-OAEP-256","value":"`+b64(local)+`"}`).is(t, "encrypted by a client", http.StatusOK,
		`{"kid":"…","value":"`+b64([]byte("local"))+`"}`)
	w.send(http.MethodPost, "/keys/rsa/encrypt", `{"alg":"RSA-OAEP","value":"`+strings.Repeat("A", 400)+`"}`).is(t, "too long", http.StatusBadRequest, `{…}`)
	w.send(http.MethodPost, "/keys/ec/encrypt", `{"alg":"RSA-OAEP","value":"AAAA"}`).is(t, "EC", http.StatusForbidden, `{…"KeyOperationForbidden"…}`)
	w.send(http.MethodPost, "/keys/web/encrypt", `{"alg":"RSA-OAEP","value":"AAAA"}`).is(t, "a certificate's", http.StatusForbidden, `{…}`)
}

func TestKeysAreUsedAsTheirAttributesAllow(t *testing.T) {
	w := newWire(t)
	value := `","value":"` + strings.Repeat("A", 43) + `"}`
	use := func(operation, alg string) answer {
		w.t.Helper()
		body := `{"alg":"` + alg + value
		if operation == "verify" {
			body = `{"digest":"` + strings.Repeat("A", 43) + `","alg":"` + alg + value
		}
		return w.send(http.MethodPost, "/keys/rsa/"+operation, body)
	}
	forbidden := func(message, inner string) string {
		return `{"error":{"code":"Forbidden","message":"` + message + `","innererror":{"code":"` + inner + `"}}}`
	}
	w.send(http.MethodPatch, "/keys/rsa", `{"key_ops":["sign","verify"]}`)
	use("wrapkey", "RSA-OAEP").is(t, "key_ops", http.StatusForbidden, forbidden("Operation wrapKey is not permitted on this key.", "KeyOperationForbidden"))
	w.send(http.MethodPatch, "/keys/rsa", `{"attributes":{"enabled":false}}`)
	use("sign", "RS256").is(t, "disabled", http.StatusForbidden, forbidden("Operation sign is not allowed on a disabled key.", "KeyDisabled"))
	use("verify", "RS256").is(t, "disabled", http.StatusForbidden, forbidden("Operation verify is not allowed on a disabled key.", "KeyDisabled"))
	soon := time.Now().Add(time.Hour).Unix()
	w.send(http.MethodPatch, "/keys/rsa", fmt.Sprintf(`{"attributes":{"enabled":true,"nbf":%d,"exp":%d}}`, soon, soon+3600))
	use("sign", "RS256").is(t, "not yet valid", http.StatusForbidden, `{…"code":"KeyNotYetValid"}}}`)
	use("verify", "RS256").is(t, "not yet valid", http.StatusOK, `{"value":false}`)
	w.AdvanceClock(90 * time.Minute)
	w.bearer = w.tokenOf(factsClient)
	use("sign", "RS256").is(t, "valid", http.StatusOK, `{"kid":…}`)
	w.AdvanceClock(time.Hour)
	w.bearer = w.tokenOf(factsClient)
	use("sign", "RS256").is(t, "expired", http.StatusForbidden, `{…"code":"KeyExpired"}}}`)
	use("verify", "RS256").is(t, "expired", http.StatusOK, `{"value":false}`)
}

func TestBackupsHaveKeys(t *testing.T) {
	w := newWire(t)
	digest := strings.Repeat("A", 43)
	signed := w.send(http.MethodPost, "/keys/rsa/sign", `{"alg":"RS256","value":"`+digest+`"}`)
	key, policy := w.get("/keys/rsa").body, w.send(http.MethodPut, "/keys/rsa/rotationpolicy", `{"attributes":{"expiryTime":"P1Y"}}`).body
	backup := w.send(http.MethodPost, "/keys/rsa/backup", "")
	w.send(http.MethodDelete, "/keys/rsa", "")
	w.send(http.MethodDelete, "/deletedkeys/rsa", "")
	w.send(http.MethodPost, "/keys/restore", backup.body).is(t, "restore", http.StatusOK, key)
	w.get("/keys/rsa/rotationpolicy").is(t, "its policy", http.StatusOK, policy)
	w.send(http.MethodPost, "/keys/rsa/sign", `{"alg":"RS256","value":"`+digest+`"}`).is(t, "it signs as before", http.StatusOK, signed.body)
}

func TestAKeyWithoutItsPrivatePart(t *testing.T) {
	w := newWire(t)
	for _, seed := range []emulator.Key{
		{Name: "public", PublicKey: "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE3ttB1mkRyPZYDOvDrkLSTfR/mvCy\n" +
			"gsQEiQHCcXwklltUX7tTjFsE1aPdEZ/w2IUBwfdO8rKFqSOj20/rFIA7jA==\n-----END PUBLIC KEY-----\n"},
		{Name: "koblitz", Type: "EC", Curve: "P-256K"},
	} {
		if err := w.SetKey("contoso", seed); err != nil {
			t.Fatal(err)
		}
	}
	digest := strings.Repeat("A", 43)
	w.send(http.MethodPost, "/keys/public/sign", `{"alg":"ES256","value":"`+digest+`"}`).is(t, "sign", http.StatusBadRequest, `{…public part…}`)
	w.send(http.MethodPost, "/keys/public/verify", `{"alg":"ES256","digest":"`+digest+`","value":"AAAA"}`).is(t, "verify", http.StatusOK, `{"value":false}`)
	w.send(http.MethodPost, "/keys/koblitz/sign", `{"alg":"ES256","value":"`+digest+`"}`).is(t, "wrong algorithm", http.StatusBadRequest,
		`{…uses curve 'P-256K', and algorithm 'ES256' can only be used with curve 'P-256'."}}`)
	w.send(http.MethodPost, "/keys/koblitz/sign", `{"alg":"ES256K","value":"`+digest+`"}`).is(t, "no such curve here", http.StatusBadRequest, `{…public part…}`)
	backup := w.send(http.MethodPost, "/keys/public/backup", "")
	w.send(http.MethodDelete, "/keys/public", "")
	w.send(http.MethodDelete, "/deletedkeys/public", "")
	w.send(http.MethodPost, "/keys/restore", backup.body).is(t, "restore", http.StatusOK, `{"key":{…"kty":"EC",…}}`)
}
