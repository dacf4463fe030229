package emulator

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
)

// parseJWKS reads the RSA and EC keys of a JSON Web Key Set (RFC 7517), as a cluster's /openid/v1/jwks gives it.
func parseJWKS(text []byte) ([]crypto.PublicKey, error) {
	var set struct {
		Keys []struct {
			Type  string `json:"kty"`
			Curve string `json:"crv"`
			N     string `json:"n"`
			E     string `json:"e"`
			X     string `json:"x"`
			Y     string `json:"y"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("jwks: %w", err)
	}
	var keys []crypto.PublicKey
	for _, k := range set.Keys {
		switch k.Type {
		case "RSA":
			n, errN := number(k.N)
			e, errE := number(k.E)
			if err := errors.Join(errN, errE); err != nil {
				return nil, err
			}
			keys = append(keys, &rsa.PublicKey{N: n, E: int(e.Int64())})
		case "EC":
			curve, ok := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[k.Curve]
			x, errX := number(k.X)
			y, errY := number(k.Y)
			if err := errors.Join(errX, errY); err != nil || !ok {
				return nil, fmt.Errorf("jwks: curve %q is not known: %w", k.Curve, err)
			}
			size := (curve.Params().BitSize + 7) / 8
			if max(x.BitLen(), y.BitLen()) > 8*size {
				return nil, fmt.Errorf("jwks: a point that is not on %s", k.Curve)
			}
			point := append([]byte{4}, x.FillBytes(make([]byte, size))...)
			key, err := ecdsa.ParseUncompressedPublicKey(curve, append(point, y.FillBytes(make([]byte, size))...))
			if err != nil {
				return nil, fmt.Errorf("jwks: %w", err)
			}
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("jwks: no RSA or EC key")
	}
	return keys, nil
}

func number(text string) (*big.Int, error) {
	data, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("jwks: %w", err)
	}
	return new(big.Int).SetBytes(data), nil
}
