package encode

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// maxOrdered is how many certificates are ordered at most. No chain is that long; a trust store may be, and has no order.
const maxOrdered = 32

// maxVerified is the largest RSA key that a signature is checked with, in bits, as in crypto/tls.
const maxVerified = 8192

// orderChain sorts certificates from the leaf to the root and drops repetitions. Where they are no single chain (an
// intermediate is missing, or one does not belong), all are returned in the order given, and a warning says why.
//
// The leaf is the certificate of one of the keys; without a key it is the one that issued none of the others.
func orderChain(ders [][]byte, keys []any) (ordered [][]byte, warning string) {
	if len(ders) == 0 {
		return ders, ""
	}
	if len(ders) > maxOrdered {
		return ders, fmt.Sprintf("the PFX has %d certificates, more than any chain: they keep its order", len(ders))
	}
	c := chain{}
	for i, der := range ders {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return ders, fmt.Sprintf("certificate %d of %d in the PFX cannot be read, so they keep its order: %v", i+1, len(ders), err)
		}
		if !slices.ContainsFunc(c, certificate.Equal) {
			c = append(c, certificate)
		}
	}
	path := c.walk(c.leafByKeyID(), c.issuerByKeyID)
	if len(path) != len(c) {
		issuers := c.issuers()
		path = c.walk(c.leaf(keys, issuers), func(i int) int { return issuers[i] })
	}
	if len(path) != len(c) {
		return ders, fmt.Sprintf("the %d certificates in the PFX are no single chain from the leaf to its issuers "+
			"(the leaf's has %d), so they keep its order: import it again with the leaf and all its issuers and nothing else",
			len(c), len(path))
	}
	for _, i := range path {
		ordered = append(ordered, c[i].Raw)
	}
	return ordered, ""
}

// chain is a set of distinct certificates. An index of -1 means none of them.
type chain []*x509.Certificate

// walk follows issuers from a leaf until there is none or one comes again.
func (c chain) walk(leaf int, issuer func(int) int) (path []int) {
	for i := leaf; i >= 0 && !slices.Contains(path, i); i = issuer(i) {
		path = append(path, i)
	}
	return path
}

// issuerByKeyID returns the first other certificate whose subject key id is the authority key id of certificate i. This
// and leafByKeyID alone decide wherever they give a whole chain, because people's files have that order today.
func (c chain) issuerByKeyID(i int) int {
	authority := c[i].AuthorityKeyId
	return slices.IndexFunc(c, func(other *x509.Certificate) bool {
		return other != c[i] && len(authority) != 0 && bytes.Equal(other.SubjectKeyId, authority)
	})
}

// leafByKeyID returns the first certificate that issued no other one, by key id.
func (c chain) leafByKeyID() int {
	issuers := make([]int, len(c))
	for i := range c {
		issuers[i] = c.issuerByKeyID(i)
	}
	for i := range c {
		if !slices.Contains(issuers, i) {
			return i
		}
	}
	return -1
}

// issuers returns the issuer of each certificate: by name and signature, else by key id.
func (c chain) issuers() []int {
	// A chain needs two checks for each certificate. Certificates that all bear one name would need the square of that.
	checks := 4 * len(c)
	issued := func(issuer, certificate *x509.Certificate) bool {
		if !mayIssue(issuer, certificate) || checks == 0 {
			return false
		}
		checks--
		return signed(issuer, certificate)
	}
	issuers := make([]int, len(c))
	for i, certificate := range c {
		issuers[i] = -1
		if issued(certificate, certificate) {
			continue // a root
		}
		issuers[i] = slices.IndexFunc(c, func(other *x509.Certificate) bool { return other != certificate && issued(other, certificate) })
		if issuers[i] < 0 {
			issuers[i] = c.issuerByKeyID(i)
		}
	}
	return issuers
}

// leaf returns the certificate that belongs to one of the keys, preferring one that issued none of the others; without
// one, the only certificate that issued none of the others.
func (c chain) leaf(keys []any, issuers []int) int {
	ends := []int{}
	for i := range c {
		if !slices.Contains(issuers, i) {
			ends = append(ends, i)
		}
	}
	own := c.of(keys)
	for _, i := range own {
		if slices.Contains(ends, i) {
			return i
		}
	}
	switch {
	case len(own) > 0:
		return own[0]
	case len(ends) == 1:
		return ends[0]
	default:
		return -1
	}
}

// of returns the certificates that belong to one of the private keys.
func (c chain) of(keys []any) (own []int) {
	for i, certificate := range c {
		if belongs(certificate, keys) {
			own = append(own, i)
		}
	}
	return own
}

// mayIssue reports whether the names, and the key ids where both have one, allow issuer to have signed certificate.
func mayIssue(issuer, certificate *x509.Certificate) bool {
	return bytes.Equal(issuer.RawSubject, certificate.RawIssuer) &&
		(len(certificate.AuthorityKeyId) == 0 || len(issuer.SubjectKeyId) == 0 ||
			bytes.Equal(certificate.AuthorityKeyId, issuer.SubjectKeyId))
}

// signed reports whether issuer's key made the signature of certificate. One that is too weak to be checked is taken for
// right, because trust is not decided here; one by a key of absurd size, which would take long, for wrong.
func signed(issuer, certificate *x509.Certificate) bool {
	if public, ok := issuer.PublicKey.(*rsa.PublicKey); ok && public.N.BitLen() > maxVerified {
		return false
	}
	err := issuer.CheckSignature(certificate.SignatureAlgorithm, certificate.RawTBSCertificate, certificate.Signature)
	if _, weak := errors.AsType[x509.InsecureAlgorithmError](err); weak {
		return true
	}
	return err == nil
}

// belongs reports whether a certificate is for one of the private keys.
func belongs(certificate *x509.Certificate, keys []any) bool {
	return slices.ContainsFunc(keys, func(key any) bool {
		signer, ok := key.(crypto.Signer)
		if !ok {
			return false
		}
		public, ok := signer.Public().(interface {
			Equal(other crypto.PublicKey) bool
		})
		return ok && public.Equal(certificate.PublicKey)
	})
}
