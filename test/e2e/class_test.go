//go:build e2e

package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestOwnerInAUserNamespace: a file that belongs to the container's user alone, in a Pod with and without a user namespace of its own.
func TestOwnerInAUserNamespace(t *testing.T) {
	s := begin(t)
	name := s.Namespace + "-key"
	s.Secret(name, "v1")
	s.Class("web", "array:\n- |\n  objectName: "+name+"\n  objectType: secret\n", `    filePermission: "0400"`, `    fileOwner: "1000"`, `    fileGroup: "3000"`)
	user, group := int64(1000), int64(2000)
	for pod, hostUsers := range map[string]bool{"cart": true, "alone": false} {
		s.Pod(pod, "web", func(p *corev1.PodSpec) {
			p.HostUsers = &hostUsers
			yes := true
			p.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &user, FSGroup: &group, RunAsNonRoot: &yes}
		})
	}
	s.Ready("cart", "alone")
	for _, pod := range []string{"cart", "alone"} {
		out, err := s.Run(pod, "stat -L -c '%a %u %g' "+mount+"/"+name+"; cat "+mount+"/"+name)
		s.must(err)
		if strings.TrimSpace(out) != "400 1000 2000\nv1" { // the Pod's fsGroup goes before the class's group
			t.Errorf("%s sees %q", pod, out)
		}
	}
	s.Rotates(name, "cart", "alone")
	s.Gone("cart", "alone")
}

// TestSelectionInAPod: files come and go with the objects of the vault, and an event on the Pod says which.
func TestSelectionInAPod(t *testing.T) {
	s := begin(t)
	s.Secret(s.Namespace+"-db-user", "alice")
	s.Secret(s.Namespace+"-other", "x")
	s.Class("web", "array:\n- |\n  objectSelector: {name: "+s.Namespace+"-db-*}\n  objectType: secret\n  objectAlias: db/{name}\n", `    rotationInterval: 10s`,
		`    metadataFile: about.json`)
	s.Pod("cart", "web")
	s.Ready("cart")
	if out, err := s.Run("cart", "ls "+mount+" "+mount+"/db"); err != nil || !strings.Contains(out, "db-user") || strings.Contains(out, "other") {
		t.Errorf("the Pod sees %q, %v", out, err)
	}
	s.Secret(s.Namespace+"-db-password", "p")
	s.Eventually("the new file", func() bool {
		out, err := s.Run("cart", "cat "+mount+"/db/"+s.Namespace+"-db-password "+mount+"/about.json")
		return err == nil && strings.HasPrefix(out, "p") && strings.Contains(out, "-db-password")
	})
	s.Eventually("an event that names it", func() bool { return strings.Contains(s.Events("cart"), "new: secret/"+s.Namespace+"-db-password") })
}
