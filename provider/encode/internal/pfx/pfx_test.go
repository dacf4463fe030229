package pfx

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // of RFC 7292
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSafes puts bags into one, two and three safes.
func TestSafes(t *testing.T) {
	t.Parallel()
	key := bagOf(t, oidKeyBag, newKey(t))
	certificate := certificateBag(t, []byte("certificate"))
	for name, test := range map[string]struct {
		safes       [][]bag
		keys, certs int
		problem     string
	}{
		"no safe":             {nil, 0, 0, ""},
		"an empty safe":       {[][]bag{{}}, 0, 0, ""},
		"all in one safe":     {[][]bag{{certificate, key, certificate}}, 1, 2, ""},
		"two safes":           {[][]bag{{key}, {certificate}}, 1, 1, ""},
		"two keys":            {[][]bag{{key, key}, {certificate}}, 2, 1, ""},
		"three safes":         {[][]bag{{key}, {certificate}, {certificate}}, 0, 0, "3 safes"},
		"revocation list":     {[][]bag{{bagOf(t, oidCRLBag, []byte{5, 0})}}, 0, 0, ""},
		"unknown bag":         {[][]bag{{bagOf(t, asn1.ObjectIdentifier{1, 2, 3}, []byte{5, 0})}}, 0, 0, "1.2.3"},
		"too many bags":       {[][]bag{repeat(certificate, 200), repeat(certificate, 57)}, 0, 0, "256"},
		"as many as may be":   {[][]bag{repeat(certificate, 200), repeat(certificate, 56)}, 0, 256, ""},
		"key that is no key":  {[][]bag{{bagOf(t, oidKeyBag, []byte{0x30, 0})}}, 0, 0, "private key"},
		"key too big":         {[][]bag{{bagOf(t, oidKeyBag, marshal(t, make([]byte, MaxKeySize)))}}, 0, 0, "limit"},
		"certificate of none": {[][]bag{{bagOf(t, oidCertBag, []byte{0x30, 0})}}, 0, 0, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var safes []contentInfo
			for _, bags := range test.safes {
				safes = append(safes, dataContent(t, marshal(t, bags)))
			}
			contents, err := Decode(file3(t, dataContent(t, marshal(t, safes))))
			if test.problem != "" {
				wantProblem(t, err, test.problem)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(contents.Keys) != test.keys || len(contents.Certificates) != test.certs {
				t.Errorf("got %d keys and %d certificates, want %d and %d", len(contents.Keys), len(contents.Certificates), test.keys, test.certs)
			}
		})
	}
}

func TestNotAPFX(t *testing.T) {
	t.Parallel()
	good := file3(t, dataContent(t, marshal(t, []contentInfo{})))
	if !Looks(good) {
		t.Error("a PFX does not look like one")
	}
	signed := dataContent(t, nil)
	signed.Type = oidSignedData
	unknown := dataContent(t, nil)
	unknown.Type = asn1.ObjectIdentifier{1, 2, 3}
	enveloped := dataContent(t, nil)
	enveloped.Type = oidEnvelopedData
	version4 := bytes.Clone(good)
	version4[4] = 4
	for name, test := range map[string]struct {
		der     []byte
		problem string
	}{
		"nothing":        {nil, "damaged"},
		"text":           {[]byte("hunter2"), "damaged"},
		"more behind":    {append(bytes.Clone(good), 0), "1 more byte"},
		"cut":            {good[:len(good)-1], "damaged"},
		"version 4":      {version4, "version 4"},
		"signed":         {file3(t, signed), "signed"},
		"unknown":        {file3(t, unknown), "1.2.3"},
		"enveloped safe": {file3(t, dataContent(t, marshal(t, []contentInfo{enveloped}))), "public key"},
		"unknown safe":   {file3(t, dataContent(t, marshal(t, []contentInfo{unknown}))), "1.2.3"},
		"open length":    {[]byte{0x30, 0x80, 2, 1, 3, 0, 0}, "BER"},
		"too big":        {make([]byte, maxSize+1), "limit"},
	} {
		_, err := Decode(test.der)
		if err == nil {
			t.Errorf("%s was read", name)
			continue
		}
		wantProblem(t, err, test.problem)
	}
}

// TestRoundsAreBounded: a file may not make the node compute for long, neither at once nor in many small parts.
func TestRoundsAreBounded(t *testing.T) {
	t.Parallel()
	pkcs12 := func(rounds int) algorithm {
		return algorithm{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 1, 3}, raw(t, struct {
			Salt   []byte
			Rounds int
		}{[]byte("salt"), rounds})}
	}
	pbes2 := func(rounds int) algorithm {
		kdf := algorithm{oidPBKDF2, raw(t, struct {
			Salt   []byte
			Rounds int
		}{[]byte("salt"), rounds})}
		aes := algorithm{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, raw(t, make([]byte, 16))}
		return algorithm{oidPBES2, raw(t, struct{ KDF, Cipher algorithm }{kdf, aes})}
	}
	encrypted := func(a algorithm) []byte {
		var e encryptedData
		e.Info.Type, e.Info.Algorithm, e.Info.Content = oidData, a, make([]byte, 16)
		return file3(t, dataContent(t, marshal(t, []contentInfo{{oidEncryptedData, explicit(marshal(t, e))}})))
	}
	mac := func(rounds int) []byte {
		var m macData
		m.Digest.Algorithm.Type = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}
		m.Digest.Value, m.Salt, m.Rounds = make([]byte, 20), []byte("salt"), rounds
		return marshal(t, file{3, dataContent(t, marshal(t, []contentInfo{})), m})
	}
	for name, der := range map[string][]byte{
		"PKCS#12": encrypted(pkcs12(math.MaxInt32)), "PBES2": encrypted(pbes2(math.MaxInt32)), "MAC": mac(math.MaxInt32),
		"sum": encrypted(pkcs12(maxRounds/2 + 1)),
	} {
		_, err := Decode(der)
		if err == nil {
			t.Errorf("%s was read", name)
			continue
		}
		wantProblem(t, err, "rounds of key derivation")
	}
	for name, der := range map[string][]byte{
		"PKCS#12": encrypted(pkcs12(0)), "PBES2": encrypted(pbes2(-1)), "MAC": mac(-1),
	} {
		_, err := Decode(der)
		if err == nil {
			t.Errorf("%s without rounds was read", name)
			continue
		}
		wantProblem(t, err, "damaged")
	}
	for name, der := range map[string][]byte{"PKCS#12": encrypted(pkcs12(1)), "PBES2": encrypted(pbes2(1)), "MAC": mac(1)} {
		if _, err := Decode(der); !errors.Is(err, ErrPassword) {
			t.Errorf("%s that no empty password opens: %v", name, err)
		}
	}
}

// TestEmptyPasswordForms makes sure that the vectors hold both forms of the empty password.
func TestEmptyPasswordForms(t *testing.T) {
	t.Parallel()
	for name, form := range map[string][]byte{"keyvault": {0, 0}, "java-legacy": {0, 0}, "nil-password": nil} {
		der, err := os.ReadFile(filepath.Join("..", "..", "testdata", "pfx", name+".pfx"))
		if err != nil {
			t.Fatal(err)
		}
		var outer file
		var content []byte
		if err := errors.Join(unmarshal(der, &outer, ""), unmarshal(outer.AuthSafe.Content.Bytes, &content, "")); err != nil {
			t.Fatal(err)
		}
		for _, password := range emptyPasswords() {
			r := reader{passwords: [][]byte{password}, budget: maxRounds}
			if err := r.checkMAC(outer.MAC, content); (err == nil) != bytes.Equal(password, form) {
				t.Errorf("%s with password %x: %v", name, password, err)
			}
		}
	}
}

// TestFormIsFoundWithoutMAC takes the MAC away, so that only the encryption tells the form of the password.
func TestFormIsFoundWithoutMAC(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"keyvault", "nil-password"} {
		der, err := os.ReadFile(filepath.Join("..", "..", "testdata", "pfx", name+".pfx"))
		if err != nil {
			t.Fatal(err)
		}
		var outer file
		if err := unmarshal(der, &outer, ""); err != nil {
			t.Fatal(err)
		}
		contents, err := Decode(file3(t, outer.AuthSafe))
		if err != nil || len(contents.Keys) != 1 || len(contents.Certificates) != 3 {
			t.Errorf("%s: got %+v, %v", name, contents, err)
		}
	}
}

func wantProblem(t *testing.T, err error, problem string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), problem) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want one line that says %q", err, problem)
	}
}

// file3 returns a file of version 3 without a MAC.
func file3(t *testing.T, safe contentInfo) []byte {
	t.Helper()
	return marshal(t, struct {
		Version int
		Safe    contentInfo
	}{3, safe})
}

func dataContent(t *testing.T, data []byte) contentInfo {
	t.Helper()
	return contentInfo{oidData, explicit(marshal(t, data))}
}

// explicit wraps DER into the explicit tag 0.
func explicit(der []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: der}
}

func bagOf(t *testing.T, oid asn1.ObjectIdentifier, value []byte) bag {
	t.Helper()
	return bag{Type: oid, Value: explicit(value)}
}

func certificateBag(t *testing.T, der []byte) bag {
	t.Helper()
	return bagOf(t, oidCertBag, marshal(t, struct {
		Type asn1.ObjectIdentifier
		Data []byte `asn1:"tag:0,explicit"`
	}{oidX509Certificate, der}))
}

func repeat(b bag, count int) (bags []bag) {
	for range count {
		bags = append(bags, b)
	}
	return bags
}

func newKey(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func raw(t *testing.T, value any) asn1.RawValue {
	t.Helper()
	return asn1.RawValue{FullBytes: marshal(t, value)}
}

func marshal(t *testing.T, value any) []byte {
	t.Helper()
	der, err := asn1.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Content that is no multiple of the block, or is noise when it is decrypted, is an error.
func TestDecryptedNoise(t *testing.T) {
	key, iv := make([]byte, 16), make([]byte, 16)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	encrypted := func(plain ...byte) []byte {
		out := make([]byte, len(plain))
		cipher.NewCBCEncrypter(block, iv).CryptBlocks(out, plain)
		return out
	}
	sequence := []byte{0x30, 0x0b, 0x04, 0x09, 1, 2, 3, 4, 5, 6, 7, 8, 9} // with 3 bytes of padding it is a block
	integer := slices.Concat([]byte{0x02, 0x0b}, make([]byte, 11))
	for name, tc := range map[string]struct {
		content []byte
		right   bool
	}{
		"right":              {encrypted(append(slices.Clone(sequence), 3, 3, 3)...), true},
		"nothing":            {nil, false},
		"half a block":       {encrypted(append(slices.Clone(sequence), 3, 3, 3)...)[:8], false},
		"no padding":         {encrypted(append(slices.Clone(sequence), 0, 0, 0)...), false},
		"too much padding":   {encrypted(append(slices.Clone(sequence), 17, 17, 17)...), false},
		"padding that lies":  {encrypted(append(slices.Clone(sequence), 3, 2, 3)...), false},
		"more than a value":  {encrypted(append(slices.Clone(sequence), 0, 0, 1)...), false},
		"no DER":             {encrypted(append(slices.Concat([]byte{0x30, 0x7f}, sequence[2:]), 3, 3, 3)...), false},
		"another kind of it": {encrypted(append(integer, 3, 3, 3)...), false},
	} {
		plain, err := decryptCBC(cipher.NewCBCDecrypter(block, iv), tc.content)
		if (err == nil) != tc.right || tc.right && !bytes.Equal(plain, sequence) {
			t.Errorf("%s: %x, %v", name, plain, err)
		}
	}
}

// Each block of a derived key costs all rounds, and what is left may be spent to the last one.
func TestRoundsOfAKey(t *testing.T) {
	for size, blocks := range map[int]budget{1: 1, sha1.Size: 1, sha1.Size + 1: 2, 2 * sha1.Size: 2, 2*sha1.Size + 1: 3} {
		r := &reader{budget: 30}
		if _, err := r.deriveKey(sha1.New, purposeKey, nil, make([]byte, 8), 10, size); err != nil || r.budget != 30-10*blocks {
			t.Errorf("%d bytes: %d rounds are left, %v", size, r.budget, err)
		}
	}
	r := &reader{budget: 30}
	if _, err := r.deriveKey(sha1.New, purposeKey, nil, make([]byte, 8), 16, sha1.Size+1); err == nil {
		t.Error("more rounds than there are")
	}
}

// The length of a key is that of its cipher, of the file where the cipher has none, and bounded; each block of it costs all rounds.
func TestLengthOfADerivedKey(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		size, stated int
		blocks       budget
		right        bool
	}{
		{16, 0, 1, true},
		{16, 16, 1, true},
		{0, 16, 1, true},
		{0, 1, 1, true},
		{0, sha1.Size, 1, true},
		{0, sha1.Size + 1, 2, true},
		{0, maxDerivedKey, 4, true},
		{0, maxDerivedKey + 1, 0, false},
		{0, 0, 0, false},
		{16, 24, 0, false},
		{24, 16, 0, false},
	} {
		r := &reader{budget: 40}
		key, err := r.pbkdf2(algorithm{oidPBKDF2, raw(t, struct {
			Salt   []byte
			Rounds int
			Size   int `asn1:"optional"`
		}{make([]byte, 8), 10, tc.stated})}, tc.size)
		if (err == nil) != tc.right || tc.right && len(key) != max(tc.size, tc.stated) || r.budget != 40-10*tc.blocks {
			t.Errorf("%+v: %d bytes, %d rounds are left, %v", tc, len(key), r.budget, err)
		}
	}
}

// What begins like a PFX is a sequence that begins with the integer 3 and goes on.
func TestLooks(t *testing.T) {
	t.Parallel()
	good := file3(t, dataContent(t, marshal(t, []contentInfo{})))
	changed := func(at int, to byte) []byte {
		data := bytes.Clone(good)
		data[at] = to
		return data
	}
	for name, tc := range map[string]struct {
		data []byte
		want bool
	}{
		"a PFX":             {good, true},
		"nothing":           {nil, false},
		"more behind":       {append(bytes.Clone(good), 0), false},
		"a set":             {changed(0, 0x31), false},
		"of the context":    {changed(0, 0xb0), false},
		"version 4":         {changed(4, 4), false},
		"no version":        {changed(2, 0x04), false},
		"the version alone": {[]byte{0x30, 3, 2, 1, 3}, false},
	} {
		if got := Looks(tc.data); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Sizes are bounded, and what is as large as may be is read: here it is damaged.
func TestBoundsOfSizes(t *testing.T) {
	t.Parallel()
	if _, err := Decode(make([]byte, maxSize)); err == nil || strings.Contains(err.Error(), "limit") {
		t.Errorf("%v", err)
	}
	for size, limit := range map[int]bool{MaxKeySize: false, MaxKeySize + 1: true} {
		if err := new(reader).addKey(make([]byte, size)); err == nil || strings.Contains(err.Error(), "limit") != limit {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// Revocation lists and secrets are counted.
func TestSkippedThings(t *testing.T) {
	t.Parallel()
	bags := []bag{bagOf(t, oidCRLBag, []byte{5, 0}), bagOf(t, oidSecretBag, []byte{5, 0})}
	contents, err := Decode(file3(t, dataContent(t, marshal(t, []contentInfo{dataContent(t, marshal(t, bags))}))))
	if err != nil || contents.Skipped != 2 {
		t.Errorf("%+v, %v", contents, err)
	}
}
