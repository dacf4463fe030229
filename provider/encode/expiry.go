package encode

import (
	"crypto/x509"
	"slices"
	"time"
)

// LeafNotAfter returns when the leaf certificate in data ends. Data is PEM, a PFX (binary or in base64) or one certificate
// in DER; ok is false where it holds no certificate that can be read.
func LeafNotAfter(data []byte) (end time.Time, ok bool) {
	if _, err := x509.ParseCertificate(data); err == nil {
		end = leafOf([][]byte{data}, nil)
		return end, true
	}
	material, err := readMaterial(data)
	if err != nil {
		return time.Time{}, false
	}
	// A key that cannot be read does not matter here: the leaf is then found without it.
	key, _ := material.key()
	keys := []any{}
	if key != nil {
		keys = append(keys, key)
	}
	end = leafOf(material.certificates, keys)
	return end, !end.IsZero()
}

// leafOf returns the end of the leaf among certificates, zero where there is none that can be read.
func leafOf(ders [][]byte, keys []any) time.Time {
	if leaf := findLeaf(ders, keys); leaf != nil {
		return leaf.NotAfter
	}
	return time.Time{}
}

// findLeaf returns the certificate that belongs to a key; else the only one that issued none of the others; else the
// first. Certificates that cannot be read are passed over.
func findLeaf(ders [][]byte, keys []any) *x509.Certificate {
	c := chain{}
	for _, der := range ders[:min(len(ders), maxOrdered)] {
		if certificate, err := x509.ParseCertificate(der); err == nil && !slices.ContainsFunc(c, certificate.Equal) {
			c = append(c, certificate)
		}
	}
	if len(c) == 0 {
		return nil
	}
	// The usual case costs no signature check.
	if own := c.of(keys); len(own) == 1 {
		return c[own[0]]
	}
	return c[max(0, c.leaf(keys, c.issuers()))]
}
