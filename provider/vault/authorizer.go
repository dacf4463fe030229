package vault

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/identity"
)

// refusalTime is how long a token that the vault refused is not sent to that vault again. It is short, because the
// vault may be corrected while the token is still valid: a managed identity's token is valid for a day.
const refusalTime = time.Minute

// authorizer puts the identity's token on the requests to one vault, and answers the vault's challenges. It runs behind
// the SDK's own challenge policy, which then has nothing to do: no request leaves without a token, and no 401 gets back
// to it.
//
// A refusal counts for this vault alone. The identity's token stays valid for all other vaults.
type authorizer struct {
	credential Credential
	host       string
	clock      clock.PassiveClock

	mu sync.Mutex
	// scope is what tokens are asked for: the cloud's, until the vault asks for another one.
	scope   string
	caller  identity.Caller
	refused refusal
	// cure is the token that was asked for because this vault refused the one before. Where the vault refuses it as
	// well, no further token is asked for: else each request would cost one.
	cure [sha256.Size]byte
}

// refusal is a token that the vault refused.
type refusal struct {
	token [sha256.Size]byte
	until time.Time
	err   *rejection
}

// rejection is why a vault does not accept a token.
type rejection struct {
	reason             volume.Reason
	message, requestID string
}

// Error implements error.
func (r *rejection) Error() string { return r.message }

// Do implements policy.Policy.
func (a *authorizer) Do(req *policy.Request) (*http.Response, error) {
	if !sameVault(req.Raw().URL, a.host) {
		// the next page of a list is named by the answer: the token must not follow it to another host
		return nil, &rejection{
			reason:  volume.ReasonUnavailable,
			message: "the answer points to another host: check proxies on the way",
		}
	}
	options, token, resp, err := a.ask(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	challenge := ParseChallenge(resp.Header)
	if a.learn(challenge) {
		if options, token, resp, err = a.ask(req); err != nil || resp.StatusCode != http.StatusUnauthorized {
			return resp, err
		}
		challenge = ParseChallenge(resp.Header)
	}
	if own := a.as(token).Tenant; challenge.Claims == "" && challenge.OtherTenant(own) {
		return nil, a.otherTenant(challenge.Tenant, own, resp)
	}
	newer, err := a.newer(req, options, token, challenge)
	if err != nil {
		return nil, err
	}
	if newer.Token != token.Token {
		if resp, err = a.send(req, newer); err != nil || resp.StatusCode != http.StatusUnauthorized {
			return resp, err
		}
	}
	return nil, a.refuse(newer, resp)
}

// sameVault returns whether a URL is one of the vault. Key Vault names the port in the links to next pages
// (https://contoso.vault.azure.net:443/secrets?…), and clients leave it out.
func sameVault(u *url.URL, host string) bool {
	vault := url.URL{Host: host}
	return u.Scheme == "https" && strings.EqualFold(u.Hostname(), vault.Hostname()) &&
		cmp.Or(u.Port(), "443") == cmp.Or(vault.Port(), "443")
}

// ask sends the request with the identity's token, unless the vault refused that a moment ago.
func (a *authorizer) ask(
	req *policy.Request,
) (options policy.TokenRequestOptions, token azcore.AccessToken, resp *http.Response, err error) {
	a.mu.Lock()
	options = policy.TokenRequestOptions{Scopes: []string{a.scope}, EnableCAE: true}
	a.mu.Unlock()
	if token, err = a.credential.GetToken(req.Raw().Context(), options); err != nil {
		return options, token, nil, noToken(req, err)
	}
	if err := a.remembered(token); err != nil {
		return options, token, nil, err
	}
	resp, err = a.send(req, token)
	if err == nil && resp.StatusCode == http.StatusForbidden {
		a.as(token) // the message names who was refused
	}
	if err == nil && resp.StatusCode != http.StatusUnauthorized {
		a.accepted(token)
	}
	return options, token, resp, err
}

// learn takes the scope of a vault that is not one of the cloud's own from its challenge. It returns whether that is
// news.
func (a *authorizer) learn(c Challenge) bool {
	scope := c.scope(a.host)
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.Claims != "" || scope == "" || scope == a.scope {
		return false
	}
	a.scope = scope
	return true
}

type unsentKey struct{}

// unsent is why a request was not sent: it got no token, or the limiter did not let it go.
type unsent struct{ token, limit error }

// withUnsent returns a context whose requests note there why they were not sent. The SDK replaces each error by that of the context where
// the context has ended: then it would be the vault that did not answer, and not Entra ID, or this node that did not ask.
func withUnsent(ctx context.Context) (context.Context, *unsent) {
	why := &unsent{}
	return context.WithValue(ctx, unsentKey{}, why), why
}

func noToken(req *policy.Request, err error) error {
	if why, ok := req.Raw().Context().Value(unsentKey{}).(*unsent); ok {
		why.token = err
	}
	return fmt.Errorf("token: %w", err)
}

// send sends the request with the token.
func (a *authorizer) send(req *policy.Request, token azcore.AccessToken) (*http.Response, error) {
	if err := req.RewindBody(); err != nil {
		return nil, fmt.Errorf("rewind: %w", err)
	}
	req.Raw().Header.Set("Authorization", "Bearer "+token.Token)
	resp, err := req.Next()
	if _, limited := errors.AsType[*volume.Error](err); limited {
		if why, ok := req.Raw().Context().Value(unsentKey{}).(*unsent); ok {
			why.limit = err
		}
	}
	return resp, err
}

// newer returns a token that was issued after the refused one, or the refused one where there is none.
func (a *authorizer) newer(
	req *policy.Request,
	options policy.TokenRequestOptions,
	refused azcore.AccessToken,
	c Challenge,
) (azcore.AccessToken, error) {
	if a.cured(refused) {
		return refused, nil
	}
	var newer azcore.AccessToken
	var err error
	if c.Claims != "" {
		options.Claims = c.Claims
		newer, err = a.credential.GetToken(req.Raw().Context(), options)
	} else {
		newer, err = a.credential.Renew(req.Raw().Context(), options, refused.Token)
	}
	if err != nil {
		return newer, noToken(req, err)
	}
	if newer.Token != refused.Token {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.cure = sha256.Sum256([]byte(newer.Token))
	}
	return newer, nil
}

// cured returns whether the token was asked for because the vault refused the one before.
func (a *authorizer) cured(token azcore.AccessToken) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cure == sha256.Sum256([]byte(token.Token))
}

// accepted notes that the vault took the token: if it refuses it later, it has ended before its time by the clock of this node, which
// may have been stepped back, or was revoked, and a newer one is worth asking for.
func (a *authorizer) accepted(token azcore.AccessToken) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cure != ([sha256.Size]byte{}) && a.cure == sha256.Sum256([]byte(token.Token)) {
		a.cure = [sha256.Size]byte{}
	}
}

// as reads for whom the token was given, and keeps it for messages.
func (a *authorizer) as(token azcore.AccessToken) identity.Caller {
	caller := identity.CallerOf(token)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.caller = caller
	return caller
}

// remembered returns why the vault refused this token a moment ago.
func (a *authorizer) remembered(token azcore.AccessToken) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refused.err == nil || !a.clock.Now().Before(a.refused.until) ||
		a.refused.token != sha256.Sum256([]byte(token.Token)) {
		return nil
	}
	return a.refused.err
}

// refuse remembers that the vault refused the token.
func (a *authorizer) refuse(token azcore.AccessToken, resp *http.Response) error {
	r := &rejection{
		reason:    volume.ReasonIdentity,
		requestID: requestID(resp),
		message: fmt.Sprintf(
			"the vault refused a fresh token of %s: the vault must belong to the tenant of tenantID, and cloudName "+
				"must be "+
				"the vault's cloud", a.credential),
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refused = refusal{token: sha256.Sum256([]byte(token.Token)), until: a.clock.Now().Add(refusalTime), err: r}
	return r
}

// otherTenant is the mistake of a class that names a vault of another tenant than its identity's.
func (a *authorizer) otherTenant(vault, token string, resp *http.Response) error {
	return &rejection{
		reason:    volume.ReasonInvalidClass,
		requestID: requestID(resp),
		message: fmt.Sprintf(
			"the vault belongs to tenant %s, and the token of %s is of tenant %s: correct keyvaultName, or set "+
				"tenantID to the "+
				"vault's tenant and use an identity of it", vault, a.credential, token),
	}
}

// ids names the caller as role assignments do, by what the token says; empty where it does not.
func (a *authorizer) ids() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var parts []string
	if a.caller.ClientID != "" {
		parts = append(parts, "appid "+a.caller.ClientID)
	}
	if a.caller.ObjectID != "" {
		parts = append(parts, "oid "+a.caller.ObjectID)
	}
	return strings.Join(parts, ", ")
}
