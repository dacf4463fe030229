package encode

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode/internal/pfx"
)

// The types of PEM blocks.
const (
	blockCertificate         = "CERTIFICATE"
	blockPublicKey           = "PUBLIC KEY"
	blockPrivateKey          = "PRIVATE KEY"
	blockEncryptedPrivateKey = "ENCRYPTED PRIVATE KEY"
	blockRSAPrivateKey       = "RSA PRIVATE KEY"
	blockECPrivateKey        = "EC PRIVATE KEY"
)

// CertificatePEM returns one CERTIFICATE block. The DER is taken as it is.
func CertificatePEM(der []byte) ([]byte, error) {
	if len(der) == 0 {
		return nil, errors.New("the vault's answer for the certificate is empty (cer)")
	}
	return armour(blockCertificate, der), nil
}

// SplitPEM returns the CERTIFICATE blocks of a text, in its order, and all its other blocks, in its order and with their
// headers. Text between blocks is left out. What there is none of is empty.
func SplitPEM(text []byte) (certificates, others []byte) {
	certificates, others = []byte{}, []byte{}
	for block := range blocks(text) {
		encoded := pem.EncodeToMemory(block)
		if block.Type == blockCertificate {
			certificates = append(certificates, encoded...)
		} else {
			others = append(others, encoded...)
		}
	}
	return certificates, others
}

// blocks yields the PEM blocks of a text.
func blocks(text []byte) func(yield func(*pem.Block) bool) {
	return func(yield func(*pem.Block) bool) {
		for {
			var block *pem.Block
			if block, text = pem.Decode(text); block == nil || !yield(block) {
				return
			}
		}
	}
}

// armour returns one block without headers.
func armour(blockType string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der})
}

// certificatesPEM returns one CERTIFICATE block for each certificate.
func certificatesPEM(ders [][]byte) []byte {
	text := []byte{}
	for _, der := range ders {
		text = append(text, armour(blockCertificate, der)...)
	}
	return text
}

// keysPEM returns one PRIVATE KEY block (PKCS#8) for each key.
func keysPEM(keys []any) ([]byte, error) {
	text := []byte{}
	for _, key := range keys {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, fmt.Errorf("the private key in the PFX cannot be written as PKCS#8: %w", err)
		}
		text = append(text, armour(blockPrivateKey, der)...)
	}
	return text, nil
}

// parsePrivateKey reads a private key block of any of the three encodings, also where its type names another.
func parsePrivateKey(block *pem.Block) (any, error) {
	if block.Type == blockEncryptedPrivateKey || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
		return nil, errors.New("the private key is encrypted: store it without a password")
	}
	if len(block.Bytes) > pfx.MaxKeySize {
		return nil, fmt.Errorf("the private key has %d bytes, the limit is %d: use RSA with at most 16384 bits",
			len(block.Bytes), pfx.MaxKeySize)
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	return nil, fmt.Errorf("the private key (%.30q) cannot be read: use RSA, EC on P-256, P-384 or P-521, or Ed25519: %w", block.Type, err)
}

// isPrivateKey reports whether a block holds a private key, and not parameters or the like.
func isPrivateKey(block *pem.Block) bool { return strings.HasSuffix(block.Type, blockPrivateKey) }

// looksLikePEM reports whether a text holds a PEM block.
func looksLikePEM(text []byte) bool {
	if !bytes.Contains(text, []byte("-----BEGIN ")) {
		return false
	}
	block, _ := pem.Decode(text)
	return block != nil
}
