package vault

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/tracing"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azcertificates"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// idle is how long a client is kept that is not used: its vault may be a typing mistake that is corrected by now.
const idle = 15 * time.Minute

// Credential is who asks.
type Credential interface {
	azcore.TokenCredential
	// Key is equal for equal identities only.
	Key() string
	// String names the identity for a person.
	String() string
	// Renew returns a token that was issued after the refused one. It returns the refused one itself where the
	// identity's tokens cannot be renewed before their end. What others use stays valid.
	Renew(ctx context.Context, opts policy.TokenRequestOptions, refused string) (azcore.AccessToken, error)
}

// Options configure New.
type Options struct {
	Transport policy.Transporter
	// Policies run for each request behind authentication, the limiter among them.
	Policies []policy.Policy
	// ApplicationID is part of the user agent.
	ApplicationID string
	// Tracing is off where it is the zero value.
	Tracing tracing.Provider
	// Observe is called at each request's end; may be nil. The reason is empty where it succeeded.
	Observe func(operation string, reason volume.Reason, took time.Duration)
	Clock   clock.WithDelayedExecution
}

// Pool keeps one client per identity and vault.
type Pool struct {
	options Options

	mu      sync.Mutex
	clients map[clientKey]*Client
	swept   time.Time
}

type clientKey struct{ url, scope, identity string }

// New returns an empty pool.
func New(o Options) *Pool {
	return &Pool{options: o, clients: map[clientKey]*Client{}, swept: o.Clock.Now()}
}

// Client is one identity's way to one vault.
type Client struct {
	options      Options
	host         string
	credential   Credential
	authorizer   *authorizer
	secrets      *azsecrets.Client
	keys         *azkeys.Client
	certificates *azcertificates.Client
	used         time.Time
}

// Client returns the client for a vault's base URL; scope is the OAuth scope of the cloud's vaults.
func (p *Pool) Client(vaultURL, scope string, credential Credential) (*Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.options.Clock.Now()
	if now.Sub(p.swept) > idle/2 {
		p.swept = now
		for key, c := range p.clients {
			if now.Sub(c.used) > idle {
				delete(p.clients, key)
			}
		}
	}
	key := clientKey{url: vaultURL, scope: scope, identity: credential.Key()}
	c, ok := p.clients[key]
	if !ok || c.credential != credential {
		var err error
		if c, err = p.newClient(vaultURL, scope, credential); err != nil {
			return nil, err
		}
		p.clients[key] = c
	}
	c.used = now
	return c, nil
}

func (p *Pool) newClient(vaultURL, scope string, credential Credential) (*Client, error) {
	u, err := url.Parse(vaultURL)
	if err != nil {
		return nil, fmt.Errorf("vault URL: %w", err)
	}
	authorize := &authorizer{credential: credential, scope: scope, host: u.Host, clock: p.options.Clock}
	options := azcore.ClientOptions{
		Transport:        p.options.Transport,
		Retry:            policy.RetryOptions{MaxRetries: -1}, // this package retries
		Telemetry:        policy.TelemetryOptions{ApplicationID: p.options.ApplicationID},
		PerRetryPolicies: append([]policy.Policy{authorize}, p.options.Policies...),
		TracingProvider:  p.options.Tracing,
	}
	c := &Client{options: p.options, host: u.Host, credential: credential, authorizer: authorize}
	if c.secrets, err = azsecrets.NewClient(vaultURL, credential,
		&azsecrets.ClientOptions{ClientOptions: options}); err != nil {
		return nil, fmt.Errorf("secrets client: %w", err)
	}
	if c.keys, err = azkeys.NewClient(vaultURL, credential, &azkeys.ClientOptions{ClientOptions: options}); err != nil {
		return nil, fmt.Errorf("keys client: %w", err)
	}
	c.certificates, err = azcertificates.NewClient(vaultURL, credential,
		&azcertificates.ClientOptions{ClientOptions: options})
	if err != nil {
		return nil, fmt.Errorf("certificates client: %w", err)
	}
	return c, nil
}

// TryTimeout returns a policy that bounds one try, from when it is sent to the last byte of its answer. It belongs
// behind the limiter, so that waiting for it does not count.
func TryTimeout(d time.Duration) policy.Policy { return tryTimeout(d) }

type tryTimeout time.Duration

// Do implements policy.Policy.
func (d tryTimeout) Do(req *policy.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(req.Raw().Context(), time.Duration(d))
	defer cancel() // the SDK reads the body before Next returns
	return req.Clone(ctx).Next()
}
