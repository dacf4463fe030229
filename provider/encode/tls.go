package encode

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode/internal/pfx"
)

// TLSCertificates returns what tls.crt of a kubernetes.io/tls Secret holds, from the content of a mounted file: all
// certificates of a PEM text in its order, or those of a PFX (binary or in base64) from leaf to root.
func TLSCertificates(data []byte) ([]byte, error) {
	m, err := readMaterial(data)
	if err != nil {
		return nil, err
	}
	if len(m.certificates) == 0 {
		return nil, errors.New("the file holds no certificate for tls.crt: name an object that does")
	}
	return certificatesPEM(m.certificates), nil
}

// TLSKey returns what tls.key holds: the last private key of the file, as PKCS#1 RSA PRIVATE KEY, SEC 1 EC PRIVATE KEY, or
// PKCS#8 PRIVATE KEY for Ed25519. A key that is missing, encrypted or unreadable is an error.
func TLSKey(data []byte) ([]byte, error) {
	m, err := readMaterial(data)
	if err != nil {
		return nil, err
	}
	key, err := m.key()
	if err != nil {
		return nil, err
	}
	switch key := key.(type) {
	case nil:
		return nil, errors.New("the file holds no private key for tls.key: name an object that does; a certificate-backed secret " +
			"has one only if the certificate's key is exportable")
	case *rsa.PrivateKey:
		return armour(blockRSAPrivateKey, x509.MarshalPKCS1PrivateKey(key)), nil
	case *ecdsa.PrivateKey:
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return nil, fmt.Errorf("the private key for tls.key cannot be written: %w", err)
		}
		return armour(blockECPrivateKey, der), nil
	case ed25519.PrivateKey:
		return keysPEM([]any{key})
	default:
		return nil, fmt.Errorf("the private key for tls.key is of the type %T, which TLS cannot use: use RSA, EC or Ed25519", key)
	}
}

// TLSAuthorities returns what ca.crt holds: the certificates of the file, in the order of tls.crt, without its leaf. The
// leaf is the certificate of the file's private key; in a file without a key it is the first certificate, unless that is
// a CA's. A self-signed leaf is its own authority and stays. A file of CA certificates is returned whole.
func TLSAuthorities(data []byte) ([]byte, error) {
	m, err := readMaterial(data)
	if err != nil {
		return nil, err
	}
	key, err := m.key()
	if err != nil {
		return nil, err
	}
	authorities := [][]byte{}
	for i, der := range m.certificates {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of %d for ca.crt cannot be read: %w", i+1, len(m.certificates), err)
		}
		leaf := key != nil && belongs(certificate, []any{key}) || key == nil && i == 0 && !certificate.IsCA
		if !leaf || bytes.Equal(certificate.RawSubject, certificate.RawIssuer) {
			authorities = append(authorities, der)
		}
	}
	if len(authorities) == 0 {
		return nil, errors.New("the file holds no certificate of an issuer for ca.crt: import the certificate with its chain, or " +
			"name an object that holds the CA certificates")
	}
	return certificatesPEM(authorities), nil
}

// material is what a mounted file offers a Secret.
type material struct {
	// certificates are in DER.
	certificates [][]byte
	// block is the last private key of a PEM text, keys are those of a PFX.
	block *pem.Block
	keys  []any
}

// readMaterial reads PEM, or a PFX, binary or in base64.
func readMaterial(data []byte) (material, error) {
	m := material{}
	if looksLikePEM(data) {
		for block := range blocks(data) {
			switch {
			case block.Type == blockCertificate:
				m.certificates = append(m.certificates, block.Bytes)
			case isPrivateKey(block):
				m.block = block
			}
		}
		return m, nil
	}
	if !pfx.Looks(data) {
		der, err := decodePFXText(string(data))
		if err != nil || !pfx.Looks(der) {
			return m, errors.New("the file is neither PEM nor PFX: name an object that is a certificate or a PEM text")
		}
		data = der
	}
	contents, err := pfx.Decode(data)
	if err != nil {
		return m, err
	}
	m.keys = contents.Keys
	m.certificates, _ = orderChain(contents.Certificates, contents.Keys)
	return m, nil
}

// key returns the last private key, nil where there is none.
func (m material) key() (any, error) {
	if m.block != nil {
		return parsePrivateKey(m.block)
	}
	if len(m.keys) == 0 {
		return nil, nil
	}
	return m.keys[len(m.keys)-1], nil
}
