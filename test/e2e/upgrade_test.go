//go:build e2e && upgrade

package e2e

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// TestUpgradeFromAnEarlierVersion installs the chart of an earlier version with that version's image, lets Pods mount, and upgrades the
// release under them to this version, with the chart and the image that a release of it publishes; then it rolls the release back, and upgrades it
// again. Pods read all the time, each driver refreshes the volumes and the Secret that the other one made, and nothing is left when they go.
// hack/upgrade builds both.
func TestUpgradeFromAnEarlierVersion(t *testing.T) {
	source, image, published := os.Getenv("UPGRADE_FROM"), os.Getenv("UPGRADE_IMAGE"), os.Getenv("UPGRADE_RELEASE")
	charts, _ := filepath.Glob(filepath.Join(published, "keyvault-csi-*.tgz"))
	if source == "" || image == "" || len(charts) != 1 {
		t.Fatalf("UPGRADE_FROM, UPGRADE_IMAGE and UPGRADE_RELEASE name no earlier version and no release (%q): run hack/upgrade", charts)
	}
	s := begin(t)
	s.NeedsOwn("it replaces the driver by another version")
	t.Cleanup(func() { s.install() })
	s.Helm("uninstall", release, "-n", system, "--wait")
	s.Eventually("kubelet to forget the driver", func() bool { return s.registered() == "" })
	s.Import(image)
	s.Import(filepath.Join(published, "image/keyvault-csi-"+runtime.GOARCH+".tar"))
	upgrade := func() {
		t.Helper()
		s.Helm("upgrade", release, charts[0], "-n", system, "-f", "-", "--reset-values", "--wait", "--timeout", "3m")
		s.DriverReady()
		used := s.MustKubectl("", "-n", system, "get", "pods", s.DriverPod(), "-o", "jsonpath={.spec.containers[0].image}")
		if !strings.HasPrefix(used, "ghcr.io/keyvault-csi/keyvault-csi:") {
			t.Errorf("the driver runs from %s, which is not the release's", used)
		}
	}
	s.Helm("install", release, filepath.Join(source, "deploy/chart"), "-n", system, "-f", "-", "--wait", "--timeout", "3m",
		"--set", "linux.image.repository=keyvault-csi.invalid/keyvault-csi,linux.image.tag=earlier")
	s.DriverReady()

	name := s.Namespace + "-db"
	s.Secret(name, "v1")
	s.Class("web", kubelet.Objects(name), secretObject("web-db", "Opaque", "password", name))
	group := int64(2000)
	s.Pod("group", "web", func(p *corev1.PodSpec) { p.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group} })
	s.Ready("group")
	s.prepareReader("reader") // the same class without the Secret
	s.Class("web", kubelet.Objects(name), secretObject("web-db", "Opaque", "password", name))
	s.Eventually("the Secret of the earlier version", func() bool { return s.Synced("web-db") != nil })
	uid := s.Synced("web-db").UID
	statuses := s.statusObjects()

	pods := []string{"group", "reader"}
	changed := func(value string) {
		t.Helper()
		s.Secret(name, value)
		for _, pod := range pods {
			s.Eventually(pod+" to read "+value, func() bool { return s.Read(pod, name) == value })
		}
		s.Eventually("the Secret to have "+value, func() bool {
			secret := s.Synced("web-db")
			return secret != nil && secret.UID == uid && string(secret.Data["password"]) == value
		})
		now := s.statusObjects()
		for name := range strings.Lines(statuses) {
			if !strings.Contains(now, name) {
				t.Errorf("the status object %s is no longer among %q", name, now)
			}
		}
		s.NeverFailed("reader")
	}
	starts := func(pod string) {
		t.Helper()
		s.Pod(pod, "web")
		s.Ready(pod)
		pods = append(pods, pod)
	}
	changed("v2")

	before := s.DriverPod()
	upgrade()
	if after := s.DriverPod(); after == before {
		t.Fatal("the upgrade did not replace the driver's Pod")
	}
	changed("v3")
	starts("new")
	if status := s.MustKubectl("", "-n", system, "exec", "daemonset/"+release, "--", "/keyvault-csi", "status"); strings.Contains(status, "another driver") {
		t.Errorf("the volumes of the earlier version are not this driver's own:\n%s", status)
	}
	changed("v4")

	s.Helm("rollback", release, "1", "-n", system, "--wait", "--timeout", "3m")
	s.DriverReady()
	changed("v5")
	starts("after-rollback")

	upgrade()
	changed("v6")
	s.Gone(pods...)
}

// statusObjects are the names of the test's status objects.
func (s *suite) statusObjects() string {
	s.Helper()
	return s.MustKubectl("", "-n", s.Namespace, "get", "secretproviderclasspodstatuses", "-o", "name")
}
