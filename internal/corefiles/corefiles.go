// Package corefiles keeps the memory of a process that holds secrets out of files and from other processes.
package corefiles

import (
	"context"
	"errors"
	"log/slog"

	"golang.org/x/sys/unix"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
)

// Disable disables core files, which would contain secrets, and denies other processes of the user access to the memory.
func Disable(ctx context.Context, log *slog.Logger) {
	err := errors.Join(unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}), unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
	if err != nil {
		log.WarnContext(ctx, "core files cannot be disabled", logkeys.Error, err)
	}
}
