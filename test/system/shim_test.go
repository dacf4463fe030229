package system

import (
	"context"
	"fmt"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// shim stands between csi-sanity and a driver: csi-sanity needs a controller that creates volumes, and calls
// NodePublishVolume unlike kubelet does for inline volumes. The shim is the controller, and forwards Identity and Node
// calls as kubelet makes them.
type shim struct {
	csi.UnimplementedControllerServer
	csi.UnimplementedIdentityServer
	csi.UnimplementedNodeServer

	identity csi.IdentityClient
	node     csi.NodeClient
	// volumeContext is what kubelet says of the pod.
	volumeContext map[string]string
	tokens        func() string

	mu      sync.Mutex
	volumes map[string]bool
}

// GetPluginInfo forwards.
func (s *shim) GetPluginInfo(ctx context.Context, r *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return s.identity.GetPluginInfo(ctx, r)
}

// GetPluginCapabilities adds the controller that the shim is.
func (s *shim) GetPluginCapabilities(ctx context.Context, r *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	resp, err := s.identity.GetPluginCapabilities(ctx, r)
	if err != nil {
		return nil, err
	}
	resp.Capabilities = append(resp.Capabilities, &csi.PluginCapability{Type: &csi.PluginCapability_Service_{
		Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE},
	}})
	return resp, nil
}

// Probe forwards.
func (s *shim) Probe(ctx context.Context, r *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return s.identity.Probe(ctx, r)
}

// NodeGetInfo forwards.
func (s *shim) NodeGetInfo(ctx context.Context, r *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return s.node.NodeGetInfo(ctx, r)
}

// NodeGetCapabilities forwards.
func (s *shim) NodeGetCapabilities(ctx context.Context, r *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return s.node.NodeGetCapabilities(ctx, r)
}

// NodePublishVolume forwards as kubelet would call: read-only, with the pod's token.
func (s *shim) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	r.Readonly = true
	r.Secrets = map[string]string{"csi.storage.k8s.io/serviceAccount.tokens": s.tokens()}
	return s.node.NodePublishVolume(ctx, r)
}

// NodeUnpublishVolume forwards.
func (s *shim) NodeUnpublishVolume(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return s.node.NodeUnpublishVolume(ctx, r)
}

// NodeGetVolumeStats forwards.
func (s *shim) NodeGetVolumeStats(ctx context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	return s.node.NodeGetVolumeStats(ctx, r)
}

// ControllerGetCapabilities has none.
func (s *shim) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{}, nil
}

// CreateVolume plays the inline volume of a pod.
func (s *shim) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if r.GetName() == "" || len(r.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "name and capabilities are needed")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := fmt.Sprintf("csi-%x", r.GetName())
	s.volumes[id] = true
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: id, VolumeContext: s.volumeContext}}, nil
}

// DeleteVolume forgets it.
func (s *shim) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "volume id is missing")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.volumes, r.GetVolumeId())
	return &csi.DeleteVolumeResponse{}, nil
}

// ValidateVolumeCapabilities confirms what was made.
func (s *shim) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if r.GetVolumeId() == "" || len(r.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "volume id and capabilities are needed")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.volumes[r.GetVolumeId()] {
		return nil, status.Error(codes.NotFound, "no such volume")
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeCapabilities: r.GetVolumeCapabilities(),
	}}, nil
}
