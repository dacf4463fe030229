package report

import (
	"context"
	"log/slog"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
)

// Log returns a reporter that writes each event as one line. Failed calls and panics are left out: they are logged
// where they end.
func Log(log *slog.Logger) Reporter { return logger{log} }

type logger struct{ log *slog.Logger }

// Report implements Reporter.
func (l logger) Report(ctx context.Context, e Event) {
	level := slog.LevelInfo
	switch e.Kind() {
	case KindPublishFailed, KindUnpublishFailed, KindPanicked:
		return
	case KindRefreshFailed, KindServedStale, KindServedFallback, KindWarning, KindExpiring, KindSyncFailed, KindSyncConflict:
		level = slog.LevelWarn
	case KindPublished, KindAdopted, KindUnpublished, KindRecovered, KindSynced:
	case KindConfirmed:
		level = slog.LevelDebug
	case KindRefreshed:
		if refreshed, ok := e.(Refreshed); ok && !refreshed.Changed {
			level = slog.LevelDebug
		}
	}
	if !l.log.Enabled(ctx, level) {
		return
	}
	ref, pod := e.Ref(), "unknown"
	if ref.Pod.Name != "" {
		pod = ref.Pod.String()
	}
	attrs := []slog.Attr{
		slog.String(logkeys.Event, string(e.Kind())),
		slog.String(logkeys.Pod, pod),
		slog.String(logkeys.Class, ref.Class),
		slog.String(logkeys.Volume, ref.ID),
	}
	if reason := e.Reason(); reason != "" {
		attrs = append(attrs, slog.String(logkeys.Reason, string(reason)))
	}
	if id := RequestID(e); id != "" {
		attrs = append(attrs, slog.String(logkeys.ServiceRequest, id))
	}
	if took := Took(e); took > 0 {
		attrs = append(attrs, slog.Duration(logkeys.Duration, took))
	}
	l.log.LogAttrs(ctx, level, e.Message(), attrs...) //nolint:sloglint // the event brings its sentence
}
