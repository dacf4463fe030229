package driver

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// The names of the driver's spans. A publish has class, fetch, write and sync below it, a rotation fetch, write and sync.
const (
	spanPublish = "publish"
	spanRotate  = "rotate"
	spanClass   = "class"
	spanFetch   = "fetch"
	spanWrite   = "write"
	spanSync    = "sync"
)

// span begins a span of a volume.
func (d *Driver) span(ctx context.Context, name string, ref volume.Ref) (context.Context, trace.Span) {
	return d.tracer.Start(ctx, name, trace.WithAttributes(
		attribute.String("k8s.namespace.name", ref.Pod.Namespace),
		attribute.String("k8s.pod.name", ref.Pod.Name),
		attribute.String("k8s.pod.uid", ref.Pod.UID),
		attribute.String("keyvault_csi.class", ref.Class),
	))
}

// endSpan ends a span with what came of it. Errors that reach a user hold no secret; of others only the class is told.
func endSpan(span trace.Span, err error) {
	if err != nil {
		reason := volume.ReasonOf(err)
		span.SetAttributes(attribute.String("error.type", string(reason)))
		text := string(reason)
		if reason != volume.ReasonInternal {
			text = err.Error()
		}
		span.SetStatus(codes.Error, text)
	}
	span.End()
}

// describeBundle says on a span what was fetched.
func describeBundle(span trace.Span, bundle *volume.Bundle) {
	cached := 0
	for _, o := range bundle.Objects {
		if o.Cached {
			cached++
		}
	}
	span.SetAttributes(
		attribute.Int("keyvault_csi.objects", len(bundle.Objects)),
		attribute.Int("keyvault_csi.objects_cached", cached),
		attribute.Bool("keyvault_csi.stale", bundle.Stale),
	)
}

// traceID is the W3C id of the context's trace, empty where there is none.
func traceID(ctx context.Context) string {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		return span.TraceID().String()
	}
	return ""
}

// tracedError is an error that happened within a trace, for the log.
type tracedError struct {
	error
	trace string
}

// Unwrap returns the error.
func (e *tracedError) Unwrap() error { return e.error }
