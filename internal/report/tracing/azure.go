package tracing

import (
	"context"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/tracing"
	"github.com/Azure/azure-sdk-for-go/sdk/tracing/azotel"
)

// Azure returns what the Azure SDK makes its spans with; the zero value where traces are off.
func (t *Traces) Azure() tracing.Provider {
	if !t.On {
		return tracing.Provider{}
	}
	provider := azotel.NewTracingProvider(t.TracerProvider, nil)
	return tracing.NewProvider(func(name, version string) tracing.Tracer {
		tracer := provider.NewTracer(name, version)
		return tracing.NewTracer(
			func(ctx context.Context, name string, o *tracing.SpanOptions) (context.Context, tracing.Span) {
				ctx, span := tracer.Start(ctx, name, o)
				return ctx, discreet(span)
			},
			&tracing.TracerOptions{
				SpanFromContext: func(ctx context.Context) tracing.Span { return discreet(tracer.SpanFromContext(ctx)) },
			},
		)
	}, nil)
}

// discreet is the span without what a service answered: the SDK puts whole error bodies into the status. Its first line
// names the kind of error, and az.service_request_id leads to the rest.
func discreet(span tracing.Span) tracing.Span {
	return tracing.NewSpan(tracing.SpanImpl{
		End: span.End, SetAttributes: span.SetAttributes, AddEvent: span.AddEvent,
		SetStatus: func(code tracing.SpanStatus, text string) {
			first, _, _ := strings.Cut(text, "\n")
			span.SetStatus(code, strings.TrimSuffix(first, ":"))
		},
	})
}
