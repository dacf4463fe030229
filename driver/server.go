package driver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// drainTimeout bounds how long calls under way may take after the driver was told to stop. It is shorter than the 30 s
// that Kubernetes gives a container.
const drainTimeout = 20 * time.Second

// ServeOptions say where Serve listens.
type ServeOptions struct {
	// Endpoint is the CSI socket, unix:///path.
	Endpoint string
	// RegistrationDir is kubelet's plugin registry directory; empty means no registration.
	RegistrationDir string
	// KubeletRegistrationPath is the CSI socket's path as kubelet sees it on the host.
	KubeletRegistrationPath string
	// Listening is called once the sockets answer; may be nil.
	Listening func()
}

// Serve serves the CSI socket, registers with kubelet and runs the rotation until ctx ends. It then lets calls under way
// finish within a bound, and returns when all it started has ended.
func (d *Driver) Serve(ctx context.Context, o ServeOptions) error {
	listener, err := listenUnix(o.Endpoint)
	if err != nil {
		return fmt.Errorf("csi endpoint: %w", err)
	}
	server := grpc.NewServer(grpc.ChainUnaryInterceptor(d.intercept))
	csi.RegisterIdentityServer(server, d)
	csi.RegisterNodeServer(server, d)

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	failed := make(chan error, 2)
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { failed <- server.Serve(listener) })
	defer drain(server)
	if o.RegistrationDir != "" {
		// the CSI socket serves already: kubelet calls it as soon as it sees the registration socket
		r := &registration{driver: d, socket: filepath.Join(o.RegistrationDir, d.name+"-reg.sock"), endpoint: o.KubeletRegistrationPath}
		listener, err := r.listen()
		if err != nil {
			return err
		}
		work.Go(func() { failed <- r.serve(ctx, listener) })
	}
	watching := make(chan error, 1)
	work.Go(func() { watching <- d.classes.Watch(ctx, d.rotation.classEdited) })
	work.Go(func() { d.rotation.run(ctx) })
	if o.Listening != nil {
		o.Listening()
	}
	d.log.InfoContext(ctx, "serving", "driver", d.name, "version", d.version, "node", d.nodeID, "endpoint", o.Endpoint)
	defer stop()
	for {
		select {
		case <-ctx.Done():
			d.log.InfoContext(ctx, "stopping: no new calls, those under way may finish", "within", drainTimeout)
			return nil
		case err := <-failed:
			return fmt.Errorf("grpc server: %w", err)
		case err := <-watching:
			if ctx.Err() == nil {
				return fmt.Errorf("watch classes: %w", err)
			}
		}
	}
}

// drain lets calls under way finish within the bound.
func drain(server *grpc.Server) {
	timer := time.AfterFunc(drainTimeout, server.Stop)
	defer timer.Stop()
	server.GracefulStop()
}

// Ask calls the Identity service of the driver that serves an endpoint, as kubelet would: an error says that it does not answer.
func Ask(ctx context.Context, endpoint string) error {
	path, err := socketPath(endpoint)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return fmt.Errorf("csi socket: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := csi.NewIdentityClient(conn).GetPluginInfo(ctx, &csi.GetPluginInfoRequest{}); err != nil {
		return fmt.Errorf("csi socket: %w", err)
	}
	return nil
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

// listenUnix listens on a unix:// endpoint for this user only. A socket that an earlier process left is removed; none is
// removed at the end, since by then it may be a successor's.
func listenUnix(endpoint string) (net.Listener, error) {
	path, err := socketPath(endpoint)
	if err != nil {
		return nil, err
	}
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
	listener.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict the socket to this user: %w", err), listener.Close())
	}
	return listener, nil
}
