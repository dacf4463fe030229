package driver

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// registrationServer answers kubelet's plugin watcher, which finds it by its socket in the plugin registry directory
// (plugin registration API v1).
func (d *Driver) registrationServer(endpoint string) *grpc.Server {
	server := grpc.NewServer(grpc.ChainUnaryInterceptor(d.intercept))
	registerapi.RegisterRegistrationServer(server, &registration{driver: d, endpoint: endpoint})
	return server
}

type registration struct {
	registerapi.UnsafeRegistrationServer
	driver   *Driver
	endpoint string
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
