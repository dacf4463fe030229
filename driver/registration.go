package driver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
)

// registrationCheck is how often the driver looks whether its registration socket is still there.
const registrationCheck = 5 * time.Second

// registration answers kubelet's plugin watcher, which finds it by its socket in the plugin registry directory (plugin registration
// API v1). Kubelet forgets a driver when the socket goes.
type registration struct {
	registerapi.UnsafeRegistrationServer
	driver *Driver
	// socket is in the plugin registry directory; endpoint is the CSI socket as kubelet sees it.
	socket, endpoint string
}

// listen makes the socket. The driver is not ready until kubelet has found it.
func (r *registration) listen() (*socket, error) {
	r.driver.unregistered.Store(notYet(r.driver.name, r.socket))
	s, err := listenUnix("unix://" + r.socket)
	if err != nil {
		return nil, fmt.Errorf("registration socket: %w", err)
	}
	return s, nil
}

// serve answers on the socket until ctx ends, and makes it again when it is lost: an older driver of the same name removes the socket by
// its path when it ends, which may be after this driver has started.
func (r *registration) serve(ctx context.Context, s *socket) error {
	for {
		lost, err := r.serveOne(ctx, s)
		if !lost || err != nil {
			return err
		}
		r.driver.log.WarnContext(ctx, "another process removed the registration socket: it is made again", logkeys.Socket, r.socket)
		if s, err = r.listen(); err != nil {
			return err
		}
	}
}

// serveOne answers on a socket until ctx ends or the socket is lost.
func (r *registration) serveOne(ctx context.Context, s *socket) (lost bool, err error) {
	server := grpc.NewServer(grpc.ChainUnaryInterceptor(r.driver.intercept))
	registerapi.RegisterRegistrationServer(server, r)
	ended := make(chan error, 1)
	var serving sync.WaitGroup
	serving.Go(func() { ended <- server.Serve(s) })
	defer func() {
		r.driver.removeSocket(ctx, s)
		drain(server)
		serving.Wait()
	}()
	ticker := r.driver.clock.NewTicker(registrationCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case err := <-ended:
			return false, err //nolint:wrapcheck // the caller says what it served
		case <-ticker.C():
			if r.isLost(ctx, s) {
				return ctx.Err() == nil, nil
			}
		}
	}
}

// isLost reports whether the socket is gone, or is one that no process serves. One that another process serves is its own: the driver
// that started last has the name.
func (r *registration) isLost(ctx context.Context, s *socket) bool {
	if s.isOwn() {
		return false
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", r.socket)
	if err == nil {
		_ = conn.Close()
		why := fmt.Sprintf("another process has taken %s: two drivers on this node have the name %s", r.socket, r.driver.name)
		if old := r.driver.unregistered.Swap(&why); old == nil || *old != why {
			r.driver.log.ErrorContext(ctx, "another driver on this node has the same name: Pods do not get their volumes from this one",
				logkeys.Driver, r.driver.name, logkeys.Socket, r.socket)
		}
	}
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, os.ErrNotExist)
}

// GetInfo answers which socket kubelet is to call.
func (r *registration) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{
		Type:              registerapi.CSIPlugin,
		Name:              r.driver.name,
		Endpoint:          r.endpoint,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

// notYet is why the driver is not registered before kubelet has said anything.
func notYet(name, socket string) *string {
	why := fmt.Sprintf("kubelet has not registered %s yet: it must find %s in its plugin registry directory", name, socket)
	return &why
}

// NotifyRegistrationStatus takes kubelet's answer. A refusal makes the driver not ready until kubelet accepts it.
func (r *registration) NotifyRegistrationStatus(ctx context.Context, status *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	if status.GetPluginRegistered() {
		r.driver.unregistered.Store(nil)
		r.driver.log.InfoContext(ctx, "kubelet registered the driver", "driver", r.driver.name)
		return &registerapi.RegistrationStatusResponse{}, nil
	}
	why := fmt.Sprintf("kubelet rejected the registration of %s: %s", r.driver.name, status.GetError())
	r.driver.unregistered.Store(&why)
	r.driver.log.ErrorContext(ctx, "kubelet rejected the registration: Pods cannot mount volumes on this node",
		"driver", r.driver.name, "error", status.GetError())
	return &registerapi.RegistrationStatusResponse{}, nil
}
