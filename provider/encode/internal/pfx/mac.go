package pfx

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // the MAC of most PFX files in use
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"
)

// macData is MacData of RFC 7292, section 4.
type macData struct {
	Digest struct {
		Algorithm algorithm
		Value     []byte
	}
	Salt   []byte
	Rounds int `asn1:"optional,default:1"`
}

var oidPBMAC1 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 14}

// digest returns the hash of a MAC, nil where it is unknown.
func digest(oid asn1.ObjectIdentifier) func() hash.Hash {
	switch oid.String() {
	case "1.3.14.3.2.26":
		return sha1.New
	case "2.16.840.1.101.3.4.2.1":
		return sha256.New
	case "2.16.840.1.101.3.4.2.2":
		return sha512.New384
	case "2.16.840.1.101.3.4.2.3":
		return sha512.New
	case "2.16.840.1.101.3.4.2.4":
		return sha256.New224
	default:
		return nil
	}
}

// checkMAC verifies the file's MAC and keeps the form of the empty password that it was made with. A file without a
// MAC passes: there is no password to prove.
func (r *reader) checkMAC(mac macData, content []byte) error {
	name := mac.Digest.Algorithm.Type
	if len(name) == 0 {
		return nil
	}
	for _, password := range r.passwords {
		var want []byte
		var err error
		if name.Equal(oidPBMAC1) {
			want, err = r.pbmac1(mac.Digest.Algorithm, content)
		} else {
			want, err = r.pkcs12MAC(mac, content, password)
		}
		if err != nil {
			return err
		}
		if hmac.Equal(want, mac.Digest.Value) {
			r.passwords = [][]byte{password}
			if name.Equal(oidPBMAC1) {
				// PBKDF2 takes no BMP string, so this MAC does not tell the form.
				r.passwords = emptyPasswords()
			}
			return nil
		}
		if name.Equal(oidPBMAC1) {
			break
		}
	}
	return ErrPassword
}

// pkcs12MAC is the MAC of RFC 7292, section 4.
func (r *reader) pkcs12MAC(mac macData, content, password []byte) ([]byte, error) {
	newHash := digest(mac.Digest.Algorithm.Type)
	if newHash == nil {
		return nil, fmt.Errorf("the MAC of the PFX uses the unknown hash %v: export it again with SHA-256",
			mac.Digest.Algorithm.Type)
	}
	key, err := r.deriveKey(newHash, purposeMAC, password, mac.Salt, mac.Rounds, newHash().Size())
	if err != nil {
		return nil, err
	}
	h := hmac.New(newHash, key)
	h.Write(content)
	return h.Sum(nil), nil
}

// pbmac1 is the MAC of RFC 9579.
func (r *reader) pbmac1(a algorithm, content []byte) ([]byte, error) {
	var parameters struct{ KDF, MAC algorithm }
	if err := unmarshal(a.Parameters.FullBytes, &parameters, "the MAC of the PFX"); err != nil {
		return nil, err
	}
	newHash := hmacHash(parameters.MAC.Type)
	if newHash == nil {
		return nil, fmt.Errorf("the MAC of the PFX uses the unknown hash %v: export it again with SHA-256", parameters.MAC.Type)
	}
	key, err := r.pbkdf2(parameters.KDF, 0)
	if err != nil {
		return nil, err
	}
	// RFC 9579, section 6: shorter keys make the MAC easy to forge.
	if len(key) < 20 {
		return nil, errors.New("the MAC of the PFX has a key of less than 20 bytes: export it again")
	}
	h := hmac.New(newHash, key)
	h.Write(content)
	return h.Sum(nil), nil
}
