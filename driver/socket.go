package driver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
)

// socket is a Unix socket that this process listens on, with the file that it made. The path may have become a successor's file
// since: in an upgrade two processes can overlap.
type socket struct {
	*net.UnixListener

	path string
	file os.FileInfo
}

// socketPath is the file of a unix:// endpoint.
func socketPath(endpoint string) (string, error) {
	path, ok := strings.CutPrefix(endpoint, "unix://")
	if !ok || path == "" {
		return "", fmt.Errorf("%q is not a unix socket: write unix:///csi/csi.sock", endpoint)
	}
	if !filepath.IsAbs(path) {
		path = "/" + path // as unix://csi/csi.sock was always read
	}
	return path, nil
}

// listenUnix listens on a unix:// endpoint for this user only. It replaces a socket that an earlier process left.
func listenUnix(endpoint string) (*socket, error) {
	path, err := socketPath(endpoint)
	if err != nil {
		return nil, err
	}
	var s *socket
	err = withDirectoryLocked(filepath.Dir(path), func() (err error) {
		s, err = replaceSocket(path)
		return err
	})
	return s, err
}

func replaceSocket(path string) (*socket, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("%s exists and is no socket: remove it or choose another path", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket that an earlier process left: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	listener.SetUnlinkOnClose(false) // it would remove a successor's socket
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict the socket to this user: %w", err), listener.Close())
	}
	file, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("look at the socket: %w", err), listener.Close())
	}
	return &socket{UnixListener: listener, path: path, file: file}, nil
}

// isOwn reports whether the path is still the file that this process made.
func (s *socket) isOwn() bool {
	now, err := os.Lstat(s.path)
	return err == nil && os.SameFile(s.file, now)
}

// remove removes the socket's file, unless it is another process's.
func (s *socket) remove() error {
	return withDirectoryLocked(filepath.Dir(s.path), func() error {
		if !s.isOwn() {
			return nil
		}
		return os.Remove(s.path)
	})
}

// withDirectoryLocked runs f while no other process of the driver makes or removes a socket in the directory: looking whose a file is
// and removing it are two steps.
func withDirectoryLocked(dir string, f func() error) (err error) {
	handle, err := os.Open(dir) //nolint:gosec // the operator's choice
	if err != nil {
		return fmt.Errorf("socket directory: %w", err)
	}
	defer func() { err = errors.Join(err, handle.Close()) }()
	if err := unix.Flock(int(handle.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock the socket directory: %w", err)
	}
	return f()
}

// removeSocket removes a socket's file when the driver ends.
func (d *Driver) removeSocket(ctx context.Context, s *socket) {
	if err := s.remove(); err != nil {
		d.log.WarnContext(ctx, "a socket is left behind", logkeys.Socket, s.path, logkeys.Error, err)
	}
}
