package identity

import (
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// principal is a service principal with a secret or a certificate.
type principal struct {
	entra
	secret      string
	certificate []byte
	password    string // of the certificate
	// hash tells credentials apart in the key.
	hash string
}

// newPrincipal takes the credential from the Secret that nodePublishSecretRef names. Keys count in any letter case.
func newPrincipal(at entra, secrets volume.Secrets, hash func(parts ...string) string) (*principal, error) {
	at.client = ""
	p := &principal{entra: at}
	for key, value := range secrets {
		value := strings.TrimRight(value, "\r\n") // editors and `echo` leave one
		switch strings.ToLower(key) {
		case "clientid":
			p.client = strings.TrimSpace(value)
		case "clientsecret":
			p.secret = value
		case "clientcertificate":
			p.certificate = []byte(value)
		case "clientcertificatepassword":
			p.password = value
		}
	}
	const where = "in the Secret of nodePublishSecretRef"
	var lacks string
	switch {
	case p.client == "":
		lacks = "there is no clientid " + where + ": add it"
	case p.secret == "" && len(p.certificate) == 0:
		lacks = "there is neither clientsecret nor clientcertificate " + where + ": add one"
	case p.secret != "" && len(p.certificate) > 0:
		lacks = "there are both clientsecret and clientcertificate " + where + ": remove one"
	case p.tenant == "":
		lacks = "no tenant is known: set tenantID in the class"
	}
	if lacks != "" {
		return nil, &volume.Error{Reason: volume.ReasonIdentity, Message: lacks}
	}
	p.hash = hash(p.secret, string(p.certificate), p.password)
	return p, nil
}

func (*principal) name() string { return "service principal" }

func (p *principal) String() string {
	return fmt.Sprintf("service principal %s of tenant %s", p.client, p.tenant)
}

func (p *principal) key() string { return keyOf(p.name(), p.authority, p.tenant, p.client, p.hash) }

func (p *principal) credential(options azcore.ClientOptions) (azcore.TokenCredential, error) {
	options = p.at(options)
	if p.secret != "" {
		return azidentity.NewClientSecretCredential(p.tenant, p.client, p.secret, // the caller explains
			&azidentity.ClientSecretCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true})
	}
	certificates, key, err := azidentity.ParseCertificates(p.decoded(), []byte(p.password))
	if err != nil {
		return nil, &volume.Error{
			Reason: volume.ReasonIdentity,
			Message: "clientcertificate in the Secret of nodePublishSecretRef is not " +
				"readable: give a PEM file with certificate and private key, or a PFX (its password as " +
				"clientcertificatepassword)",
			Cause: err,
		}
	}
	return azidentity.NewClientCertificateCredential(p.tenant, p.client, certificates, key, // the caller explains
		&azidentity.ClientCertificateCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true})
}

// decoded returns the certificate's bytes: a PFX may be in the Secret as base64 text.
func (p *principal) decoded() []byte {
	if strings.Contains(string(p.certificate), "-----BEGIN") {
		return p.certificate
	}
	if pfx, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(p.certificate))); err == nil {
		return pfx
	}
	return p.certificate
}

func (*principal) renewable() bool { return true }

func (*principal) update(method) {}

func (*principal) ready(time.Time) error { return nil }

func (p *principal) secrets() []string { return []string{p.secret, p.password} }
