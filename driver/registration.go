package driver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
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
func (r *registration) listen() (net.Listener, error) {
	r.driver.unregistered.Store(notYet(r.driver.name, r.socket))
	listener, err := listenUnix("unix://" + r.socket)
	if err != nil {
		return nil, fmt.Errorf("registration socket: %w", err)
	}
	return listener, nil
}

// serve answers on the socket until ctx ends, and makes it again when it is lost: a driver of the same name that was here before
// removes the socket by its path when it ends, which may be after this driver has started.
func (r *registration) serve(ctx context.Context, listener net.Listener) error {
	for {
		lost, err := r.serveOne(ctx, listener)
		if !lost || err != nil {
			return err
		}
		r.driver.log.WarnContext(ctx, "another process has removed the registration socket: it is made again", "socket", r.socket)
		if listener, err = r.listen(); err != nil {
			return err
		}
	}
}

// serveOne answers on a socket until ctx ends or the socket is lost.
func (r *registration) serveOne(ctx context.Context, listener net.Listener) (lost bool, err error) {
	mine, err := os.Lstat(r.socket)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, errors.Join(fmt.Errorf("registration socket: %w", err), listener.Close())
	}
	server := grpc.NewServer(grpc.ChainUnaryInterceptor(r.driver.intercept))
	registerapi.RegisterRegistrationServer(server, r)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	defer func() {
		drain(server)
		if e := <-ended; e != nil {
			lost, err = false, e
		}
	}()
	ticker := r.driver.clock.NewTicker(registrationCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case e := <-ended:
			ended <- e
			return false, nil
		case <-ticker.C():
			if mine == nil || r.isLost(ctx, mine) {
				return ctx.Err() == nil, nil
			}
		}
	}
}

// isLost tells whether the socket is gone, or is one that nobody serves. One that another process serves is its own: who started
// last has the name.
func (r *registration) isLost(ctx context.Context, mine os.FileInfo) bool {
	now, err := os.Lstat(r.socket)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	if os.SameFile(mine, now) {
		return false
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", r.socket)
	if err == nil {
		_ = conn.Close()
		why := fmt.Sprintf("another process has taken %s: two drivers on this node have the name %s", r.socket, r.driver.name)
		if old := r.driver.unregistered.Swap(&why); old == nil || *old != why {
			r.driver.log.ErrorContext(ctx, "another driver on this node has the same name: pods do not get their volumes from this one",
				"driver", r.driver.name, "socket", r.socket)
		}
	}
	return errors.Is(err, unix.ECONNREFUSED)
}

// GetInfo tells kubelet which socket to call.
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

// NotifyRegistrationStatus takes kubelet's verdict. A refusal makes the driver not ready until kubelet accepts it.
func (r *registration) NotifyRegistrationStatus(ctx context.Context, status *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	if status.GetPluginRegistered() {
		r.driver.unregistered.Store(nil)
		r.driver.log.InfoContext(ctx, "kubelet registered the driver", "driver", r.driver.name)
		return &registerapi.RegistrationStatusResponse{}, nil
	}
	why := fmt.Sprintf("kubelet refused the registration of %s: %s", r.driver.name, status.GetError())
	r.driver.unregistered.Store(&why)
	r.driver.log.ErrorContext(ctx, "kubelet refused the registration: pods cannot mount volumes on this node",
		"driver", r.driver.name, "error", status.GetError())
	return &registerapi.RegistrationStatusResponse{}, nil
}
