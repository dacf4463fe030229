package push

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azcloud "github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/transport"
)

// Options configure Add. Clock, Log and Metrics are required, as are the fields of the queue or those of the hook.
type Options struct {
	// QueueURL is that of the storage queue; empty where there is none.
	QueueURL string
	// QueueInterval is how often an empty queue is asked.
	QueueInterval time.Duration
	// ClientID and TenantID are those of the identity that reads the queue, and TokenFile is the file of its service account's token: workload
	// identity. Where TokenFile is empty, it is the managed identity with the ClientID, or the machine's.
	ClientID, TenantID, TokenFile string

	// Listen is the address of the web hook; empty where there is none.
	Listen string
	// CertFile and KeyFile are the hook's certificate and key, in PEM. They are read again when they change.
	CertFile, KeyFile string
	// Issuer and Audience are those of the tokens that deliveries must have.
	Issuer, Audience string
	// Listening is called with the hook's address; may be nil.
	Listening func(net.Addr)

	// Cloud is the cloud of classes that name none, and CloudConfigDir has the files of custom ones.
	Cloud, CloudConfigDir string
	// AllowedVaultHosts are hosts, or suffixes with a leading dot, that classes may use beside those of their cloud.
	AllowedVaultHosts []string
	// CAFile is a PEM file of authorities to trust beside the system's.
	CAFile  string
	Metrics *metrics.Controller
	// Panicked is called for each panic that was recovered, with the name of the task; may be nil.
	Panicked func(task string)
	Clock    clock.Clock
	Log      *slog.Logger
}

// Enabled reports whether there is anything to add.
func (o *Options) Enabled() bool { return o.QueueURL != "" || o.Listen != "" }

// Check returns every mistake, in the words of the command's flags.
func (o *Options) Check() error { return errors.Join(o.checkQueue(), o.checkHook()) }

func (o *Options) checkQueue() error {
	if o.QueueURL == "" {
		return nil
	}
	wrong := []error{CheckQueueURL(o.QueueURL)}
	if o.QueueInterval < 100*time.Millisecond || o.QueueInterval > time.Hour {
		wrong = append(wrong, fmt.Errorf("--events-poll-interval %s is not between 100ms and 1h", o.QueueInterval))
	}
	if o.TokenFile != "" && (o.ClientID == "" || o.TenantID == "") {
		wrong = append(wrong, errors.New("--events-token-file needs --events-client-id and --events-tenant-id"))
	}
	return errors.Join(wrong...)
}

func (o *Options) checkHook() error {
	if o.Listen == "" {
		return nil
	}
	var wrong []error
	if o.CertFile == "" || o.KeyFile == "" {
		wrong = append(wrong, errors.New("--events-listen needs --events-tls-cert-file and --events-tls-key-file"))
	}
	if o.Issuer == "" || o.Audience == "" {
		wrong = append(wrong, errors.New("--events-listen needs --events-issuer and --events-audience: a hook without verification does not start"))
	} else if u, err := url.Parse(o.Issuer); err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		wrong = append(wrong, errors.New("--events-issuer: write the issuer of the tokens, such as https://sts.windows.net/TENANT/"))
	}
	return errors.Join(wrong...)
}

// Add makes the manager serve events. Each class that it knows is indexed by what it uses.
func Add(m manager.Manager, o Options) error {
	if err := o.Check(); err != nil {
		return err
	}
	clouds, err := cloud.NewResolver(o.Cloud, o.CloudConfigDir)
	if err != nil {
		return fmt.Errorf("--cloud: %w", err)
	}
	own, err := clouds.Lookup("", "")
	if err != nil {
		return fmt.Errorf("--cloud: %w", err)
	}
	wire, err := transport.New(transport.Options{CAFile: o.CAFile, IdlePerHost: messagesAtOnce})
	if err != nil {
		return err //nolint:wrapcheck // says all
	}
	p := parser{options: class.Options{Clouds: clouds, AllowedHosts: o.AllowedVaultHosts}, safe: o.guard()}
	if err := m.GetFieldIndexer().IndexField(context.Background(), &v1.SecretProviderClass{}, objectIndex, p.keys); err != nil {
		return fmt.Errorf("index of the objects of classes: %w", err)
	}
	r := newRefresher(m, o, p)
	r.hosts = append(r.hosts, "."+own.VaultSuffix)
	if err := m.Add(r); err != nil {
		return fmt.Errorf("events: %w", err)
	}
	if o.QueueURL != "" {
		if err := addQueue(m, o, r, own, wire); err != nil {
			return err
		}
	}
	if o.Listen != "" {
		return addHook(m, o, r, wire)
	}
	return nil
}

// guard keeps panics from ending the process.
func (o *Options) guard() safe.Handler {
	return safe.Handler{Log: o.Log, Count: func(_ context.Context, task string) {
		if o.Panicked != nil {
			o.Panicked(task)
		}
	}}
}

// newRefresher wires what asks for refreshes.
func newRefresher(m manager.Manager, o Options, p parser) *refresher {
	budget := newBudget()
	mounted := &nodes{reader: m.GetAPIReader(), clock: o.Clock, log: o.Log, counts: map[string]nodeCount{}}
	waiting := &asks{
		client:  m.GetClient(),
		clock:   o.Clock,
		safe:    o.guard(),
		written: o.Metrics.RefreshRequested,
		spread: func(ctx context.Context, f found) time.Duration {
			return budget.spread(f.uses.requests, mounted.of(ctx, f.class.Namespace, f.class.Name), o.Clock.Now())
		},
	}
	return &refresher{
		reader:  m.GetClient(),
		parser:  p,
		asks:    waiting.begun(),
		clock:   o.Clock,
		log:     o.Log,
		metrics: o.Metrics,
		hosts:   lower(o.AllowedVaultHosts),
		refused: map[outcome]refusals{},
	}
}

func lower(hosts []string) (all []string) {
	for _, host := range hosts {
		all = append(all, strings.ToLower(host))
	}
	return all
}

// addQueue adds the reader of the queue.
func addQueue(m manager.Manager, o Options, r *refresher, own cloud.Cloud, wire *http.Transport) error {
	client := policy.ClientOptions{
		Transport: transport.Client{RoundTripper: wire},
		Cloud:     azcloud.Configuration{ActiveDirectoryAuthorityHost: own.Authority},
	}
	credential, err := o.credential(client)
	if err != nil {
		return fmt.Errorf("the identity that reads the queue of events: %w", err)
	}
	messages, err := newStorageQueue(o.QueueURL, credential, client.Transport)
	if err != nil {
		return err
	}
	err = m.Add(&queue{
		messages: messages, interval: o.QueueInterval, deliver: r.deliver, refuse: r.refuse, metrics: r.metrics, clock: o.Clock, log: o.Log,
		safe: o.guard(),
	})
	if err != nil {
		return fmt.Errorf("queue of events: %w", err)
	}
	return nil
}

func (o *Options) credential(client policy.ClientOptions) (azcore.TokenCredential, error) {
	if o.TokenFile != "" {
		return azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{ //nolint:wrapcheck // the caller does
			ClientOptions: client, ClientID: o.ClientID, TenantID: o.TenantID, TokenFilePath: o.TokenFile,
		})
	}
	managed := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: client}
	if o.ClientID != "" {
		managed.ID = azidentity.ClientID(o.ClientID)
	}
	return azidentity.NewManagedIdentityCredential(managed) //nolint:wrapcheck // the caller does
}

// addHook adds the web hook.
func addHook(m manager.Manager, o Options, r *refresher, wire *http.Transport) error {
	err := m.Add(&hook{
		address: o.Listen, certFile: o.CertFile, keyFile: o.KeyFile, verifier: newVerifier(o.Issuer, o.Audience, wire, o.Clock),
		serve: r.serve, refuse: r.refuse, log: o.Log, safe: o.guard(), slots: make(chan struct{}, mostDeliveries),
		listening: o.Listening,
	})
	if err != nil {
		return fmt.Errorf("web hook of events: %w", err)
	}
	return nil
}
