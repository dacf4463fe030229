// Command keyvault-controller keeps Kubernetes Secrets in step with Azure Key Vault without a Pod: it serves SecretSync objects.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificate authorities of its own
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/controller"
	"github.com/keyvault-csi/keyvault-csi-driver/controller/restart"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/cli"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/corefiles"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/footprint"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/nodeidentity"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/secretdata"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := newRootCommand().ExecuteContext(ctx)
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT) // a second signal must not turn a clean end into a failure
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "keyvault-controller:", err)
		os.Exit(1)
	}
}

// flags are those of the command.
type flags struct {
	kubeconfig      string
	namespaces      []string
	controllerNames []string
	audiences       []string
	interval        time.Duration
	cacheTTL        time.Duration
	secretTypes     []string
	noSecrets       []string
	nodeIdentity    nodeidentity.Flags
	accounts        bool
	podSecrets      bool
	driverName      string
	leaderElection  bool
	leaseNamespace  string
	healthAddr      string
	metricsAddr     string
	auditLog        string
	otlpEndpoint    string
	logFormat       string
	verbosity       int
	cloud           string
	cloudConfigDir  string
	caFile          string
	allowedHosts    []string
	splitCertAndKey bool
	constructChain  bool
	requestsPerSec  float32
	requestsAtOnce  int
	push            pushFlags
	restart         bool
	restarts        restart.Options
}

func newRootCommand() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "keyvault-controller",
		Short: "Keep Kubernetes Secrets in step with Azure Key Vault without a Pod",
		Long: `keyvault-controller serves SecretSync objects: for each it requests a token of the named service
account, fetches the objects of the named SecretProviderClass from Azure Key Vault, and keeps a
Kubernetes Secret of the object's name in step with them.

With --pod-secrets it also writes the Secrets of classes that Pods mount, with --restart it restarts
workloads when what their Pods read has new versions, and with --events-queue-url or --events-listen
it turns Key Vault's events into refreshes.`,
		Example: `  # as the Deployment runs it
  keyvault-controller --leader-elect --lease-namespace kube-system

  # against the cluster of a kubeconfig
  keyvault-controller --kubeconfig ~/.kube/config --namespaces shop`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return run(cmd.Context(), &f)
		},
		Version: version.Read().String(),
	}
	f.register(c.Flags())
	cli.CompleteFlag(c, "log-format", logging.Text, logging.JSON)
	cli.CompleteFlag(c, "node-identity", nodeidentity.Modes()...)
	cli.CompleteClouds(c)
	return c
}

func (f *flags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig `file`; empty: the pod's own service account")
	fs.StringSliceVar(&f.namespaces, "namespaces", nil, "`namespaces` that are served; empty: all")
	fs.StringSliceVar(&f.controllerNames, "controller-names", []string{"", "keyvault-csi"},
		"values of secretSyncControllerName that are served; the empty `name` is the default controller")
	fs.StringSliceVar(&f.audiences, "audiences", []string{"api://AzureADTokenExchange"},
		"`audiences` of the service account tokens that are requested")
	fs.DurationVar(&f.interval, "rotation-interval", 2*time.Minute, "how often Secrets are refreshed whose class says nothing; 0 turns it off")
	fs.DurationVar(&f.cacheTTL, "cache-ttl", 10*time.Second, "how long objects of one identity that are synced together share a value")
	fs.StringSliceVar(&f.secretTypes, "secret-types", nil,
		"`types` of Secrets that may be written beside those that always may (Opaque, TLS, basic-auth, ssh-auth, dockercfg, dockerconfigjson)")
	fs.StringSliceVar(&f.noSecrets, "no-secret-namespaces", []string{"kube-system", "kube-public", "kube-node-lease"},
		"`namespaces` in which no Secret is written unless --namespaces names them")
	f.nodeIdentity.Register(fs, "")
	fs.BoolVar(&f.accounts, "service-account-annotations", false,
		"take client and tenant id from the ServiceAccount's annotations if a class does not set them")
	fs.BoolVar(&f.podSecrets, "pod-secrets", false, "write the Secrets of classes (secretObjects) that Pods mount, in place of the nodes")
	fs.StringVar(&f.driverName, "driver-name", volume.DriverName, "`name` of the CSI driver whose volumes count")
	f.push.register(fs)
	fs.BoolVar(&f.leaderElection, "leader-elect", false, "let replicas agree on one that works")
	fs.StringVar(&f.leaseNamespace, "lease-namespace", "", "`namespace` of the leader's Lease; empty: the pod's own")
	fs.StringVar(&f.healthAddr, "health-addr", ":8096", "`address` of /healthz and /readyz; empty: off")
	fs.StringVar(&f.metricsAddr, "metrics-addr", ":8095", "`address` of /metrics; empty: off")
	fs.StringVar(&f.auditLog, "audit-log", "", "`file` that gets a JSON line for each object that a Secret was made from, or - for standard output; empty: off")
	fs.StringVar(&f.otlpEndpoint, "otlp-endpoint", "",
		"`URL` of an OpenTelemetry collector that gets traces, http://HOST:4317; empty: as OTEL_EXPORTER_OTLP_ENDPOINT says")
	fs.StringVar(&f.logFormat, "log-format", logging.Text, "`text or json`")
	fs.IntVarP(&f.verbosity, "v", "v", 0, "log `verbosity`: 0 to 10")
	fs.StringVar(&f.cloud, "cloud", "AzurePublicCloud", "the Azure `cloud` of classes that do not set one")
	fs.StringVar(&f.cloudConfigDir, "cloud-config-dir", "", "`directory` of custom clouds' JSON files (cloudEnvFileName)")
	fs.StringVar(&f.caFile, "ca-file", "", "PEM `file` of additional certificate authorities to trust")
	fs.StringSliceVar(&f.allowedHosts, "allowed-vault-hosts", nil,
		"vault `hosts`, or .suffixes, that keyvaultURI may use in addition to those of the cloud")
	fs.BoolVar(&f.splitCertAndKey, "write-cert-and-key-in-separate-files", false,
		"make .crt and .key files beside each certificate-backed secret")
	fs.BoolVar(&f.constructChain, "construct-pem-chain", true, "order certificates of a PFX from leaf to root")
	fs.BoolVar(&f.restart, "restart", false, "restart workloads with the annotation keyvault-csi/restart: on-change when what they read has changed")
	fs.DurationVar(&f.restarts.Delay, "restart-delay", 15*time.Second,
		"how long a restart waits after the first sign of a change; longer than --cache-ttl of the driver")
	fs.IntVar(&f.restarts.Most, "restart-most", 10, "how many workloads are restarted at the same time")
	fs.IntVar(&f.restarts.MostInNamespace, "restart-most-per-namespace", 3, "how many workloads of one namespace are restarted at the same time")
	fs.Float32Var(&f.requestsPerSec, "api-qps", 200, "requests to the API server per second")
	fs.IntVar(&f.requestsAtOnce, "api-burst", 400, "requests to the API server at once")
}

// check returns every mistake at once.
func (f *flags) check() error {
	var wrong []error
	if f.interval < 0 || f.interval > 0 && f.interval < time.Second {
		wrong = append(wrong, fmt.Errorf("--rotation-interval %s is below 1s: 0 turns it off", f.interval))
	}
	if f.cacheTTL < 0 {
		wrong = append(wrong, fmt.Errorf("--cache-ttl %s is negative", f.cacheTTL))
	}
	if len(f.audiences) == 0 {
		wrong = append(wrong, errors.New("--audiences is empty: name the audience of workload identity"))
	}
	if f.podSecrets && f.driverName == "" {
		wrong = append(wrong, errors.New("--driver-name is empty: --pod-secrets needs the name of the CSI driver"))
	}
	if len(f.controllerNames) == 0 {
		wrong = append(wrong, errors.New("--controller-names is empty: no object would be served"))
	}
	for _, kind := range f.secretTypes {
		if secretdata.NeverType(kind) {
			wrong = append(wrong, fmt.Errorf("--secret-types: Secrets of the type %s give access to the cluster itself and are never written: "+
				"leave it out", kind))
		}
	}
	if _, err := f.nodeIdentity.Rule(); err != nil {
		wrong = append(wrong, err)
	}
	if f.requestsPerSec <= 0 || f.requestsAtOnce <= 0 {
		wrong = append(wrong, errors.New("--api-qps and --api-burst must be positive"))
	}
	wrong = append(wrong, f.push.Check(), f.restarts.Check())
	return errors.Join(wrong...)
}

// run wires the parts and runs them until ctx ends.
func run(ctx context.Context, f *flags) (err error) {
	seen, err := observe(ctx, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, seen.Close()) }()
	log := seen.log
	corefiles.Disable(ctx, log)
	config, err := clientConfig(f)
	if err != nil {
		return err
	}
	cluster, err := openCluster(ctx, f, log)
	if err != nil {
		return err
	}
	if cluster != nil {
		defer func() { err = errors.Join(err, cluster.Close()) }()
	}
	keyVault, err := openProvider(f, cluster, seen) //nolint:contextcheck // it lives until Close
	if err != nil {
		return err
	}
	defer keyVault.Close()
	podSecrets := ""
	if f.podSecrets {
		podSecrets = f.driverName
	}
	o := controller.Options{
		Config:          config,
		Namespaces:      f.namespaces,
		ControllerNames: f.controllerNames,
		Audiences:       f.audiences,
		Interval:        f.interval,
		CacheTTL:        f.cacheTTL,
		Rules:           secretsync.Rules{Types: f.secretTypes, Namespaces: f.namespaces, Excluded: f.noSecrets},
		PodSecrets:      podSecrets,
		LeaderElection:  f.leaderElection,
		LeaseNamespace:  f.leaseNamespace,
		HealthAddress:   f.healthAddr,
		MetricsAddress:  f.metricsAddr,
		Metrics:         seen.syncs,
		Panicked:        seen.requests.Panicked,
		Audit:           seen.audit,
		Tracer:          seen.traces.Tracer("github.com/keyvault-csi/keyvault-csi-driver/controller"),
		Push:            f.pushOptions(log),
		Provider:        keyVault,
		Clock:           clock.RealClock{},
		Log:             log,
	}
	if f.restart {
		o.Restart = &f.restarts
	}
	c, err := controller.New(o) //nolint:contextcheck // it runs in Run
	if err != nil {
		return err
	}
	log.InfoContext(ctx, "serving secretsyncs", "namespaces", f.namespaces, "names", f.controllerNames)
	trimmed := make(chan struct{})
	trimming, stop := context.WithCancel(ctx)
	go func() {
		defer close(trimmed)
		footprint.TrimAfterStart(trimming, clock.RealClock{}, log)
	}()
	defer func() { <-trimmed }()
	defer stop()
	return c.Run(ctx)
}

// clientConfig is how the API server is reached.
func clientConfig(f *flags) (config *rest.Config, err error) {
	if f.kubeconfig == "" {
		config, err = rest.InClusterConfig()
	} else {
		config, err = clientcmd.BuildConfigFromFlags("", f.kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("no API server: run in a cluster, or set --kubeconfig: %w", err)
	}
	config.QPS, config.Burst = f.requestsPerSec, f.requestsAtOnce
	config.UserAgent = "keyvault-controller/" + version.Read().Version
	return config, nil
}

// openCluster connects to the API server for what the provider asks of it: annotations of service accounts, labels of namespaces. It returns
// nil where nothing is to be asked. Close must be called.
func openCluster(ctx context.Context, f *flags, log *slog.Logger) (*kube.Cluster, error) {
	if !f.accounts && f.nodeIdentity.Selector == "" {
		return nil, nil
	}
	return kube.Open(ctx, kube.Options{ //nolint:wrapcheck // says all
		Kubeconfig: f.kubeconfig, DriverName: f.driverName, NodeID: "controller", Version: version.Read().Version, Log: log,
	})
}

// openProvider opens the Key Vault provider. Close must be called.
func openProvider(f *flags, cluster *kube.Cluster, seen *observed) (*provider.Provider, error) {
	rule, err := f.nodeIdentity.Rule()
	if err != nil {
		return nil, err
	}
	o := provider.Options{
		Cloud:                f.cloud,
		CloudConfigDir:       f.cloudConfigDir,
		AllowedVaultHosts:    f.allowedHosts,
		CAFile:               f.caFile,
		CacheTTL:             f.cacheTTL,
		SplitCertAndKey:      f.splitCertAndKey,
		KeepCertificateOrder: !f.constructChain,
		ApplicationID:        "keyvault-csi",
		Tracing:              seen.traces.Azure(),
		Observer:             seen.requests,
		Log:                  seen.log,
	}
	if rule.Mode != nodeidentity.All {
		policy := &nodeidentity.Policy{Rule: rule}
		if rule.Selector != nil {
			policy.Selected = cluster.Namespaces(rule.Selector)
		}
		o.NodeIdentity = policy
	}
	if f.accounts {
		o.Accounts = cluster
	}
	keyVault, err := provider.New(o)
	if err != nil {
		return nil, err //nolint:wrapcheck // says all
	}
	seen.requests.SetLimiters(keyVault.Limiters)
	return keyVault, nil
}
