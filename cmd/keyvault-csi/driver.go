package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/driver"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/admin"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/cli"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube/classdir"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
	"github.com/keyvault-csi/keyvault-csi-driver/provider"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/identity"
	"github.com/keyvault-csi/keyvault-csi-driver/tmpfs"
)

// repeatInterval is how long a repeated failure of the same volume is not logged again.
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
	noCoreFiles(ctx, log)
	dropPrivileges(ctx, log)
	mounts, err := tmpfs.New(tmpfs.Options{Mounter: tmpfs.SystemMounter(), Log: log, Size: f.volumeSize})
	if err != nil {
		return err
	}
	if err := mounts.Probe(""); err != nil {
		log.ErrorContext(ctx, "no volume can be mounted", "error", err)
	}
	classes, accounts, err := openClasses(ctx, f, log, &seen.reporters, &seen.deduplicated)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, classes.Close()) }()
	reporter := report.All{seen.reporters, report.NewDedup(seen.deduplicated, clk, repeatInterval)}
	mirror, err := openMirror(ctx, f, classes, reporter)
	if err != nil {
		return err
	}
	keyVault, err := provider.New(provider.Options{
		Cloud: f.cloud, CloudConfigDir: f.cloudConfigDir, AllowedVaultHosts: f.allowedVaultHosts, CAFile: f.caFile,
		TokenProxy:      identity.ProxyOptions{URL: f.tokenProxyURL, ServerName: f.tokenProxySNI, CAFile: f.tokenProxyCAFile},
		CacheTTL:        f.cacheTTL,
		SplitCertAndKey: f.splitCertAndKey, KeepCertificateOrder: !f.constructPEMChain, ApplicationID: "keyvault-csi",
		Accounts: accounts, Tracing: seen.traces.Azure(), Observer: seen.metrics, Clock: clk,
	})
	if err != nil {
		return err
	}
	defer keyVault.Close()
	seen.metrics.SetGates(keyVault.Limiters)
	d, err := driver.New(driver.Options{
		Name: f.driverName, Version: readBuild().Version, NodeID: f.nodeID, KubeletDir: f.kubeletDir,
		Classes: classes, Provider: keyVault, Mounts: mounts, Mirror: mirror, Reporter: reporter,
		RotationInterval: f.interval(), CacheTTL: f.cacheTTL, Tracer: seen.traces.Tracer("keyvault-csi/driver"), Clock: clk, Log: log,
	})
	if err != nil {
		return err
	}
	seen.metrics.SetReady(d.Ready)
	return serve(ctx, f, d, seen, &adminServer{
		driver: d, limiters: keyVault.Limiters, recent: seen.recent, verbosity: seen.verbosity, started: started, log: log,
	})
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
		defer stop()
		return d.Serve(ctx, driver.ServeOptions{
			Endpoint: f.endpoint, RegistrationDir: f.registrationDir, KubeletRegistrationPath: f.kubeletRegistrationPath,
		})
	})
	return group.Wait()
}

// classSource is where classes come from, until it is closed.
type classSource interface {
	driver.Classes
	Close() error
}

// openClasses opens the directory of --classes, or else the API server, which also gets status objects and events. accounts is nil
// without --service-account-annotations.
func openClasses(
	ctx context.Context, f *driverFlags, log *slog.Logger, reporters, deduplicated *report.All,
) (classes classSource, accounts provider.Accounts, err error) {
	if f.classes != "" {
		dir, err := classdir.Open(f.classes, log)
		if err != nil {
			return nil, nil, fmt.Errorf("--classes: %w", err)
		}
		return dir, nil, nil
	}
	cluster, err := kube.Open(ctx, kube.Options{
		Kubeconfig: f.kubeconfig, DriverName: f.driverName, NodeID: f.nodeID, Version: readBuild().Version, Log: log,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("no classes: run in a cluster, or set --kubeconfig, or --classes to a directory of "+
			"SecretProviderClass YAML: %w", err)
	}
	*reporters = append(*reporters, cluster.Status())
	*deduplicated = append(*deduplicated, cluster.Events())
	if f.accounts {
		accounts = cluster
	}
	return cluster, accounts, nil
}

// openMirror returns what syncs Secrets, nil if that is off.
func openMirror(ctx context.Context, f *driverFlags, classes classSource, reporter report.Reporter) (driver.Mirror, error) {
	cluster, ok := classes.(*kube.Cluster)
	if !ok || !f.syncSecrets {
		return nil, nil
	}
	return cluster.Mirror(ctx, reporter)
}

// noCoreFiles disables core files, which would contain secrets, and denies other processes of the user access to the memory.
func noCoreFiles(ctx context.Context, log *slog.Logger) {
	err := errors.Join(unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}), unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
	if err != nil {
		log.WarnContext(ctx, "core files cannot be disabled", "error", err)
	}
}
