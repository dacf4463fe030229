package driver

import (
	"context"
	"errors"
	"io/fs"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// NodeGetInfo implements the CSI Node service.
func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.nodeID}, nil
}

// NodeGetCapabilities implements the CSI Node service.
func (d *Driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	types := []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
	}
	resp := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range types {
		resp.Capabilities = append(resp.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}},
		})
	}
	return resp, nil
}

// NodePublishVolume implements the CSI Node service: it returns OK only for a volume that is mounted and holds a finished
// generation of files. Kubelet calls it again about every minute (requiresRepublish).
func (d *Driver) NodePublishVolume(
	ctx context.Context, req *csi.NodePublishVolumeRequest,
) (*csi.NodePublishVolumeResponse, error) {
	publication, err := d.checkPublish(req)
	if err == nil {
		err = d.volumes.Publish(ctx, publication)
	}
	if err != nil {
		return nil, rpcError(publication.Ref, err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// NodeUnpublishVolume implements the CSI Node service. It answers from the path alone, so that it works after a restart,
// and ends a publish of the same target that is still under way.
func (d *Driver) NodeUnpublishVolume(
	ctx context.Context, req *csi.NodeUnpublishVolumeRequest,
) (*csi.NodeUnpublishVolumeResponse, error) {
	ref := volume.Ref{ID: req.GetVolumeId(), TargetPath: req.GetTargetPath()}
	var wrong problems
	wrong.require(req.GetVolumeId() != "", "volume id is missing")
	d.checkTarget(&wrong, req.GetTargetPath())
	err := wrong.err()
	if err == nil {
		err = d.volumes.Unpublish(ctx, ref)
	}
	if err != nil {
		return nil, rpcError(ref, err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// NodeGetVolumeStats implements the CSI Node service. It answers from the path alone.
func (d *Driver) NodeGetVolumeStats(_ context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	var wrong problems
	wrong.require(req.GetVolumeId() != "", "volume id is missing")
	wrong.require(req.GetVolumePath() != "", "volume path is missing")
	if err := wrong.err(); err != nil {
		return nil, rpcError(volume.Ref{}, err)
	}
	usage, err := d.mounts.Usage(req.GetVolumePath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, status.Errorf(codes.NotFound, "no volume is mounted at %q", req.GetVolumePath())
	}
	if err != nil {
		return nil, rpcError(volume.Ref{}, err)
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: usage.Bytes.Total, Used: usage.Bytes.Used, Available: usage.Bytes.Available},
		{Unit: csi.VolumeUsage_INODES, Total: usage.Inodes.Total, Used: usage.Inodes.Used, Available: usage.Inodes.Available},
	}}, nil
}
