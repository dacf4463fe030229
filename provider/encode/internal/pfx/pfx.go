// Package pfx reads PKCS#12 files (RFC 7292) whose password is empty, as Key Vault keeps them: with or without a private
// key, in every encryption that Key Vault, OpenSSL, Windows and Java write.
//
// The libraries for PKCS#12 want exactly one private key and at least one certificate, some of them exactly two safes,
// and none bounds the work that a file may ask for. Here a vault's owner decides what the node computes, so every
// derivation is paid from a budget.
package pfx

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
)

// MaxKeySize is the largest private key in PKCS#8 that is read, in bytes: reading takes time with the square of its size.
// RSA with 16,384 bits has 9,400.
const MaxKeySize = 16 << 10

// The bounds of a file. Key Vault keeps at most 25 kB of text in a secret.
const (
	maxSize  = 64 << 10
	maxSafes = 2
	maxBags  = 256
)

// Contents is what a PFX holds.
type Contents struct {
	// Keys are the private keys in the order of the file, as crypto/x509 parses PKCS#8.
	Keys []any
	// Certificates are in the order of the file, in DER, as they are: they are not parsed.
	Certificates [][]byte
	// Skipped counts bags that are neither: revocation lists and Java's secret keys.
	Skipped int
}

// ErrPassword means that the file opens with a password only.
var ErrPassword = errors.New("the PFX is protected with a password: import it as a certificate, where Key Vault takes " +
	"the password away, or store it without one")

var (
	oidData          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidEnvelopedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 3}
	oidEncryptedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 6}

	oidKeyBag         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 1}
	oidShroudedKeyBag = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 2}
	oidCertBag        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 3}
	oidCRLBag         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 4}
	oidSecretBag      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 5}

	oidX509Certificate = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 22, 1}
)

// file is PFX of RFC 7292, section 4.
type file struct {
	Version  int
	AuthSafe contentInfo
	MAC      macData `asn1:"optional"`
}

// contentInfo is ContentInfo of RFC 2315.
type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"tag:0,explicit,optional"`
}

// encryptedData is EncryptedData of RFC 2315.
type encryptedData struct {
	Version int
	Info    struct {
		Type      asn1.ObjectIdentifier
		Algorithm algorithm
		Content   []byte `asn1:"tag:0,optional"`
	}
}

// bag is SafeBag of RFC 7292, section 4.2. Its attributes (names, Windows' key containers, Java's trust marks) do not
// matter here.
type bag struct {
	Type       asn1.ObjectIdentifier
	Value      asn1.RawValue   `asn1:"tag:0,explicit"`
	Attributes []asn1.RawValue `asn1:"set,optional"`
}

// Looks reports whether data begins like a PFX: a DER sequence whose first element is the integer 3. It may still be damaged.
func Looks(data []byte) bool {
	var outer asn1.RawValue
	if rest, err := asn1.Unmarshal(data, &outer); err != nil || len(rest) != 0 || outer.Class != asn1.ClassUniversal ||
		outer.Tag != asn1.TagSequence {
		return false
	}
	var version int
	rest, err := asn1.Unmarshal(outer.Bytes, &version)
	return err == nil && version == 3 && len(rest) != 0
}

// Decode reads a PFX in DER.
func Decode(der []byte) (*Contents, error) {
	if len(der) > maxSize {
		return nil, fmt.Errorf("the PFX has %d bytes, the limit is %d", len(der), maxSize)
	}
	var outer file
	if err := unmarshal(der, &outer, "the PFX"); err != nil {
		return nil, err
	}
	if outer.Version != 3 {
		return nil, fmt.Errorf("the PFX is of version %d, only version 3 is known", outer.Version)
	}
	switch {
	case outer.AuthSafe.Type.Equal(oidData):
	case outer.AuthSafe.Type.Equal(oidSignedData):
		return nil, errors.New("the PFX is signed with a public key instead of a password, which is not supported: " +
			"export it again with an empty password")
	default:
		return nil, fmt.Errorf("the PFX holds content of the unknown type %v", outer.AuthSafe.Type)
	}
	var content []byte
	if err := unmarshal(outer.AuthSafe.Content.Bytes, &content, "the PFX"); err != nil {
		return nil, err
	}
	r := reader{passwords: emptyPasswords(), budget: maxRounds}
	if err := r.checkMAC(outer.MAC, content); err != nil {
		return nil, err
	}
	if err := r.readSafes(content); err != nil {
		return nil, err
	}
	return &r.contents, nil
}

// reader gathers the contents of one file.
type reader struct {
	// passwords are the forms of the empty password that may open the file.
	passwords [][]byte
	budget    budget
	bags      int
	contents  Contents
}

// readSafes reads the AuthenticatedSafe.
func (r *reader) readSafes(content []byte) error {
	var safes []contentInfo
	if err := unmarshal(content, &safes, "the PFX's list of safes"); err != nil {
		return err
	}
	if len(safes) > maxSafes {
		return fmt.Errorf("the PFX has %d safes, at most %d are supported: export it again with OpenSSL, Windows or Java",
			len(safes), maxSafes)
	}
	for _, safe := range safes {
		var data []byte
		switch {
		case safe.Type.Equal(oidData):
			if err := unmarshal(safe.Content.Bytes, &data, "a safe of the PFX"); err != nil {
				return err
			}
		case safe.Type.Equal(oidEncryptedData):
			var encrypted encryptedData
			err := unmarshal(safe.Content.Bytes, &encrypted, "an encrypted safe of the PFX")
			if err != nil {
				return err
			}
			data, err = r.decrypt(encrypted.Info.Algorithm, encrypted.Info.Content)
			if err != nil {
				return err
			}
		case safe.Type.Equal(oidEnvelopedData):
			return errors.New("a safe of the PFX is encrypted for a public key instead of a password, which is not " +
				"supported: export it again with an empty password")
		default:
			return fmt.Errorf("a safe of the PFX is of the unknown type %v", safe.Type)
		}
		if err := r.readBags(data); err != nil {
			return err
		}
	}
	return nil
}

// readBags reads the SafeContents of one safe.
func (r *reader) readBags(data []byte) error {
	var bags []bag
	if err := unmarshal(data, &bags, "a safe of the PFX"); err != nil {
		return err
	}
	if r.bags += len(bags); r.bags > maxBags {
		return fmt.Errorf("the PFX holds more than %d keys and certificates", maxBags)
	}
	for _, b := range bags {
		var err error
		switch {
		case b.Type.Equal(oidKeyBag):
			err = r.addKey(b.Value.Bytes)
		case b.Type.Equal(oidShroudedKeyBag):
			err = r.addShroudedKey(b.Value.Bytes)
		case b.Type.Equal(oidCertBag):
			err = r.addCertificate(b.Value.Bytes)
		case b.Type.Equal(oidCRLBag), b.Type.Equal(oidSecretBag):
			r.contents.Skipped++
		default:
			err = fmt.Errorf("the PFX holds an item of the unknown type %v", b.Type)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) addKey(pkcs8 []byte) error {
	if len(pkcs8) > MaxKeySize {
		return fmt.Errorf("the private key in the PFX has %d bytes, the limit is %d: use RSA with at most 16384 bits",
			len(pkcs8), MaxKeySize)
	}
	key, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return fmt.Errorf("the private key in the PFX cannot be read (RSA, EC on P-256, P-384, P-521 and Ed25519 can): "+
			"set objectFormat: pfx to mount the PFX as it is: %w", err)
	}
	r.contents.Keys = append(r.contents.Keys, key)
	return nil
}

func (r *reader) addShroudedKey(der []byte) error {
	// EncryptedPrivateKeyInfo of RFC 5208.
	var shrouded struct {
		Algorithm algorithm
		Data      []byte
	}
	if err := unmarshal(der, &shrouded, "the encrypted private key in the PFX"); err != nil {
		return err
	}
	pkcs8, err := r.decrypt(shrouded.Algorithm, shrouded.Data)
	if err != nil {
		return err
	}
	return r.addKey(pkcs8)
}

func (r *reader) addCertificate(der []byte) error {
	// CertBag of RFC 7292, section 4.2.3.
	var certificate struct {
		Type asn1.ObjectIdentifier
		Data []byte `asn1:"tag:0,explicit"`
	}
	if err := unmarshal(der, &certificate, "a certificate in the PFX"); err != nil {
		return err
	}
	if !certificate.Type.Equal(oidX509Certificate) {
		return fmt.Errorf("the PFX holds a certificate of the type %v, which is not X.509", certificate.Type)
	}
	r.contents.Certificates = append(r.contents.Certificates, certificate.Data)
	return nil
}

// unmarshal reads all of der into target; what names the thing for errors.
func unmarshal(der []byte, target any, what string) error {
	rest, err := asn1.Unmarshal(der, target)
	switch {
	case err == nil && len(rest) == 0:
		return nil
	case err == nil:
		return fmt.Errorf("%s is followed by %d more bytes: it is damaged", what, len(rest))
	case strings.Contains(err.Error(), "indefinite length"):
		return fmt.Errorf("%s is written in BER with lengths left open, only DER is supported: export it again with "+
			"OpenSSL, Windows or Java: %w", what, err)
	default:
		return fmt.Errorf("%s is damaged: %w", what, err)
	}
}
