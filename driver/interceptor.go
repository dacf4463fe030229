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

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// intercept gives each call an id, recovers from panics, and writes exactly one line for a call that failed. Requests are
// never logged: they hold tokens and secrets.
func (d *Driver) intercept(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (resp any, err error) {
	method := path.Base(info.FullMethod)
	ctx = logging.With(ctx, slog.String(logkeys.Request, rand.Text()[:12]), slog.String(logkeys.Method, method))
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
		d.log.DebugContext(ctx, "call done", logkeys.Duration, took)
		return
	}
	attrs := []any{
		logkeys.Code, status.Code(err).String(),
		logkeys.Error, status.Convert(err).Message(),
		logkeys.Duration, took,
	}
	if e, ok := errors.AsType[*volume.Error](err); ok {
		attrs = append(attrs, logkeys.Reason, e.Reason)
		if e.RequestID != "" {
			attrs = append(attrs, logkeys.ServiceRequest, e.RequestID)
		}
	}
	d.log.ErrorContext(ctx, "call failed", attrs...)
}
