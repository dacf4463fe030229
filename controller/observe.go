package controller

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/audit"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/span"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// startSpan begins the span of a sync. The Azure SDK's spans of requests are below it.
func (w *work) startSpan(ctx context.Context) (context.Context, trace.Span) {
	return w.options.Tracer.Start(ctx, "secretsync", trace.WithAttributes( //nolint:spancheck // the caller ends it
		attribute.String("k8s.namespace.name", w.sync.Namespace),
		attribute.String("keyvault_csi.secretsync", w.sync.Name),
		attribute.String("keyvault_csi.class", w.sync.Spec.SecretProviderClassName),
	))
}

// count counts a sync in the metrics.
func (w *work) count(r result, took time.Duration) {
	switch {
	case r.err != nil:
		w.options.Metrics.Synced(metrics.SyncFailed, volume.ReasonOf(r.err), took)
	case r.outcome.Result == secretsync.Created:
		w.options.Metrics.Synced(metrics.SyncCreated, "", took)
	case r.outcome.Result == secretsync.Updated:
		w.options.Metrics.Synced(metrics.SyncUpdated, "", took)
	default:
		w.options.Metrics.Synced(metrics.SyncUnchanged, "", took)
	}
}

// describe notes the outcome on the span.
func describe(s trace.Span, r result) {
	if r.err != nil {
		span.Fail(s, r.err)
		return
	}
	s.SetAttributes(attribute.Int("keyvault_csi.objects", len(r.bundle.Objects)), attribute.Bool("keyvault_csi.stale", r.bundle.Stale))
}

// deliver writes the audit log's lines for a Secret that was written.
func (w *work) deliver(ctx context.Context, r result) {
	if w.options.Audit == nil || r.err != nil || r.outcome.Result != secretsync.Created && r.outcome.Result != secretsync.Updated {
		return
	}
	w.options.Audit.Synced(ctx, audit.Synced{
		Namespace: w.sync.Namespace, Secret: w.sync.Name, ServiceAccount: w.sync.Spec.ServiceAccountName, Class: w.class.Name,
		Identity: w.binding.Identity(), FetchedAt: r.bundle.FetchedAt, Stale: r.bundle.Stale, Fallback: r.bundle.Fallback,
		Objects: audit.ObjectsOf(r.bundle.Objects, r.used),
	})
}
