package pfx

import (
	"crypto/pbkdf2"
	"crypto/sha1" //nolint:gosec // the key derivation of most PFX files in use
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"
)

// maxRounds is how many rounds of key derivation one file may ask for in all, at most two seconds of one core. Programs
// write 1 to 100,000 for each of some eight keys and vectors; 600,000 for each is what cautious people choose with PBES2.
const maxRounds = 2_000_000

// maxDerivedKey is the longest key that a MAC may ask for (RFC 9579: the size of the hash).
const maxDerivedKey = sha512.Size

// budget is the rounds that are left.
type budget int

func (b *budget) spend(rounds int) error {
	if rounds < 1 {
		return fmt.Errorf("the PFX is damaged: it asks for %d rounds of key derivation", rounds)
	}
	if rounds > int(*b) {
		return fmt.Errorf("the PFX asks for more than %d rounds of key derivation: export it again with fewer iterations", maxRounds)
	}
	*b -= budget(rounds)
	return nil
}

// emptyPasswords returns the two forms in which programs write the empty password: the terminator of an empty BMP string
// (RFC 7292, appendix B.1), and nothing at all.
func emptyPasswords() [][]byte { return [][]byte{{0, 0}, nil} }

// purpose is the ID byte of RFC 7292, appendix B.3.
type purpose byte

const (
	purposeKey purpose = 1
	purposeIV  purpose = 2
	purposeMAC purpose = 3
)

// deriveKey is the key derivation of RFC 7292, appendix B.2.
func (r *reader) deriveKey(newHash func() hash.Hash, id purpose, password, salt []byte, rounds, size int) ([]byte, error) {
	h := newHash()
	// Each block of the result takes all rounds again.
	for range (size + h.Size() - 1) / h.Size() {
		if err := r.budget.spend(rounds); err != nil {
			return nil, err
		}
	}
	v := h.BlockSize()
	diversifier := make([]byte, v)
	for i := range diversifier {
		diversifier[i] = byte(id)
	}
	input := append(fill(salt, v), fill(password, v)...)
	var key, block []byte
	for {
		h.Reset()
		h.Write(diversifier)
		h.Write(input)
		block = h.Sum(block[:0])
		for range rounds - 1 {
			h.Reset()
			h.Write(block)
			block = h.Sum(block[:0])
		}
		if key = append(key, block...); len(key) >= size {
			return key[:size], nil
		}
		increment(input, fill(block, v)[:v])
	}
}

// fill repeats data up to the next multiple of size; nothing stays nothing.
func fill(data []byte, size int) []byte {
	length := (len(data) + size - 1) / size * size
	filled := make([]byte, 0, length)
	for len(filled) < length {
		filled = append(filled, data[:min(len(data), length-len(filled))]...)
	}
	return filled
}

// increment adds addend and one to each block of input, modulo the size of a block.
func increment(input, addend []byte) {
	for block := input; len(block) > 0; block = block[len(addend):] {
		carry := uint(1)
		for i := len(addend) - 1; i >= 0; i-- {
			carry += uint(block[i]) + uint(addend[i])
			block[i] = byte(carry & 0xff)
			carry >>= 8
		}
	}
}

var oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}

// hmacHash returns the hash of an HMAC, nil where it is unknown.
func hmacHash(oid asn1.ObjectIdentifier) func() hash.Hash {
	switch oid.String() {
	case "1.2.840.113549.2.7":
		return sha1.New
	case "1.2.840.113549.2.8":
		return sha256.New224
	case "1.2.840.113549.2.9":
		return sha256.New
	case "1.2.840.113549.2.10":
		return sha512.New384
	case "1.2.840.113549.2.11":
		return sha512.New
	default:
		return nil
	}
}

// pbkdf2 derives a key from the empty password by PBKDF2 (RFC 8018, section 5.2). Size is the key's length in bytes, 0
// where the parameters must say it.
func (r *reader) pbkdf2(a algorithm, size int) ([]byte, error) {
	if !a.Type.Equal(oidPBKDF2) {
		return nil, fmt.Errorf("the PFX uses the unknown key derivation %v: export it again with PBKDF2", a.Type)
	}
	var parameters struct {
		Salt   []byte
		Rounds int
		Size   int       `asn1:"optional"`
		PRF    algorithm `asn1:"optional"`
	}
	if err := unmarshal(a.Parameters.FullBytes, &parameters, "the PFX's key derivation"); err != nil {
		return nil, err
	}
	newHash := sha1.New
	if len(parameters.PRF.Type) != 0 {
		if newHash = hmacHash(parameters.PRF.Type); newHash == nil {
			return nil, fmt.Errorf("the PFX derives its key with the unknown hash %v: export it again with SHA-256",
				parameters.PRF.Type)
		}
	}
	if size == 0 {
		size = parameters.Size
	}
	if size < 1 || size > maxDerivedKey || parameters.Size != 0 && parameters.Size != size {
		return nil, errors.New("the PFX is damaged: the length of its derived key does not fit its cipher")
	}
	for range (size + newHash().Size() - 1) / newHash().Size() {
		if err := r.budget.spend(parameters.Rounds); err != nil {
			return nil, err
		}
	}
	key, err := pbkdf2.Key(newHash, "", parameters.Salt, parameters.Rounds, size)
	if err != nil {
		return nil, fmt.Errorf("the PFX's key cannot be derived: %w", err)
	}
	return key, nil
}
