//go:build integration

package integration

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// statusOf prints a status object's fields that tools read.
const statusOf = "jsonpath={.metadata.labels} {.metadata.ownerReferences[*].kind}/{.metadata.ownerReferences[*].name}/{.metadata.ownerReferences[*].uid} " +
	"{.status.podName} {.status.secretProviderClassName} {.status.mounted} {.status.objects} {.status.targetPath}"

// TestStatusObjects: what tools read is there, written once, and goes with the Pod.
func TestStatusObjects(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	s.class("web", "objects: |\n      array:\n", "objects: |\n      array:\n"+anotherObject)
	n := s.start(t)
	n.Secret("db", canary)
	n.Secret("more", canary)
	pod := s.pod("cart")
	uid := string(pod.UID)
	must(t, s.publish(n, pod, "web"))
	name := "cart-" + s.shop + "-web"
	c.Eventually("the status object", func() bool {
		_, err := c.Kubectl("", "-n", s.shop, "get", "secretproviderclasspodstatus", name)
		return err == nil
	})
	got := s.get("secretproviderclasspodstatus", name, "-o", statusOf)
	head := fmt.Sprintf(`{"internal.secrets-store.csi.k8s.io/node-name":"node-1"} Pod/cart/%s cart web true [{"id":"secret/db","version":"`, uid)
	if !strings.HasPrefix(got, head) || !strings.Contains(got, `},{"id":"secret/more","version":"`) || !strings.HasSuffix(got, " "+n.Target(uid)) {
		t.Errorf("got  %s\nwant %s…", got, head)
	}
	if got := s.get("secretproviderclasspodstatus", name, "-o", `jsonpath={.metadata.annotations.keyvault-csi/last-success}`); !isRecent(got) {
		t.Errorf("last success %q", got)
	}
	table := s.get("secretproviderclasspodstatus")
	for _, text := range []string{"NAME", "POD", "CLASS", "MOUNTED", "FAILURE", "cart", "web", "true"} {
		if !strings.Contains(table, text) {
			t.Errorf("kubectl get secretproviderclasspodstatus lacks %s:\n%s", text, table)
		}
	}
	written := s.get("secretproviderclasspodstatus", name, "-o", "jsonpath={.metadata.resourceVersion}")
	for range 5 {
		must(t, s.publish(n, pod, "web"))
	}
	if now := s.get("secretproviderclasspodstatus", name, "-o", "jsonpath={.metadata.resourceVersion}"); now != written {
		t.Error("a republish that changed nothing wrote the status object")
	}
	noCanary(t, s.get("secretproviderclasspodstatus", name, "-o", "yaml"))
	n.Unpublish(uid)
	c.MustKubectl("", "-n", s.shop, "delete", "pod", "cart")
	c.Eventually("the status object to go with its Pod", func() bool {
		out, err := c.Kubectl("", "-n", s.shop, "get", "secretproviderclasspodstatus", name, "--ignore-not-found")
		return err == nil && out == ""
	})
}

func isRecent(stamp string) bool {
	at, err := time.Parse(time.RFC3339, stamp)
	return err == nil && time.Since(at) < 10*time.Minute && time.Until(at) < time.Minute
}

// TestStatusTellsOfFailures: annotations say what fails since when, and are gone when it works again.
func TestStatusTellsOfFailures(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	s.class("web")
	n := s.start(t, "--rotation-interval", "1s", "--cache-ttl", "0s")
	n.Secret("db", canary)
	must(t, s.publish(n, s.pod("cart"), "web"))
	name := "cart-" + s.shop + "-web"
	reason := []string{"secretproviderclasspodstatus", name, "-o", "jsonpath={.metadata.annotations.keyvault-csi/failure-reason}"}
	s.await("", reason...)
	n.Emulator.AddFault(emulator.Fault{Kind: emulator.FaultStatus, Status: http.StatusForbidden, Code: "Forbidden", Operation: "get"})
	s.await("Permission", reason...)
	if got := s.get("secretproviderclasspodstatus", name, "-o", "jsonpath={.metadata.annotations.keyvault-csi/failing-since}"); !isRecent(got) {
		t.Errorf("failing since %q", got)
	}
	if got := s.get("secretproviderclasspodstatus", name, "-o", "jsonpath={.metadata.annotations.keyvault-csi/failure}"); !strings.Contains(got, "the files stay as they are") || strings.Contains(got, "\n") {
		t.Errorf("failure %q", got)
	}
	if table := s.get("secretproviderclasspodstatus"); !strings.Contains(table, "Permission") {
		t.Errorf("kubectl get secretproviderclasspodstatus:\n%s", table)
	}
	n.Emulator.ClearFaults()
	s.await("", reason...)
	before := s.get("secretproviderclasspodstatus", name, "-o", "jsonpath={.status.objects[0].version}")
	n.Secret("db", canary+"-2")
	c.Eventually("the new version", func() bool {
		return s.get("secretproviderclasspodstatus", name, "-o", "jsonpath={.status.objects[0].version}") != before
	})
	noCanary(t, s.get("secretproviderclasspodstatus", "-o", "yaml"))
	noCanary(t, n.Log())
}

// TestStatusObjectsOfOthers are taken over: what the driver before this one left, and one that has no labels at all.
func TestStatusObjectsOfOthers(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	s.class("web")
	pods := []string{"left", "bare"}
	for _, name := range pods {
		pod := s.pod(name)
		object := fmt.Sprintf("apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClassPodStatus\nmetadata:\n  name: %s-%s-web\n  namespace: %s\n",
			name, s.shop, s.shop)
		if name == "left" {
			object += "  labels: {internal.secrets-store.csi.k8s.io/node-name: node-1}\n  ownerReferences: [{apiVersion: v1, kind: Pod, name: left, uid: " + string(pod.UID) + "}]\n"
		}
		object += "status: {podName: old, secretProviderClassName: old, mounted: true, targetPath: /old, objects: [{id: secret/old, version: v0}, {id: secret/db, version: v0}]}\n"
		c.MustKubectl(object, "create", "-f", "-") // an update, as that driver's
	}
	n := s.start(t)
	n.Secret("db", "s3cret")
	for _, name := range pods {
		pod, err := c.Client().CoreV1().Pods(s.shop).Get(t.Context(), name, metav1.GetOptions{})
		must(t, err)
		must(t, s.publish(n, pod, "web"))
		s.await("secret/db "+name+" web "+n.Target(string(pod.UID))+" node-1 "+string(pod.UID), "secretproviderclasspodstatus", name+"-"+s.shop+"-web", "-o",
			`jsonpath={.status.objects[*].id} {.status.podName} {.status.secretProviderClassName} {.status.targetPath} `+
				`{.metadata.labels.internal\.secrets-store\.csi\.k8s\.io/node-name} {.metadata.ownerReferences[*].uid}`)
	}
}

// TestPodThatComesAgainUnderItsName, as a StatefulSet's does, before anybody has collected what was its predecessor's, where changed
// owners want the right to delete.
func TestPodThatComesAgainUnderItsName(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{AdmissionPlugins: []string{ownerEnforcement}}) // nobody collects
	s := install(t, c)
	s.class("web")
	n := s.start(t)
	n.Secret("db", "s3cret")
	name := "cart-0-" + s.shop + "-web"
	for range 2 {
		pod := s.pod("cart-0")
		must(t, s.publish(n, pod, "web"))
		s.await(string(pod.UID)+" "+n.Target(string(pod.UID)), "secretproviderclasspodstatus", name, "-o", "jsonpath={.metadata.ownerReferences[*].uid} {.status.targetPath}")
		n.Unpublish(string(pod.UID))
		c.MustKubectl("", "-n", s.shop, "delete", "pod", "cart-0")
	}
	// on another node: its driver waits until the object of the first is collected
	s.addNode("node-2")
	moved := s.CreatePod(s.shop, "cart-0", "node-2", "app")
	other := kubelet.StartInCluster(t, seedFor(s.shop), s.kubeconfig("node-2"), s.TokenIssuer(), "--node-id", "node-2")
	other.Secret("db", "s3cret")
	must(t, s.publish(other, moved, "web"))
	other.Eventually("the refusal", func() bool { return strings.Contains(other.Log(), "writes status objects of Pods on that node alone") })
	c.MustKubectl("", "-n", s.shop, "delete", "secretproviderclasspodstatus", name)
	s.await("node-2", "secretproviderclasspodstatus", name, "-o", `jsonpath={.metadata.labels.internal\.secrets-store\.csi\.k8s\.io/node-name}`)
}

// TestStatusOfAdoptedVolumes: a driver that starts anew tells of what it finds once it has asked for it.
func TestStatusOfAdoptedVolumes(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	s.class("web")
	n := s.start(t, "--rotation-interval", "1s")
	n.Secret("db", "s3cret")
	pod := s.pod("cart")
	must(t, s.publish(n, pod, "web"))
	name := "cart-" + s.shop + "-web"
	s.await("true", "secretproviderclasspodstatus", name, "-o", "jsonpath={.status.mounted}")
	n.Stop(syscall.SIGKILL)
	c.MustKubectl("", "-n", s.shop, "delete", "secretproviderclasspodstatus", name)
	n.Run()
	must(t, s.publish(n, pod, "web"))
	s.await("true", "secretproviderclasspodstatus", name, "-o", "jsonpath={.status.mounted}")
}
