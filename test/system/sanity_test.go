package system

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"google.golang.org/grpc"

	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// TestSanity runs every spec of csi-sanity that applies to a node-only driver; none is skipped.
func TestSanity(t *testing.T) { // not in parallel: ginkgo takes the process's output
	n := kubelet.Start(t, kubelet.Seed)
	n.Secret("s", "value")
	n.Class("sanity", map[string]string{"objects": kubelet.Objects("s")})
	s := &shim{
		identity: n.IdentityClient, node: n.NodeClient, volumes: map[string]bool{},
		volumeContext: n.Request("sanity", "sanity").GetVolumeContext(),
		tokens:        func() string { return n.Tokens("default", "app", time.Hour) },
	}
	socket := filepath.Join(t.TempDir(), "shim.sock")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	csi.RegisterIdentityServer(server, s)
	csi.RegisterControllerServer(server, s)
	csi.RegisterNodeServer(server, s)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	config := sanity.NewTestConfig()
	config.Address = "unix://" + socket
	config.TargetPath = filepath.Join(n.Dir, "target")
	config.StagingPath = filepath.Join(n.Dir, "staging")
	config.IdempotentCount = 10
	sanity.Test(t, config)
}
