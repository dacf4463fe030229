package driver

import (
	"context"
	"fmt"
	"regexp"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// namePattern is what the CSI specification demands of a plugin's name, which is 63 characters at most.
var namePattern = regexp.MustCompile(`^[a-zA-Z]([a-zA-Z0-9.-]{0,61}[a-zA-Z])?$`)

func checkName(name string) error {
	if namePattern.MatchString(name) {
		return nil
	}
	return &volume.Error{
		Reason: volume.ReasonInvalidRequest,
		Message: fmt.Sprintf("driver name %q is not a CSI plugin name: use at most 63 letters, digits, dots and hyphens, "+
			"with a letter first and last", name),
	}
}

// GetPluginInfo implements the CSI Identity service.
func (d *Driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: d.name, VendorVersion: d.version}, nil
}

// GetPluginCapabilities implements the CSI Identity service: a plugin with the Node service alone has none.
func (d *Driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{}, nil
}

// Probe implements the CSI Identity service. It is ready only when volumes can be published.
func (d *Driver) Probe(ctx context.Context, _ *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	err := d.Ready()
	if err != nil {
		d.log.DebugContext(ctx, "not ready", logkeys.Error, err)
	}
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(err == nil)}, nil
}
