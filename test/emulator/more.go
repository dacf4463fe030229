package emulator

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"

	"software.sslmate.com/src/go-pkcs12"
)

// certificatePolicy is how a certificate is made.
type certificatePolicy struct {
	ID              string           `json:"id"`
	KeyProps        keyProps         `json:"key_props"`
	SecretProps     secretProps      `json:"secret_props"`
	X509Props       x509Props        `json:"x509_props"`
	LifetimeActions []lifetimeAction `json:"lifetime_actions"`
	Issuer          policyIssuer     `json:"issuer"`
	Attributes      policyAttributes `json:"attributes"`
}

type keyProps struct {
	Exportable bool   `json:"exportable"`
	Kty        string `json:"kty"`
	KeySize    int    `json:"key_size,omitempty"`
	ReuseKey   bool   `json:"reuse_key"`
	Crv        string `json:"crv,omitempty"`
}

type secretProps struct {
	ContentType string `json:"contentType"`
}

type x509Props struct {
	Subject          string           `json:"subject"`
	SANs             any              `json:"sans,omitempty"`
	EKUs             []string         `json:"ekus"`
	KeyUsage         []string         `json:"key_usage"`
	ValidityMonths   int              `json:"validity_months"`
	BasicConstraints basicConstraints `json:"basic_constraints"`
}

type sans struct {
	Emails      []string `json:"emails,omitempty"`
	DNSNames    []string `json:"dns_names,omitempty"`
	UPNs        []string `json:"upns,omitempty"`
	URIs        []string `json:"uris,omitempty"`
	IPAddresses []string `json:"ipAddresses,omitempty"`
}

// importedSANs are those of a certificate that was imported, whose lists are there although they are empty.
type importedSANs struct {
	Emails      []string `json:"emails"`
	DNSNames    []string `json:"dns_names"`
	UPNs        []string `json:"upns"`
	URIs        []string `json:"uris,omitempty"`
	IPAddresses []string `json:"ipAddresses,omitempty"`
}

type basicConstraints struct {
	CA bool `json:"ca"`
}

type lifetimeAction struct {
	Trigger lifetimeTrigger `json:"trigger"`
	Action  lifetimeKind    `json:"action"`
}

type lifetimeTrigger struct {
	LifetimePercentage int `json:"lifetime_percentage,omitempty"`
	DaysBeforeExpiry   int `json:"days_before_expiry,omitempty"`
}

type lifetimeKind struct {
	ActionType string `json:"action_type"`
}

// policyIssuer is who signs.
type policyIssuer struct {
	Name             string `json:"name"`
	CertificateType  string `json:"cty,omitempty"`
	CertTransparency *bool  `json:"cert_transparency,omitempty"`
}

type issuerName struct {
	Name string `json:"name"`
}

type policyAttributes struct {
	Enabled bool  `json:"enabled"`
	Created int64 `json:"created"`
	Updated int64 `json:"updated"`
}

// policy is how the next version of a certificate is made: a copy of the one that was set, or one that is derived from the
// current version.
func (v *vaultState) policy(o *object, n *version) *certificatePolicy {
	if o.policy != nil {
		p := *o.policy
		return &p
	}
	p := toldPolicy(n)
	p.ID = v.url("certificates", o.name) + "/policy"
	p.Attributes = policyAttributes{Enabled: true, Created: stamp(o.versions[0].created), Updated: stamp(n.created)}
	return p
}

// toldPolicy tells from a certificate how it was made, or, where it was given, how the service describes an imported one.
func toldPolicy(n *version) *certificatePolicy {
	p := &certificatePolicy{
		KeyProps:    keyProps{Exportable: !n.notExportable, Kty: n.jwk.Kty, KeySize: n.jwk.bits, Crv: n.jwk.Crv},
		SecretProps: secretProps{ContentType: n.contentType},
		LifetimeActions: []lifetimeAction{{
			Trigger: lifetimeTrigger{LifetimePercentage: 80},
			Action:  lifetimeKind{ActionType: "AutoRenew"},
		}},
		Issuer: policyIssuer{Name: "Self"},
	}
	if size, ok := curveSizes[n.jwk.Crv]; ok {
		p.KeyProps.KeySize = size
	}
	if n.csr == nil {
		p.LifetimeActions[0].Action.ActionType, p.Issuer.Name = "EmailContacts", "Unknown"
	}
	if c, err := x509.ParseCertificate(n.der); err == nil {
		p.X509Props = x509PropsOf(c, n.csr == nil)
	}
	return p
}

var curveSizes = map[string]int{"P-256": 256, "P-256K": 256, "P-384": 384, "P-521": 521}

func x509PropsOf(c *x509.Certificate, imported bool) x509Props {
	p := x509Props{
		Subject:  distinguishedName(c.Subject),
		EKUs:     []string{},
		KeyUsage: []string{},
		// a hundred years are 1200 months, with any leap days
		ValidityMonths:   max(1, int(math.Round(c.NotAfter.Sub(c.NotBefore).Hours()/24*12/365))),
		BasicConstraints: basicConstraints{CA: c.IsCA},
	}
	for _, usage := range c.ExtKeyUsage {
		if oid, ok := ekus[usage]; ok {
			p.EKUs = append(p.EKUs, oid)
		}
	}
	for i, name := range keyUsages {
		if c.KeyUsage&(1<<i) != 0 {
			p.KeyUsage = append(p.KeyUsage, name)
		}
	}
	slices.Sort(p.KeyUsage)
	names := sans{Emails: c.EmailAddresses, DNSNames: c.DNSNames}
	for _, uri := range c.URIs {
		names.URIs = append(names.URIs, uri.String())
	}
	for _, ip := range c.IPAddresses {
		names.IPAddresses = append(names.IPAddresses, ip.String())
	}
	switch {
	case len(names.Emails)+len(names.DNSNames)+len(names.URIs)+len(names.IPAddresses) == 0:
	case imported:
		p.SANs = importedSANs{
			Emails:      append([]string{}, names.Emails...),
			DNSNames:    append([]string{}, names.DNSNames...),
			UPNs:        []string{},
			URIs:        names.URIs,
			IPAddresses: names.IPAddresses,
		}
	default:
		p.SANs = names
	}
	return p
}

// keyUsages are in the order of the bits (RFC 5280, section 4.2.1.3).
var keyUsages = []string{
	"digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment", "keyAgreement", "keyCertSign", "cRLSign",
	"encipherOnly", "decipherOnly",
}

var ekus = map[x509.ExtKeyUsage]string{
	x509.ExtKeyUsageAny:             "2.5.29.37.0",
	x509.ExtKeyUsageServerAuth:      "1.3.6.1.5.5.7.3.1",
	x509.ExtKeyUsageClientAuth:      "1.3.6.1.5.5.7.3.2",
	x509.ExtKeyUsageCodeSigning:     "1.3.6.1.5.5.7.3.3",
	x509.ExtKeyUsageEmailProtection: "1.3.6.1.5.5.7.3.4",
	x509.ExtKeyUsageTimeStamping:    "1.3.6.1.5.5.7.3.8",
	x509.ExtKeyUsageOCSPSigning:     "1.3.6.1.5.5.7.3.9",
}

// attributeNames are those of Windows, which the service uses: a state is S.
var attributeNames = map[string]string{
	"2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "S", "2.5.4.10": "O", "2.5.4.11": "OU",
}

// distinguishedName writes a name as the service does: last part first, with spaces.
func distinguishedName(name pkix.Name) string {
	var parts []string
	for _, relative := range slices.Backward(name.ToRDNSequence()) {
		for _, attribute := range relative {
			title, ok := attributeNames[attribute.Type.String()]
			if !ok {
				title = "OID." + attribute.Type.String()
			}
			parts = append(parts, fmt.Sprintf("%s=%v", title, attribute.Value))
		}
	}
	return strings.Join(parts, ", ")
}

// operationBody is the operation that made a certificate, when it is done.
type operationBody struct {
	ID                    string     `json:"id"`
	Issuer                issuerName `json:"issuer"`
	CSR                   string     `json:"csr"`
	CancellationRequested bool       `json:"cancellation_requested"`
	Status                string     `json:"status"`
	StatusDetails         string     `json:"status_details,omitempty"`
	Target                string     `json:"target,omitempty"`
	RequestID             string     `json:"request_id"`
}

// rotationBody is a key's rotation policy.
type rotationBody struct {
	ID              string              `json:"id,omitempty"`
	LifetimeActions []rotationAction    `json:"lifetimeActions"`
	Attributes      *rotationAttributes `json:"attributes"`
}

type rotationAttributes struct {
	ExpiryTime string `json:"expiryTime,omitempty"`
	Created    int64  `json:"created"`
	Updated    int64  `json:"updated"`
}

type rotationAction struct {
	Trigger rotationTrigger `json:"trigger"`
	Action  rotationKind    `json:"action"`
}

type rotationTrigger struct {
	TimeAfterCreate  string `json:"timeAfterCreate,omitempty"`
	TimeBeforeExpiry string `json:"timeBeforeExpiry,omitempty"`
}

type rotationKind struct {
	Type string `json:"type"`
}

// getSide answers for what is beside versions.
func (v *vaultState) getSide(x *exchange, r route, p paging) reply {
	switch {
	case r.side == sideIssuer && r.list:
		return v.listIssuers(x, p)
	case r.side == sideIssuer:
		if kept := v.issuers[strings.ToLower(r.name)]; kept != nil {
			return reply{status: http.StatusOK, body: *kept}
		}
		return noIssuer()
	case r.side == sideContacts:
		if v.contacts != nil {
			return reply{status: http.StatusOK, body: *v.contacts}
		}
		return noContacts()
	}
	o, err := v.find(r.kind, r.name)
	switch missing := err != nil || o.deleted; {
	case r.side == sideOperation && (missing || !o.hasOperation()):
		return noOperation(r.name)
	case missing:
		return r.notFound()
	case r.side == sidePolicy:
		return reply{status: http.StatusOK, body: v.policy(o, o.current())}
	case r.side == sideOperation:
		return v.operation(o)
	}
	if o.rotation != nil {
		return reply{status: http.StatusOK, body: o.rotation}
	}
	return reply{status: http.StatusOK, body: defaultRotation()}
}

// defaultRotation is the policy that the service gives where none was set.
func defaultRotation() rotationBody {
	return rotationBody{LifetimeActions: []rotationAction{{
		Trigger: rotationTrigger{TimeBeforeExpiry: "P30D"},
		Action:  rotationKind{Type: "Notify"},
	}}}
}

// operation answers with how the current version of a certificate came to be, or is about to.
func (v *vaultState) operation(o *object) reply {
	n, id := o.current(), v.url("certificates", o.name)
	body := operationBody{
		ID:        id + "/pending",
		Issuer:    issuerName{Name: "Self"},
		CSR:       base64.StdEncoding.EncodeToString(n.csr),
		Status:    "completed",
		Target:    id,
		RequestID: n.id, // made up, but always the same
	}
	pending := n.pending
	if op := o.operation; op != nil {
		body.Issuer.Name, body.RequestID, body.CSR = op.issuer, op.id, base64.StdEncoding.EncodeToString(op.csr)
		body.CancellationRequested, pending = op.cancelled, !op.done
	}
	a := reply{status: http.StatusOK}
	if pending {
		body.Status, body.Target = "inProgress", ""
		body.StatusDetails = "Pending certificate created. Certificate request is in progress. This may take some time based on the " +
			"issuer provider. Please check again later."
		if o.operation != nil && strings.EqualFold(o.operation.issuer, "Unknown") {
			body.StatusDetails = "Pending certificate created. Please Perform Merge to complete the request."
		}
		a.header = map[string]string{"Retry-After": "10"}
	}
	a.body = body
	return a
}

// convert turns a PFX into PEM as outContentType asks: the one conversion that Key Vault makes. What only says that it
// is a PFX is none to it.
func convert(a reply, out string) reply {
	names := map[string]string{"application/x-pkcs12": "PFX", "application/x-pem-file": "PEM"}
	title := func(contentType string) string {
		if name, ok := names[contentType]; ok {
			return name
		}
		return "Unsupported"
	}
	body, ok := a.body.(*secretBody)
	if !ok {
		return a
	}
	from := title(body.ContentType)
	if from == "PFX" && title(out) == "PEM" {
		if value, ok := pemOf(*body.Value); ok {
			body.Value, body.ContentType = &value, out
			return a
		}
		from = "Unsupported"
	}
	return refusal(http.StatusBadRequest, "BadParameter", fmt.Sprintf("The '%s' to '%s' transformation is not supported. Only "+
		"PFX to PEM transformation is supported.", from, title(out)), "")
}

// pemOf returns false for what is no PFX.
func pemOf(value string) (string, bool) {
	pfx, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		return "", false
	}
	var chain []*x509.Certificate
	var signer crypto.Signer
	if key, leaf, issuers, err := pkcs12.DecodeChain(pfx, ""); err == nil {
		signer, _ = key.(crypto.Signer)
		chain = append([]*x509.Certificate{leaf}, issuers...)
	} else if chain, err = pkcs12.DecodeTrustStore(pfx, ""); err != nil {
		return "", false
	}
	text, err := secretOf("application/x-pem-file", chain, signer)
	return text, err == nil
}
