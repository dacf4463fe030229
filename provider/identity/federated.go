package identity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
)

// The audiences of service account tokens.
const (
	// ExchangeAudience is what Entra ID wants of a token that it exchanges (workload identity federation).
	ExchangeAudience = "api://AzureADTokenExchange"
	// BindingAudience is what the AKS token proxy wants (identity binding).
	BindingAudience = "api://AKSIdentityBinding"
)

// federated signs in with a service account token that Entra ID exchanges.
type federated struct {
	entra
	// issuer, subject and audience are those of the service account token.
	issuer, subject, audience string
	// proxy is the AKS token proxy of identity binding; nil for workload identity.
	proxy *tokenProxy

	mu        sync.Mutex
	assertion assertion
}

// assertion is a service account token in use.
type assertion struct {
	token   string
	expires time.Time
}

// newFederated takes the service account token for the audience from the request.
func newFederated(at entra, audience string, proxy *tokenProxy, req volume.Request) (*federated, error) {
	token, ok := req.Tokens[audience]
	var lacks []string
	if at.client == "" {
		lacks = append(lacks, "no client id is known: set clientID in the class, or annotate the ServiceAccount with "+
			"azure.workload.identity/client-id")
	}
	if at.tenant == "" {
		lacks = append(lacks, "no tenant is known: set tenantID in the class")
	}
	if !ok {
		lacks = append(lacks, "there is no service account token for the audience "+audience+
			": the CSIDriver object must list it in tokenRequests")
	}
	if len(lacks) > 0 {
		return nil, &volume.Error{Reason: volume.ReasonIdentity, Message: strings.Join(lacks, "; ")}
	}
	c, err := parseClaims(token.Value)
	if err != nil {
		return nil, &volume.Error{Reason: volume.ReasonIdentity, Message: fmt.Sprintf(
			"the service account token for the audience %s is not usable: %v: check the cluster's service account "+
				"issuer", audience, err)}
	}
	want := "system:serviceaccount:" + req.Pod.Namespace + ":" + req.Pod.ServiceAccount
	if c.Subject != want {
		return nil, &volume.Error{Reason: volume.ReasonIdentity, Message: fmt.Sprintf(
			"the service account token is that of %q, not the pod's %q: volume attributes must not carry tokens",
			printable.Cut(c.Subject, maxShown),
			want,
		)}
	}
	return &federated{
		entra:     at,
		issuer:    c.Issuer,
		subject:   c.Subject,
		audience:  audience,
		proxy:     proxy,
		assertion: assertion{token: token.Value, expires: c.expiry(token)},
	}, nil
}

func (f *federated) name() string {
	if f.proxy != nil {
		return "identity binding"
	}
	return "workload identity"
}

func (f *federated) String() string {
	return fmt.Sprintf("%s %s of tenant %s as %s", f.name(), f.client, f.tenant, f.subject)
}

func (f *federated) key() string {
	return keyOf(f.name(), f.authority, f.tenant, f.client, f.issuer, f.subject)
}

// service is the token proxy of identity binding, which is a service of its own, else Entra ID.
func (f *federated) service() service {
	s := f.entra.service()
	if f.proxy != nil {
		s = service{name: "the AKS token proxy", limits: limiter.Key{Host: f.proxy.host(), Quota: s.limits.Quota}}
	}
	return s
}

func (f *federated) credential(options azcore.ClientOptions) (azcore.TokenCredential, error) {
	options = f.at(options)
	if f.proxy != nil {
		options.Transport = f.proxy
	}
	return azidentity.NewClientAssertionCredential(f.tenant, f.client, f.newest, // the caller explains
		&azidentity.ClientAssertionCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true})
}

// newest gives the SDK the newest service account token.
func (f *federated) newest(context.Context) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.assertion.token, nil
}

func (*federated) renewable() bool { return true }

// update takes a service account token that expires later.
func (f *federated) update(newer method) {
	other, ok := newer.(*federated)
	if !ok || other == f {
		return
	}
	other.mu.Lock()
	a := other.assertion
	other.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if a.expires.After(f.assertion.expires) {
		f.assertion = a
	}
}

// ready returns an error where the service account token has expired: it is not sent.
func (f *federated) ready(now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.assertion.expires.IsZero() || now.Before(f.assertion.expires) {
		return nil
	}
	return &volume.Error{
		Reason: volume.ReasonTokenExpired,
		Message: fmt.Sprintf("the service account token of %s ended at %s and kubelet has sent no newer one: the "+
			"CSIDriver object must have requiresRepublish: true; the next republish brings a fresh one",
			f.subject, f.assertion.expires.UTC().Format(time.RFC3339)),
	}
}

func (f *federated) secrets() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []string{f.assertion.token}
}

func (f *federated) explain(failed *failure) *volume.Error {
	switch failed.answer.code {
	case "70021", "700211", "700212", "700213", "700223":
		return failed.error(
			volume.ReasonIdentity,
			fmt.Sprintf("AADSTS%s: no federated credential of %s in tenant %s matches: add one with issuer %s, "+
				"subject %s and audience %s; a new one takes minutes to be known",
				failed.answer.code, f.client, f.tenant, f.issuer, f.subject, f.audience),
		)
	}
	return f.entra.explain(failed)
}

// claims are those of a service account token that say whose it is.
type claims struct {
	Issuer  string  `json:"iss"`
	Subject string  `json:"sub"`
	Expires float64 `json:"exp"`
}

// parseClaims reads the payload of a JWT. The signature is Entra ID's to check: it refuses a token that is not the
// cluster's.
func parseClaims(token string) (claims, error) {
	var c claims
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return c, errors.New("it is not a JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return c, errors.New("its payload is not base64url")
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		return c, errors.New("its payload is not JSON")
	}
	if c.Issuer == "" || c.Subject == "" {
		return c, errors.New("it has no issuer or subject")
	}
	return c, nil
}

// expiry returns the earlier of what the token says and what kubelet says.
func (c claims) expiry(token volume.Token) time.Time {
	var at time.Time
	if c.Expires > 0 && c.Expires < 1<<40 {
		at = time.Unix(int64(c.Expires), 0)
	}
	if !token.Expires.IsZero() && (at.IsZero() || token.Expires.Before(at)) {
		at = token.Expires
	}
	return at
}
