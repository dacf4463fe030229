//go:build integration

package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// installation is the driver's ServiceAccount with the least it needs without Secret sync.
const installation = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: keyvault-csi, namespace: %[1]s}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: keyvault-csi-%[1]s}
rules:
- {apiGroups: [secrets-store.csi.x-k8s.io], resources: [secretproviderclasses], verbs: [get, list, watch]}
- {apiGroups: [secrets-store.csi.x-k8s.io], resources: [secretproviderclasspodstatuses], verbs: [create, patch]}
- {apiGroups: ["", events.k8s.io], resources: [events], verbs: [create, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: keyvault-csi-%[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: keyvault-csi-%[1]s}
subjects: [{kind: ServiceAccount, name: keyvault-csi, namespace: %[1]s}]
`

// class is one secret of kubelet.Seed's vault.
const class = `
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: %s, namespace: %s}
spec:
  provider: azure
  parameters:
    keyvaultName: ` + kubelet.Vault + `
    tenantID: ` + kubelet.Tenant + `
    clientID: ` + kubelet.Client + `
    objects: |
      array:
      - |
        objectName: db
        objectType: secret
`

// seedFor is kubelet.Seed for the service account app of a namespace.
func seedFor(namespace string) string {
	return strings.ReplaceAll(kubelet.Seed, "system:serviceaccount:default:app", "system:serviceaccount:"+namespace+":app")
}

// TestClassOfTheAPIServer mounts a class of a real API server with a token of it: the driver has its own ServiceAccount's rights
// and a Pod's real token gets the Pod's secret.
func TestClassOfTheAPIServer(t *testing.T) {
	c := controlplane.Shared(t)
	c.ApplyCRDs()
	c.CreateNode("node-1")
	system, shop := c.Namespace(), c.Namespace()
	c.ApplyYAML(fmt.Sprintf(installation, system))
	c.ApplyYAML(fmt.Sprintf(class, "web", shop))
	c.CreatePod(system, "driver", "node-1", "keyvault-csi")
	pod := c.CreatePod(shop, "cart", "node-1", "app")

	kubeconfig := c.BoundKubeconfig(system, "keyvault-csi", "driver")
	n := kubelet.StartInCluster(t, seedFor(shop), kubeconfig, c.TokenIssuer())
	n.Secret("db", "s3cret")
	n.MustPublish("cart", "web", kubelet.ForPod(pod, c.Tokens(pod)))
	if got := n.Read("cart", "db"); got != "s3cret" {
		t.Errorf("the file holds %q", got)
	}
	n.Eventually("the status object", func() bool {
		out, err := c.Kubectl("", "-n", shop, "get", "secretproviderclasspodstatuses", "cart-"+shop+"-web", "-o", "jsonpath={.status.mounted} {.status.podName}")
		return err == nil && out == "true cart"
	})

	err := n.Publish("cart-2", "nowhere", kubelet.ForPod(pod, c.Tokens(pod)))
	if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("a class that is not there: %v", err)
	}

	user, count := "system:serviceaccount:"+system+":keyvault-csi", 0
	var refused []string
	for _, r := range c.Requests("keyvault-csi/") {
		if r.User.Username != user {
			continue // of another test
		}
		count++
		if r.ResponseStatus.Code == 403 {
			refused = append(refused, r.String())
		}
		if node := r.User.Extra["authentication.kubernetes.io/node-name"]; !slices.Equal(node, []string{"node-1"}) {
			t.Errorf("%v came with the node claim %v", r, node)
		}
	}
	if count == 0 || len(refused) > 0 {
		t.Errorf("%d requests as %q, refused: %v", count, user, refused)
	}
}

// TestControllersRun proves that a real controller manager works on the shared control plane: others rely on owners and garbage
// collection.
func TestControllersRun(t *testing.T) {
	c := controlplane.Shared(t)
	namespace := c.Namespace()
	c.MustKubectl("", "-n", namespace, "create", "deployment", "web", "--image=web")
	pods := func() []corev1.Pod {
		list, err := c.Client().CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return list.Items
	}
	c.Eventually("the Deployment's Pod", func() bool { return len(pods()) == 1 })
	c.MustKubectl("", "-n", namespace, "delete", "deployment", "web", "--wait=false")
	c.Eventually("the garbage collection of the Pod", func() bool { return len(pods()) == 0 })
}

// TestAPIServerStopsAndStarts proves that of the control plane itself, and that what is known goes on without it.
func TestAPIServerStopsAndStarts(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{AdmissionPlugins: []string{ownerEnforcement}})
	c.ApplyCRDs()
	c.CreateNode("node-1")
	system, shop := c.Namespace(), c.Namespace()
	c.ApplyYAML(fmt.Sprintf(installation, system))
	c.ApplyYAML(fmt.Sprintf(class, "web", shop))
	c.CreatePod(system, "driver", "node-1", "keyvault-csi")
	pod := c.CreatePod(shop, "cart", "node-1", "app")
	tokens := c.Tokens(pod)
	n := kubelet.StartInCluster(t, seedFor(shop), c.BoundKubeconfig(system, "keyvault-csi", "driver"), c.TokenIssuer())
	n.Secret("db", "s3cret")
	n.MustPublish("first", "web", kubelet.ForPod(pod, tokens))

	c.StopAPIServer()
	n.MustPublish("second", "web", kubelet.ForPod(pod, tokens))
	if got := n.Read("second", "db"); got != "s3cret" {
		t.Errorf("without an API server the file holds %q", got)
	}
	c.StartAPIServer()
	c.ApplyYAML(fmt.Sprintf(class, "new", shop))
	n.MustPublish("third", "new", kubelet.ForPod(pod, tokens))

	c.Pause()
	n.MustPublish("fourth", "web", kubelet.ForPod(pod, tokens))
	c.Resume()
	c.ApplyYAML(fmt.Sprintf(class, "newest", shop))
	n.MustPublish("fifth", "newest", kubelet.ForPod(pod, tokens))
}
