package controller

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/keyvault-csi/keyvault-csi-driver/controller/accounts"
	"github.com/keyvault-csi/keyvault-csi-driver/controller/podsecrets"
	"github.com/keyvault-csi/keyvault-csi-driver/controller/push"
	"github.com/keyvault-csi/keyvault-csi-driver/controller/restart"
	"github.com/keyvault-csi/keyvault-csi-driver/controller/timing"
	syncv1alpha1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/secretsync/v1alpha1"
	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/audit"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const (
	// leaseName is that of the leader's Lease.
	leaseName = "keyvault-csi-controller"
	// The leader is replaced within leaseDuration plus retryPeriod when it dies, and at once when it ends.
	leaseDuration = 10 * time.Second
	renewDeadline = 7 * time.Second
	retryPeriod   = 2 * time.Second
)

// Options configure New. Config, Provider, Metrics, Clock and Log are required.
type Options struct {
	// Config is how the API server is reached.
	Config *rest.Config
	// Namespaces are those that are served; all where empty.
	Namespaces []string
	// ControllerNames are the values of secretSyncControllerName that are served.
	ControllerNames []string
	// Audiences are those of service account tokens that may be requested, the first of them for workload identity.
	Audiences []string
	// Interval is how often objects are synced whose class says nothing; 0 means never.
	Interval time.Duration
	// CacheTTL is how long a value may be shared with objects that are synced a moment later.
	CacheTTL time.Duration
	// Rules bound what is written.
	Rules secretsync.Rules
	// PodSecrets writes the Secrets of classes that Pods mount with the driver of this name; off where empty.
	PodSecrets string
	// LeaderElection makes replicas agree on one that works; LeaseNamespace is where the Lease lives.
	LeaderElection bool
	LeaseNamespace string
	// HealthAddress serves /healthz and /readyz, MetricsAddress /metrics; off where empty. What is served is controller-runtime's registry.
	HealthAddress, MetricsAddress string
	// Metrics are those of the controller; the caller registers them.
	Metrics *metrics.Controller
	// Panicked is called for each panic that was recovered, with the name of the task; may be nil.
	Panicked func(task string)
	// Push turns Key Vault's events into refreshes; off where it is the zero value.
	Push push.Options
	// Restart restarts workloads whose Pods are behind with what they read; nil turns it off. What other fields of Options have is taken
	// from there.
	Restart  *restart.Options
	Provider volume.Provider
	// Audit gets a line for each object that is delivered to a Secret; nil: none.
	Audit *audit.Log
	// Tracer makes the spans; off where nil.
	Tracer trace.Tracer
	Clock  clock.WithTicker
	Log    *slog.Logger
}

// Controller serves SecretSyncs.
type Controller struct{ manager manager.Manager }

// newScheme knows the types that the controller reads and writes.
func newScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, authenticationv1.AddToScheme, v1.AddToScheme, syncv1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			return nil, fmt.Errorf("types of the API server: %w", err)
		}
	}
	return s, nil
}

// New returns a controller that does nothing before Run.
func New(o Options) (*Controller, error) {
	if o.Tracer == nil {
		o.Tracer = noop.NewTracerProvider().Tracer("")
	}
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	namespaces := map[string]cache.Config{}
	for _, namespace := range o.Namespaces {
		namespaces[namespace] = cache.Config{}
	}
	ctrl.SetLogger(logr.FromSlogHandler(o.Log.Handler())) // what the library logs outside of the manager
	m, err := ctrl.NewManager(o.Config, ctrl.Options{
		Scheme: scheme,
		Logger: logr.FromSlogHandler(o.Log.Handler()),
		Cache: cache.Options{
			ByObject:                    o.cached(),
			DefaultNamespaces:           namespaces,
			DefaultTransform:            cache.TransformStripManagedFields(),
			ReaderFailOnMissingInformer: true,
		},
		Client:                        client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}, &corev1.ServiceAccount{}}}},
		LeaderElection:                o.LeaderElection,
		LeaderElectionID:              leaseName,
		LeaderElectionNamespace:       o.LeaseNamespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 new(leaseDuration),
		RenewDeadline:                 new(renewDeadline),
		RetryPeriod:                   new(retryPeriod),
		HealthProbeBindAddress:        addressOrOff(o.HealthAddress),
		Metrics:                       server.Options{BindAddress: addressOrOff(o.MetricsAddress)},
	})
	if err != nil {
		return nil, fmt.Errorf("controller: %w", err)
	}
	secrets, err := metadata.NewForConfig(o.Config)
	if err != nil {
		return nil, fmt.Errorf("client for Secrets: %w", err)
	}
	s := &syncs{
		options:  o,
		client:   m.GetClient(),
		events:   m.GetEventRecorder("keyvault-csi-controller"),
		states:   newStates(),
		accounts: accounts.New(m.GetClient(), o.Clock, o.Audiences),
		requests: timing.NewRefreshes(),
		start:    start{perSecond: o.Config.QPS},
		safe:     safe.Handler{Log: o.Log, Count: func(_ context.Context, task string) { o.panicked(task) }},
	}
	o.Metrics.SetStates(s.states.summary)
	s.secrets = secretsync.New(secretsync.Options{
		Secrets: secretPatches{secrets}, Classes: claims{m.GetAPIReader()}, Clock: o.Clock, Rules: o.Rules,
	})
	if err := s.setUp(m); err != nil {
		return nil, err
	}
	if o.PodSecrets != "" {
		if err := podsecrets.Add(m, podsecrets.Options{
			DriverName: o.PodSecrets,
			Interval:   o.Interval,
			CacheTTL:   o.CacheTTL,
			Rules:      o.Rules,
			Accounts:   s.accounts,
			Provider:   o.Provider,
			Secrets:    secretPatches{secrets},
			Metrics:    o.Metrics,
			Audit:      o.Audit,
			Tracer:     o.Tracer,
			Panicked:   s.safe.Count,
			Clock:      o.Clock,
			Log:        o.Log,
		}); err != nil {
			return nil, err
		}
	}
	if o.Push.Enabled() {
		o.Push.Metrics, o.Push.Panicked = o.Metrics, o.Panicked
		if err := push.Add(m, o.Push); err != nil {
			return nil, err //nolint:wrapcheck // says all
		}
	}
	if err := o.addRestarts(m, secretPatches{secrets}); err != nil {
		return nil, err
	}
	synced := func(*http.Request) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if !m.GetCache().WaitForCacheSync(ctx) {
			return fmt.Errorf("the objects of the API server are not read yet")
		}
		return nil
	}
	if err := m.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return nil, fmt.Errorf("health: %w", err)
	}
	if err := m.AddReadyzCheck("objects", synced); err != nil {
		return nil, fmt.Errorf("readiness: %w", err)
	}
	return &Controller{manager: m}, nil
}

// cached says what the cache keeps of objects that only some features watch.
func (o *Options) cached() map[client.Object]cache.ByObject {
	if o.Restart == nil {
		return nil
	}
	return restart.Cached()
}

// addRestarts makes the manager restart workloads, where that is on.
func (o *Options) addRestarts(m manager.Manager, secrets secretsync.Secrets) error {
	if o.Restart == nil {
		return nil
	}
	r := *o.Restart
	r.Namespaces, r.Excluded, r.Secrets, r.Metrics, r.Panicked = o.Namespaces, o.Rules.Excluded, secrets, o.Metrics, o.Panicked
	r.Clock, r.Log = o.Clock, o.Log
	return restart.Add(m, r)
}

// addressOrOff is how controller-runtime spells an address.
func addressOrOff(address string) string {
	if address == "" {
		return "0"
	}
	return address
}

// Run serves until ctx ends. It returns an error where the leader lost its Lease: the process must end then.
func (c *Controller) Run(ctx context.Context) error {
	if err := c.manager.Start(ctx); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	return nil
}

func (o *Options) panicked(task string) {
	if o.Panicked != nil {
		o.Panicked(task)
	}
}

// serves reports whether the controller is for an object.
func (o *Options) serves(s *syncv1alpha1.SecretSync) bool {
	return slices.Contains(o.ControllerNames, s.Spec.SecretSyncControllerName) &&
		(len(o.Namespaces) == 0 || slices.Contains(o.Namespaces, s.Namespace))
}
