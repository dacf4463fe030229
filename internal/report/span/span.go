// Package span notes on spans what came of the work that they are about.
package span

import (
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Fail notes an error. The text of an internal error is left out: only errors for users are known to hold no secret.
func Fail(span trace.Span, err error) {
	reason := volume.ReasonOf(err)
	span.SetAttributes(attribute.String("error.type", string(reason)))
	text := string(reason)
	if reason != volume.ReasonInternal {
		text = err.Error()
	}
	span.SetStatus(codes.Error, text)
}
