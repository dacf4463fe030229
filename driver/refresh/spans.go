package refresh

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/span"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// The names of the spans. A publish has class, fetch, write and sync below it, a refresh fetch, write and sync.
const (
	spanPublish = "publish"
	spanRefresh = "refresh"
	spanClass   = "class"
	spanFetch   = "fetch"
	spanWrite   = "write"
	spanSync    = "sync"
)

// startSpan begins a span about a volume. The log lines of the call that it is part of carry the trace from here on.
func (v *Volumes) startSpan(ctx context.Context, name string, ref volume.Ref) (context.Context, trace.Span) {
	ctx, s := v.Tracer.Start(ctx, name, trace.WithAttributes(
		attribute.String("k8s.namespace.name", ref.Pod.Namespace),
		attribute.String("k8s.pod.name", ref.Pod.Name),
		attribute.String("k8s.pod.uid", ref.Pod.UID),
		attribute.String("keyvault_csi.class", ref.Class),
	))
	if c := s.SpanContext(); c.IsValid() && name == spanPublish {
		logging.Add(ctx, slog.String(logkeys.Trace, c.TraceID().String()))
	}
	return ctx, s
}

// traced runs f in a span about a volume.
func traced[T any](ctx context.Context, v *Volumes, name string, ref volume.Ref, f func(context.Context) (T, error)) (T, error) {
	ctx, s := v.startSpan(ctx, name, ref)
	result, err := f(ctx)
	endSpan(s, err)
	return result, err
}

// endSpan ends a span with its outcome.
func endSpan(s trace.Span, err error) {
	if err != nil {
		span.Fail(s, err)
	}
	s.End()
}

// describeBundle notes on the current span what was fetched.
func describeBundle(ctx context.Context, bundle *volume.Bundle) {
	cached := 0
	for _, o := range bundle.Objects {
		if o.Cached {
			cached++
		}
	}
	trace.SpanFromContext(ctx).SetAttributes(
		attribute.Int("keyvault_csi.objects", len(bundle.Objects)),
		attribute.Int("keyvault_csi.objects_cached", cached),
		attribute.Bool("keyvault_csi.stale", bundle.Stale),
	)
}
