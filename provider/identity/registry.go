package identity

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/tracing"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/flight"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
)

// idle is how long an identity is kept that is not resolved any more. Kubelet republishes every running pod about every
// minute, so an identity in use is never idle that long.
const idle = 2 * time.Hour

// Options configure New.
type Options struct {
	// Transport carries the requests to Entra ID, AD FS and IMDS.
	Transport policy.Transporter
	// Limiters decide when a request is sent; nil where nothing limits them.
	Limiters *limiter.Limiters
	// Policies run for each request that is sent.
	Policies []policy.Policy
	// Proxy is the AKS token proxy of identity binding.
	Proxy ProxyOptions
	// Tracing is off where it is the zero value.
	Tracing tracing.Provider
	// Person makes every identity that of the person who runs the process, in place of those of class and request.
	Person bool
	// Observe is called for each token that was asked for; may be nil.
	Observe func(mode string, err error, took time.Duration)
	// OnPanic returns the error of a task that panics; may be nil. It is called in the goroutine that panics.
	OnPanic func(ctx context.Context, task string, value any) error
	Clock   clock.PassiveClock
}

// Account is what the pod's ServiceAccount says where the class leaves it out.
type Account struct{ ClientID, TenantID string }

// Registry keeps each Identity.
type Registry struct {
	options Options
	proxy   *tokenProxy
	found   *discovery
	tokens  flight.Group[tokenKey, azcore.AccessToken]
	salt    []byte
	tracer  tracing.Tracer

	mu         sync.Mutex
	identities map[string]*Identity
	swept      time.Time
}

type tokenKey struct {
	identity *Identity
	scope    string
	claims   string
	// renews is the hash of the token that a vault refused; empty for others.
	renews string
}

// New returns an empty registry. Close must be called.
func New(o Options) *Registry {
	salt := make([]byte, 32)
	_, _ = rand.Read(salt) // never fails (crypto/rand)
	r := &Registry{
		options:    o,
		proxy:      newTokenProxy(o.Proxy),
		found:      newDiscovery(o.Clock),
		salt:       salt,
		identities: map[string]*Identity{},
		swept:      o.Clock.Now(),
	}
	r.tokens.OnJoin = limiter.Promote
	if o.OnPanic != nil {
		r.tokens.OnPanic = func(ctx context.Context, p any) error { return o.OnPanic(ctx, "token request", p) }
		r.found.flights.OnPanic = r.tokens.OnPanic
	}
	r.tracer = o.Tracing.NewTracer("keyvault-csi/identity", "")
	return r
}

// Close ends token requests under way.
func (r *Registry) Close() {
	r.tokens.Close()
	r.found.close()
	r.proxy.close()
}

// Resolve returns the identity that the class and the pod's request make, and takes the request's token as its newest.
// It makes no request. Errors are of type *volume.Error.
func (r *Registry) Resolve(c *class.Class, account Account, req volume.Request) (*Identity, error) {
	tenant, client := c.TenantID, c.ClientID
	if client == "" {
		client = account.ClientID
	}
	if tenant == "" {
		tenant = account.TenantID
	}
	m, err := r.method(c, entra{authority: c.Cloud.Authority, tenant: tenant, client: client}, req)
	if err != nil {
		return nil, err
	}
	return r.intern(&Identity{registry: r, method: m, key: m.key()}), nil
}

// method chooses how the class and the request sign in.
func (r *Registry) method(c *class.Class, at entra, req volume.Request) (method, error) {
	if r.options.Person {
		return newPerson(c), nil
	}
	switch c.Mode {
	case class.ManagedIdentity:
		return newManaged(c), nil
	case class.TokenProxy:
		return orError(newFederated(at, BindingAudience, r.proxy, req))
	case class.Automatic:
	}
	_, hasToken := req.Tokens[ExchangeAudience]
	switch {
	case at.client != "" && hasToken:
		return orError(newFederated(at, ExchangeAudience, nil, req))
	case len(req.Secrets) > 0:
		return orError(newPrincipal(at, req.Secrets, r.hash))
	}
	return nil, missing(at.client, hasToken)
}

// orError keeps a nil pointer from becoming a method.
func orError[M method](m M, err error) (method, error) {
	if err != nil {
		return nil, err
	}
	return m, nil
}

// missing says what a class needs that has neither workload identity nor a service principal.
func missing(client string, hasToken bool) error {
	message := "there is no service account token for the audience " + ExchangeAudience + ": the CSIDriver object " +
		"must list it in " +
		"tokenRequests; or name a Secret with clientid and clientsecret in nodePublishSecretRef, or set " +
		"useVMManagedIdentity"
	if client == "" && hasToken {
		message = "no identity is named: set clientID in the class for workload identity, or name a Secret with " +
			"clientid and " +
			"clientsecret in nodePublishSecretRef, or set useVMManagedIdentity"
	}
	return &volume.Error{Reason: volume.ReasonIdentity, Message: message}
}

// intern returns the identity that exists under the key, with the newest service account token of both.
func (r *Registry) intern(fresh *Identity) *Identity {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.options.Clock.Now()
	r.sweep(now)
	known, ok := r.identities[fresh.key]
	if !ok {
		known = fresh
		r.identities[fresh.key] = known
	}
	known.update(fresh, now)
	return known
}

// sweep drops identities that were not resolved for long.
func (r *Registry) sweep(now time.Time) {
	if now.Sub(r.swept) < idle/2 {
		return
	}
	r.swept = now
	for key, id := range r.identities {
		if id.unusedSince(now) > idle {
			delete(r.identities, key)
		}
	}
}

// hash hides a credential in a key that can be compared in this process only.
func (r *Registry) hash(parts ...string) string {
	h := hmac.New(sha256.New, r.salt)
	for _, p := range parts {
		_, _ = fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}
