package emulator

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // key identifiers are SHA-1 (RFC 5280, section 4.2.1.2)
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// givenPolicy is a policy in a request. What is nil stays as it is.
type givenPolicy struct {
	KeyProps        *givenKeyProps   `json:"key_props"`
	SecretProps     *secretProps     `json:"secret_props"`
	X509Props       *givenX509Props  `json:"x509_props"`
	LifetimeActions []lifetimeAction `json:"lifetime_actions"`
	Issuer          *policyIssuer    `json:"issuer"`
}

type givenKeyProps struct {
	Exportable *bool  `json:"exportable"`
	Kty        string `json:"kty"`
	KeySize    int    `json:"key_size"`
	ReuseKey   *bool  `json:"reuse_key"`
	Crv        string `json:"crv"`
}

type givenX509Props struct {
	Subject          *string           `json:"subject"`
	SANs             *sans             `json:"sans"`
	EKUs             []string          `json:"ekus"`
	KeyUsage         []string          `json:"key_usage"`
	ValidityMonths   *int              `json:"validity_months"`
	BasicConstraints *basicConstraints `json:"basic_constraints"`
}

// defaultPolicy is what the service adds to a policy that says nothing.
func defaultPolicy() *certificatePolicy {
	return &certificatePolicy{
		KeyProps:    keyProps{Exportable: true, Kty: "RSA", KeySize: 2048},
		SecretProps: secretProps{ContentType: "application/x-pkcs12"},
		X509Props:   x509Props{EKUs: []string{"1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"}, ValidityMonths: 12},
	}
}

// The most that a policy may have.
const (
	maxNames  = 100
	maxMonths = 1200
)

// over changes a policy as the request says. Without a request it completes the policy.
func (g *givenPolicy) over(p *certificatePolicy) *reply {
	bad := func(message string) *reply {
		a := badParameter(message)
		return &a
	}
	if g == nil {
		g = &givenPolicy{}
	}
	if g.KeyProps != nil {
		g.KeyProps.over(&p.KeyProps)
	}
	if keyType(p.KeyProps.Kty) == "" {
		return bad("Invalid kty value: " + p.KeyProps.Kty[:min(len(p.KeyProps.Kty), 64)])
	}
	if g.SecretProps != nil && g.SecretProps.ContentType != "" {
		p.SecretProps = *g.SecretProps
	}
	if c := p.SecretProps.ContentType; c != "application/x-pkcs12" && c != "application/x-pem-file" {
		return bad("The content type of a certificate's secret is application/x-pkcs12 or application/x-pem-file.")
	}
	if g.X509Props != nil {
		if message := g.X509Props.over(&p.X509Props); message != "" {
			return bad(message)
		}
	}
	if p.X509Props.KeyUsage == nil {
		p.X509Props.KeyUsage = []string{"digitalSignature", "keyEncipherment"}
		if keyType(p.KeyProps.Kty) == "EC" {
			p.X509Props.KeyUsage = p.X509Props.KeyUsage[:1]
		}
	}
	if g.Issuer != nil && g.Issuer.Name != "" {
		p.Issuer = *g.Issuer
	}
	if g.LifetimeActions != nil {
		p.LifetimeActions = g.LifetimeActions
	}
	if p.LifetimeActions == nil {
		action := "AutoRenew"
		if strings.EqualFold(p.Issuer.Name, "Unknown") {
			action = "EmailContacts"
		}
		p.LifetimeActions = []lifetimeAction{{
			Trigger: lifetimeTrigger{LifetimePercentage: 80},
			Action:  lifetimeKind{ActionType: action},
		}}
	}
	for _, action := range p.LifetimeActions {
		t, kind := action.Trigger, action.Action.ActionType
		if kind != "AutoRenew" && kind != "EmailContacts" || (t.LifetimePercentage == 0) == (t.DaysBeforeExpiry == 0) ||
			t.LifetimePercentage < 0 || t.LifetimePercentage > 99 || t.DaysBeforeExpiry < 0 {
			return bad("A lifetime action is AutoRenew or EmailContacts, by a percentage from 1 to 99 or days before the expiry.")
		}
	}
	return nil
}

func (g *givenKeyProps) over(p *keyProps) {
	if g.Exportable != nil {
		p.Exportable = *g.Exportable
	}
	if g.ReuseKey != nil {
		p.ReuseKey = *g.ReuseKey
	}
	if g.Kty != "" && g.Kty != p.Kty {
		*p = keyProps{Exportable: p.Exportable, ReuseKey: p.ReuseKey, Kty: g.Kty}
	}
	if keyType(p.Kty) == "EC" {
		if g.Crv != "" {
			p.Crv = g.Crv
		} else if p.Crv == "" {
			p.Crv = "P-256"
		}
		p.KeySize = curveSizes[p.Crv]
		return
	}
	if g.KeySize != 0 {
		p.KeySize = g.KeySize
	} else if p.KeySize == 0 {
		p.KeySize = 2048
	}
}

// fits reports whether a key is one that the properties ask for.
func (p keyProps) fits(key crypto.Signer) bool {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return keyType(p.Kty) == "RSA" && key.N.BitLen() == p.KeySize
	case *ecdsa.PrivateKey:
		return keyType(p.Kty) == "EC" && key.Params().Name == p.Crv
	}
	return false
}

// over returns what is wrong, if anything is.
func (g *givenX509Props) over(p *x509Props) string {
	if g.Subject != nil {
		p.Subject = *g.Subject
	}
	if g.SANs != nil {
		p.SANs = *g.SANs
	}
	if g.EKUs != nil {
		p.EKUs = g.EKUs
	}
	if g.KeyUsage != nil {
		p.KeyUsage = g.KeyUsage
	}
	if g.ValidityMonths != nil {
		p.ValidityMonths = *g.ValidityMonths
	}
	if g.BasicConstraints != nil {
		p.BasicConstraints = *g.BasicConstraints
	}
	switch names, _ := p.SANs.(sans); {
	case p.ValidityMonths < 1 || p.ValidityMonths > maxMonths:
		return fmt.Sprintf("The validity of a certificate is 1 to %d months.", maxMonths)
	case len(p.EKUs)+len(p.KeyUsage) > maxNames || names.count() > maxNames:
		return fmt.Sprintf("A policy has at most %d names and at most %d usages.", maxNames, maxNames)
	}
	return ""
}

func (s sans) count() int {
	return len(s.Emails) + len(s.DNSNames) + len(s.UPNs) + len(s.URIs) + len(s.IPAddresses)
}

// material is what a certificate is made of, from the leaf to the root.
type material struct {
	private crypto.Signer
	chain   []*x509.Certificate
	// csr is nil for what was imported.
	csr []byte
}

// makeMaterial makes a self-signed certificate and its request by a policy, with a key that is given or a new one.
func (p *certificatePolicy) makeMaterial(private crypto.Signer, now time.Time) (*material, error) {
	template, err := p.X509Props.template(now)
	if err != nil {
		return nil, err
	}
	if private == nil {
		if private, err = newKey(p.KeyProps.Kty, p.KeyProps.Crv, p.KeyProps.KeySize); err != nil {
			return nil, err
		}
	}
	public, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	sum := sha1.Sum(public) //nolint:gosec // a key identifier
	template.SubjectKeyId = sum[:]
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	request := &x509.CertificateRequest{RawSubject: template.RawSubject}
	for _, extension := range leaf.Extensions {
		switch extension.Id.String() {
		case "2.5.29.15", "2.5.29.37", "2.5.29.17", "2.5.29.19": // usages, names, constraints
			request.ExtraExtensions = append(request.ExtraExtensions, extension)
		}
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, request, private)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	return &material{private: private, chain: []*x509.Certificate{leaf}, csr: csr}, nil
}

func (p *x509Props) template(now time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	subject, err := parseDistinguishedName(p.Subject)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		NotBefore:             now.Add(-10 * time.Minute), // as the service does
		NotAfter:              now.AddDate(0, p.ValidityMonths, 0),
		BasicConstraintsValid: true,
		IsCA:                  p.BasicConstraints.CA,
	}
	if template.RawSubject, err = asn1.Marshal(subject); err != nil {
		return nil, fmt.Errorf("subject: %w", err)
	}
	if names, ok := p.SANs.(sans); ok {
		template.DNSNames, template.EmailAddresses = names.DNSNames, names.Emails
		for _, text := range names.IPAddresses {
			ip := net.ParseIP(text)
			if ip == nil {
				return nil, fmt.Errorf("%q is no IP address", text)
			}
			template.IPAddresses = append(template.IPAddresses, ip)
		}
		for _, text := range names.URIs {
			uri, err := url.Parse(text)
			if err != nil {
				return nil, fmt.Errorf("%q is no URI", text)
			}
			template.URIs = append(template.URIs, uri)
		}
	}
	for _, name := range p.KeyUsage {
		bit := slices.Index(keyUsages, name)
		if bit < 0 {
			return nil, fmt.Errorf("the key usage %q is not known", name)
		}
		template.KeyUsage |= 1 << bit
	}
	for _, text := range p.EKUs {
		oid, err := parseOID(text)
		if err != nil {
			return nil, err
		}
		template.UnknownExtKeyUsage = append(template.UnknownExtKeyUsage, oid)
	}
	return template, nil
}

var oidForm = regexp.MustCompile(`^[0-2](\.\d{1,9}){1,30}$`)

func parseOID(text string) (asn1.ObjectIdentifier, error) {
	if !oidForm.MatchString(text) {
		return nil, fmt.Errorf("%q is no object identifier", text)
	}
	var oid asn1.ObjectIdentifier
	for part := range strings.SplitSeq(text, ".") {
		n, _ := strconv.Atoi(part) // at most nine digits
		oid = append(oid, n)
	}
	return oid, nil
}

// parseDistinguishedName reads a name such as "CN=shop.example.com, O=Contoso". Parts are separated by commas, values
// may be quoted, and the first part is the last one of the certificate's name.
func parseDistinguishedName(text string) (pkix.RDNSequence, error) {
	var sequence pkix.RDNSequence
	for rest := strings.TrimSpace(text); rest != ""; {
		name, after, ok := strings.Cut(rest, "=")
		if !ok {
			return nil, errors.New("the subject is not of the form CN=name")
		}
		oid, err := attributeType(strings.TrimSpace(name))
		if err != nil {
			return nil, err
		}
		var value string
		if value, rest, err = attributeValue(strings.TrimSpace(after)); err != nil {
			return nil, err
		}
		if len(sequence) >= maxNames {
			return nil, fmt.Errorf("the subject has more than %d parts", maxNames)
		}
		sequence = append(sequence, pkix.RelativeDistinguishedNameSET{{Type: oid, Value: value}})
	}
	slices.Reverse(sequence)
	return sequence, nil
}

func attributeType(name string) (asn1.ObjectIdentifier, error) {
	upper := strings.ToUpper(name)
	for oid, known := range attributeNames {
		if known == upper {
			return parseOID(oid)
		}
	}
	switch upper {
	case "ST":
		return asn1.ObjectIdentifier{2, 5, 4, 8}, nil
	case "SERIALNUMBER":
		return asn1.ObjectIdentifier{2, 5, 4, 5}, nil
	case "E":
		return asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, nil
	case "DC":
		return asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}, nil
	}
	return parseOID(strings.TrimPrefix(upper, "OID."))
}

// attributeValue reads one value, and returns what is after the comma that ends it.
func attributeValue(text string) (value, rest string, err error) {
	var out strings.Builder
	quoted := strings.HasPrefix(text, `"`)
	i := 0
	if quoted {
		i = 1
	}
	for ; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text):
			i++
			out.WriteByte(text[i])
		case quoted && c == '"' && i+1 < len(text) && text[i+1] == '"':
			i++
			out.WriteByte('"')
		case quoted && c == '"':
			after := strings.TrimSpace(text[i+1:])
			if after != "" && after[0] != ',' {
				return "", "", errors.New("the subject has text after a quoted value")
			}
			return out.String(), strings.TrimSpace(strings.TrimPrefix(after, ",")), nil
		case !quoted && c == ',':
			return strings.TrimSpace(out.String()), strings.TrimSpace(text[i+1:]), nil
		default:
			out.WriteByte(c)
		}
	}
	if quoted {
		return "", "", errors.New("the subject has a quote that does not end")
	}
	return strings.TrimSpace(out.String()), "", nil
}

// readMaterial reads an imported PFX or PEM, of the content type that was asked for if any was.
func readMaterial(value, password, asked string) (m *material, contentType string, bad *reply) {
	refuse := func(message string) (*material, string, *reply) {
		a := badParameter(message)
		return nil, "", &a
	}
	text := value
	decoded, err := base64.StdEncoding.DecodeString(strings.Map(func(c rune) rune {
		if c == '\r' || c == '\n' {
			return -1
		}
		return c
	}, value))
	if err == nil && strings.Contains(string(decoded), "-----BEGIN ") {
		text = string(decoded)
	}
	if strings.Contains(text, "-----BEGIN ") || asked == "application/x-pem-file" {
		if m, err = readPEM(text); err != nil {
			return refuse("The specified PEM X.509 certificate content is in an unexpected format. Please check if certificate is " +
				"in valid PEM format.")
		}
		contentType = "application/x-pem-file"
	} else {
		if err == nil {
			m, err = readPFX(decoded, password)
		}
		if err != nil {
			return refuse("The specified PKCS#12 X.509 certificate content can not be read. Please check if certificate is in " +
				"valid PKCS#12 format.")
		}
		contentType = "application/x-pkcs12"
	}
	if asked != "" {
		contentType = asked
	}
	if !samePublic(m.chain[0].PublicKey, m.private) {
		return refuse(mismatch)
	}
	return m, contentType, nil
}

// samePublic reports whether a public key is the private one's.
func samePublic(public crypto.PublicKey, private crypto.Signer) bool {
	key, ok := public.(interface {
		Equal(other crypto.PublicKey) bool
	})
	return ok && key.Equal(private.Public())
}

// readPEM reads a private key as PKCS #8 and certificates, the leaf first: the service takes no other form.
func readPEM(text string) (*material, error) {
	m := &material{}
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch block.Type {
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("key: %w", err)
			}
			signer, ok := key.(crypto.Signer)
			if !ok || m.private != nil {
				return nil, errors.New("not one private key")
			}
			m.private = signer
		case "CERTIFICATE":
			one, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("certificate: %w", err)
			}
			m.chain = append(m.chain, one)
		default:
			return nil, fmt.Errorf("a block of type %q", block.Type)
		}
	}
	if m.private == nil || len(m.chain) == 0 {
		return nil, errors.New("no private key or no certificate")
	}
	return m, nil
}

func readPFX(pfx []byte, password string) (*material, error) {
	if !modestRounds(pfx, 0) {
		return nil, errors.New("too many rounds of key derivation")
	}
	key, leaf, issuers, err := pkcs12.DecodeChain(pfx, password)
	if err != nil {
		return nil, fmt.Errorf("pfx: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T is no key of Key Vault", key)
	}
	return &material{private: signer, chain: append([]*x509.Certificate{leaf}, issuers...)}, nil
}

// maxRounds is how many rounds of key derivation a PFX may ask for at each place.
const maxRounds = 1_000_000

// modestRounds looks for the parameters of key derivations in DER: a salt and then the number of rounds. It returns
// false for a number that would take too long. It sees those that are not encrypted themselves.
func modestRounds(der []byte, depth int) bool {
	salted := false
	for len(der) > 0 && depth < 30 {
		var value asn1.RawValue
		rest, err := asn1.Unmarshal(der, &value)
		if err != nil {
			return true // the parser will refuse it, or it is no DER
		}
		der = rest
		isInteger := value.Class == asn1.ClassUniversal && value.Tag == asn1.TagInteger
		isOctets := value.Class == asn1.ClassUniversal && value.Tag == asn1.TagOctetString
		if salted && isInteger && new(big.Int).SetBytes(value.Bytes).Cmp(big.NewInt(maxRounds)) > 0 {
			return false
		}
		if (value.IsCompound || isOctets) && !modestRounds(value.Bytes, depth+1) {
			return false
		}
		salted = isOctets
	}
	return true
}
