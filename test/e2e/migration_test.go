//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyvault-csi/keyvault-csi-driver/test/cluster"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// oldRelease is the Helm release of the driver that this one replaces.
const oldRelease = "csi-secrets-store-provider-azure"

// predecessor does on the node what the Secrets Store CSI Driver does with its Azure provider, as far as it leaves something behind: a tmpfs
// without options and its layout of files, Secrets and status objects.
type predecessor struct {
	*other

	suite  *suite
	socket string

	mu          sync.Mutex
	files       map[string]map[string]string // by class: the content of files by name
	generations int
}

// startPredecessor registers it under this driver's name, with a CSIDriver object of its own release.
func startPredecessor(s *suite) *predecessor {
	s.Helper()
	p := &predecessor{
		suite: s, files: map[string]map[string]string{},
		socket: filepath.Join(s.Node.Dir, "kubelet/plugins_registry/secrets-store.csi.k8s.io-reg.sock"),
	}
	p.other = &other{s: s, publish: p.mount, unpublish: p.unmount}
	p.begin()
	return p
}

func (p *predecessor) begin() {
	s := p.suite
	s.Helper()
	s.MustKubectl("", "delete", "csidriver", "secrets-store.csi.k8s.io", "--ignore-not-found")
	s.ApplyYAML(`
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata:
  name: secrets-store.csi.k8s.io
  labels: {app.kubernetes.io/managed-by: Helm, app: secrets-store-csi-driver}
  annotations: {meta.helm.sh/release-name: ` + oldRelease + `, meta.helm.sh/release-namespace: kube-system}
spec:
  podInfoOnMount: true
  attachRequired: false
  volumeLifecycleModes: [Ephemeral]
  requiresRepublish: true
  tokenRequests: [{audience: "api://AzureADTokenExchange"}]
`)
	p.start(p.socket)
	s.Eventually("kubelet to take the old driver", func() bool { return s.registered() == "other" })
}

// end ends it, as its uninstallation does.
func (p *predecessor) end() {
	p.suite.Helper()
	p.stop()
	p.suite.Eventually("kubelet to forget the old driver", func() bool { return p.suite.registered() == "" })
}

// set is what it writes for a class from now on.
func (p *predecessor) set(class, name, data string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.files[class] = map[string]string{name: data}
}

// mount mounts where nothing is mounted, and writes a generation: a directory with a time in its name, shown by a rename of ..data.
func (p *predecessor) mount(target, class string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generations++
	generation := fmt.Sprintf("..2026_01_02_15_04_05.%09d", p.generations)
	script := []string{
		"set -e", "mkdir -p " + target, "mountpoint -q " + target + " || mount -t tmpfs tmpfs " + target, "cd " + target,
		"before=$(readlink ..data || true)", "mkdir " + generation,
	}
	for name, data := range p.files[class] {
		script = append(script, fmt.Sprintf("printf %%s '%s' > %s/%s", data, generation, name), fmt.Sprintf("chmod 0644 %s/%s", generation, name))
	}
	script = append(script, "ln -s "+generation+" ..data_tmp", "mv -T ..data_tmp ..data")
	for name := range p.files[class] {
		script = append(script, fmt.Sprintf("[ -L %[1]s ] || { rm -rf %[1]s; ln -s ..data/%[1]s %[1]s; }", name))
	}
	script = append(script, `[ -z "$before" ] || rm -rf "$before"`)
	out, err := p.suite.Exec("sh", "-c", strings.Join(script, "\n"))
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// unmount deletes what is in the volume, unmounts it and removes the directory.
func (p *predecessor) unmount(target string) error {
	out, err := p.suite.Exec("sh", "-c", fmt.Sprintf("rm -rf %[1]s/* || true; ! mountpoint -q %[1]s || umount %[1]s; [ ! -d %[1]s ] || rmdir %[1]s", target))
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// syncs makes the Secret and the status object that it makes for a Pod.
func (p *predecessor) syncs(pod, class, secret, key, data string) {
	s := p.suite
	s.Helper()
	uid := types.UID(s.MustKubectl("", "-n", s.Namespace, "get", "pod", pod, "-o", "jsonpath={.metadata.uid}"))
	owner := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod, UID: uid}}
	if secret != "" {
		_, err := s.Client().CoreV1().Secrets(s.Namespace).Create(s.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: secret, Labels: map[string]string{"secrets-store.csi.k8s.io/managed": "true"}, OwnerReferences: owner},
			Type:       corev1.SecretTypeOpaque, Data: map[string][]byte{key: []byte(data)},
		}, metav1.CreateOptions{FieldManager: "secrets-store-csi"})
		s.must(err)
	}
	s.MustKubectl(fmt.Sprintf(`
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClassPodStatus
metadata:
  name: %[1]s-%[2]s-%[3]s
  namespace: %[2]s
  labels: {internal.secrets-store.csi.k8s.io/node-name: %[4]s}
  ownerReferences: [{apiVersion: v1, kind: Pod, name: %[1]s, uid: %[5]s}]
status: {podName: %[1]s, secretProviderClassName: %[3]s, mounted: true, targetPath: /var/lib/kubelet/pods/x, objects: [{id: secret/x, version: old}]}
`, pod, s.Namespace, class, cluster.NodeName, uid), "create", "--field-manager=secrets-store-csi", "-f", "-")
}

// migrated is what TestMigration works with: six classes with an object each, the first two with a Secret each.
type migrated struct {
	*suite
	old *predecessor
}

const volumesOfPod = 6

func (m *migrated) object(i int) string { return fmt.Sprintf("%s-%d", m.Namespace, i) }
func class(i int) string                { return fmt.Sprintf("c%d", i) }

func (m *migrated) prepare() {
	m.Helper()
	for i := range volumesOfPod {
		m.Secret(m.object(i), fmt.Sprintf("v1 of %d", i))
		m.old.set(class(i), m.object(i), fmt.Sprintf("v1 of %d", i))
		var more []string
		if i < 2 {
			more = []string{secretObject("web-"+class(i), "Opaque", "password", m.object(i))}
		}
		m.Class(class(i), kubelet.Objects(m.object(i)), more...)
	}
	reads := func(p *corev1.PodSpec) {
		p.Containers[0].Args = []string{fmt.Sprintf(
			`trap exit TERM; echo reading; while :; do v=$(cat %[1]s/%[2]s 2>&1) && case $v in v*) ;; *) false ;; esac || echo "BAD $v"; sleep 0.1 & wait; done`,
			mount, m.object(0))}
	}
	user, group := int64(1000), int64(2000)
	m.Pod("six", class(0), reads, func(p *corev1.PodSpec) {
		for i := 1; i < volumesOfPod; i++ {
			p.Volumes = append(p.Volumes, volume(class(i), class(i)))
			p.Containers[0].VolumeMounts = append(p.Containers[0].VolumeMounts,
				corev1.VolumeMount{Name: class(i), MountPath: "/mnt/" + class(i), ReadOnly: true})
		}
		for i := range 2 {
			p.Containers[0].Env = append(p.Containers[0].Env, corev1.EnvVar{Name: "PASSWORD_" + class(i), ValueFrom: &corev1.EnvVarSource{
				SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "web-" + class(i)}, Key: "password"},
			}})
		}
	})
	m.Pod("group", class(0), reads, func(p *corev1.PodSpec) {
		yes := true
		p.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &user, FSGroup: &group, RunAsNonRoot: &yes}
	})
	m.Pod("sub", class(0), func(p *corev1.PodSpec) {
		p.Containers[0].VolumeMounts = append(p.Containers[0].VolumeMounts,
			corev1.VolumeMount{Name: "secrets", MountPath: "/etc/password", SubPath: m.object(0), ReadOnly: true})
	})
	m.Pod("goes", class(0))
	for i := range volumesOfPod {
		secret := ""
		if i < 2 {
			secret = "web-" + class(i)
		}
		m.old.syncs("six", class(i), secret, "password", fmt.Sprintf("v1 of %d", i))
	}
	for _, pod := range []string{"group", "sub", "goes"} {
		m.old.syncs(pod, class(0), "", "", "")
	}
	m.Ready("six", "group", "sub", "goes")
}

// gap deletes one Pod and makes another while no driver runs.
func (m *migrated) gap() {
	m.Helper()
	m.MustKubectl("", "-n", m.Namespace, "delete", "pod", "goes", "--wait=false")
	m.Pod("new", class(1))
	m.Eventually("an event that names the driver", func() bool { return strings.Contains(m.Events("new"), "secrets-store.csi.k8s.io") })
	if got := m.Read("six", m.object(0)); got != "v1 of 0" {
		m.Errorf("without a driver the Pod reads %q", got)
	}
	if phase := m.MustKubectl("", "-n", m.Namespace, "get", "pod", "new", "-o", "jsonpath={.status.phase}"); phase != "Pending" {
		m.Errorf("without a driver a new Pod is %s", phase)
	}
}

// rotates changes all values and waits until files and Secrets have them.
func (m *migrated) rotates(version string) {
	m.Helper()
	for i := range volumesOfPod {
		m.Secret(m.object(i), fmt.Sprintf("%s of %d", version, i))
	}
	for i := range volumesOfPod {
		path := "/mnt/" + class(i)
		if i == 0 {
			path = mount
		}
		want := fmt.Sprintf("%s of %d", version, i)
		m.Eventually("volume "+class(i)+" to change", func() bool {
			out, err := m.Run("six", "cat "+path+"/"+m.object(i))
			return err == nil && out == want
		})
		if i < 2 {
			m.Eventually("the Secret of "+class(i)+" to change", func() bool { return string(m.Synced("web-" + class(i)).Data["password"]) == want })
		}
	}
	for _, pod := range []string{"group", "sub"} {
		m.Eventually(pod+" to read the change", func() bool { return m.Read(pod, m.object(0)) == version+" of 0" })
	}
}

// mountsOf are the lines of the node's mounts of a Pod's volumes, and the modes of their directories.
func (m *migrated) mountsOf(pod string) (lines, modes []string) {
	m.Helper()
	uid := m.MustKubectl("", "-n", m.Namespace, "get", "pod", pod, "-o", "jsonpath={.metadata.uid}")
	out, err := m.Exec("cat", "/proc/mounts")
	m.must(err)
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); strings.HasPrefix(fields[1], "/var/lib/kubelet/pods/"+uid+"/volumes/kubernetes.io~csi/") {
			lines = append(lines, line)
			mode, err := m.Exec("stat", "-c", "%a", fields[1])
			m.must(err)
			modes = append(modes, strings.TrimSpace(mode))
		}
	}
	return lines, modes
}

// TestMigration replaces the Secrets Store CSI Driver under running Pods, and goes back. What that driver leaves on the node and in the API
// server is made from its facts. In the gap between the two a Pod is deleted and another is made.
func TestMigration(t *testing.T) {
	s := begin(t)
	s.NeedsOwn("it registers a driver of its own with kubelet")
	s.Helm("uninstall", release, "-n", system, "--wait")
	s.Eventually("kubelet to forget the driver", func() bool { return s.registered() == "" })
	m := &migrated{suite: s, old: startPredecessor(s)}
	t.Cleanup(func() { m.restore() })
	m.prepare()
	secrets := []types.UID{s.Synced("web-c0").UID, s.Synced("web-c1").UID}
	if _, modes := m.mountsOf("six"); len(modes) != volumesOfPod || modes[0] != "1777" {
		t.Fatalf("the old driver's mounts have the modes %q", modes)
	}

	m.old.end()
	m.gap()
	start := time.Now()
	s.install("--take-ownership")
	t.Logf("the driver is installed and ready after %v", time.Since(start).Round(100*time.Millisecond))
	s.Ready("new")
	t.Logf("the Pod that waited is ready after %v", time.Since(start).Round(100*time.Millisecond))
	s.MustKubectl("", "-n", s.Namespace, "wait", "--for=delete", "pod/goes", "--timeout=90s")
	t.Logf("the Pod that was deleted is gone after %v", time.Since(start).Round(100*time.Millisecond))

	m.rotates("v2")
	t.Logf("all volumes and Secrets are refreshed after %v", time.Since(start).Round(100*time.Millisecond))
	m.adopted(secrets)

	s.Delete("sub") // its successor has a volume of this driver's
	s.Pod("sub", class(0))
	s.Ready("sub")
	if lines, modes := m.mountsOf("sub"); len(lines) != 1 || !strings.Contains(lines[0], "noexec") || modes[0] != "755" {
		t.Errorf("a replaced Pod's volume: %q, %q", lines, modes)
	}
	m.back()
}

// adopted checks what is left of the old driver once this one has taken over.
func (m *migrated) adopted(secrets []types.UID) {
	m.Helper()
	for i, uid := range secrets {
		secret := m.Synced("web-" + class(i))
		if secret.UID != uid || secret.Labels["secrets-store.csi.k8s.io/managed"] != "true" || !strings.Contains(owners(secret), "Pod/six") {
			m.Errorf("Secret %s: another one, or labels %v, owners %s", secret.Name, secret.Labels, owners(secret))
		}
	}
	lines, modes := m.mountsOf("six")
	for i, line := range lines {
		if !strings.Contains(line, "size=65536k") || modes[i] != "755" {
			m.Errorf("an adopted mount, as the node has it: mode %s, %s", modes[i], line)
		}
	}
	out, err := m.Run("group", `id -u; stat -L -c '%a %u %g' `+mount+`/`+m.object(0))
	m.must(err)
	if out != "1000\n644 0 2000\n" {
		m.Errorf("the Pod with fsGroup sees %q", out)
	}
	if out, err := m.Run("sub", "cat /etc/password"); err != nil || out != "v1 of 0" {
		m.Errorf("a file by subPath: %q, %v", out, err)
	}
	if out, err := m.Run("six", `printf '%s, %s' "$PASSWORD_c0" "$PASSWORD_c1"`); err != nil || out != "v1 of 0, v1 of 1" {
		m.Errorf("variables: %q, %v", out, err)
	}
	m.NeverFailed("six")
	m.NeverFailed("group")
	status := m.MustKubectl("", "-n", system, "exec", "daemonset/"+release, "--", "/keyvault-csi", "status")
	if want := "mounted by another driver: without nosuid, nodev, noexec"; strings.Count(status, want) != volumesOfPod+2 {
		m.Errorf("status does not say of %d volumes that they are of another driver:\n%s", volumesOfPod+2, status)
	}
	objects := m.MustKubectl("", "-n", m.Namespace, "get", "secretproviderclasspodstatus", "-o", `jsonpath={range .items[*]}{.metadata.name}={.status.objects[0].version}{"\n"}{end}`)
	kept := strings.ReplaceAll(objects, "goes-"+m.Namespace+"-"+class(0)+"=old\n", "") // the API server deletes it some time after its Pod
	if strings.Contains(kept, "=old") || strings.Count(objects, "six-") != volumesOfPod {
		m.Errorf("status objects:\n%s", objects)
	}
}

// back uninstalls this driver, and starts the old one again: it goes on with the volumes of this one, and unmounts them.
func (m *migrated) back() {
	m.Helper()
	m.Helm("uninstall", release, "-n", system, "--wait")
	m.Eventually("kubelet to forget the driver", func() bool { return m.registered() == "" })
	m.MustKubectl("", "-n", m.Namespace, "get", "secretproviderclass", class(0)) // stays
	m.old.set(class(0), m.object(0), "v3 by the old driver")
	m.old.set(class(1), m.object(1), "v3 by the old driver")
	m.old.begin()
	for _, pod := range []string{"six", "group", "sub"} {
		m.Eventually(pod+" to read what the old driver writes", func() bool { return m.Read(pod, m.object(0)) == "v3 by the old driver" })
	}
	m.NeverFailed("six")
	for _, secret := range []string{"web-c0", "web-c1"} {
		if m.Synced(secret) == nil {
			m.Errorf("the Secret %s went with this driver", secret)
		}
	}
	m.Gone("new", "sub", "six", "group")
}

// restore ends the old driver and gives the cluster this one, for the next tests.
func (m *migrated) restore() {
	m.Helper()
	_, _ = m.Kubectl("", "-n", m.Namespace, "delete", "pods", "--all", "--timeout=60s")
	m.old.stop()
	m.install("--take-ownership")
}
