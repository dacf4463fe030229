package identity

import (
	"context"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/tracing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// span begins the span of a token request; the SDK's own spans are below it.
func (i *Identity) span(ctx context.Context) (context.Context, func(error)) {
	tracer := i.registry.tracer
	if !tracer.Enabled() {
		return ctx, func(error) {}
	}
	ctx, span := tracer.Start(ctx, "token", &tracing.SpanOptions{
		Kind: tracing.SpanKindInternal,
		Attributes: []tracing.Attribute{
			{
				Key:   "keyvault_csi.identity",
				Value: i.String(),
			},
			{Key: "keyvault_csi.identity_mode", Value: i.method.name()},
		},
	})
	return ctx, func(err error) {
		if err != nil {
			span.SetAttributes(tracing.Attribute{Key: "error.type", Value: string(volume.ReasonOf(err))})
			span.SetStatus(tracing.SpanStatusError, string(volume.ReasonOf(err)))
		}
		span.End()
	}
}
