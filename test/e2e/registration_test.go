//go:build e2e

package e2e

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/cluster"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// registered is the node id that kubelet has of the driver; empty where it has none.
func (s *suite) registered() string {
	s.Helper()
	node, err := s.Client().StorageV1().CSINodes().Get(s.Context(), cluster.NodeName, metav1.GetOptions{})
	s.must(err)
	for _, d := range node.Spec.Drivers {
		if d.Name == "secrets-store.csi.k8s.io" {
			return d.NodeID
		}
	}
	return ""
}

// TestAnotherDriverOfTheNameGoes has a driver of the same name on the node, registered by its own socket at the same path, as another
// product's is before a migration. When it goes it removes the socket by its path, even if it is this driver's: this driver must stay registered.
func TestAnotherDriverOfTheNameGoes(t *testing.T) {
	s := begin(t)
	s.NeedsOwn("it reaches the sockets of kubelet on the node")
	name := s.Namespace + "-db"
	s.Secret(name, "s3cret")
	s.Class("web", kubelet.Objects(name))
	socket := filepath.Join(s.Node.Dir, "kubelet/plugins_registry/secrets-store.csi.k8s.io-reg.sock")

	other := startOther(s, socket)
	s.Eventually("kubelet to take the other driver", func() bool { return s.registered() == "other" })
	s.Eventually("the driver to say so", func() bool { return strings.Contains(s.DriverLog(50), "another driver on this node has the same name") })
	other.stop() // and removes the socket
	s.Eventually("kubelet to take the driver again", func() bool { return s.registered() == cluster.NodeName })
	s.DriverReady()

	// The other one's last act comes when this driver has the name already.
	s.must(os.Remove(socket))
	s.Eventually("the socket to be made again", func() bool { _, err := os.Lstat(socket); return err == nil })
	s.Pod("cart", "web")
	s.Ready("cart")
	if got := s.registered(); got != cluster.NodeName {
		t.Errorf("registered: %q", got)
	}
	s.Gone("cart")

	// The socket of a killed driver does not answer, and the driver takes its place when it starts.
	other = startOther(s, socket)
	other.kill()
	s.MustKubectl("", "-n", system, "delete", "pod", s.DriverPod())
	s.DriverReady()
	s.Pod("cart", "web")
	s.Ready("cart")
	s.Gone("cart")
}

// other is a driver that is registered, and does nothing unless publish and unpublish say what.
type other struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedNodeServer
	registerapi.UnimplementedRegistrationServer
	s *suite
	// publish gets a target path and the volume's class, unpublish a target path.
	publish   func(target, class string) error
	unpublish func(target string) error
	servers   []*grpc.Server
	listeners []*net.UnixListener
}

func startOther(s *suite, socket string) *other {
	s.Helper()
	o := &other{s: s}
	o.start(socket)
	return o
}

func (o *other) start(socket string) {
	s := o.s
	s.Helper()
	path := filepath.Join(s.Node.Dir, "kubelet/plugins/csi-secrets-store/csi.sock")
	s.must(os.MkdirAll(filepath.Dir(path), 0o750))
	o.serve(path, func(g *grpc.Server) { csi.RegisterIdentityServer(g, o); csi.RegisterNodeServer(g, o) })
	o.serve(socket, func(g *grpc.Server) { registerapi.RegisterRegistrationServer(g, o) })
	s.Cleanup(o.stop)
}

func (o *other) serve(path string, register func(*grpc.Server)) {
	o.s.Helper()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		o.s.Fatal(err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	o.s.must(err)
	server := grpc.NewServer()
	register(server)
	o.servers, o.listeners = append(o.servers, server), append(o.listeners, listener)
	go func() { _ = server.Serve(listener) }()
}

// stop ends it and removes its sockets.
func (o *other) stop() {
	for _, server := range o.servers {
		server.Stop()
	}
	o.servers, o.listeners = nil, nil
}

// kill ends it; its sockets stay.
func (o *other) kill() {
	for _, listener := range o.listeners {
		listener.SetUnlinkOnClose(false)
	}
	o.stop()
}

func (o *other) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{
		Type: registerapi.CSIPlugin, Name: "secrets-store.csi.k8s.io", Endpoint: "/var/lib/kubelet/plugins/csi-secrets-store/csi.sock",
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (o *other) NotifyRegistrationStatus(context.Context, *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	return &registerapi.RegistrationStatusResponse{}, nil
}

func (o *other) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: "other"}, nil
}

func (o *other) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

func (o *other) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if o.publish == nil {
		return nil, errors.New("this driver mounts nothing")
	}
	return &csi.NodePublishVolumeResponse{}, o.publish(r.GetTargetPath(), r.GetVolumeContext()["secretProviderClass"])
}

func (o *other) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if o.unpublish == nil {
		return nil, errors.New("this driver unmounts nothing")
	}
	return &csi.NodeUnpublishVolumeResponse{}, o.unpublish(r.GetTargetPath())
}
