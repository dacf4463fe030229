// Package safe keeps a panic from ending the process: a defect in the handling of one volume, vault or object must not
// stop the others.
package safe

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Handler logs and counts panics.
type Handler struct {
	// Log receives one line with the stack.
	Log *slog.Logger
	// Count is called for each panic with the name of the task; may be nil.
	Count func(ctx context.Context, task string)
}

// Do runs f. A panic of f becomes an error with ReasonInternal.
func (h Handler) Do(ctx context.Context, task string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = h.Recovered(ctx, task, p)
		}
	}()
	return f()
}

// Recovered handles what recover returned in the named task, and returns the error that the task's caller gets. The
// text of a runtime error is logged; any other value may quote a secret, so only its type is.
func (h Handler) Recovered(ctx context.Context, task string, p any) error {
	attrs := []any{logkeys.Task, task, logkeys.Type, fmt.Sprintf("%T", p), logkeys.Stack, string(debug.Stack())}
	if e, ok := p.(runtime.Error); ok {
		attrs = append(attrs, logkeys.Error, e.Error())
	}
	h.Log.ErrorContext(ctx, "panic", attrs...)
	if h.Count != nil {
		h.Count(ctx, task)
	}
	return &volume.Error{
		Reason:  volume.ReasonInternal,
		Message: task + ": defect in the driver: report it with the stack in the driver's log",
	}
}
