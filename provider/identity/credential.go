package identity

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
)

// principal is the credential of a service principal: a secret or a certificate.
type principal struct {
	secret      string
	certificate []byte
	password    string
}

// readPrincipal takes the credential from the Secret that nodePublishSecretRef names. Keys count in any letter case.
func readPrincipal(secrets volume.Secrets) (p principal, client string, err error) {
	for key, value := range secrets {
		value := strings.TrimRight(value, "\r\n") // editors and `echo` leave one
		switch strings.ToLower(key) {
		case "clientid":
			client = strings.TrimSpace(value)
		case "clientsecret":
			p.secret = value
		case "clientcertificate":
			p.certificate = []byte(value)
		case "clientcertificatepassword":
			p.password = value
		}
	}
	const where = "in the Secret of nodePublishSecretRef"
	switch {
	case client == "":
		return p, "", &volume.Error{Reason: volume.ReasonIdentity, Message: "there is no clientid " + where + ": add it"}
	case p.secret == "" && len(p.certificate) == 0:
		return p, "", &volume.Error{Reason: volume.ReasonIdentity, Message: "there is neither clientsecret nor clientcertificate " + where + ": add one"}
	case p.secret != "" && len(p.certificate) > 0:
		return p, "", &volume.Error{Reason: volume.ReasonIdentity, Message: "there are both clientsecret and clientcertificate " + where + ": remove one"}
	}
	return p, client, nil
}

// current returns the credential object, made anew after a token was refused.
func (i *Identity) current() (azcore.TokenCredential, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.credential != nil {
		return i.credential, nil
	}
	credential, err := i.newCredential()
	if err != nil {
		if known, ok := err.(*volume.Error); ok { //nolint:errorlint // made just below
			return nil, known
		}
		return nil, &volume.Error{Reason: volume.ReasonIdentity, Message: "the identity " + i.String() + " is not usable: " + oneLine(err.Error()), Cause: err}
	}
	i.credential = credential
	return credential, nil
}

func (i *Identity) newCredential() (azcore.TokenCredential, error) {
	o := i.registry.options
	options := azcore.ClientOptions{
		Cloud:            cloud.Configuration{ActiveDirectoryAuthorityHost: i.authority},
		Transport:        o.Transport,
		Retry:            policy.RetryOptions{MaxRetries: -1}, // the callers retry
		PerRetryPolicies: i.policies(),
		TracingProvider:  o.Tracing,
	}
	// The authority comes from the operator's cloud, not from the class: there is nothing to discover.
	const known = true
	switch i.mode {
	case person:
		return newPerson(options, i.tenant)
	case identityBinding:
		options.Transport = i.registry.proxy
		fallthrough
	case workloadIdentity:
		return azidentity.NewClientAssertionCredential(i.tenant, i.client, i.newest, &azidentity.ClientAssertionCredentialOptions{
			ClientOptions: options, DisableInstanceDiscovery: known,
		})
	case managedIdentity:
		return azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{
			ClientOptions: options, ID: i.managed.sdk(),
		})
	}
	if i.principal.secret != "" {
		return azidentity.NewClientSecretCredential(i.tenant, i.client, i.principal.secret, &azidentity.ClientSecretCredentialOptions{
			ClientOptions: options, DisableInstanceDiscovery: known,
		})
	}
	certificates, key, err := azidentity.ParseCertificates(i.principal.decoded(), []byte(i.principal.password))
	if err != nil {
		return nil, &volume.Error{Reason: volume.ReasonIdentity, Message: "clientcertificate in the Secret of nodePublishSecretRef is not " +
			"readable: give a PEM file with certificate and private key, or a PFX (its password as clientcertificatepassword)", Cause: err}
	}
	return azidentity.NewClientCertificateCredential(i.tenant, i.client, certificates, key, &azidentity.ClientCertificateCredentialOptions{
		ClientOptions: options, DisableInstanceDiscovery: known,
	})
}

// policies are those of the identity's requests. Entra ID counts requests by tenant and client, and the instance metadata service
// counts all of the node. The token proxy is a service of its own.
func (i *Identity) policies() []policy.Policy {
	o := i.registry.options
	var service limiter.Key
	if i.mode != managedIdentity && i.mode != person {
		service.Quota = fmt.Sprintf("client %s of tenant %s", i.client, i.tenant)
	}
	if i.mode == identityBinding {
		service.Host = i.registry.proxy.host()
	}
	all := []policy.Policy{recorderPolicy{}, i.registry.found.policy(service.Host)}
	if o.Limiters != nil {
		all = append(all, o.Limiters.Policy(service))
	}
	return append(all, o.Policies...)
}

// decoded returns the certificate's bytes: a PFX may stand in the Secret as base64 text.
func (p principal) decoded() []byte {
	if strings.Contains(string(p.certificate), "-----BEGIN") {
		return p.certificate
	}
	if pfx, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(p.certificate))); err == nil {
		return pfx
	}
	return p.certificate
}

func (a azureID) sdk() azidentity.ManagedIDKind {
	switch a.kind {
	case "client id":
		return azidentity.ClientID(a.value)
	case "object id":
		return azidentity.ObjectID(a.value)
	case "resource id":
		return azidentity.ResourceID(a.value)
	}
	return nil
}

// newest gives the SDK the newest service account token.
func (i *Identity) newest(context.Context) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.assertion.token, nil
}
