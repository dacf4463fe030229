//go:build e2e && upgrade

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// TestUpgradeFromAnEarlierVersion installs the chart of an earlier version with that version's image, lets Pods mount, and upgrades the
// release under them to this version; then it rolls the release back, and upgrades it again. Pods read all the time, each driver refreshes the
// volumes and the Secret that the other one made, and nothing is left when they go. hack/upgrade builds the earlier version.
func TestUpgradeFromAnEarlierVersion(t *testing.T) {
	source, image := os.Getenv("UPGRADE_FROM"), os.Getenv("UPGRADE_IMAGE")
	if source == "" || image == "" {
		t.Fatal("UPGRADE_FROM and UPGRADE_IMAGE name no earlier version: run hack/upgrade")
	}
	s := begin(t)
	s.NeedsOwn("it replaces the driver by another version")
	t.Cleanup(func() { s.install() })
	s.Helm("uninstall", release, "-n", system, "--wait")
	s.Eventually("kubelet to forget the driver", func() bool { return s.registered() == "" })
	s.Import(image)
	s.Helm("install", release, filepath.Join(source, "deploy/chart"), "-n", system, "-f", "-", "--set", "linux.image.tag=earlier", "--wait", "--timeout", "3m")
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
	s.install("--reset-values")
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

	s.install("--reset-values")
	changed("v6")
	s.Gone(pods...)
}

// statusObjects are the names of the test's status objects.
func (s *suite) statusObjects() string {
	s.Helper()
	return s.MustKubectl("", "-n", s.Namespace, "get", "secretproviderclasspodstatuses", "-o", "name")
}
