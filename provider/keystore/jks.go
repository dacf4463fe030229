package keystore

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // the format's
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf16"
)

// The format is Java's own (sun.security.provider.JavaKeyStore): big-endian numbers, strings with a length of two bytes,
// and at the end a SHA-1 over password, a constant and everything before.
const (
	jksMagic   = 0xFEEDFEED
	jksVersion = 2
	jksKey     = 1
	jksTrusted = 2
	jksSalt    = 20
	jksWords   = "Mighty Aphrodite"
)

// jksProtector is the algorithm that a private key is encrypted with.
var jksProtector = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 42, 2, 17, 1, 1}

// store is a key store that is being written.
type store struct{ b bytes.Buffer }

func newStore(entries int) *store {
	s := &store{}
	s.number(jksMagic)
	s.number(jksVersion)
	s.number(entries)
	return s
}

func (s *store) number(n int) {
	s.b.Write(binary.BigEndian.AppendUint32(nil, uint32(n))) //nolint:gosec // lengths and constants of the format
}

// text writes a string whose length is checked: Java's modified UTF-8 is UTF-8 for what has neither NUL nor characters
// above U+FFFF.
func (s *store) text(text string) {
	s.b.Write(binary.BigEndian.AppendUint16(nil, uint16(len(text)))) //nolint:gosec // below 64 KiB
	s.b.WriteString(text)
}

func (s *store) date(t time.Time) {
	s.b.Write(binary.BigEndian.AppendUint64(nil, uint64(t.UnixMilli())))
}

func (s *store) bytes(data []byte) {
	s.number(len(data))
	s.b.Write(data)
}

func (s *store) certificate(c *x509.Certificate) {
	s.text("X.509")
	s.bytes(c.Raw)
}

func (s *store) key(alias string, key []byte, chain []*x509.Certificate, password string, random io.Reader) error {
	protected, err := protect(key, password, random)
	if err != nil {
		return err
	}
	s.number(jksKey)
	s.text(alias)
	s.date(chain[0].NotBefore)
	s.bytes(protected)
	s.number(len(chain))
	for _, c := range chain {
		s.certificate(c)
	}
	return nil
}

func (s *store) trusted(alias string, c *x509.Certificate) {
	s.number(jksTrusted)
	s.text(alias)
	s.date(c.NotBefore)
	s.certificate(c)
}

// sealed returns the store with its checksum.
func (s *store) sealed(password string) []byte {
	sum := sha1sum(utf16BE(password), []byte(jksWords), s.b.Bytes())
	return append(s.b.Bytes(), sum...)
}

// protect encrypts a private key: its bytes XOR a chain of SHA-1 sums that begins with a salt, between that salt and a
// checksum.
func protect(key []byte, password string, random io.Reader) ([]byte, error) {
	word := utf16BE(password)
	out := make([]byte, jksSalt, jksSalt+len(key)+sha1.Size)
	if _, err := io.ReadFull(random, out); err != nil {
		return nil, fmt.Errorf("salt: %w", err)
	}
	sum := out[:jksSalt:jksSalt]
	for at := 0; at < len(key); at += sha1.Size {
		sum = sha1sum(word, sum)
		for i, b := range key[at:min(at+sha1.Size, len(key))] {
			out = append(out, b^sum[i])
		}
	}
	out = append(out, sha1sum(word, key)...)
	der, err := asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}{pkix.AlgorithmIdentifier{Algorithm: jksProtector, Parameters: asn1.NullRawValue}, out})
	if err != nil {
		return nil, errors.New("the private key cannot be written")
	}
	return der, nil
}

func sha1sum(parts ...[]byte) []byte {
	h := sha1.New() //nolint:gosec // the format's
	for _, part := range parts {
		h.Write(part)
	}
	return h.Sum(nil)
}

// utf16BE is a password as Java has it in memory.
func utf16BE(text string) []byte {
	var out []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		out = binary.BigEndian.AppendUint16(out, unit)
	}
	return out
}
