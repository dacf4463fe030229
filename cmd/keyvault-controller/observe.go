package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"k8s.io/utils/clock"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/audit"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/tracing"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
)

// observed is everything that reports what the controller does.
type observed struct {
	log      *slog.Logger
	requests *metrics.Requests
	syncs    *metrics.Controller
	traces   *tracing.Traces
	audit    *audit.Log // nil: off
	closers  []func() error
}

// observe prepares logs, metrics, traces and the audit log. Close must be called.
func observe(ctx context.Context, f *flags) (o *observed, err error) {
	o = &observed{requests: metrics.NewRequests(clock.RealClock{}), syncs: metrics.NewController(clock.RealClock{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.Close())
		}
	}()
	var verbosity logging.Verbosity
	if err := verbosity.Set(f.verbosity); err != nil {
		return o, fmt.Errorf("--v: %w", err)
	}
	if o.log, err = logging.New(os.Stderr, f.logFormat, &verbosity); err != nil {
		return o, fmt.Errorf("--log-format: %w", err)
	}
	logging.Join(o.log) //nolint:contextcheck // what libraries log belongs to no call
	// what the manager serves
	if err := errors.Join(ctrlmetrics.Registry.Register(o.requests), ctrlmetrics.Registry.Register(o.syncs)); err != nil {
		return o, fmt.Errorf("metrics: %w", err)
	}
	o.traces, err = tracing.Start(ctx, tracing.Options{
		Endpoint: f.otlpEndpoint, Service: "keyvault-controller", Version: version.Read().Version, Log: o.log,
	})
	if err != nil {
		return o, err //nolint:wrapcheck // says all
	}
	o.closers = append(o.closers, o.traces.Close)
	if f.auditLog == "" {
		return o, nil
	}
	o.audit, err = audit.Open(audit.Options{Path: f.auditLog, Lost: o.requests.AuditLost, Clock: clock.RealClock{}, Log: o.log})
	if err != nil {
		return o, fmt.Errorf("--audit-log: %w", err)
	}
	stop := o.audit.ReopenOnHangup()
	o.closers = append(o.closers, func() error {
		stop()
		return o.audit.Close()
	})
	return o, nil
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
