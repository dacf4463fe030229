package encode

import (
	"bytes"
	"crypto/x509"
	"errors"
	"time"
)

// TrustBundle returns, as PEM, the certificates of a secret that others are verified with: its CA certificates without the one of its
// private key, and a self-signed one, which is its own issuer. They keep their order, and repetitions are dropped. NotAfter is when the
// first of them ends. The secret holds PEM or a PFX; private keys are never part of the answer.
func TrustBundle(value, contentType string) (bundle []byte, notAfter time.Time, err error) {
	ders, keys, err := certificatesAndKeys(value, contentType)
	if err != nil {
		return nil, notAfter, err
	}
	var kept []*x509.Certificate
	unreadable := 0
	for _, der := range ders {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			unreadable++
			continue
		}
		if trusted(certificate, keys) && !contains(kept, certificate) {
			kept = append(kept, certificate)
			bundle = append(bundle, armour(blockCertificate, der)...)
			if notAfter.IsZero() || certificate.NotAfter.Before(notAfter) {
				notAfter = certificate.NotAfter
			}
		}
	}
	switch {
	case len(kept) > 0:
		return bundle, notAfter, nil
	case unreadable > 0:
		return nil, notAfter, errors.New("no certificate in it can be read: import the certificate again")
	case len(ders) == 0:
		return nil, notAfter, errors.New("there is no certificate in it: remove objectFormat: ca")
	}
	return nil, notAfter, errors.New("there is no CA certificate in it, only the leaf: import the certificate with the chain of its issuers")
}

// certificatesAndKeys returns what the secret of a certificate holds. A private key that cannot be read is left out.
func certificatesAndKeys(value, contentType string) (ders [][]byte, keys []any, err error) {
	if contentType == ContentTypePFX || contentType != ContentTypePEM && Recognise(value) == PFX {
		contents, err := readPFX(value)
		if err != nil {
			return nil, nil, err
		}
		return contents.Certificates, contents.Keys, nil
	}
	for block := range blocks([]byte(value)) {
		switch {
		case block.Type == blockCertificate:
			ders = append(ders, block.Bytes)
		case isPrivateKey(block):
			if key, err := parsePrivateKey(block); err == nil {
				keys = append(keys, key)
			}
		}
	}
	return ders, keys, nil
}

// trusted reports whether others are verified with the certificate.
func trusted(certificate *x509.Certificate, keys []any) bool {
	if bytes.Equal(certificate.RawSubject, certificate.RawIssuer) && mayIssue(certificate, certificate) {
		return true
	}
	return certificate.IsCA && !belongs(certificate, keys)
}

func contains(all []*x509.Certificate, one *x509.Certificate) bool {
	for _, c := range all {
		if c.Equal(one) {
			return true
		}
	}
	return false
}
