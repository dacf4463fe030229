//go:build linux

// Command asroot runs a command where it can mount: in a mount namespace of its own, so that nothing it mounts outlives it or
// is seen outside, and, for an ordinary user, in a user namespace where that user is root.
//
//	asroot COMMAND [ARGUMENT...]
//
// It exits with the command's exit code.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// inside marks the second start of this program, the one in the namespaces.
const inside = "KEYVAULT_CSI_ASROOT_INSIDE"

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: asroot COMMAND [ARGUMENT...]")
		os.Exit(2)
	}
	if os.Getenv(inside) != "" {
		fatal(become(os.Args[1:]))
	}
	code, err := enter(os.Args[1:])
	if err != nil {
		fatal(err)
	}
	os.Exit(code)
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "asroot:", err)
	os.Exit(2)
}

// enter starts this program again in new namespaces and waits for it.
func enter(args []string) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find this program: %w", err)
	}
	// An interrupt from the terminal reaches the command too: let it end first. Not ignored, since the command would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGQUIT)
	runtime.LockOSThread() // Pdeathsig is about the thread that started the command

	err = unix.EPERM
	if os.Geteuid() == 0 {
		err = start(self, args, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS})
	}
	if errors.Is(err, unix.EPERM) { // an ordinary user, or root without CAP_SYS_ADMIN
		err = start(self, args, &syscall.SysProcAttr{
			Cloneflags:   syscall.CLONE_NEWUSER,
			Unshareflags: syscall.CLONE_NEWNS,
			UidMappings:  []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
			GidMappings:  []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		})
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 0, noNamespace(err)
	}
	return 0, nil
}

func start(self string, args []string, attr *syscall.SysProcAttr) error {
	cmd := exec.Command(self, args...) //nolint:gosec,noctx // this program itself; it lives as long as its command
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	attr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr = attr
	return cmd.Run()
}

// become proves that a tmpfs can be mounted and then becomes the command.
func become(args []string) error {
	dir, err := os.MkdirTemp("", "asroot-")
	if err != nil {
		return fmt.Errorf("make a directory to mount on: %w", err)
	}
	err = unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k")
	if err == nil {
		err = unix.Unmount(dir, 0)
	}
	if err := errors.Join(err, os.Remove(dir)); err != nil {
		return noNamespace(fmt.Errorf("mount a tmpfs: %w", err))
	}
	if err := os.Unsetenv(inside); err != nil {
		return fmt.Errorf("unset %s: %w", inside, err)
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return fmt.Errorf("find the command: %w", err)
	}
	if err := unix.Exec(path, args, os.Environ()); err != nil {
		return fmt.Errorf("run %s: %w", path, err)
	}
	return nil
}

func noNamespace(err error) error {
	return fmt.Errorf("this machine does not let user %d mount in a namespace of its own (%w): run as root with CAP_SYS_ADMIN, "+
		"or allow unprivileged user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "+
		"kernel.apparmor_restrict_unprivileged_userns)", os.Geteuid(), err)
}
