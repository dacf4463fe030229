// Package logging makes the driver's logger: text or JSON on one stream, a level that can be changed at run time, and
// attributes that travel with a context so that all lines of one call carry its request id.
package logging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"

	"go.opentelemetry.io/otel/trace"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
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

// Level turns a verbosity as people know it from --v (0 to 10) into a level: 0 is Info, 1 and above are ever finer
// debug levels.
func Level(verbosity int) slog.Level {
	if verbosity <= 0 {
		return slog.LevelInfo
	}
	return slog.LevelDebug - slog.Level(verbosity-1)
}

type attrsKey struct{}

// scope holds the attributes of one call. Add appends to it while the call is under way.
type scope struct {
	parent []slog.Attr

	mu    sync.Mutex
	added []slog.Attr
}

func (s *scope) attrs() []slog.Attr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Concat(s.parent, s.added)
}

// With returns a context whose log lines carry the attributes.
func With(ctx context.Context, attrs ...slog.Attr) context.Context {
	var have []slog.Attr
	if outer, ok := ctx.Value(attrsKey{}).(*scope); ok {
		have = outer.attrs()
	}
	return context.WithValue(ctx, attrsKey{}, &scope{parent: slices.Concat(have, attrs)})
}

// Add gives all later log lines of the context that With returned the attributes too, also those that its caller
// writes. It does nothing for a context that With has not made.
func Add(ctx context.Context, attrs ...slog.Attr) {
	if s, ok := ctx.Value(attrsKey{}).(*scope); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.added = append(s.added, attrs...)
	}
}

// contextHandler adds the context's attributes and its trace to each record.
type contextHandler struct{ slog.Handler }

func (h contextHandler) Handle(ctx context.Context, r slog.Record) error {
	traced := false
	if s, ok := ctx.Value(attrsKey{}).(*scope); ok {
		attrs := s.attrs()
		traced = slices.ContainsFunc(attrs, func(a slog.Attr) bool { return a.Key == logkeys.Trace })
		r.AddAttrs(attrs...)
	}
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		if !traced {
			r.AddAttrs(slog.String(logkeys.Trace, span.TraceID().String()))
		}
		r.AddAttrs(slog.String(logkeys.Span, span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h contextHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return contextHandler{h.Handler.WithAttrs(attrs)}
}

func (h contextHandler) WithGroup(name string) slog.Handler {
	return contextHandler{h.Handler.WithGroup(name)}
}
