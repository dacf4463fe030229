//go:build integration

package integration

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// ownerEnforcement is the admission plugin that wants the right to delete of who changes owners.
const ownerEnforcement = "OwnerReferencesPermissionEnforcement"

// site is a cluster in which the chart's account, roles and policies are installed, and a namespace with Pods.
type site struct {
	*controlplane.ControlPlane

	// system is the namespace of the driver, account its ServiceAccount's name and that of the release.
	system, account string
	// shop is a namespace with Pods, whose service account app federates with kubelet.Client.
	shop string
}

// install installs what the chart has for the API server, with values such as "syncSecret.enabled=true", and waits until the
// policies work.
func install(t *testing.T, c *controlplane.ControlPlane, values ...string) site {
	t.Helper()
	c.ApplyCRDs()
	s := site{ControlPlane: c, system: c.Namespace(), shop: c.Namespace()}
	s.account = "keyvault-csi-" + s.system
	if slices.Contains(c.AdmissionPlugins, ownerEnforcement) {
		values = append([]string{"rbac.ownerReferences=true"}, values...)
	}
	objects := chart(t, c.Version(), s.account, s.system, values...)
	c.ApplyYAML(objects)
	t.Cleanup(func() {
		if _, err := c.Kubectl(objects, "delete", "--ignore-not-found", "--wait=false", "-f", "-"); err != nil {
			t.Log(err)
		}
	})
	s.addNode("node-1")
	if strings.Contains(objects, "ValidatingAdmissionPolicy") {
		kubeconfig := s.kubeconfig("node-1")
		c.Eventually("the policies", func() bool {
			_, fence := c.Plane.Kubectl(kubeconfig, fmt.Sprintf(statusObject, "x", s.shop, "no-node"), "apply", "--server-side", "--dry-run=server", "-f", "-")
			_, classes := c.Kubectl(strings.Replace(fmt.Sprintf(class, "x", s.shop), kubelet.Vault, "a_b", 1), "create", "--dry-run=server", "-f", "-")
			return fence != nil && strings.Contains(fence.Error(), s.account+"-driver") && classes != nil
		})
	}
	return s
}

// chart renders what the chart has for the API server of a version.
func chart(t *testing.T, version, release, namespace string, values ...string) string {
	t.Helper()
	var objects strings.Builder
	for object := range strings.SplitSeq(render(t, version, release, namespace, values...), "\n---\n") {
		for _, template := range []string{"serviceaccount.yaml", "rbac.yaml", "policies.yaml", "controllerrbac.yaml", "controller-"} {
			if strings.Contains(object, "/templates/"+template) {
				objects.WriteString(object + "\n---\n")
			}
		}
	}
	return objects.String()
}

// template is the object of a kind that one of the chart's templates makes.
func template(t *testing.T, version, release, namespace, name, kind string, values ...string) string {
	t.Helper()
	for object := range strings.SplitSeq(render(t, version, release, namespace, values...), "\n---\n") {
		if strings.Contains(object, "/"+name) && strings.Contains(object, "\nkind: "+kind+"\n") {
			return object
		}
	}
	t.Fatalf("the chart makes no %s of %s", kind, name)
	return ""
}

// render runs helm template.
func render(t *testing.T, version, release, namespace string, values ...string) string {
	t.Helper()
	root, err := binaries.Root()
	must(t, err)
	args := []string{
		"template", release, "deploy/chart", "--namespace", namespace, "--kube-version", version,
	}
	for _, value := range values {
		args = append(args, "--set", value)
	}
	var out, problems bytes.Buffer
	cmd := exec.CommandContext(t.Context(), binaries.Helm(t), args...) //nolint:gosec // the project's own tool
	cmd.Dir, cmd.Stdout, cmd.Stderr = root, &out, &problems
	if err := cmd.Run(); err != nil {
		t.Fatalf("helm template: %v\n%s", err, &problems)
	}
	return out.String()
}

// addNode makes a node with the driver's Pod.
func (s site) addNode(name string) {
	s.Helper()
	s.CreateNode(name)
	s.CreatePod(s.system, "driver-"+name, name, s.account)
}

// kubeconfig is one with the token that the driver has on the node.
func (s site) kubeconfig(node string) string {
	s.Helper()
	return s.BoundKubeconfig(s.system, s.account, "driver-"+node)
}

// start runs the driver on node-1 with its own credentials.
func (s site) start(t *testing.T, flags ...string) *kubelet.Node {
	t.Helper()
	return kubelet.StartInCluster(t, seedFor(s.shop), s.kubeconfig("node-1"), s.TokenIssuer(), flags...)
}

// pod makes a Pod of the service account app on node-1, and returns what kubelet would say of it.
func (s site) pod(name string) *corev1.Pod {
	s.Helper()
	return s.CreatePod(s.shop, name, "node-1", "app")
}

// class applies a class of kubelet.Seed's vault; edit changes its text by pairs of old and new.
func (s site) class(name string, edit ...string) {
	s.Helper()
	s.ApplyYAML(strings.NewReplacer(edit...).Replace(fmt.Sprintf(class, name, s.shop)))
}

// publish has the Pod's volume mounted, as kubelet would.
func (s site) publish(n *kubelet.Node, pod *corev1.Pod, class string) error {
	s.Helper()
	return n.Publish(string(pod.UID), class, kubelet.ForPod(pod, s.Tokens(pod)))
}

// get is the text that kubectl get prints in the shop.
func (s site) get(args ...string) string {
	s.Helper()
	return s.MustKubectl("", append([]string{"-n", s.shop, "get"}, args...)...)
}

// await waits until kubectl get prints a text in the shop.
func (s site) await(want string, args ...string) {
	s.Helper()
	var got string
	s.Eventually("kubectl get "+strings.Join(args, " ")+" to print "+want, func() bool {
		out, err := s.Kubectl("", append([]string{"-n", s.shop, "get"}, args...)...)
		if err != nil {
			out = err.Error()
		}
		if got != out {
			s.Logf("now: %s", out)
		}
		got = out
		return out == want
	})
}

// statusObject is one of name and namespace with the label of a node.
const statusObject = `
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClassPodStatus
metadata: {name: %s, namespace: %s, labels: {internal.secrets-store.csi.k8s.io/node-name: %s}}
`

// caller makes plain requests with some credentials.
type caller struct {
	t      *testing.T
	client *http.Client
	host   string
}

func newCaller(t *testing.T, config *rest.Config) caller {
	t.Helper()
	config = rest.CopyConfig(config)
	config.UserAgent = "caller/" + t.Name()
	client, err := rest.HTTPClientFor(config)
	must(t, err)
	t.Cleanup(client.CloseIdleConnections)
	return caller{t, client, strings.TrimSuffix(config.Host, "/")}
}

// callerOf has the credentials of a kubeconfig.
func callerOf(t *testing.T, kubeconfig string) caller {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	must(t, err)
	return newCaller(t, config)
}

// answer is what came back.
type answer struct {
	code     int
	body     string
	warnings []string
}

// do makes a request; kind is the body's type without application/.
func (c caller) do(method, path, kind, body string) answer {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.host+path, strings.NewReader(body))
	must(c.t, err)
	if kind != "" {
		req.Header.Set("Content-Type", "application/"+kind)
	}
	resp, err := c.client.Do(req)
	must(c.t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	must(c.t, err)
	return answer{resp.StatusCode, string(text), resp.Header.Values("Warning")}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
