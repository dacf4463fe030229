package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
)

// kept are the capabilities that the driver needs: to mount, to give files the pod's group, and to compare files whose
// mode does not let even their owner read.
var kept = [...]uint{unix.CAP_SYS_ADMIN, unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE}

// dropPrivileges permanently drops in all threads the privileges that mounting does not need: a privileged container
// has all.
func dropPrivileges(ctx context.Context, log *slog.Logger) {
	switch err := dropCapabilities(); {
	case errors.Is(err, syscall.ENOTSUP):
		log.InfoContext(ctx, "capabilities are kept: this binary uses cgo, whose threads Go cannot change")
	case err != nil:
		log.WarnContext(ctx, "capabilities cannot be dropped", logkeys.Error, err)
	}
}

func dropCapabilities() error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("no_new_privs: %w", errno)
	}
	// the set has two words (capabilities(7), version 3)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have, want [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	for _, c := range kept {
		bit := uint32(1) << (c % 32)
		want[c/32].Permitted |= have[c/32].Permitted & bit
	}
	want[0].Effective, want[1].Effective = want[0].Permitted, want[1].Permitted
	// the bounding set first: that needs CAP_SETPCAP
	if have[0].Effective&(1<<unix.CAP_SETPCAP) != 0 {
		for c := range uint(unix.CAP_LAST_CAP + 1) {
			if want[c/32].Permitted&(1<<(c%32)) != 0 {
				continue
			}
			// EINVAL: a kernel older than the capability
			_, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0)
			if errno != 0 && errno != unix.EINVAL {
				return fmt.Errorf("bounding set without capability %d: %w", c, errno)
			}
		}
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&want[0])), 0) //nolint:gosec // as the system call takes it
	if errno != 0 {
		return fmt.Errorf("capset: %w", errno)
	}
	return nil
}
