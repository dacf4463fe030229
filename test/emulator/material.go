package emulator

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

func (v *vaultState) addKey(k Key) error {
	n, err := newKeyVersion(k)
	if err != nil {
		return fmt.Errorf("key %s: %w", k.Name, err)
	}
	v.add("keys", k.Name, n)
	return nil
}

func newKeyVersion(k Key) (*version, error) {
	n := &version{
		id: k.Version, disabled: k.Disabled, created: k.Created, notBefore: k.NotBefore, expires: k.Expires, tags: k.Tags,
	}
	return n, n.setKey(k)
}

// setKey gives a version its key: the given public one, or a new one of the given type.
func (n *version) setKey(k Key) (err error) {
	if k.Type == "oct" || k.Type == "oct-HSM" {
		n.jwk = &webKey{Kty: k.Type}
		return nil
	}
	if k.Curve == "P-256K" {
		// secp256k1's base point: a valid key whose private part is 1
		x, _ := new(big.Int).SetString("79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798", 16)
		y, _ := new(big.Int).SetString("483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8", 16)
		n.jwk = &webKey{Kty: k.Type, Crv: k.Curve, X: coordinate(x, 32), Y: coordinate(y, 32)}
		return nil
	}
	if k.PublicKey != "" {
		block, _ := pem.Decode([]byte(k.PublicKey))
		if block == nil {
			return errors.New("publicKey is not PEM")
		}
		if n.public, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
			return fmt.Errorf("publicKey: %w", err)
		}
		n.jwk, err = jwkOf(n.public, k.Type)
		return err
	}
	if n.private, err = newKey(k.Type, k.Curve, k.Bits); err != nil {
		return err
	}
	n.public = n.private.Public()
	n.jwk, err = jwkOf(n.public, k.Type)
	return err
}

// The largest that are made: more would take minutes.
const (
	maxBits  = 4096
	maxChain = 10
)

func newKey(kind, curve string, bits int) (crypto.Signer, error) {
	if bits < 0 || bits > maxBits {
		return nil, fmt.Errorf("%d bits are not between 0 and %d", bits, maxBits)
	}
	switch strings.TrimSuffix(kind, "-HSM") {
	case "", "RSA":
		key, err := rsa.GenerateKey(rand.Reader, max(bits, 2048))
		if err != nil {
			return nil, fmt.Errorf("rsa: %w", err)
		}
		return key, nil
	case "EC":
		c := elliptic.P256()
		if curve != "" {
			c = curveOf(curve)
		}
		if c == nil {
			return nil, fmt.Errorf("curve %q is not known: one of P-256, P-384, P-521 and P-256K", curve)
		}
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("ec: %w", err)
		}
		return key, nil
	}
	return nil, fmt.Errorf("key type %q is not known: one of RSA, RSA-HSM, EC, EC-HSM, oct and oct-HSM", kind)
}

func jwkOf(key crypto.PublicKey, kind string) (*webKey, error) {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if kind == "" {
			kind = "RSA"
		}
		return &webKey{
			Kty: kind, N: base64.RawURLEncoding.EncodeToString(key.N.Bytes()),
			E: base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()), bits: key.N.BitLen(),
		}, nil
	case *ecdsa.PublicKey:
		if kind == "" {
			kind = "EC"
		}
		point, err := key.Bytes() // 4, x, y
		if err != nil {
			return nil, fmt.Errorf("point: %w", err)
		}
		half := len(point) / 2
		return &webKey{
			Kty: kind, Crv: key.Params().Name, X: base64.RawURLEncoding.EncodeToString(point[1 : 1+half]),
			Y: base64.RawURLEncoding.EncodeToString(point[1+half:]),
		}, nil
	}
	return nil, fmt.Errorf("a %T is no key of Key Vault", key)
}

func coordinate(n *big.Int, size int) string {
	return base64.RawURLEncoding.EncodeToString(n.FillBytes(make([]byte, size)))
}

// addCertificate adds a certificate with the secret and key of the same version.
func (v *vaultState) addCertificate(c Certificate) error {
	made, err := makeCertificate(c)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", c.Name, err)
	}
	v.addMade(c, made)
	return nil
}

// addMade adds what makeCertificate made.
func (v *vaultState) addMade(c Certificate, made madeCertificate) {
	c.ContentType = cmp.Or(c.ContentType, defaultContentType)
	if c.Version == "" {
		c.Version = newVersion()
	}
	if c.Created.IsZero() {
		c.Created = v.now()
	}
	common := version{
		id:            c.Version,
		disabled:      c.Disabled || c.Pending,
		created:       c.Created,
		notBefore:     made.leaf.NotBefore,
		expires:       made.leaf.NotAfter,
		managed:       true,
		jwk:           made.jwk,
		notExportable: c.NotExportable,
		pending:       c.Pending,
	}
	certificate, secret, key := common, common, common
	key.private, key.public = made.key, made.leaf.PublicKey
	certificate.der, certificate.contentType, certificate.tags = made.leaf.Raw, c.ContentType, c.Tags
	certificate.csr = made.csr
	secret.value, secret.contentType, secret.kid = made.secret, c.ContentType, v.url("keys", c.Name)+"/"+c.Version
	o := v.add("certificates", c.Name, &certificate)
	o.policy, o.operation, o.operationGone = nil, nil, false
	v.add("secrets", c.Name, &secret)
	v.add("keys", c.Name, &key)
}

type madeCertificate struct {
	leaf *x509.Certificate
	jwk  *webKey
	// key is nil for a certificate that was given.
	key    crypto.Signer
	secret string
	// csr is the request for the leaf; nil for one that was given, as for one that was imported.
	csr []byte
}

// defaultContentType is that of a certificate's secret where the seed does not say.
const defaultContentType = "application/x-pkcs12"

// makeCertificate makes a key and a chain, or takes the given ones.
func makeCertificate(c Certificate) (made madeCertificate, err error) {
	c.ContentType = cmp.Or(c.ContentType, defaultContentType)
	if c.Chain < 0 || c.Chain > maxChain {
		return made, fmt.Errorf("a chain of %d issuers is not between 0 and %d", c.Chain, maxChain)
	}
	defer func() {
		if err == nil {
			made.jwk, err = jwkOf(made.leaf.PublicKey, "")
		}
	}()
	if c.Leaf != "" {
		block, _ := pem.Decode([]byte(c.Leaf))
		if block == nil {
			return made, errors.New("leaf is not PEM")
		}
		if made.leaf, err = x509.ParseCertificate(block.Bytes); err != nil {
			return made, fmt.Errorf("leaf: %w", err)
		}
		made.secret = c.Secret
		return made, nil
	}
	chain, key, err := newChain(c)
	if err != nil {
		return made, err
	}
	made.leaf, made.key = chain[0], key
	var signer crypto.Signer
	if !c.NotExportable {
		signer = key
	}
	if made.secret, err = secretOf(c.ContentType, chain, signer); err != nil {
		return made, err
	}
	request := &x509.CertificateRequest{Subject: made.leaf.Subject, DNSNames: made.leaf.DNSNames}
	if made.csr, err = x509.CreateCertificateRequest(rand.Reader, request, key); err != nil {
		return made, fmt.Errorf("request: %w", err)
	}
	return made, nil
}

// newChain returns certificates from the leaf to the root, and the leaf's key.
func newChain(c Certificate) ([]*x509.Certificate, crypto.Signer, error) {
	name, end := c.Subject, c.NotAfter
	if name == "" {
		name = c.Name
	}
	if end.IsZero() {
		end = time.Now().AddDate(1, 0, 0)
	}
	var parent *x509.Certificate
	var parentKey, key crypto.Signer
	var chain []*x509.Certificate
	for level := c.Chain; level >= 0; level-- {
		var err error
		if key, err = newKey(c.KeyType, "", 0); err != nil {
			return nil, nil, err
		}
		common := name
		if level > 0 {
			common = name + " authority " + strconv.Itoa(level)
		}
		template := &x509.Certificate{
			SerialNumber:          big.NewInt(time.Now().UnixNano()),
			Subject:               pkix.Name{CommonName: common},
			NotBefore:             time.Now().Add(-10 * time.Minute), // as the service does
			NotAfter:              end,
			BasicConstraintsValid: true,
			IsCA:                  level > 0,
			KeyUsage:              x509.KeyUsageDigitalSignature,
		}
		if level > 0 {
			template.KeyUsage = x509.KeyUsageCertSign
		} else {
			template.DNSNames = []string{name}
			template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
			if _, ok := key.(*rsa.PrivateKey); ok {
				template.KeyUsage |= x509.KeyUsageKeyEncipherment
			}
		}
		if parent == nil {
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
		if err != nil {
			return nil, nil, fmt.Errorf("make: %w", err)
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, fmt.Errorf("make: %w", err)
		}
		chain = append([]*x509.Certificate{made}, chain...)
		parent, parentKey = made, key
	}
	return chain, key, nil
}

// secretOf makes the value of the secret beside a certificate, with the key unless it is nil.
func secretOf(contentType string, chain []*x509.Certificate, key crypto.Signer) (string, error) {
	if contentType == "application/x-pem-file" {
		var text []byte
		if key != nil {
			der, err := marshalPrivateKey(key)
			if err != nil {
				return "", fmt.Errorf("private key: %w", err)
			}
			text = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		}
		for _, c := range chain {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
		return string(text), nil
	}
	var pfx []byte
	var err error
	if key == nil {
		pfx, err = pkcs12.Legacy.EncodeTrustStore(chain, "")
	} else {
		pfx, err = pkcs12.Legacy.Encode(key, chain[0], chain[1:], "")
	}
	if err != nil {
		return "", fmt.Errorf("pfx: %w", err)
	}
	return base64.StdEncoding.EncodeToString(pfx), nil
}

// marshalPrivateKey writes PKCS #8 as the service does: of an EC key with the curve in the key itself too, and with the
// key's usage as an attribute at the end (RFC 5958).
func marshalPrivateKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	ec, ok := key.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return der, err
	}
	var outer struct {
		Version    int
		Algorithm  pkix.AlgorithmIdentifier
		PrivateKey []byte
		Attributes asn1.RawValue `asn1:"optional"`
	}
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		return nil, err
	}
	if outer.PrivateKey, err = x509.MarshalECPrivateKey(ec); err != nil {
		return nil, err
	}
	outer.Attributes.FullBytes = []byte{
		0xa0, 13, // [0] IMPLICIT SET OF
		0x30, 11, // Attribute
		0x06, 3, 0x55, 0x1d, 0x0f, // id-ce-keyUsage
		0x31, 4, 0x03, 2, 0, 0x80, // digitalSignature
	}
	return asn1.Marshal(outer)
}
