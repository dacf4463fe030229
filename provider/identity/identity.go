// Package identity answers who asks: it turns a class and a pod's request into an identity, and keeps one credential and
// one token cache per identity for the life of the driver.
package identity

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

// The audiences of service account tokens.
const (
	// ExchangeAudience is what Entra ID wants of a token that it exchanges (workload identity federation).
	ExchangeAudience = "api://AzureADTokenExchange"
	// BindingAudience is what the AKS token proxy wants (identity binding).
	BindingAudience = "api://AKSIdentityBinding"
)

// The modes, as metrics and messages name them.
const (
	workloadIdentity = "workload identity"
	servicePrincipal = "service principal"
	managedIdentity  = "managed identity"
	identityBinding  = "identity binding"
)

// Identity is one identity that asks. It implements azcore.TokenCredential. Two pods have the same Identity only if
// Entra ID cannot tell them apart.
type Identity struct {
	registry  *Registry
	key       string
	mode      string
	authority string
	tenant    string
	client    string
	// issuer, subject and audience are those of the service account token; empty in other modes.
	issuer, subject, audience string
	// managed is the id of a user-assigned managed identity.
	managed azureID
	// principal is the service principal's credential.
	principal principal

	mu         sync.Mutex
	assertion  assertion
	used       time.Time
	credential azcore.TokenCredential
	tokens     map[string]azcore.AccessToken // by scope
	// retry is before when no renewal is tried, since one has just failed.
	retry time.Time
}

// assertion is a service account token in use.
type assertion struct {
	token   string
	expires time.Time
}

// Key is equal for equal identities only. It holds no secret.
func (i *Identity) Key() string { return i.key }

// String names the identity for a person; it holds no secret.
func (i *Identity) String() string {
	switch i.mode {
	case managedIdentity:
		if i.managed.value == "" {
			return "the node's system-assigned managed identity"
		}
		return fmt.Sprintf("managed identity with %s %s", i.managed.kind, i.managed.value)
	case servicePrincipal:
		return fmt.Sprintf("service principal %s of tenant %s", i.client, i.tenant)
	case person:
		return "you"
	}
	return fmt.Sprintf("%s %s of tenant %s as %s", i.mode, i.client, i.tenant, i.subject)
}

// GoString keeps %#v from printing credentials.
func (i *Identity) GoString() string { return i.String() }

// LogValue keeps slog from printing credentials.
func (i *Identity) LogValue() slog.Value { return slog.StringValue(i.String()) }

func (i *Identity) asFederated(audience string, req volume.Request) error {
	i.mode, i.audience = workloadIdentity, audience
	if audience == BindingAudience {
		i.mode = identityBinding
	}
	token, ok := req.Tokens[audience]
	var lacks []string
	if i.client == "" {
		lacks = append(lacks, "no client id is known: set clientID in the class, or annotate the ServiceAccount with "+
			"azure.workload.identity/client-id")
	}
	if i.tenant == "" {
		lacks = append(lacks, "no tenant is known: set tenantID in the class")
	}
	if !ok {
		lacks = append(lacks, "there is no service account token for the audience "+audience+
			": the CSIDriver object must list it in tokenRequests")
	}
	if len(lacks) > 0 {
		return &volume.Error{Reason: volume.ReasonIdentity, Message: strings.Join(lacks, "; ")}
	}
	c, err := parseClaims(token.Value)
	if err != nil {
		return &volume.Error{Reason: volume.ReasonIdentity, Message: fmt.Sprintf(
			"the service account token for the audience %s is not usable: %v: check the cluster's service account issuer", audience, err)}
	}
	want := "system:serviceaccount:" + req.Pod.Namespace + ":" + req.Pod.ServiceAccount
	if c.Subject != want {
		return &volume.Error{Reason: volume.ReasonIdentity, Message: fmt.Sprintf(
			"the service account token is that of %q, not the pod's %q: volume attributes must not carry tokens", shorten(c.Subject), want)}
	}
	i.issuer, i.subject = c.Issuer, c.Subject
	i.assertion = assertion{token: token.Value, expires: c.expiry(token)}
	i.key = keyOf(i.mode, i.authority, i.tenant, i.client, i.issuer, i.subject)
	return nil
}

func (i *Identity) asPrincipal(secrets volume.Secrets) error {
	i.mode = servicePrincipal
	p, client, err := readPrincipal(secrets)
	if err != nil {
		return err
	}
	if i.tenant == "" {
		return &volume.Error{Reason: volume.ReasonIdentity, Message: "no tenant is known: set tenantID in the class"}
	}
	i.client, i.principal = client, p
	i.key = keyOf(i.mode, i.authority, i.tenant, client, i.registry.digest(p.secret, string(p.certificate), p.password))
	return nil
}

func (i *Identity) asManaged(c *class.Class) {
	i.mode = managedIdentity
	switch {
	case c.ManagedClientID != "":
		i.managed = azureID{kind: "client id", value: c.ManagedClientID}
	case c.ManagedObjectID != "":
		i.managed = azureID{kind: "object id", value: c.ManagedObjectID}
	case c.ManagedResourceID != "":
		i.managed = azureID{kind: "resource id", value: c.ManagedResourceID}
	}
	i.key = keyOf(i.mode, i.managed.kind, strings.ToLower(i.managed.value))
}

// azureID is one of the ways to name a managed identity.
type azureID struct{ kind, value string }

// take keeps the assertion if it is newer than the one in use.
func (i *Identity) take(a assertion, now time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.used = now
	if a.token != "" && (i.assertion.token == "" || a.expires.After(i.assertion.expires)) {
		i.assertion = a
	}
}

func (i *Identity) unusedSince(now time.Time) time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	return now.Sub(i.used)
}

func shorten(text string) string {
	if len(text) > 120 {
		return strings.ToValidUTF8(text[:120], "") + "…"
	}
	return text
}
