package emulator

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" //nolint:gosec // RSA-OAEP is with SHA-1 (RFC 7518, section 4.3)
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
)

// givenCrypto is the body of a request that uses a key.
type givenCrypto struct {
	Alg    string `json:"alg"`
	Value  string `json:"value"`
	Digest string `json:"digest"`
}

// cryptoBody is the answer; of a verify, verifyBody.
type cryptoBody struct {
	KID   string `json:"kid"`
	Value string `json:"value"`
}

type verifyBody struct {
	Value bool `json:"value"`
}

// algorithm is how a key is used (RFC 7518, sections 3.1 and 4.1).
type algorithm struct {
	name, kty, curve string
	hash             crypto.Hash
	pss              bool
}

func signingAlgorithms() []algorithm {
	return []algorithm{
		{name: "RS256", kty: "RSA", hash: crypto.SHA256},
		{name: "RS384", kty: "RSA", hash: crypto.SHA384},
		{name: "RS512", kty: "RSA", hash: crypto.SHA512},
		{name: "PS256", kty: "RSA", hash: crypto.SHA256, pss: true},
		{name: "PS384", kty: "RSA", hash: crypto.SHA384, pss: true},
		{name: "PS512", kty: "RSA", hash: crypto.SHA512, pss: true},
		{name: "ES256", kty: "EC", hash: crypto.SHA256, curve: "P-256"},
		{name: "ES256K", kty: "EC", hash: crypto.SHA256, curve: "P-256K"},
		{name: "ES384", kty: "EC", hash: crypto.SHA384, curve: "P-384"},
		{name: "ES512", kty: "EC", hash: crypto.SHA512, curve: "P-521"},
	}
}

func encryptionAlgorithms() []algorithm {
	return []algorithm{
		{name: "RSA1_5", kty: "RSA"},
		{name: "RSA-OAEP", kty: "RSA", hash: crypto.SHA1},
		{name: "RSA-OAEP-256", kty: "RSA", hash: crypto.SHA256},
	}
}

// useKey performs a cryptographic operation, without the lock.
func (v *vaultState) useKey(c *call) (reply, slow) {
	operation := c.action
	switch operation { // as permissions and key_ops write it
	case "wrapkey":
		operation = "wrapKey"
	case "unwrapkey":
		operation = "unwrapKey"
	}
	var in givenCrypto
	if bad := c.decode(&in); bad != nil {
		return *bad, nil
	}
	o, n, missing := v.lookup(c.route)
	if missing != nil {
		return *missing, nil
	}
	if bad := v.usable(n, operation); bad != nil {
		return *bad, nil
	}
	kid := v.url("keys", o.name) + "/" + n.id
	algorithms := encryptionAlgorithms()
	if operation == "sign" || operation == "verify" {
		algorithms = signingAlgorithms()
	}
	i := slices.IndexFunc(algorithms, func(a algorithm) bool { return a.name == in.Alg })
	if i < 0 {
		return badParameter(fmt.Sprintf("The algorithm '%s' is not supported for the operation %s.",
			in.Alg[:min(len(in.Alg), 64)], operation)), nil
	}
	use := algorithms[i]
	if bad := use.fits(n.jwk, kid); bad != nil {
		return *bad, nil
	}
	if n.public == nil || n.private == nil && (operation == "sign" || operation == "decrypt" || operation == "unwrapKey") {
		return badParameter("The emulator has the public part of this key alone, or a key of a type that it cannot use."), nil
	}
	value, err := unbase64(in.Value)
	digest, digestErr := unbase64(in.Digest)
	if err != nil || digestErr != nil || len(value) == 0 {
		return malformed(), nil
	}
	private, public := n.private, n.public
	return reply{}, func() func() reply {
		answer := use.perform(operation, kid, private, public, value, digest)
		return func() reply { return answer }
	}
}

func unbase64(text string) ([]byte, error) {
	return base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
}

// usable refuses an operation that the version does not allow: because it is disabled, not for that use, or outside of
// its time. What undoes an operation is allowed at any time.
func (v *vaultState) usable(n *version, operation string) *reply {
	undoes := operation == "decrypt" || operation == "unwrapKey" || operation == "verify"
	var message, inner string
	switch {
	case n.disabled:
		message, inner = "Operation "+operation+" is not allowed on a disabled key.", "KeyDisabled"
	case !slices.Contains(keyOps(n), operation):
		message, inner = "Operation "+operation+" is not permitted on this key.", "KeyOperationForbidden"
	case undoes:
		return nil
	case !n.expires.IsZero() && !v.now().Before(n.expires):
		message, inner = "Operation "+operation+" is not allowed on an expired key.", "KeyExpired"
	case !n.notBefore.IsZero() && v.now().Before(n.notBefore):
		message, inner = "Operation "+operation+" is not allowed on a key that is not yet valid.", "KeyNotYetValid"
	default:
		return nil
	}
	a := refusal(http.StatusForbidden, "Forbidden", message, inner)
	return &a
}

// fits refuses a key of another type or curve.
func (use algorithm) fits(key *webKey, kid string) *reply {
	var is, needs string
	switch {
	case keyType(key.Kty) != use.kty:
		is, needs = fmt.Sprintf("is of type '%s'", key.Kty), fmt.Sprintf("a key of type '%s' or '%s-HSM'", use.kty, use.kty)
	case key.Crv != use.curve:
		is, needs = fmt.Sprintf("uses curve '%s'", key.Crv), fmt.Sprintf("curve '%s'", use.curve)
	default:
		return nil
	}
	a := badParameter(fmt.Sprintf("Key and signing algorithm are incompatible. Key %s %s, and algorithm '%s' can only be used with %s.",
		kid, is, use.name, needs))
	return &a
}

// perform answers with what the operation returns. The value is what is signed, encrypted or decrypted; of a verify it
// is the signature, and the digest is what was signed.
func (use algorithm) perform(operation, kid string, private crypto.Signer, public crypto.PublicKey, value, digest []byte,
) reply {
	var out []byte
	var err error
	switch operation {
	case "sign", "verify":
		name, signed := "value", value
		if operation == "verify" {
			name, signed = "digest", digest
		}
		if len(signed) != use.hash.Size() {
			return badParameter(fmt.Sprintf("Invalid length of '%s': %d bytes. %s requires %d bytes, encoded with base64url.",
				name, len(signed), use.name, use.hash.Size()))
		}
		if operation == "verify" {
			return reply{status: http.StatusOK, body: verifyBody{Value: use.verify(public, digest, value)}}
		}
		out, err = use.sign(private, value)
	case "encrypt", "wrapKey":
		out, err = use.encrypt(public, value)
	case "decrypt", "unwrapKey":
		out, err = use.decrypt(private, value)
	}
	if err != nil {
		return badParameter(fmt.Sprintf("The operation %s with %s failed: the value is not valid for this key.", operation, use.name))
	}
	return reply{status: http.StatusOK, body: cryptoBody{KID: kid, Value: base64.RawURLEncoding.EncodeToString(out)}}
}

func (use algorithm) sign(private crypto.Signer, digest []byte) ([]byte, error) {
	switch key := private.(type) {
	case *rsa.PrivateKey:
		if use.pss {
			return rsa.SignPSS(rand.Reader, key, use.hash, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		return rsa.SignPKCS1v15(nil, key, use.hash, digest)
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, key, digest)
		if err != nil {
			return nil, err
		}
		size := (key.Params().BitSize + 7) / 8
		return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...), nil
	}
	return nil, errors.New("no key")
}

func (use algorithm) verify(public crypto.PublicKey, digest, signature []byte) bool {
	switch key := public.(type) {
	case *rsa.PublicKey:
		if use.pss {
			options := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
			return rsa.VerifyPSS(key, use.hash, digest, signature, options) == nil
		}
		return rsa.VerifyPKCS1v15(key, use.hash, digest, signature) == nil
	case *ecdsa.PublicKey:
		size := (key.Params().BitSize + 7) / 8
		if len(signature) != 2*size {
			return false
		}
		return ecdsa.Verify(key, digest, new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:]))
	}
	return false
}

func (use algorithm) encrypt(public crypto.PublicKey, value []byte) ([]byte, error) {
	key, ok := public.(*rsa.PublicKey)
	if !ok {
		return nil, errors.New("no key")
	}
	if use.hash != 0 {
		return rsa.EncryptOAEP(use.hash.New(), rand.Reader, key, value, nil)
	}
	return rsa.EncryptPKCS1v15(rand.Reader, key, value) //nolint:staticcheck // what RSA1_5 is; clients still use it
}

func (use algorithm) decrypt(private crypto.Signer, value []byte) ([]byte, error) {
	key, ok := private.(*rsa.PrivateKey)
	if !ok {
		return nil, errors.New("no key")
	}
	if use.hash != 0 {
		return rsa.DecryptOAEP(use.hash.New(), nil, key, value, nil)
	}
	return rsa.DecryptPKCS1v15(nil, key, value) //nolint:staticcheck // what RSA1_5 is; clients still use it
}
