//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// TestTwoDriversOnANode has a second release under another driver name: a Pod mounts from both, and when the second one has gone
// the first goes on.
func TestTwoDriversOnANode(t *testing.T) {
	const second = "second.example.com"
	s := begin(t)
	name := s.Namespace + "-db"
	s.Secret(name, "v1")
	s.Class("web", kubelet.Objects(name))
	s.Class("web-2", kubelet.Objects(name)) // a Pod's status object is named after the class
	t.Cleanup(func() {
		_, _ = s.Kubectl("", "delete", "csidriver", second, "--ignore-not-found") // uninstalling keeps it
	})
	s.Helm("install", "second", filepath.Join(s.root(), "deploy/chart"), "-n", system, "-f", "-", "--wait", "--timeout", "2m",
		"--set", "driverName="+second, "--set", "linux.crds.enabled=false")
	installed := true
	t.Cleanup(func() {
		if installed { // its Pods need it to go
			_, _ = s.Kubectl("", "-n", s.Namespace, "delete", "pods", "--all", "--timeout=60s")
			s.Helm("uninstall", "second", "-n", system, "--wait")
		}
	})
	s.MustKubectl("", "-n", system, "rollout", "status", "daemonset/second-keyvault-csi", "--timeout=90s")
	both := func(p *corev1.PodSpec) {
		v := volume("second", "web-2")
		v.CSI.Driver = second
		p.Volumes = append(p.Volumes, v)
		p.Containers[0].VolumeMounts = append(p.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "second", MountPath: "/mnt/second", ReadOnly: true})
	}
	s.Pod("both", "web", both)
	s.Pod("first", "web")
	s.Ready("both", "first")
	read := func() string {
		out, err := s.Run("both", "cat "+mount+"/"+name+" /mnt/second/"+name)
		s.must(err)
		return out
	}
	if got := read(); got != "v1v1" {
		t.Errorf("the Pod reads %q", got)
	}
	s.Secret(name, "v2")
	s.Eventually("both rotations", func() bool { return read() == "v2v2" })
	s.Eventually("three mounts", func() bool { return len(s.Volumes()) == 3 })
	statuses := s.MustKubectl("", "-n", s.Namespace, "get", "secretproviderclasspodstatuses", "-o", "name")
	if strings.Count(statuses, "\n") != 3 {
		t.Errorf("status objects:\n%s", statuses)
	}
	s.Delete("both")
	s.Eventually("both of its mounts to go", func() bool { return len(s.Volumes()) == 1 && len(s.Leftovers()) == 1 })
	s.Helm("uninstall", "second", "-n", system, "--wait")
	installed = false
	if left := s.MustKubectl("", "get", "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings", "-o", "name", "-l", "app.kubernetes.io/instance=second"); left != "" {
		t.Errorf("left of the second release:\n%s", left)
	}
	s.Pod("later", "web")
	s.Ready("later")
	s.Rotates(name, "first", "later")
	s.Gone("first", "later")
}

// TestUserNamespace has a Pod with a user namespace of its own, and fsGroup.
func TestUserNamespace(t *testing.T) {
	s := begin(t)
	name := s.Namespace + "-db"
	s.Secret(name, "v1")
	s.Class("web", "array:\n- |\n  objectName: "+name+"\n  objectType: secret\n  filePermission: \"0640\"\n")
	user, group, host := int64(1000), int64(2000), false
	s.Pod("cart", "web", func(p *corev1.PodSpec) {
		p.HostUsers = &host
		p.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &user, FSGroup: &group}
	})
	s.Ready("cart")
	out, err := s.Run("cart", "stat -L -c '%a %u %g' "+mount+"/"+name+"; cat "+mount+"/"+name+"; cat /proc/self/uid_map")
	s.must(err)
	fields := strings.Fields(out)
	// Before 1.33 the feature is off, and the API server drops the field: the Pod runs without, and reads its files all the same.
	others := len(fields) == 7 && fields[4] == "0" && fields[5] != "0"
	if len(fields) != 7 || strings.Join(fields[:4], " ") != "640 0 2000 v1" || others != s.Since("1.33") {
		t.Errorf("the Pod sees %q: want a mode, root and the group as everywhere, and users that are others outside: %t", out, s.Since("1.33"))
	}
	s.Rotates(name, "cart")
	s.Gone("cart")
}
