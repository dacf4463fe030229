package encode_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	gopkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode"
)

// TestAnyOrderBecomesLeafToRoot is the promise for a valid chain: whatever order it has in the PFX and whatever is there
// twice, the files hold it from leaf to root, once.
func TestAnyOrderBecomesLeafToRoot(t *testing.T) {
	t.Parallel()
	chains := map[string]struct {
		key   any
		chain []*x509.Certificate
	}{
		"RSA leaf":               {privateKey(t, "rsa"), load(t, "rsa", "intermediate", "root")},
		"EC leaf, no root":       {privateKey(t, "ec"), load(t, "ec", "intermediate")},
		"Ed25519 leaf":           {privateKey(t, "ed25519"), load(t, "ed25519", "intermediate", "root")},
		"no key identifiers":     {privateKey(t, "plain-leaf"), load(t, "plain-leaf", "plain-ca", "plain-root")},
		"CA as leaf":             {privateKey(t, "intermediate"), load(t, "intermediate", "root")},
		"self-signed":            {privateKey(t, "self"), load(t, "self")},
		"root with its own id":   {privateKey(t, "root"), load(t, "root")},
		"cross-signed, one path": {privateKey(t, "rsa"), load(t, "rsa", "intermediate-cross", "root2")},
	}
	for depth := range 5 {
		key, chain := newChain(t, depth)
		chains[fmt.Sprintf("made, %d issuers", depth)] = struct {
			key   any
			chain []*x509.Certificate
		}{key, chain}
	}
	for name, c := range chains {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			random := mathrand.New(mathrand.NewPCG(1, 2))
			want := certificatePEM(c.chain...)
			for range 40 {
				mixed := slices.Clone(c.chain)
				for range random.IntN(4) {
					mixed = append(mixed, c.chain[random.IntN(len(c.chain))])
				}
				random.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
				value := pfxOf(t, c.key, mixed...)
				secret := convert(t, value, encode.Options{Split: true})
				if !bytes.Equal(secret.Certificates, want) || len(secret.Warnings) != 0 {
					t.Fatalf("order %v: got %v, warnings %q", names(mixed), names(certificates(t, secret.Certificates)), secret.Warnings)
				}
				if !secret.NotAfter.Equal(c.chain[0].NotAfter) {
					t.Fatalf("order %v: ends %v, want the leaf's end", names(mixed), secret.NotAfter)
				}
				wantBytes(t, "the order of the file", convert(t, value, encode.Options{Split: true, KeepOrder: true}).Certificates,
					certificatePEM(mixed...))
			}
		})
	}
}

// TestOrderedChainVerifies lets crypto/x509 judge the result.
func TestOrderedChainVerifies(t *testing.T) {
	t.Parallel()
	secret := convert(t, pfxValue(t, "openssl3"), encode.Options{Split: true})
	chain := certificates(t, secret.Certificates)
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), DNSName: "vectors.example",
		CurrentTime: chain[0].NotBefore.Add(time.Hour),
	}
	options.Intermediates.AddCert(chain[1])
	options.Roots.AddCert(chain[2])
	verified, err := chain[0].Verify(options)
	if err != nil || len(verified) != 1 || !slices.EqualFunc(verified[0], chain, (*x509.Certificate).Equal) {
		t.Errorf("verified %d chains, %v", len(verified), err)
	}
}

// TestNoSingleChain keeps the order of the file and warns, whatever is wrong with the certificates.
func TestNoSingleChain(t *testing.T) {
	t.Parallel()
	rsaKey := privateKey(t, "rsa")
	for name, test := range map[string]struct {
		key   any
		chain []*x509.Certificate
	}{
		"missing intermediate":   {rsaKey, load(t, "root", "rsa")},
		"unrelated extra":        {rsaKey, load(t, "self", "intermediate", "rsa", "root")},
		"two leaves":             {rsaKey, load(t, "ec", "rsa", "intermediate", "root")},
		"cross-signed, two ways": {rsaKey, load(t, "root", "intermediate-cross", "intermediate", "rsa", "root2")},
		"repetition in a mess":   {rsaKey, load(t, "root", "rsa", "rsa", "root")},
		"foreign key":            {privateKey(t, "self"), load(t, "rsa", "ec", "root")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			secret := convert(t, pfxOf(t, test.key, test.chain...), encode.Options{Split: true})
			wantBytes(t, "certificates", secret.Certificates, certificatePEM(test.chain...))
			if len(secret.Warnings) != 1 {
				t.Fatalf("warnings %q, want one", secret.Warnings)
			}
			wantLine(t, secret.Warnings[0], "", "keep its order")
		})
	}
}

func TestManyCertificates(t *testing.T) {
	t.Parallel()
	key, chain := newChain(t, 40)
	slices.Reverse(chain)
	secret := convert(t, pfxOf(t, key, chain...), encode.Options{Split: true})
	wantBytes(t, "certificates", secret.Certificates, certificatePEM(chain...))
	if len(secret.Warnings) != 1 || !strings.Contains(secret.Warnings[0], "41 certificates") {
		t.Errorf("warnings %q", secret.Warnings)
	}
}

// TestLongestChain: as many certificates as are ordered at most.
func TestLongestChain(t *testing.T) {
	t.Parallel()
	key, chain := newChain(t, 31)
	mixed := slices.Clone(chain)
	slices.Reverse(mixed)
	secret := convert(t, pfxOf(t, key, mixed...), encode.Options{Split: true})
	wantBytes(t, "certificates", secret.Certificates, certificatePEM(chain...))
}

// TestChainsOfOddCertificates: names, key ids and signatures each decide where the others cannot, and the work is bounded where none does.
func TestChainsOfOddCertificates(t *testing.T) {
	t.Parallel()
	keys := make([]crypto.Signer, 3)
	for i := range keys {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = key
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	// made is a certificate for a key, whose issuer has a name and a key. Certificates of authorities have the key id only.
	made := func(name string, own crypto.Signer, ownID []byte, issuer string, by crypto.Signer, byID []byte) *x509.Certificate {
		t.Helper()
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, SubjectKeyId: ownID,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}
		parent := &x509.Certificate{Subject: pkix.Name{CommonName: issuer}, SubjectKeyId: byID}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, own.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return certificate
	}
	id := func(b byte) []byte { return []byte{b} }
	leaf := func(issuer string, by crypto.Signer, byID []byte) *x509.Certificate {
		return made("leaf", keys[0], nil, issuer, by, byID)
	}
	namesakes := []*x509.Certificate{made("x", keys[0], nil, "x", keys[1], nil)}
	for i := range 31 { // each is issued by the next but one of two keys, so that most checks fail
		namesakes = append(namesakes, made("x", keys[1+i%2], nil, "x", keys[2-i%2], nil))
	}
	for name, tc := range map[string]struct {
		chain []*x509.Certificate
		kept  bool
	}{
		"key ids alone, other names": {chain: []*x509.Certificate{
			leaf("old name", keys[1], id(1)),
			made("new name", keys[1], id(1), "old root", keys[2], id(2)),
			made("new root", keys[2], id(2), "elsewhere", keys[2], nil),
		}},
		"names without key ids, RSA": {chain: []*x509.Certificate{
			leaf("ca", rsaKey, nil), made("ca", rsaKey, nil, "ca", rsaKey, nil),
		}},
		"names, a key id of the issuer alone": {chain: []*x509.Certificate{
			leaf("ca", keys[1], nil), made("ca", keys[1], id(1), "ca", keys[1], nil),
		}},
		"names, a key id in the leaf alone": {chain: []*x509.Certificate{
			leaf("ca", keys[1], id(1)), made("ca", keys[1], nil, "ca", keys[1], nil),
		}},
		"the right key under another name": {kept: true, chain: []*x509.Certificate{
			leaf("ca", keys[1], nil), made("another", keys[1], nil, "another", keys[1], nil),
		}},
		"the right name with another key": {kept: true, chain: []*x509.Certificate{
			leaf("ca", keys[1], nil), made("ca", keys[2], nil, "ca", keys[2], nil),
		}},
		"other key ids": {kept: true, chain: []*x509.Certificate{
			leaf("ca", keys[1], id(1)), made("ca", keys[1], id(2), "ca", keys[1], id(2)),
		}},
		"all of one name": {kept: true, chain: namesakes},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mixed := slices.Clone(tc.chain)
			slices.Reverse(mixed)
			want := tc.chain
			if tc.kept {
				want = mixed
			}
			secret := convert(t, pfxOf(t, keys[0], mixed...), encode.Options{Split: true})
			wantBytes(t, "certificates", secret.Certificates, certificatePEM(want...))
			if kept := len(secret.Warnings) == 1; kept != tc.kept {
				t.Errorf("warnings %q", secret.Warnings)
			}
		})
	}
}

func TestUnreadableCertificate(t *testing.T) {
	t.Parallel()
	broken := &x509.Certificate{Raw: []byte{0x30, 0x03, 0x02, 0x01, 0x01}}
	chain := append(load(t, "root", "rsa"), broken)
	secret := convert(t, pfxOf(t, privateKey(t, "rsa"), chain...), encode.Options{Split: true})
	wantBytes(t, "certificates", secret.Certificates, certificatePEM(chain...))
	if len(secret.Warnings) != 1 || !strings.Contains(secret.Warnings[0], "certificate 3 of 3") {
		t.Errorf("warnings %q", secret.Warnings)
	}
	if !secret.NotAfter.Equal(certificate(t, "rsa").NotAfter) {
		t.Errorf("ends %v, want the leaf's end", secret.NotAfter)
	}
}

// TestUpstreamOrder is the other promise: whatever set of certificates the provider of today can order, the order is the
// same. Its rule, key identifiers alone, is written down in referenceOrder.
func TestUpstreamOrder(t *testing.T) {
	t.Parallel()
	all := load(t, "rsa", "ec", "intermediate", "intermediate-cross", "root", "root2", "self", "plain-leaf", "plain-ca", "plain-root")
	key := privateKey(t, "rsa")
	random := mathrand.New(mathrand.NewPCG(3, 4))
	ordered := 0
	for range 1200 {
		set := make([]*x509.Certificate, 1+random.IntN(4))
		for i := range set {
			set[i] = all[random.IntN(len(all))]
		}
		want := referenceOrder(set)
		if want == nil {
			continue
		}
		ordered++
		got := convert(t, pfxOf(t, key, set...), encode.Options{Split: true})
		if !bytes.Equal(got.Certificates, certificatePEM(want...)) {
			t.Fatalf("order %v: got %v, want %v", names(set), names(certificates(t, got.Certificates)), names(want))
		}
	}
	if ordered < 100 {
		t.Errorf("only %d sets could be ordered: the test shows too little", ordered)
	}
}

// referenceOrder orders certificates by key identifiers: the first certificate that is nobody's parent is the leaf, and
// the parent of a certificate is the first other one whose subject key id is its authority key id. It returns nil where
// that does not give all of them.
func referenceOrder(set []*x509.Certificate) []*x509.Certificate {
	parents := make(map[int]int)
	isParent := make(map[int]bool)
	for i, child := range set {
		for j, parent := range set {
			if i != j && len(child.AuthorityKeyId) > 0 && bytes.Equal(child.AuthorityKeyId, parent.SubjectKeyId) {
				parents[i] = j
				isParent[j] = true
				break
			}
		}
	}
	for i := range set {
		if isParent[i] {
			continue
		}
		ordered := []*x509.Certificate{set[i]}
		for at := i; len(ordered) <= len(set); {
			next, ok := parents[at]
			if !ok {
				break
			}
			ordered = append(ordered, set[next])
			at = next
		}
		if len(ordered) == len(set) {
			return ordered
		}
		return nil
	}
	return nil
}

// newChain makes a leaf with a number of issuers, the last of them self-signed.
func newChain(t testing.TB, issuers int) (crypto.Signer, []*x509.Certificate) {
	t.Helper()
	var chain []*x509.Certificate
	var signer *ecdsa.PrivateKey
	for level := issuers; level >= 0; level-- {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(level + 1)), Subject: pkix.Name{CommonName: fmt.Sprintf("level %d", level)},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Duration(level+1) * time.Hour),
			BasicConstraintsValid: true, IsCA: level > 0,
		}
		parent := template
		if len(chain) > 0 {
			parent = chain[0]
		} else {
			signer = key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append([]*x509.Certificate{made}, chain...)
		signer = key
	}
	return signer, chain
}

// pfxOf makes the value of a secret that holds a key and certificates in this order.
func pfxOf(t testing.TB, key any, chain ...*x509.Certificate) string {
	t.Helper()
	der, err := gopkcs12.LegacyDES.WithIterations(1).Encode(key, chain[0], chain[1:], "")
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

func load(t testing.TB, list ...string) (loaded []*x509.Certificate) {
	t.Helper()
	for _, name := range list {
		loaded = append(loaded, certificate(t, name))
	}
	return loaded
}

func certificatePEM(list ...*x509.Certificate) (text []byte) {
	for _, c := range list {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}

func names(list []*x509.Certificate) (names []string) {
	for _, c := range list {
		names = append(names, c.Subject.CommonName+" by "+c.Issuer.CommonName)
	}
	return names
}
