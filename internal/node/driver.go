package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/driver"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/admin"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/cli"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/corefiles"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/footprint"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube/classdir"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/nodeidentity"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/nodesync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/identity"
	"github.com/keyvault-csi/keyvault-csi-driver/tmpfs"
)

// repeatInterval is how long a failure of a volume that repeats is not logged again.
const repeatInterval = 10 * time.Minute

func newDriverCommand() *cobra.Command {
	var f driverFlags
	c := &cobra.Command{
		Use: "driver", Short: "Serve the CSI Identity and Node services on this node", Args: cobra.NoArgs,
		Example: `  # as the DaemonSet runs it
  keyvault-csi driver --endpoint unix:///csi/csi.sock --node-id $(KUBE_NODE_NAME) \
    --registration-dir /registration --kubelet-registration-path /var/lib/kubelet/plugins/keyvault-csi/csi.sock

  # without a cluster: classes from a directory
  keyvault-csi driver --endpoint unix:///tmp/kv/csi.sock --node-id laptop --kubelet-dir /tmp/kv --classes ./classes`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return runDriver(cmd.Context(), &f)
		},
	}
	f.register(c.Flags())
	cli.CompleteFlag(c, "log-format", logging.Text, logging.JSON)
	cli.CompleteFlag(c, "node-identity", nodeidentity.Modes()...)
	cli.CompleteClouds(c)
	return c
}

// runDriver wires the parts and runs them until ctx ends.
func runDriver(ctx context.Context, f *driverFlags) (err error) {
	clk, started := clock.RealClock{}, time.Now()
	seen, err := observe(ctx, f, clk)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, seen.Close()) }()
	log := seen.log
	corefiles.Disable(ctx, log)
	dropPrivileges(ctx, log)
	mounts, err := tmpfs.New(tmpfs.Options{Mounter: tmpfs.SystemMounter(), Log: log, Size: f.volumeSize})
	if err != nil {
		return err
	}
	if err := mounts.Probe(""); err != nil {
		log.ErrorContext(ctx, "no volume can be mounted", logkeys.Error, err)
	}
	source, err := openClasses(ctx, f, seen)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.classes.Close()) }()
	reporter := report.All{seen.reporters, report.NewDeduplicated(seen.deduplicated, clk, repeatInterval)}
	var d *driver.Driver // set before the first volume is published
	secrets := openSecrets(ctx, f, source, reporter, func(ref volume.Ref) { d.Refresh(ref) }, clk, log)
	if secrets != nil {
		defer func() { err = errors.Join(err, secrets.Close()) }()
	}
	keyVault, err := openProvider(f, source, seen, clk, log) //nolint:contextcheck // it lives until Close
	if err != nil {
		return err
	}
	defer keyVault.Close()
	options := driver.Options{
		Name:             f.driverName,
		Version:          version.Read().Version,
		NodeID:           f.nodeID,
		KubeletDir:       f.kubeletDir,
		Classes:          source.classes,
		Provider:         keyVault,
		Mounts:           mounts,
		Reporter:         reporter,
		RotationInterval: f.interval(),
		CacheTTL:         f.cacheTTL,
		Tracer:           seen.traces.Tracer("keyvault-csi/driver"),
		Clock:            clk,
		Log:              log,
	}
	if secrets != nil {
		options.Secrets = secrets
	}
	d, err = driver.New(options)
	if err != nil {
		return err
	}
	seen.metrics.SetReady(d.Ready)
	seen.metrics.SetVolumes(d.Snapshots)
	if source.cluster != nil {
		source.cluster.SetVolumes(d.Snapshots)
	}
	return serve(ctx, f, d, seen, &adminServer{
		driver:    d,
		limiters:  keyVault.Limiters,
		recent:    seen.recent,
		verbosity: seen.verbosity,
		started:   started,
		log:       log,
	})
}

// openProvider opens the Key Vault provider. Close must be called.
func openProvider(
	f *driverFlags, from source, seen *observed, clk clock.WithDelayedExecution, log *slog.Logger,
) (*provider.Provider, error) {
	nodeIdentity, err := openNodeIdentity(f, from)
	if err != nil {
		return nil, err
	}
	keyVault, err := provider.New(provider.Options{
		Cloud:             f.cloud,
		CloudConfigDir:    f.cloudConfigDir,
		AllowedVaultHosts: f.allowedVaultHosts,
		CAFile:            f.caFile,
		TokenProxy: identity.ProxyOptions{
			URL:        f.tokenProxyURL,
			ServerName: f.tokenProxySNI,
			CAFile:     f.tokenProxyCAFile,
		},
		CacheTTL:             f.cacheTTL,
		SplitCertAndKey:      f.splitCertAndKey,
		KeepCertificateOrder: !f.constructPEMChain,
		ApplicationID:        "keyvault-csi",
		Accounts:             from.accounts,
		NodeIdentity:         nodeIdentity,
		Tracing:              seen.traces.Azure(),
		Log:                  log,
		Observer:             seen.metrics,
		Clock:                clk,
	})
	if err != nil {
		return nil, err
	}
	seen.metrics.SetLimiters(keyVault.Limiters)
	return keyVault, nil
}

// serve runs the driver and its HTTP listeners; when one ends, all end.
func serve(ctx context.Context, f *driverFlags, d *driver.Driver, seen *observed, a *adminServer) error {
	scrape := promhttp.HandlerFor(seen.registry, promhttp.HandlerOpts{})
	alive := func(ctx context.Context) error { return driver.Ask(ctx, f.endpoint) }
	health, err := listenHTTP(ctx, "--http-addr", f.httpAddr, healthMux(alive, d.Ready, scrape))
	if err != nil {
		return err
	}
	pprof, err := listenHTTP(ctx, "--debug-addr", admin.Loopback(f.debugAddr), debugMux())
	if err != nil {
		return err
	}
	local, err := listenHTTP(ctx, "--admin-addr", admin.Loopback(f.adminAddr), a.mux())
	if err != nil {
		return err
	}
	log := seen.log
	group, ctx := errgroup.WithContext(ctx)
	ctx, stop := context.WithCancel(ctx)
	group.Go(func() error { return health.serve(ctx, log, "health and metrics") })
	group.Go(func() error { return pprof.serve(ctx, log, "pprof") })
	group.Go(func() error { return local.serve(ctx, log, "admin") })
	group.Go(func() error {
		footprint.TrimAfterStart(ctx, clock.RealClock{}, log)
		return nil
	})
	group.Go(func() error {
		defer stop()
		return d.Serve(ctx, driver.ServeOptions{
			Endpoint:                f.endpoint,
			RegistrationDir:         f.registrationDir,
			KubeletRegistrationPath: f.kubeletRegistrationPath,
		})
	})
	return group.Wait()
}

// source is where classes come from.
type source struct {
	classes interface {
		driver.Classes
		Close() error
	}
	// cluster is nil where classes come from a directory.
	cluster *kube.Cluster
	// accounts are those of --service-account-annotations, else nil.
	accounts provider.Accounts
}

// openClasses opens the directory of --classes, else the API server: then status objects and events are written too.
func openClasses(ctx context.Context, f *driverFlags, seen *observed) (source, error) {
	if f.classes != "" {
		dir, err := classdir.Open(f.classes, seen.log)
		if err != nil {
			return source{}, fmt.Errorf("--classes: %w", err)
		}
		return source{classes: dir}, nil
	}
	cluster, err := kube.Open(ctx, kube.Options{
		Kubeconfig: f.kubeconfig,
		DriverName: f.driverName,
		NodeID:     f.nodeID,
		Version:    version.Read().Version,
		Log:        seen.log,
	})
	if err != nil {
		return source{}, fmt.Errorf(
			"no classes: run in a cluster, or set --kubeconfig, or --classes to a directory of "+
				"SecretProviderClass YAML: %w",
			err,
		)
	}
	seen.reporters = append(seen.reporters, cluster.Status())
	seen.deduplicated = append(seen.deduplicated, cluster.Events())
	s := source{classes: cluster, cluster: cluster}
	if f.accounts {
		s.accounts = cluster
	}
	return s, nil
}

// openSecrets returns what writes Kubernetes Secrets; nil where Secret sync is off.
func openSecrets(
	ctx context.Context,
	f *driverFlags,
	from source,
	reporter report.Reporter,
	refetch func(volume.Ref),
	clk clock.WithTicker,
	log *slog.Logger,
) *nodesync.Syncer {
	if from.cluster == nil || !f.syncSecrets {
		return nil
	}
	return nodesync.New(ctx, nodesync.Options{
		Secrets: from.cluster,
		Classes: from.cluster,
		Pods:    from.cluster,
		Rules:   f.secretRules(),
		Report:  func(ctx context.Context, e nodesync.Event) { reporter.Report(ctx, secretEvent(e)) },
		Refetch: refetch,
		Clock:   clk,
		Safe:    safe.Handler{Log: log},
	})
}

// openNodeIdentity returns what applies --node-identity; nil where all may use the node's identity.
func openNodeIdentity(f *driverFlags, from source) (provider.NodeIdentity, error) {
	rule, err := f.nodeIdentity.Rule()
	if err != nil || rule.Mode == nodeidentity.All {
		return nil, err
	}
	policy := &nodeidentity.Policy{Rule: rule}
	if rule.Selector != nil {
		policy.Selected = from.cluster.Namespaces(rule.Selector)
	}
	return policy, nil
}

// secretEvent is the event that reporters know.
func secretEvent(e nodesync.Event) report.Event {
	switch e.Kind {
	case nodesync.Synced:
		return report.SecretWritten{Volume: e.Volume, Text: e.Message, Duration: e.Duration}
	case nodesync.Conflict:
		return report.SecretConflict{Volume: e.Volume, Text: e.Message}
	case nodesync.Left:
		return report.Warning{Volume: e.Volume, Text: e.Message}
	case nodesync.Failed:
	}
	return report.SecretFailed{Volume: e.Volume, Class: e.Reason, Text: e.Message}
}
