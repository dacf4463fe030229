package driver

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"path"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// intercept gives each call an id, recovers from panics, and writes exactly one line for a call that failed. Requests are
// never logged: they hold tokens and secrets.
func (d *Driver) intercept(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (resp any, err error) {
	method := path.Base(info.FullMethod)
	ctx = logging.With(ctx, slog.String(logging.KeyRequest, rand.Text()[:12]), slog.String(logging.KeyMethod, method))
	start := d.clock.Now()
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, rpcError(volume.Ref{}, d.safe.Recovered(ctx, method, p))
		}
		d.logCall(ctx, err, d.clock.Since(start))
	}()
	return handler(ctx, req)
}

func (d *Driver) logCall(ctx context.Context, err error, took time.Duration) {
	if err == nil {
		d.log.DebugContext(ctx, "call done", logging.KeyDuration, took)
		return
	}
	attrs := []any{
		logging.KeyCode, status.Code(err).String(),
		logging.KeyError, status.Convert(err).Message(),
		logging.KeyDuration, took,
	}
	if e, ok := errors.AsType[*volume.Error](err); ok {
		attrs = append(attrs, logging.KeyReason, e.Reason)
		if e.RequestID != "" {
			attrs = append(attrs, logging.KeyServiceRequest, e.RequestID)
		}
	}
	d.log.ErrorContext(ctx, "call failed", attrs...)
}
