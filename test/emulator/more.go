package emulator

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/http"

	"software.sslmate.com/src/go-pkcs12"
)

// certificatePolicy is how a certificate is made.
type certificatePolicy struct {
	ID              string           `json:"id"`
	KeyProps        keyProps         `json:"key_props"`
	SecretProps     secretProps      `json:"secret_props"`
	X509Props       x509Props        `json:"x509_props"`
	LifetimeActions []lifetimeAction `json:"lifetime_actions"`
	Issuer          issuerName       `json:"issuer"`
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
	SANs             *sans            `json:"sans,omitempty"`
	EKUs             []string         `json:"ekus"`
	KeyUsage         []string         `json:"key_usage"`
	ValidityMonths   int              `json:"validity_months"`
	BasicConstraints basicConstraints `json:"basic_constraints"`
}

type sans struct {
	DNSNames []string `json:"dns_names"`
}

type basicConstraints struct {
	CA bool `json:"ca"`
}

type lifetimeAction struct {
	Trigger lifetimeTrigger `json:"trigger"`
	Action  lifetimeKind    `json:"action"`
}

type lifetimeTrigger struct {
	LifetimePercentage int `json:"lifetime_percentage"`
}

type lifetimeKind struct {
	ActionType string `json:"action_type"`
}

type issuerName struct {
	Name string `json:"name"`
}

type policyAttributes struct {
	Enabled bool  `json:"enabled"`
	Created int64 `json:"created"`
	Updated int64 `json:"updated"`
}

// policy tells from a certificate how it would have been made.
func (v *vaultState) policy(o *object, n *version) *certificatePolicy {
	p := &certificatePolicy{
		ID:          v.url("certificates", o.name) + "/policy",
		KeyProps:    keyProps{Exportable: !n.notExportable, Kty: n.jwk.Kty, KeySize: n.jwk.bits, Crv: n.jwk.Crv},
		SecretProps: secretProps{ContentType: n.contentType},
		X509Props: x509Props{
			EKUs:     []string{"1.3.6.1.5.5.7.3.1"},
			KeyUsage: []string{"digitalSignature"},
		},
		LifetimeActions: []lifetimeAction{{
			Trigger: lifetimeTrigger{LifetimePercentage: 80},
			Action:  lifetimeKind{ActionType: "AutoRenew"},
		}},
		Issuer: issuerName{Name: "Self"},
		Attributes: policyAttributes{
			Enabled: true,
			Created: stamp(o.versions[0].created),
			Updated: stamp(n.created),
		},
	}
	if c, err := x509.ParseCertificate(n.der); err == nil {
		p.X509Props.Subject = c.Subject.String()
		p.X509Props.ValidityMonths = max(1, int(c.NotAfter.Sub(c.NotBefore).Hours()/24/30))
		p.X509Props.BasicConstraints.CA = c.IsCA
		if len(c.DNSNames) > 0 {
			p.X509Props.SANs = &sans{DNSNames: c.DNSNames}
		}
	}
	return p
}

func (v *vaultState) getPolicy(r route) reply {
	o, err := v.find(r.kind, r.name)
	if err != nil || o.deleted {
		return v.get(r, 0)
	}
	return reply{status: http.StatusOK, body: v.policy(o, o.current())}
}

// convert turns a PFX into PEM as outContentType asks: the one conversion that Key Vault makes.
func convert(a reply, out string) reply {
	names := map[string]string{"application/x-pkcs12": "PFX", "application/x-pem-file": "PEM"}
	title := func(contentType string) string {
		if name, ok := names[contentType]; ok {
			return name
		}
		return "Unsupported"
	}
	body, ok := a.body.(*secretBody)
	if !ok || title(body.ContentType) != "PFX" || title(out) != "PEM" {
		from := ""
		if ok {
			from = body.ContentType
		}
		return refusal(http.StatusBadRequest, "BadParameter", fmt.Sprintf("The '%s' to '%s' transformation is not supported. Only PFX to PEM "+
			"transformation is supported.", title(from), title(out)), "")
	}
	pfx, err := base64.StdEncoding.DecodeString(*body.Value)
	if err != nil {
		return refusal(http.StatusBadRequest, "BadParameter", "the secret is no PFX", "")
	}
	var chain []*x509.Certificate
	var signer crypto.Signer
	if key, leaf, issuers, err := pkcs12.DecodeChain(pfx, ""); err == nil {
		signer, _ = key.(crypto.Signer)
		chain = append([]*x509.Certificate{leaf}, issuers...)
	} else if chain, err = pkcs12.DecodeTrustStore(pfx, ""); err != nil {
		return refusal(http.StatusBadRequest, "BadParameter", "the PFX cannot be converted", "")
	}
	value, err := secretOf(out, chain, signer)
	if err != nil {
		return refusal(http.StatusBadRequest, "BadParameter", "the PFX cannot be converted", "")
	}
	body.Value, body.ContentType = &value, out
	return a
}
