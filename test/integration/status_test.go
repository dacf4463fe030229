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
	head := fmt.Sprintf(`{"internal.secrets-store.csi.k8s.io/node-name":"node-1"} Pod/cart/%s cart web true [{"id":"secret/db","startedVersion":"`, uid)
	if !strings.HasPrefix(got, head) || !strings.Contains(got, `},{"id":"secret/more","startedVersion":"`) || !strings.HasSuffix(got, " "+n.Target(uid)) {
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
	c := controlplane.Start(t, controlplane.Options{AdmissionPlugins: []string{ownerEnforcement}}) // no garbage collector runs
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

// started prints the versions that the objects of a status object had when its Pod started, and the current ones.
const started = `jsonpath={range .status.objects[*]}{.id} {.startedVersion} {.version}{"\n"}{end}`

// TestStatusSaysWhatThePodStartedWith, also where versions change while the driver is down. A restart that finds nothing new writes nothing.
func TestStatusSaysWhatThePodStartedWith(t *testing.T) {
	t.Parallel()
	c := controlplane.Shared(t)
	s := install(t, c)
	s.class("web")
	n := s.start(t, "--rotation-interval", "1s", "--cache-ttl", "0s")
	n.Secret("db", "s3cret")
	n.Secret("more", "m1")
	pod := s.pod("cart")
	must(t, s.publish(n, pod, "web"))
	name := "cart-" + s.shop + "-web"
	versions := func() (all [][]string) {
		out, err := s.Kubectl("", "-n", s.shop, "get", "secretproviderclasspodstatus", name, "--ignore-not-found", "-o", started)
		must(t, err)
		for line := range strings.SplitSeq(strings.TrimSpace(out), "\n") {
			all = append(all, strings.Split(line, " "))
		}
		return all
	}
	c.Eventually("the status object", func() bool { return len(versions()[0]) == 3 })
	first := versions()[0]
	if first[1] == "" || first[1] != first[2] {
		t.Errorf("at the start: %v", first)
	}
	n.Secret("db", "s3cret-2")
	c.Eventually("the second version", func() bool { return versions()[0][2] != first[2] })
	n.Stop(syscall.SIGKILL)
	second := versions()[0][2]
	n.Secret("db", "s3cret-3")
	n.Run()
	must(t, s.publish(n, pod, "web"))
	c.Eventually("the third version", func() bool { return versions()[0][2] != second })
	if now := versions()[0]; now[1] != first[1] {
		t.Errorf("after a restart the Pod started with %s, before it with %s", now[1], first[1])
	}
	// an object that comes later has the version that it came with
	s.class("web", "objects: |\n      array:\n", "objects: |\n      array:\n"+anotherObject)
	must(t, s.publish(n, pod, "web"))
	c.Eventually("the added object", func() bool { return len(versions()) == 2 })
	if added := versions()[1]; added[0] != "secret/more" || added[1] == "" || added[1] != added[2] {
		t.Errorf("an object that was added: %v", added)
	}
	// nothing new: nothing is written
	n.Stop(syscall.SIGKILL)
	revision := s.get("secretproviderclasspodstatus", name, "-o", "jsonpath={.metadata.resourceVersion}")
	before := len(n.Emulator.Requests())
	n.Run()
	must(t, s.publish(n, pod, "web"))
	n.Eventually("some polls", func() bool { return len(n.Emulator.Requests()) > before+8 })
	if now := s.get("secretproviderclasspodstatus", name, "-o", "jsonpath={.metadata.resourceVersion}"); now != revision {
		t.Error("a restart that found nothing new wrote the status object")
	}
	if got := versions(); got[0][1] != first[1] || len(got) != 2 {
		t.Errorf("in the end: %v", got)
	}
}

// TestStatusWithOlderDefinitions: a CustomResourceDefinition without startedVersion, as that of the Secrets Store CSI Driver, costs that field.
func TestStatusWithOlderDefinitions(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{})
	s := install(t, c)
	for _, version := range []string{"0", "1"} {
		c.MustKubectl("", "patch", "crd", "secretproviderclasspodstatuses.secrets-store.csi.x-k8s.io", "--type=json", "-p",
			`[{"op":"remove","path":"/spec/versions/`+version+`/schema/openAPIV3Schema/properties/status/properties/objects/items/properties/startedVersion"}]`)
	}
	s.class("web")
	n := s.start(t, "--rotation-interval", "1s", "--cache-ttl", "0s")
	n.Secret("db", "s3cret")
	must(t, s.publish(n, s.pod("cart"), "web"))
	name := "cart-" + s.shop + "-web"
	s.await("true", "secretproviderclasspodstatus", name, "-o", "jsonpath={.status.mounted}")
	version := func() string {
		return s.get("secretproviderclasspodstatus", name, "-o", "jsonpath={.status.objects[0].version} {.status.objects[0].startedVersion}")
	}
	before := version()
	n.Secret("db", "s3cret-2")
	c.Eventually("the new version", func() bool { return version() != before })
	if !strings.HasSuffix(version(), " ") || !strings.Contains(n.Log(), "upgrade the CustomResourceDefinition") {
		t.Errorf("version %q", version())
	}
}
