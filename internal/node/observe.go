package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/audit"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/tracing"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
)

// observed is everything that reports what the driver does.
type observed struct {
	log       *slog.Logger
	verbosity *logging.Verbosity
	registry  *prometheus.Registry
	metrics   *metrics.Metrics
	traces    *tracing.Traces
	recent    *report.Recent
	// reporters receive every event; deduplicated receive a repeated failure at most once per interval.
	reporters, deduplicated report.All
	closers                 []func() error
}

// observe prepares logs, metrics, traces and the audit log. Close must be called.
func observe(ctx context.Context, f *driverFlags, clk clock.PassiveClock) (o *observed, err error) {
	o = &observed{
		verbosity: &logging.Verbosity{},
		recent:    report.NewRecent(clk),
		metrics:   metrics.New(clk),
		registry:  prometheus.NewRegistry(),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.Close())
		}
	}()
	if err := o.verbosity.Set(f.verbosity); err != nil {
		return o, fmt.Errorf("--v: %w", err)
	}
	format := f.logFormat
	if f.logJSON {
		format = logging.JSON
	}
	if o.log, err = logging.New(os.Stderr, format, o.verbosity); err != nil {
		return o, fmt.Errorf("--log-format: %w", err)
	}
	logging.Join(o.log) //nolint:contextcheck // what libraries log belongs to no call
	o.registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector(),
		o.metrics)
	o.traces, err = tracing.Start(ctx, tracing.Options{
		Endpoint: f.otlpEndpoint, Service: "keyvault-csi", Version: version.Read().Version, Node: f.nodeID, Log: o.log,
	})
	if err != nil {
		return o, err
	}
	o.closers = append(o.closers, o.traces.Close)
	o.reporters = report.All{o.metrics, o.recent}
	o.deduplicated = report.All{report.Log(o.log)}
	return o, o.openAudit(f, clk)
}

// openAudit opens the audit log if there is one. SIGHUP reopens its file.
func (o *observed) openAudit(f *driverFlags, clk clock.PassiveClock) error {
	if f.auditLog == "" {
		return nil
	}
	log, err := audit.Open(
		audit.Options{Path: f.auditLog, Node: f.nodeID, Lost: o.metrics.AuditLost, Clock: clk, Log: o.log},
	)
	if err != nil {
		return fmt.Errorf("--audit-log: %w", err)
	}
	o.reporters = append(o.reporters, log)
	stop := log.ReopenOnHangup()
	o.closers = append(o.closers, func() error {
		stop()
		return log.Close()
	})
	return nil
}

// Close flushes logs and traces. An unavailable collector is no error.
func (o *observed) Close() error {
	var failed []error
	for _, closer := range o.closers {
		failed = append(failed, closer())
	}
	o.closers = nil
	return errors.Join(failed...)
}
