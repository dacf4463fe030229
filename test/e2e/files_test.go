//go:build e2e

package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// TestPodReadsItsSecret is the main thing: a Pod with workload identity reads a file, and nothing is left when it has gone.
func TestPodReadsItsSecret(t *testing.T) {
	s := begin(t)
	name := s.Namespace + "-db"
	s.Secret(name, "s3cret of "+s.Namespace)
	s.Class("web", kubelet.Objects(name))
	s.Pod("cart", "web")
	s.Ready("cart")
	if got := s.Read("cart", name); got != "s3cret of "+s.Namespace {
		t.Errorf("the Pod reads %q", got)
	}
	options, err := s.Exec("grep", "kubernetes.io~csi.* tmpfs", "/proc/mounts") // a container's read-only view of it may lack some
	s.must(err)
	for _, want := range []string{"nosuid", "nodev", "noexec", "noswap"} {
		if !strings.Contains(options, want) {
			t.Errorf("the mount is not %s: %s", want, options)
		}
	}
	if out, err := s.Run("cart", "echo x > "+mount+"/new"); err == nil {
		t.Errorf("the Pod can write: %s", out)
	}
	uid := s.MustKubectl("", "-n", s.Namespace, "get", "pod", "cart", "-o", "jsonpath={.metadata.uid}")
	if left := strings.Join(append(s.Volumes(), s.Leftovers()...), " "); !strings.Contains(left, uid) {
		t.Errorf("the Pod's volume is not among %s", left)
	}
	s.Delete("cart")
	s.Eventually("mount and directory to go", func() bool {
		return !strings.Contains(strings.Join(append(s.Volumes(), s.Leftovers()...), " "), uid)
	})
}

// TestNonRootReadsWhatItMay has fsGroup and modes: a container that is not root reads its group's files and no others.
func TestNonRootReadsWhatItMay(t *testing.T) {
	s := begin(t)
	name := s.Namespace + "-db"
	s.Secret(name, "s3cret")
	s.Class("web", `array:
- |
  objectName: `+name+`
  objectType: secret
  objectAlias: group
  filePermission: "0640"
- |
  objectName: `+name+`
  objectType: secret
  objectAlias: root
  filePermission: "0600"
- |
  objectName: `+name+`
  objectType: secret
  objectAlias: all
`)
	user, group := int64(1000), int64(2000)
	yes := true
	s.Pod("cart", "web", func(p *corev1.PodSpec) {
		p.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &user, FSGroup: &group, RunAsNonRoot: &yes}
	})
	s.Ready("cart")
	out, err := s.Run("cart", `id -u; cd `+mount+`; stat -L -c '%n %a %u %g' all group root; cat group; cat all; cat root 2>&1; true`)
	s.must(err)
	want := "1000\nall 644 0 2000\ngroup 640 0 2000\nroot 600 0 2000\ns3crets3cretcat: can't open 'root': Permission denied\n"
	if out != want {
		t.Errorf("the Pod sees\n%s\nwant\n%s", out, want)
	}
}

// TestMissingClassIsTold waits with a Pod until its class is made.
func TestMissingClassIsTold(t *testing.T) {
	s := begin(t)
	name := s.Namespace + "-db"
	s.Secret(name, "s3cret")
	s.Pod("cart", "later")
	s.Eventually("an event that names the class", func() bool {
		events := s.Events("cart")
		return strings.Contains(events, "FailedMount") && strings.Contains(events, s.Namespace+"/later") && strings.Contains(events, "not found")
	})
	s.Class("later", kubelet.Objects(name))
	s.Ready("cart")
	if got := s.Read("cart", name); got != "s3cret" {
		t.Errorf("the Pod reads %q", got)
	}
}

// TestTwoClassesInOnePod has a Pod with a volume of each of two classes, and a namespace that has a class of the same name.
func TestTwoClassesInOnePod(t *testing.T) {
	s := begin(t)
	one, two, other := s.Namespace+"-one", s.Namespace+"-two", s.Namespace+"-other"
	for _, name := range []string{one, two, other} {
		s.Secret(name, "value of "+name)
	}
	s.Class("first", kubelet.Objects(one))
	s.Class("second", kubelet.Objects(two))
	s.Pod("cart", "first", func(p *corev1.PodSpec) {
		p.Volumes = append(p.Volumes, volume("more", "second"))
		p.Containers[0].VolumeMounts = append(p.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "more", MountPath: "/mnt/more", ReadOnly: true})
	})
	elsewhere := *s
	elsewhere.Namespace = s.ControlPlane.Namespace()
	elsewhere.Federate(elsewhere.Namespace, "app", "*")
	elsewhere.Class("first", kubelet.Objects(other))
	elsewhere.Pod("cart", "first")
	s.Ready("cart")
	elsewhere.Ready("cart")
	out, err := s.Run("cart", "ls /mnt/secrets /mnt/more; cat /mnt/secrets/* /mnt/more/*")
	s.must(err)
	want := "/mnt/more:\n" + two + "\n\n/mnt/secrets:\n" + one + "\nvalue of " + one + "value of " + two
	if out != want {
		t.Errorf("the Pod sees\n%s\nwant\n%s", out, want)
	}
	out, err = elsewhere.Run("cart", "cat /mnt/secrets/*")
	s.must(err)
	if out != "value of "+other {
		t.Errorf("with the same class name in another namespace: %q", out)
	}
}

// TestInitContainerAndSubPath has files in an init container, and shows the limit of subPath: such a file is never refreshed.
func TestInitContainerAndSubPath(t *testing.T) {
	s := begin(t)
	name := s.Namespace + "-db"
	s.Secret(name, "one")
	s.Class("web", kubelet.Objects(name))
	s.Pod("cart", "web", func(p *corev1.PodSpec) {
		init := p.Containers[0]
		init.Name, init.Args = "init", []string{"test $(cat " + mount + "/" + name + ") = one"}
		p.InitContainers = []corev1.Container{init}
		p.Containers[0].VolumeMounts = append(p.Containers[0].VolumeMounts,
			corev1.VolumeMount{Name: "secrets", MountPath: "/etc/password", SubPath: name, ReadOnly: true})
	})
	s.Ready("cart")
	s.Secret(name, "two")
	s.Eventually("the volume's file to change", func() bool { return s.Read("cart", name) == "two" })
	out, err := s.Run("cart", "cat /etc/password")
	s.must(err)
	if out != "one" {
		t.Errorf("a file by subPath was refreshed to %q: say so in the documentation", out)
	}
}
