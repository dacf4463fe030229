package system

import (
	"strings"
	"syscall"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// managedSeed has an identity of the node that may read the vault.
const managedSeed = kubelet.Seed + `
managedIdentities:
- {clientID: of-the-node, objectID: of-the-node-oid, system: true}
`

// attribute sets one of the Pod's volumeAttributes.
func attribute(name, value string) func(*csi.NodePublishVolumeRequest) {
	return func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[name] = value }
}

// startManaged runs a driver on a node whose identity may read the secret s. The class managed asks for that identity, web for workload
// identity.
func startManaged(t *testing.T, flags ...string) *kubelet.Node {
	t.Helper()
	n := kubelet.Start(t, managedSeed, flags...)
	n.Secret("s", "value")
	must(t, n.Emulator.Grant(kubelet.Vault, "of-the-node", "secrets/get"))
	n.Class("managed", map[string]string{"objects": kubelet.Objects("s"), "useVMManagedIdentity": "true"})
	n.Class("web", map[string]string{"objects": kubelet.Objects("s")})
	return n
}

func TestTheNodesIdentityIsTheOperatorsChoice(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		flags []string
		// fix is in the refusal; empty where the identity is allowed.
		fix string
	}{
		"default":           {nil, ""},
		"all":               {[]string{"--node-identity", "all"}, ""},
		"none":              {[]string{"--node-identity", "none"}, "nodeIdentity.allowed"},
		"this namespace":    {[]string{"--node-identity", "namespaces", "--node-identity-namespaces", "shop,default"}, ""},
		"another namespace": {[]string{"--node-identity", "namespaces", "--node-identity-namespaces", "shop"}, "nodeIdentity.namespaces"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startManaged(t, tc.flags...)
			refused := func(what string, err error) {
				t.Helper()
				switch {
				case tc.fix == "" && err != nil:
					t.Errorf("%s: %v", what, err)
				case tc.fix != "" && (status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), tc.fix) ||
					!strings.Contains(err.Error(), "useVMManagedIdentity is not allowed in the namespace default")):
					t.Errorf("%s: %v", what, err)
				}
			}
			refused("the class asks", n.Publish("a", "managed"))
			refused("the Pod asks", n.Publish("b", "web", attribute("useVMManagedIdentity", "T")))
			if err := n.Publish("c", "managed", attribute("useVMManagedIdentity", "false")); err != nil {
				t.Errorf("the Pod asks for workload identity: %v", err)
			}
			if err := n.Publish("d", "web"); err != nil {
				t.Errorf("workload identity: %v", err)
			}
			for _, r := range n.Emulator.Requests() {
				if tc.fix != "" && r.Caller == "of-the-node" {
					t.Errorf("the node's identity was used: %+v", r)
				}
			}
		})
	}
}

// An operator who takes the node's identity away harms no running Pod: its files stay as they are.
func TestRunningPodsKeepTheirFilesWithoutTheNodesIdentity(t *testing.T) {
	t.Parallel()
	n := startManaged(t, "--rotation-interval", "1s", "--cache-ttl", "0s")
	n.MustPublish("a", "managed")
	n.Stop(syscall.SIGTERM)
	n.Secret("s", "newer")
	n.SetFlags("--rotation-interval", "1s", "--cache-ttl", "0s", "--node-identity", "none")
	n.Run()
	n.Emulator.ResetRequests()
	if err := n.Publish("a", "managed"); err != nil {
		t.Fatalf("republish of a running Pod: %v", err)
	}
	n.Eventually("the failed refresh in the log", func() bool {
		return strings.Contains(n.Log(), "useVMManagedIdentity is not allowed in the namespace default")
	})
	n.MustPublish("b", "web")
	n.Secret("s", "newest")
	n.Eventually("a refresh of the other Pod", func() bool { return n.Read("b", "s") == "newest" })
	if got := n.Read("a", "s"); got != "value" {
		t.Errorf("the files have changed: %q", got)
	}
	for _, r := range n.Emulator.Requests() {
		if r.Caller == "of-the-node" {
			t.Errorf("the node's identity was used: %+v", r)
		}
	}
}
