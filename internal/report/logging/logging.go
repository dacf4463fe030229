// Package logging makes the driver's logger: text or JSON on one stream, a level that can be changed at run time, and
// attributes that travel with a context so that all lines of one call carry its request id.
package logging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"go.opentelemetry.io/otel/trace"
)

// The formats of New.
const (
	Text = "text"
	JSON = "json"
)

// New returns a logger that writes lines in the format to w. Both formats filter by the same level.
func New(w io.Writer, format string, level slog.Leveler) (*slog.Logger, error) {
	opts := &slog.HandlerOptions{Level: level}
	switch format {
	case Text, "":
		return slog.New(contextHandler{slog.NewTextHandler(w, opts)}), nil
	case JSON:
		return slog.New(contextHandler{slog.NewJSONHandler(w, opts)}), nil
	}
	return nil, fmt.Errorf("log format %q is not known: use %s or %s", format, Text, JSON)
}

// Level turns a verbosity as people know it from --v (0 to 10) into a level: 0 is Info, 1 and above are ever finer debug
// levels.
func Level(verbosity int) slog.Level {
	if verbosity <= 0 {
		return slog.LevelInfo
	}
	return slog.LevelDebug - slog.Level(verbosity-1)
}

// TraceKey is the attribute with the W3C id of the trace that a line belongs to.
const TraceKey = "trace_id"

type attrsKey struct{}

// With returns a context whose log lines carry the attributes.
func With(ctx context.Context, attrs ...slog.Attr) context.Context {
	have, _ := ctx.Value(attrsKey{}).([]slog.Attr)
	return context.WithValue(ctx, attrsKey{}, append(slices.Clip(have), attrs...))
}

// contextHandler adds the context's attributes and its trace to each record.
type contextHandler struct{ slog.Handler }

func (h contextHandler) Handle(ctx context.Context, r slog.Record) error {
	if attrs, ok := ctx.Value(attrsKey{}).([]slog.Attr); ok {
		r.AddAttrs(attrs...)
	}
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		r.AddAttrs(slog.String(TraceKey, span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h contextHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return contextHandler{h.Handler.WithAttrs(attrs)}
}

func (h contextHandler) WithGroup(name string) slog.Handler {
	return contextHandler{h.Handler.WithGroup(name)}
}
