package provider

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/tracing"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/identity"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/render"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/transport"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
)

const (
	// DefaultFetchTimeout bounds one fetch, below the two minutes that kubelet waits, so that the real cause gets
	// through.
	DefaultFetchTimeout = 100 * time.Second
	// tryTimeout bounds one request.
	tryTimeout = 20 * time.Second
)

// Accounts looks up the annotations of service accounts. Errors are of type *volume.Error and name the account.
type Accounts interface {
	Annotations(ctx context.Context, namespace, name string) (map[string]string, error)
}

// NodeIdentity decides who may use the node's identity (useVMManagedIdentity), which its operator gave it and not the class's author.
type NodeIdentity interface {
	// Check returns nil where Pods of the namespace may use it, else a *volume.Error with the fix. It is called at each bind and each
	// fetch of a class with useVMManagedIdentity, so it must be cheap.
	Check(ctx context.Context, namespace string) error
}

// Observer counts requests, for metrics. Reasons are empty where nothing failed. Calls must not block.
type Observer interface {
	// VaultRequest and TokenRequest are called at the end of each request.
	VaultRequest(operation string, reason volume.Reason, took time.Duration)
	TokenRequest(mode string, reason volume.Reason, took time.Duration)
	// Source is called with how a source was answered: requested, joined, cached, listed or stale.
	Source(how string)
	// Detected is called with how a fetch found out what changed, for classes that ask for lists.
	Detected(how volume.Detection)
	// Fallback is called for each object that was taken from a fallback vault.
	Fallback()
	// Panicked is called for each panic that was recovered, with the name of the task.
	Panicked(task string)
}

// Options configure New; all may be left out.
type Options struct {
	// Cloud is the cloud of classes that name none; AzurePublicCloud where empty.
	Cloud string
	// CloudConfigDir holds custom clouds' files.
	CloudConfigDir string
	// AllowedVaultHosts are hosts, or suffixes with a leading dot, that keyvaultURI may name beside the cloud's own.
	AllowedVaultHosts []string
	// CAFile is a PEM file of authorities to trust beside the system's.
	CAFile string
	// Dial replaces the network's dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Transport sends the requests to vaults, Entra ID and the instance metadata service, in place of the one that CAFile and Dial
	// configure. Inspect goes on using that one, since it reports each step of a connection.
	Transport http.RoundTripper
	// TokenProxy is the AKS token proxy.
	TokenProxy identity.ProxyOptions
	// CacheTTL is how long a value is kept for others of the same identity.
	CacheTTL time.Duration
	// FetchTimeout is DefaultFetchTimeout where 0.
	FetchTimeout time.Duration
	// SplitCertAndKey and KeepCertificateOrder are the driver's defaults for certificate-backed secrets.
	SplitCertAndKey, KeepCertificateOrder bool
	// ApplicationID is part of the user agent of requests.
	ApplicationID string
	// Person asks as the person who runs the process (the Azure SDK's default chain), in place of class and Pod. It is
	// for tools.
	Person bool
	// Accounts supplies client and tenant ids that classes leave out; may be nil.
	Accounts Accounts
	// NodeIdentity decides who may use the node's identity; all may where nil.
	NodeIdentity NodeIdentity
	// RenderProgram is the path of keyvault-render, which makes files from templates; beside this process's executable
	// where empty.
	RenderProgram string
	// Tracing is off where it is the zero value.
	Tracing tracing.Provider
	// Log receives panics; nothing is logged where nil.
	Log      *slog.Logger
	Observer Observer
	Clock    clock.WithDelayedExecution
}

// Provider implements volume.Provider.
type Provider struct {
	options    Options
	classes    *classCache
	identities *identity.Registry
	vaults     *vault.Pool
	limiters   *limiter.Limiters
	table      *table
	costs      *costs
	outages    *outages
	renderer   *render.Runner
	outputs    *outputs
	transport  *http.Transport
	safe       safe.Handler
}

// New returns a provider. Close must be called.
func New(o Options) (*Provider, error) {
	if o.Cloud == "" {
		o.Cloud = "AzurePublicCloud"
	}
	if o.FetchTimeout == 0 {
		o.FetchTimeout = DefaultFetchTimeout
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Observer == nil {
		o.Observer = noObserver{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	clouds, err := cloud.NewResolver(o.Cloud, o.CloudConfigDir)
	if err != nil {
		return nil, fmt.Errorf("default cloud: %w", err)
	}
	p := &Provider{
		options: o,
		costs:   &costs{clock: o.Clock, known: map[volume.SourceKey]cost{}},
		outages: &outages{clock: o.Clock, known: map[string]outage{}},
		safe:    safe.Handler{Log: o.Log, Count: func(_ context.Context, task string) { o.Observer.Panicked(task) }},
		classes: newClassCache(class.Options{
			Clouds:          clouds,
			SplitCertAndKey: o.SplitCertAndKey,
			AllowedHosts:    o.AllowedVaultHosts,
		}),
	}
	p.transport, err = transport.New(transport.Options{CAFile: o.CAFile, Dial: o.Dial, IdlePerHost: mostInFlight})
	if err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	p.limiters = limiter.New(limiter.Options{
		Clock:   o.Clock,
		Limits:  limits,
		OnPanic: func(value any) { _ = p.safe.Recovered(context.Background(), "limiter", value) },
	})
	if o.Transport == nil {
		o.Transport = transport.NewShared(p.transport)
	}
	client, bounded := transport.Client{RoundTripper: o.Transport}, vault.TryTimeout(tryTimeout)
	p.identities = identity.New(identity.Options{
		Transport: client,
		Limiters:  p.limiters,
		Policies:  []policy.Policy{bounded},
		Proxy:     o.TokenProxy,
		Person:    o.Person,
		Tracing:   o.Tracing,
		Clock:     o.Clock,
		Observe: func(mode string, err error, took time.Duration) {
			o.Observer.TokenRequest(mode, reasonOf(err), took)
		},
		OnPanic: p.safe.Recovered,
	})
	p.vaults = vault.New(vault.Options{
		Transport:     client,
		Policies:      []policy.Policy{p.limiters.Policy(limiter.Key{}), bounded},
		ApplicationID: o.ApplicationID,
		Tracing:       o.Tracing,
		Clock:         o.Clock,
		Observe:       o.Observer.VaultRequest,
	})
	p.renderer, p.outputs = render.NewRunner(o.RenderProgram), newOutputs(o.Clock)
	p.table = newTable(tableOptions{clock: o.Clock, ttl: o.CacheTTL, observer: o.Observer, safe: p.safe, ask: p.ask})
	return p, nil
}

// Close ends all requests under way and forgets all values.
func (p *Provider) Close() {
	p.table.close()
	p.outputs.close()
	p.identities.Close()
	p.transport.CloseIdleConnections()
}

// Limiters returns what the limiters of each host look like.
func (p *Provider) Limiters() []limiter.Snapshot { return p.limiters.Snapshots() }

// mostInFlight bounds the requests under way to one host. It is also the number of idle connections that are kept, so
// that with HTTP/1.1 no request needs a new one.
const mostInFlight = 128

// limits are those of a service. Of the instance metadata service it is known what it bears: 5 requests a second of the
// whole node. What vaults and Entra ID bear is learned.
func limits(k limiter.Key) limiter.Limits {
	switch {
	case k.Host == "169.254.169.254":
		return limiter.Limits{
			InFlight: 4,
			Rate:     4,
			Burst:    5,
			Advice:   "look for what else on the node asks for tokens of managed identities",
		}
	case k.Quota != "":
		return limiter.Limits{Advice: "use more than one identity, or start fewer nodes or Pods at once"}
	}
	return limiter.Limits{InFlight: mostInFlight, Advice: "spread the load over more vaults or rotate less often"}
}

// noObserver ignores what it is called with.
type noObserver struct{}

func (noObserver) VaultRequest(string, volume.Reason, time.Duration) {}
func (noObserver) TokenRequest(string, volume.Reason, time.Duration) {}
func (noObserver) Source(string)                                     {}
func (noObserver) Detected(volume.Detection)                         {}
func (noObserver) Fallback()                                         {}
func (noObserver) Panicked(string)                                   {}
