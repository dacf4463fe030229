package pfx

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"  //nolint:gosec // the cipher of many PFX files in use
	"crypto/sha1" //nolint:gosec // the key derivation of many PFX files in use
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode/internal/rc2"
)

// algorithm is AlgorithmIdentifier of RFC 5280.
type algorithm struct {
	Type       asn1.ObjectIdentifier
	Parameters asn1.RawValue `asn1:"optional"`
}

// errPadding means that the wrong password, or damage, turned the content into noise.
var errPadding = errors.New("the content does not decrypt")

// pbeScheme is one of the encryptions of RFC 7292, appendix C: the key is derived with SHA-1.
type pbeScheme struct {
	keySize, blockSize int
	decrypter          func(key, iv []byte) (cipher.BlockMode, error)
}

func scheme(oid asn1.ObjectIdentifier) (pbeScheme, bool) {
	switch oid.String() {
	case "1.2.840.113549.1.12.1.3":
		return pbeScheme{24, des.BlockSize, tripleDES}, true
	case "1.2.840.113549.1.12.1.4":
		return pbeScheme{16, des.BlockSize, twoKeyTripleDES}, true
	case "1.2.840.113549.1.12.1.5":
		return pbeScheme{16, rc2.BlockSize, rc2.NewCBCDecrypter}, true
	case "1.2.840.113549.1.12.1.6":
		return pbeScheme{5, rc2.BlockSize, rc2.NewCBCDecrypter}, true
	default:
		return pbeScheme{}, false
	}
}

func tripleDES(key, iv []byte) (cipher.BlockMode, error) {
	block, err := des.NewTripleDESCipher(key) //nolint:gosec // reads what others wrote
	if err != nil {
		return nil, err
	}
	return cipher.NewCBCDecrypter(block, iv), nil
}

func twoKeyTripleDES(key, iv []byte) (cipher.BlockMode, error) {
	return tripleDES(append(key[:16:16], key[:8]...), iv)
}

func aesCBC(key, iv []byte) (cipher.BlockMode, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewCBCDecrypter(block, iv), nil
}

var oidPBES2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}

// decrypt opens content with the form of the empty password that fits.
func (r *reader) decrypt(a algorithm, content []byte) ([]byte, error) {
	if a.Type.Equal(oidPBES2) {
		mode, err := r.pbes2(a)
		if err != nil {
			return nil, err
		}
		return orPassword(decryptCBC(mode, content))
	}
	s, ok := scheme(a.Type)
	if !ok {
		return nil, fmt.Errorf("the PFX is encrypted with the unknown algorithm %v: export it again with AES-256", a.Type)
	}
	var parameters struct {
		Salt   []byte
		Rounds int
	}
	if err := unmarshal(a.Parameters.FullBytes, &parameters, "the PFX's encryption"); err != nil {
		return nil, err
	}
	var plain []byte
	err := errPadding
	for _, password := range r.passwords {
		key, keyErr := r.deriveKey(sha1.New, purposeKey, password, parameters.Salt, parameters.Rounds, s.keySize)
		if keyErr != nil {
			return nil, keyErr
		}
		iv, ivErr := r.deriveKey(sha1.New, purposeIV, password, parameters.Salt, parameters.Rounds, s.blockSize)
		if ivErr != nil {
			return nil, ivErr
		}
		mode, modeErr := s.decrypter(key, iv)
		if modeErr != nil {
			return nil, fmt.Errorf("the PFX does not decrypt: %w", modeErr)
		}
		if plain, err = decryptCBC(mode, content); err == nil {
			break
		}
	}
	return orPassword(plain, err)
}

// orPassword says what content that does not decrypt means.
func orPassword(plain []byte, err error) ([]byte, error) {
	if errors.Is(err, errPadding) {
		return nil, ErrPassword
	}
	return plain, err
}

// pbes2 makes the decrypter of PBES2 (RFC 8018, section 6.2).
func (r *reader) pbes2(a algorithm) (cipher.BlockMode, error) {
	var parameters struct{ KDF, Cipher algorithm }
	if err := unmarshal(a.Parameters.FullBytes, &parameters, "the PFX's encryption"); err != nil {
		return nil, err
	}
	decrypter, blockSize := aesCBC, aes.BlockSize
	var keySize int
	switch parameters.Cipher.Type.String() {
	case "2.16.840.1.101.3.4.1.2":
		keySize = 16
	case "2.16.840.1.101.3.4.1.22":
		keySize = 24
	case "2.16.840.1.101.3.4.1.42":
		keySize = 32
	case "1.2.840.113549.3.7":
		decrypter, keySize, blockSize = tripleDES, 24, des.BlockSize
	default:
		return nil, fmt.Errorf("the PFX is encrypted with the unknown cipher %v: export it again with AES-256",
			parameters.Cipher.Type)
	}
	var iv []byte
	if err := unmarshal(parameters.Cipher.Parameters.FullBytes, &iv, "the PFX's encryption"); err != nil {
		return nil, err
	}
	if len(iv) != blockSize {
		return nil, fmt.Errorf("the PFX is damaged: its cipher has an initial vector of %d bytes instead of %d", len(iv), blockSize)
	}
	key, err := r.pbkdf2(parameters.KDF, keySize)
	if err != nil {
		return nil, err
	}
	return decrypter(key, iv)
}

// decryptCBC decrypts content and takes the padding of RFC 8018, section 6.1.1, away. Content that looks right but is no
// DER is noise too: the padding of noise is right once in 256 times.
func decryptCBC(mode cipher.BlockMode, content []byte) ([]byte, error) {
	size := mode.BlockSize()
	if len(content) == 0 || len(content)%size != 0 {
		return nil, fmt.Errorf("the PFX is damaged: encrypted content of %d bytes is no multiple of %d", len(content), size)
	}
	plain := make([]byte, len(content))
	mode.CryptBlocks(plain, content)
	padding := int(plain[len(plain)-1])
	if padding == 0 || padding > size {
		return nil, errPadding
	}
	plain, tail := plain[:len(plain)-padding], plain[len(plain)-padding:]
	if !bytes.Equal(tail, bytes.Repeat(tail[:1], padding)) {
		return nil, errPadding
	}
	var value asn1.RawValue
	if rest, err := asn1.Unmarshal(plain, &value); err != nil || len(rest) != 0 || value.Tag != asn1.TagSequence {
		return nil, errPadding
	}
	return plain, nil
}
