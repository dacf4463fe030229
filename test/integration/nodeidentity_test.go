//go:build integration

package integration

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// byLabel are the flags that the chart renders for the values of byLabelValues.
var (
	byLabel       = []string{"--node-identity", "namespaces", "--node-identity-namespace-selector", "team in (a,b)"}
	byLabelValues = []string{
		"nodeIdentity.allowed=namespaces", "nodeIdentity.namespaces.matchExpressions[0].key=team",
		"nodeIdentity.namespaces.matchExpressions[0].operator=In", "nodeIdentity.namespaces.matchExpressions[0].values={a,b}",
	}
)

// startManaged runs the driver on a node whose identity may read the vault, with the class web that asks for that identity.
func startManaged(t *testing.T, s site, flags ...string) *kubelet.Node {
	t.Helper()
	s.class("web", "    objects:", "    useVMManagedIdentity: \"true\"\n    objects:")
	seed := seedFor(s.shop) + "managedIdentities:\n- {clientID: of-the-node, objectID: of-the-node-oid, system: true}\n"
	n := kubelet.StartInCluster(t, seed, s.kubeconfig("node-1"), s.TokenIssuer(), flags...)
	n.Secret("db", "s3cret")
	must(t, n.Emulator.Grant(kubelet.Vault, "of-the-node", "secrets/get"))
	return n
}

// TestTheNodesIdentityByLabels: the labels of a Pod's namespace decide, and a namespace that loses them keeps the files of its Pods.
func TestTheNodesIdentityByLabels(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c, byLabelValues...)
	n := startManaged(t, s, append([]string{"--rotation-interval", "1s", "--cache-ttl", "0s"}, byLabel...)...)
	pod := s.pod("cart")
	err := s.publish(n, pod, "web")
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "nodeIdentity.namespaces") {
		t.Errorf("without the label: %v", err)
	}
	c.MustKubectl("", "label", "namespace", s.shop, "team=b")
	n.Eventually("the label", func() bool { return s.publish(n, pod, "web") == nil })
	before := s.namespaceReads(t)
	for range 20 {
		must(t, s.publish(n, pod, "web"))
	}
	if more := s.namespaceReads(t) - before; more > 0 {
		t.Errorf("%d more reads of the namespace for 20 republishes", more)
	}

	// A new process knows no labels.
	n.Stop(syscall.SIGTERM)
	c.MustKubectl("", "label", "namespace", s.shop, "team=c", "--overwrite")
	if _, err := n.Emulator.SetSecret(kubelet.Vault, emulator.Secret{Name: "db", Value: "newer"}); err != nil {
		t.Fatal(err)
	}
	n.Run()
	must(t, s.publish(n, pod, "web"))
	s.Eventually("an event on the Pod", func() bool {
		return strings.Contains(s.events(pod.Name, "MountRotationFailed"), "useVMManagedIdentity is not allowed in the namespace "+s.shop)
	})
	if got := readFile(t, n, pod); got != "s3cret" {
		t.Errorf("the files have changed: %q", got)
	}
	c.MustKubectl("", "label", "namespace", s.shop, "team=a", "--overwrite")
	n.Eventually("the newer value", func() bool { return s.publish(n, pod, "web") == nil && readFile(t, n, pod) == "newer" })
}

// readFile returns the file of the class in the Pod's volume.
func readFile(t *testing.T, n *kubelet.Node, pod *corev1.Pod) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(n.Target(string(pod.UID)), "db"))
	must(t, err)
	return string(data)
}

// namespaceReads counts the driver's reads of the shop's namespace, which are all it asks of namespaces.
func (s site) namespaceReads(t *testing.T) (count int) {
	t.Helper()
	for _, r := range s.Requests("keyvault-csi/") {
		if r.ObjectRef.Resource != "namespaces" {
			continue
		}
		if r.Verb != "get" || r.ResponseStatus.Code != http.StatusOK {
			t.Errorf("%s", r)
		}
		if r.ObjectRef.Name == s.shop {
			count++
		}
	}
	return count
}

// TestTheNodesIdentityWithoutTheRight: the error names what the operator has to grant.
func TestTheNodesIdentityWithoutTheRight(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	n := startManaged(t, s, byLabel...)
	err := s.publish(n, s.pod("cart"), "web")
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "get on namespaces") {
		t.Errorf("%v", err)
	}
}

// TestTheNodesIdentityAtKubectlApply: the class is accepted with a warning, since a Pod's volumeAttributes may ask for another identity.
func TestTheNodesIdentityAtKubectlApply(t *testing.T) {
	const notice = "useVMManagedIdentity is not allowed in this namespace"
	for name, values := range map[string][]string{
		"none":  {"nodeIdentity.allowed=none"},
		"names": {"nodeIdentity.allowed=namespaces", "nodeIdentity.namespaces={shop-a,shop-b}"},
		"label": byLabelValues,
	} {
		t.Run(name, func(t *testing.T) {
			c := controlplane.Shared(t)
			s := install(t, c, values...)
			admin := newCaller(t, c.Admin())
			spec := v1.SecretProviderClassSpec{Provider: "azure", Parameters: with(map[string]string{"useVMManagedIdentity": "true"})}
			warned := func() bool {
				got := apply(admin, s.shop, spec)
				if got.code != http.StatusCreated {
					t.Errorf("%d: %s", got.code, got.body)
				}
				return strings.Contains(strings.Join(got.warnings, "\n"), notice)
			}
			s.Eventually("the warning", warned)
			spec.Parameters["useVMManagedIdentity"] = "false"
			if warned() {
				t.Error("a warning about a class that does not ask for the node's identity")
			}
			if name == "label" {
				spec.Parameters["useVMManagedIdentity"] = "true"
				c.MustKubectl("", "label", "namespace", s.shop, "team=a")
				s.Eventually("no warning with the label", func() bool { return !warned() })
			}
		})
	}
}
