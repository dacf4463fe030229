package keystore

import (
	"bytes"
	"crypto"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"software.sslmate.com/src/go-pkcs12"
)

const (
	// maxPassword bounds a password, in bytes; maxCertificates the certificates of a store.
	maxPassword     = 1024
	maxCertificates = 1000
)

// Identity is a private key with its certificate.
type Identity struct {
	Key crypto.Signer
	// Chain has the key's certificate and its issuers.
	Chain []*x509.Certificate
}

// PKCS12 returns a PKCS#12 file with a private key and its chain.
func PKCS12(id Identity, password string) ([]byte, error) {
	chain, key, err := id.check(password)
	if err != nil {
		return nil, err
	}
	random, err := derived("pkcs12", password, key, chain)
	if err != nil {
		return nil, err
	}
	data, err := pkcs12.Modern2023.WithRand(random).Encode(id.Key, chain[0], chain[1:], password)
	return data, pkcs12Error(err)
}

// PKCS12TrustStore returns a PKCS#12 file with certificates that Java trusts.
func PKCS12TrustStore(certificates []*x509.Certificate, password string) ([]byte, error) {
	if err := errors.Join(checkTrusted(certificates), checkPassword(password)); err != nil {
		return nil, err
	}
	random, err := derived("pkcs12 trust store", password, nil, certificates)
	if err != nil {
		return nil, err
	}
	entries := make([]pkcs12.TrustStoreEntry, 0, len(certificates))
	for i, c := range certificates {
		entries = append(entries, pkcs12.TrustStoreEntry{Cert: c, FriendlyName: trustedAlias(i)})
	}
	data, err := pkcs12.Modern2023.WithRand(random).EncodeTrustStoreEntries(entries, password)
	return data, pkcs12Error(err)
}

// pkcs12Error leaves out what the encoder says, which may be about the password.
func pkcs12Error(err error) error {
	if err == nil {
		return nil
	}
	return errors.New("key or certificates cannot be written as PKCS#12")
}

// JKS returns a Java key store with a private key and its chain under an alias, which Java reads in lower case. The
// password is that of the store and of the key.
func JKS(alias string, id Identity, password string) ([]byte, error) {
	chain, key, err := id.check(password)
	if err != nil {
		return nil, err
	}
	random, err := derived("jks", password, key, chain)
	if err != nil {
		return nil, err
	}
	s := newStore(1)
	if err := s.key(strings.ToLower(alias), key, chain, password, random); err != nil {
		return nil, err
	}
	return s.sealed(password), nil
}

// JKSTrustStore returns a Java key store with certificates that Java trusts, under the aliases ca-1, ca-2 and so on.
func JKSTrustStore(certificates []*x509.Certificate, password string) ([]byte, error) {
	if err := errors.Join(checkTrusted(certificates), checkPassword(password)); err != nil {
		return nil, err
	}
	s := newStore(len(certificates))
	for i, c := range certificates {
		s.trusted(trustedAlias(i), c)
	}
	return s.sealed(password), nil
}

func trustedAlias(i int) string { return "ca-" + strconv.Itoa(i+1) }

// check returns the chain, the certificate of the key first, and the key as PKCS#8.
func (id Identity) check(password string) (chain []*x509.Certificate, key []byte, err error) {
	if err := checkPassword(password); err != nil {
		return nil, nil, err
	}
	if len(id.Chain) > maxCertificates {
		return nil, nil, tooMany(id.Chain)
	}
	public, ok := id.Key.Public().(interface {
		Equal(other crypto.PublicKey) bool
	})
	leaf := slices.IndexFunc(id.Chain, func(c *x509.Certificate) bool { return ok && public.Equal(c.PublicKey) })
	if leaf < 0 {
		return nil, nil, errors.New("none of the certificates belongs to the private key")
	}
	chain = append([]*x509.Certificate{id.Chain[leaf]}, slices.Delete(slices.Clone(id.Chain), leaf, leaf+1)...)
	key, err = x509.MarshalPKCS8PrivateKey(id.Key)
	if err != nil {
		return nil, nil, errors.New("the private key cannot be written as PKCS#8")
	}
	return chain, key, nil
}

func checkTrusted(certificates []*x509.Certificate) error {
	switch {
	case len(certificates) == 0:
		return errors.New("there is no certificate to trust")
	case len(certificates) > maxCertificates:
		return tooMany(certificates)
	}
	return nil
}

func tooMany(certificates []*x509.Certificate) error {
	return fmt.Errorf("there are %d certificates: at most %d", len(certificates), maxCertificates)
}

// checkPassword returns why a password cannot be used. Both formats know characters of up to 16 bits alone.
func checkPassword(password string) error {
	switch {
	case password == "":
		return errors.New("the password is empty")
	case len(password) > maxPassword:
		return fmt.Errorf("the password has %d bytes: at most %d", len(password), maxPassword)
	case !utf8.ValidString(password):
		return errors.New("the password is not UTF-8 text")
	case strings.ContainsFunc(password, unicode.IsControl):
		return errors.New("the password has a control character, such as a line break at its end: use trim")
	case strings.ContainsFunc(password, func(r rune) bool { return r > 0xFFFF }):
		return errors.New("the password has a character that PKCS#12 and JKS cannot write (above U+FFFF)")
	}
	return nil
}

// derived returns what salts and initialization vectors are read from. Without private key and password
// it cannot be distinguished from random bytes.
func derived(purpose, password string, key []byte, certificates []*x509.Certificate) (io.Reader, error) {
	h := sha256.New()
	for _, c := range certificates {
		h.Write(c.Raw)
	}
	secret := slices.Concat(key, []byte{0}, []byte(password))
	stream, err := hkdf.Key(sha256.New, secret, h.Sum(nil), "keyvault-csi "+purpose+" v1", 4096)
	if err != nil {
		return nil, fmt.Errorf("derive salts: %w", err)
	}
	return bytes.NewReader(stream), nil
}
