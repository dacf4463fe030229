package driver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// intercept gives each call an id, recovers from panics, and writes exactly one line for a call that failed. Requests are
// never logged: they hold tokens and secrets.
func (d *Driver) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	method := path.Base(info.FullMethod)
	ctx = logging.With(ctx, slog.String("request", rand.Text()[:12]), slog.String("method", method))
	start := d.clock.Now()
	defer func() {
		if p := recover(); p != nil {
			// the value of a panic may quote a request: only its type and the stack are safe
			d.log.ErrorContext(ctx, "panic in a call", "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			d.report(ctx, report.Event{Kind: report.Panicked, Reason: volume.ReasonInternal, Message: method})
			resp, err = nil, status.Errorf(codes.Internal,
				"%s: defect in the driver: see its log for the panic, and report it", method)
		}
		took := d.clock.Since(start)
		if err != nil {
			attrs := []any{"code", status.Code(err).String(), "error", status.Convert(err).Message(), "duration", took}
			if e, ok := errors.AsType[*volume.Error](err); ok {
				attrs = append(attrs, "reason", e.Reason)
			}
			if id := requestID(err); id != "" {
				attrs = append(attrs, "x-ms-request-id", id)
			}
			if e, ok := errors.AsType[*tracedError](err); ok && e.trace != "" {
				attrs = append(attrs, logging.TraceKey, e.trace)
			}
			d.log.ErrorContext(ctx, "call failed", attrs...)
			return
		}
		d.log.DebugContext(ctx, "call done", "duration", took)
	}()
	return handler(ctx, req)
}
