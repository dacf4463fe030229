//go:build integration

package integration

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// clusterStatus is what `status --output json` prints of a cluster.
type clusterStatus struct {
	Volumes []struct {
		Pod, Class, Node, State, Message string
		Objects                          []struct{ ID, Version, Expires string }
	}
	SecretSyncs []struct{ Name, State, Message string }
}

// TestStatusOfTheCluster: `status` shows what fails, waits and expires, from objects and events alone.
func TestStatusOfTheCluster(t *testing.T) {
	t.Parallel()
	s := newController(t, controlplane.Shared(t))
	s.set("db", canaryValue+"1")
	s.class("web", []string{"db"})
	s.class("lost", []string{"nothing"})
	s.sync("good", "web", "{sourcePath: db, targetKey: k}")
	s.sync("bad", "lost", "{sourcePath: nothing, targetKey: k}")
	n := kubelet.StartInCluster(t, seedFor(s.shop), s.kubeconfig("node-1"), s.TokenIssuer(), "--rotation-interval", "1s", "--cache-ttl", "0s")
	n.Secret("db", canaryValue+"1")
	s.class("fails", []string{"gone"})
	n.Secret("gone", canaryValue+"g")
	s.class("ends", []string{"key"})
	expires := time.Now().Add(10 * 24 * time.Hour).UTC().Truncate(time.Second)
	_, err := n.Emulator.SetSecret(kubelet.Vault, emulator.Secret{Name: "key", Value: canaryValue + "k", Expires: expires})
	must(t, err)
	for _, class := range []string{"web", "fails", "ends"} {
		s.publish(n, s.pod("pod-"+class), class)
	}
	must(t, n.Emulator.Delete(kubelet.Vault, "secrets", "gone", true))
	volume := func(class string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "kv", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{
				Driver: "secrets-store.csi.k8s.io", ReadOnly: new(true), VolumeAttributes: map[string]string{"secretProviderClass": class},
			}}})
		}
	}
	s.CreatePod(s.shop, "pod-waits", "node-1", "app", volume("lost"))

	status := func(args ...string) (string, error) {
		all := append([]string{"status", "--kubeconfig", s.AdminKubeconfig(), "-n", s.shop}, args...)
		out, err := exec.CommandContext(t.Context(), binaries.Driver(t), all...).CombinedOutput() //nolint:gosec // the project's own program
		return string(out), err
	}
	read := func(args ...string) (c clusterStatus) {
		out, err := status(append(args, "--output", "json")...)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		must(t, json.Unmarshal([]byte(out), &c))
		return c
	}
	states := func() string {
		var all []string
		c := read()
		for _, v := range c.Volumes {
			all = append(all, v.Pod+" "+v.State)
		}
		for _, o := range c.SecretSyncs {
			all = append(all, o.Name+" "+o.State)
		}
		return strings.Join(all, ", ")
	}
	want := "pod-fails failing, pod-waits waiting, pod-ends expiring, pod-web fresh, bad failing, good fresh"
	s.Eventually(want, func() bool { return states() == want })

	c := read()
	if m := c.Volumes[0].Message; !strings.HasPrefix(m, "NotFound: ") || !strings.Contains(m, `secret "gone"`) || c.Volumes[0].Node != "node-1" {
		t.Errorf("of the failure: %+v", c.Volumes[0])
	}
	if m := c.SecretSyncs[0].Message; !strings.HasPrefix(m, "RemoteSecretStoreFetchFailed: ") {
		t.Errorf("of the SecretSync: %s", m)
	}
	text, err := status()
	if err != nil || !strings.Contains(text, "STATE") || !strings.Contains(text, s.shop+"/pod-waits") || strings.Contains(text, "\x1b") {
		t.Errorf("%v: %s", err, text)
	}
	if c := read("--object", "contoso/secret/db"); len(c.Volumes) != 1 || c.Volumes[0].Pod != "pod-web" || len(c.SecretSyncs) != 1 || c.SecretSyncs[0].Name != "good" {
		t.Errorf("users of db: %+v", c)
	}
	if c := read("--object", "fabrikam/secret/db"); len(c.Volumes)+len(c.SecretSyncs) != 0 {
		t.Errorf("users of another vault: %+v", c)
	}
	if c := read("--expiring", "30d"); len(c.Volumes) != 1 || c.Volumes[0].Objects[0].Expires != expires.Format(time.RFC3339) {
		t.Errorf("expiring: %+v", c)
	}
	if out, err := status("--expiring", "1d", "--output", "json"); err != nil || !strings.Contains(out, `"volumes": []`) {
		t.Errorf("empty lists: %v %s", err, out)
	}
	if out, err := status("--object", "db", "--expiring", "soon"); err == nil || strings.Count(strings.TrimSpace(out), "\n") != 0 || !strings.Contains(out, "; --expiring") || strings.Contains(out, "goroutine") {
		t.Errorf("two mistakes: %v %s", err, out)
	}
	// somebody who may list nothing
	out, err := exec.CommandContext(t.Context(), binaries.Driver(t), "status", "-A", "--kubeconfig", s.kubeconfig("node-1")).CombinedOutput() //nolint:gosec // the project's own program
	if err == nil || !strings.Contains(string(out), "list secretproviderclasspodstatuses") {
		t.Errorf("without the right: %v %s", err, out)
	}
	if strings.Contains(text, canaryValue) {
		t.Error("a value is in the status")
	}
}
