package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/render"
)

// unprivileged is the user (nobody) and group of the process where it may choose.
const unprivileged = 65534

// confine gives up, in all threads, what the process does not need. What a limit protects against is a template or an
// expression without an end, so a limit that cannot be set is an error.
func confine() error {
	runtime.GOMAXPROCS(1)
	debug.SetMaxStack(render.StackLimit)
	debug.SetMemoryLimit(render.MemoryLimit * 3 / 8)
	debug.SetTraceback("none")
	// where memory is short, this process goes before others
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	if err := dropPrivileges(); err != nil {
		return err
	}
	for _, limit := range []struct {
		name     string
		resource int
		value    uint64
	}{
		{"memory", unix.RLIMIT_DATA, render.MemoryLimit},
		{"processor time", unix.RLIMIT_CPU, render.ProcessorSeconds},
		{"core file", unix.RLIMIT_CORE, 0},
		{"open files", unix.RLIMIT_NOFILE, 0}, // those that are open stay so; no file or socket can be opened
	} {
		var had unix.Rlimit
		err := unix.Getrlimit(limit.resource, &had)
		if value := min(limit.value, had.Max); err == nil { // one that is lower already cannot be raised
			err = unix.Setrlimit(limit.resource, &unix.Rlimit{Cur: value, Max: value})
		}
		if err != nil {
			return fmt.Errorf("limit of %s: %w", limit.name, err)
		}
	}
	return nil
}

// dropPrivileges becomes an unprivileged user where it may, gives up all capabilities, and keeps others out of its memory.
func dropPrivileges() error {
	if os.Geteuid() == 0 {
		// the driver itself has no capability to change the user, so neither has its child
		err := errors.Join(syscall.Setgroups(nil), syscall.Setresgid(unprivileged, unprivileged, unprivileged), syscall.Setresuid(unprivileged, unprivileged, unprivileged))
		if err != nil && !errors.Is(err, syscall.EPERM) {
			return fmt.Errorf("user: %w", err)
		}
	}
	header, none := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
	_, _, capset := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0) //nolint:gosec // as the system call takes it
	_, _, privs := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	for name, errno := range map[string]syscall.Errno{"capabilities": capset, "no_new_privs": privs} {
		if errno != 0 {
			return fmt.Errorf("%s: %w", name, errno)
		}
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("dumpable: %w", err)
	}
	return nil
}
