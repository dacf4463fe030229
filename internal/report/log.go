package report

import (
	"context"
	"log/slog"
)

// Log returns a reporter that writes each event as one line. Calls that failed are left out: the call itself is logged.
func Log(log *slog.Logger) Reporter { return logger{log} }

type logger struct{ log *slog.Logger }

// Report implements Reporter.
func (l logger) Report(e Event) {
	level := slog.LevelInfo
	switch e.Kind {
	case PublishFailed, UnpublishFailed, Panicked:
		return
	case RefreshFailed, ServedStale, Warning, Expiring, SyncFailed, SyncConflict:
		level = slog.LevelWarn
	case Published, Adopted, Unpublished, Recovered, Synced:
	case Confirmed:
		level = slog.LevelDebug
	case Refreshed:
		if !e.Changed {
			level = slog.LevelDebug
		}
	}
	attrs := []slog.Attr{
		slog.String("event", string(e.Kind)),
		slog.String("pod", e.Volume.Pod.String()),
		slog.String("class", e.Volume.Class),
		slog.String("volume", e.Volume.ID),
	}
	if e.Reason != "" {
		attrs = append(attrs, slog.String("reason", string(e.Reason)))
	}
	if e.RequestID != "" {
		attrs = append(attrs, slog.String("x-ms-request-id", e.RequestID))
	}
	if e.TraceID != "" {
		attrs = append(attrs, slog.String("trace_id", e.TraceID))
	}
	if e.Duration > 0 {
		attrs = append(attrs, slog.Duration("duration", e.Duration))
	}
	l.log.LogAttrs(context.Background(), level, e.Message, attrs...) //nolint:sloglint // the event brings its sentence
}
