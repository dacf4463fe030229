package identity

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
)

// method is one way to sign in.
type method interface {
	// name is how metrics and traces name the method.
	name() string
	// String names the identity for a person; it holds no secret.
	String() string
	// key is equal for equal identities only. It holds no secret.
	key() string
	// service is where the tokens come from.
	service() service
	// credential makes the SDK's credential object, which has a token cache of its own.
	credential(options azcore.ClientOptions) (azcore.TokenCredential, error)
	// renewable is false where tokens cannot be renewed before they expire.
	renewable() bool
	// update takes what is newer in another method of the same key.
	update(newer method)
	// ready returns why no token can be asked for now.
	ready(now time.Time) error
	// secrets are what no message may quote.
	secrets() []string
	// explain explains a failure that has a meaning for this method alone; nil for others.
	explain(f *failure) *volume.Error
}

// service is where tokens come from.
type service struct {
	// name is for messages.
	name string
	// authority is the host that requests must be for; empty where it is not known before.
	authority string
	// limits names the limiter of its requests.
	limits limiter.Key
}

// entra is where and as whom a method signs in to Entra ID, or to AD FS.
type entra struct{ authority, tenant, client string }

func (e entra) service() service {
	host, authority := "Entra ID", ""
	if u, err := url.Parse(e.authority); err == nil && u.Host != "" {
		host, authority = u.Host, u.Host
	}
	// Entra ID counts requests by tenant and client
	return service{
		name:      host,
		authority: authority,
		limits:    limiter.Key{Quota: fmt.Sprintf("client %s of tenant %s", e.client, e.tenant)},
	}
}

// at completes the options of a credential. The authority comes from the operator's cloud, not from the class, so that
// the SDK need not look whether it exists (DisableInstanceDiscovery).
func (e entra) at(options azcore.ClientOptions) azcore.ClientOptions {
	options.Cloud = cloud.Configuration{ActiveDirectoryAuthorityHost: e.authority}
	return options
}

// explain explains what Entra ID refuses. Its codes are those of
// https://learn.microsoft.com/entra/identity-platform/reference-error-codes.
func (e entra) explain(f *failure) *volume.Error {
	if f.answer.code == "" || f.throttled() {
		return nil
	}
	return f.error(volume.ReasonIdentity, "AADSTS"+f.answer.code+": "+e.meaning(f))
}

// meaning says what a code means for the class, and the fix.
func (e entra) meaning(f *failure) string {
	switch f.answer.code {
	case "700016":
		return fmt.Sprintf(
			"there is no application or identity with client id %s in tenant %s: correct clientID or tenantID",
			e.client, e.tenant)
	case "90002", "900021", "900023":
		return fmt.Sprintf("there is no tenant %s: correct tenantID", e.tenant)
	case "7000215":
		return fmt.Sprintf(
			"the client secret of %s is wrong: put its value, not its id, into clientsecret of nodePublishSecretRef",
			e.client)
	case "7000222":
		return fmt.Sprintf("the client secret of %s is expired: make a new one and put it into nodePublishSecretRef",
			e.client)
	case "700027":
		return fmt.Sprintf(
			"the certificate in nodePublishSecretRef is not registered with the application %s: upload it there",
			e.client)
	case "700024":
		return "the service account token or assertion is outside its validity: check the node's clock; the next " +
			"republish brings a fresh one"
	case "7000112", "7000113":
		return fmt.Sprintf("the application %s is disabled: enable it, or use another identity", e.client)
	case "50034", "500011":
		return fmt.Sprintf("the tenant %s does not know Key Vault as a resource: correct tenantID or cloudName",
			e.tenant)
	case "53003", "530003":
		return "conditional access refuses the sign-in: allow the workload identity from this network"
	}
	return fmt.Sprintf("Entra ID refused %s: %s", f.who, f.answer.summary())
}

// keyOf joins what makes an identity; no part can run into the next.
func keyOf(parts ...string) string {
	quoted := make([]string, len(parts))
	for i, p := range parts {
		quoted[i] = fmt.Sprintf("%q", p)
	}
	return strings.Join(quoted, " ")
}
