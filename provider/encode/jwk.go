package encode

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
)

// JWK is the public part of a JSON Web Key (RFC 7517) as Key Vault gives it. Numbers are big endian (RFC 7518, section
// 6), already decoded from base64url.
type JWK struct {
	// Kty is the key type: RSA, RSA-HSM, EC or EC-HSM.
	Kty string
	// N and E are an RSA key's modulus and exponent.
	N, E []byte
	// Crv is an EC key's curve, P-256, P-384 or P-521; X and Y are its point.
	Crv  string
	X, Y []byte
}

// The sizes of an RSA modulus that are taken for one, in bits. Key Vault makes 2048 to 4096.
const (
	minModulus = 1024
	maxModulus = 16384
)

// PublicKeyPEM returns the key as one PUBLIC KEY block (SubjectPublicKeyInfo, RFC 5280). A point that is not on its
// curve, and numbers that cannot be an RSA key, are errors: Key Vault never sends them.
func PublicKeyPEM(key JWK) ([]byte, error) {
	var public any
	var err error
	switch key.Kty {
	case "RSA", "RSA-HSM":
		public, err = rsaPublicKey(key)
	case "EC", "EC-HSM":
		public, err = ecPublicKey(key)
	case "":
		err = errors.New("the vault's answer names no key type (kty)")
	case "oct", "oct-HSM":
		err = fmt.Errorf("key type %s is symmetric and has no public part: store its value as a secret", key.Kty)
	default:
		err = fmt.Errorf("key type %.20q is not supported: use RSA or EC", key.Kty)
	}
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("the public key cannot be encoded: %w", err)
	}
	return armour(blockPublicKey, der), nil
}

func rsaPublicKey(key JWK) (*rsa.PublicKey, error) {
	n, e := new(big.Int).SetBytes(key.N), new(big.Int).SetBytes(key.E)
	switch {
	case n.Sign() == 0:
		return nil, errors.New("the vault's answer for the RSA key has no modulus (n)")
	case e.Sign() == 0:
		return nil, errors.New("the vault's answer for the RSA key has no exponent (e)")
	case n.BitLen() < minModulus || n.BitLen() > maxModulus || n.Bit(0) == 0:
		return nil, fmt.Errorf("the vault's answer for the RSA key has a modulus (n) of %d bits that no RSA key can have",
			n.BitLen())
	case e.Cmp(big.NewInt(3)) < 0 || !e.IsInt64() || e.Bit(0) == 0:
		return nil, errors.New("the vault's answer for the RSA key has an exponent (e) that is even, below 3 or above 2^63-1")
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

func ecPublicKey(key JWK) (*ecdsa.PublicKey, error) {
	var curve elliptic.Curve
	switch key.Crv {
	case "P-256":
		curve = elliptic.P256()
	case "P-384":
		curve = elliptic.P384()
	case "P-521":
		curve = elliptic.P521()
	case "":
		return nil, errors.New("the vault's answer for the EC key names no curve (crv)")
	case "P-256K", "SECP256K1":
		return nil, fmt.Errorf("curve %s (secp256k1) is not supported: use a key on P-256, P-384 or P-521", key.Crv)
	default:
		return nil, fmt.Errorf("curve %.20q is not supported: use a key on P-256, P-384 or P-521", key.Crv)
	}
	size := (curve.Params().BitSize + 7) / 8
	x, y := bytes.TrimLeft(key.X, "\x00"), bytes.TrimLeft(key.Y, "\x00")
	if len(key.X) == 0 || len(key.Y) == 0 || len(x) > size || len(y) > size {
		return nil, fmt.Errorf("the vault's answer for the EC key has coordinates of %d and %d bytes, which %s cannot have",
			len(key.X), len(key.Y), key.Crv)
	}
	point := make([]byte, 1+2*size)
	point[0] = 4 // uncompressed (SEC 1, section 2.3.3)
	copy(point[1+size-len(x):], x)
	copy(point[1+2*size-len(y):], y)
	public, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, fmt.Errorf("the vault's answer for the EC key is no point on %s: %w", key.Crv, err)
	}
	return public, nil
}
