package driver

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
)

// drainTimeout bounds how long calls under way may take after the driver is asked to stop. It is shorter than the 30 s
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

// Serve serves the CSI socket, registers with kubelet and refreshes volumes until ctx ends. It then removes its sockets, so that
// kubelet forgets the driver, lets calls under way finish within a bound, and returns when all that it started has ended.
func (d *Driver) Serve(ctx context.Context, o ServeOptions) error {
	csiSocket, err := listenUnix(o.Endpoint)
	if err != nil {
		return fmt.Errorf("csi endpoint: %w", err)
	}
	server := grpc.NewServer(grpc.ChainUnaryInterceptor(d.intercept))
	csi.RegisterIdentityServer(server, d)
	csi.RegisterNodeServer(server, d)

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	failed := make(chan error, 3)
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { failed <- server.Serve(csiSocket) })
	defer func() {
		d.removeSocket(ctx, csiSocket)
		drain(server)
	}()
	if o.RegistrationDir != "" {
		// the CSI socket serves already: kubelet calls it as soon as it sees the registration socket
		r := &registration{
			driver:   d,
			socket:   filepath.Join(o.RegistrationDir, d.name+"-reg.sock"),
			endpoint: o.KubeletRegistrationPath,
		}
		registered, err := r.listen()
		if err != nil {
			return err
		}
		var serving sync.WaitGroup
		serving.Go(func() { failed <- r.serve(ctx, registered) })
		defer func() {
			stop()
			serving.Wait() // kubelet forgets the driver before the CSI socket goes
		}()
	}
	work.Go(func() {
		if err := d.classes.Watch(ctx, d.volumes.ClassEdited); err != nil && ctx.Err() == nil {
			failed <- fmt.Errorf("watch classes: %w", err)
		}
	})
	work.Go(func() { d.volumes.Run(ctx) })
	defer stop()
	if o.Listening != nil {
		o.Listening()
	}
	d.log.InfoContext(ctx, "serving", logkeys.Driver, d.name, "version", d.version, "node", d.nodeID, "endpoint", o.Endpoint)
	select {
	case <-ctx.Done():
		d.log.InfoContext(ctx, "stopping: no new calls are accepted, those under way may finish", "within", drainTimeout)
		return nil
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
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
