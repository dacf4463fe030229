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

	"github.com/keyvault-csi/keyvault-csi-driver/test/cluster"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// TestDriverPodReplaced deletes the driver's Pod while Pods run: they go on reading, new ones wait for its successor, and that one
// keeps the old ones fresh.
func TestDriverPodReplaced(t *testing.T) {
	s := begin(t)
	name := s.prepareReader("old")
	s.MustKubectl("", "-n", system, "delete", "pod", s.DriverPod(), "--wait=false")
	s.Pod("new", "web")
	s.Ready("new")
	s.DriverReady()
	s.Rotates(name, "old", "new")
	s.NeverFailed("old")
	s.Gone("old", "new")
}

// TestDriverUpgraded upgrades the release with other values while a Pod reads and others start.
func TestDriverUpgraded(t *testing.T) {
	s := begin(t)
	name := s.prepareReader("old")
	before := s.DriverPod()
	t.Cleanup(func() { s.install() })
	gap := s.watchRegistration()
	crowd := []string{"new"}
	for i := range 8 { // come while the one driver goes and the other comes
		crowd = append(crowd, fmt.Sprintf("new-%d", i))
	}
	var load sync.WaitGroup
	load.Go(func() {
		for _, name := range crowd {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: podSpec("web")}
			if _, err := s.Client().CoreV1().Pods(s.Namespace).Create(s.Context(), pod, metav1.CreateOptions{}); err != nil {
				t.Error(err)
			}
		}
	})
	s.Helm("upgrade", release, filepath.Join(s.root(), "deploy/chart"), "-n", system, "-f", "-", "--set", "rotationPollInterval=3s")
	load.Wait()
	for _, pod := range crowd {
		s.Ready(pod)
	}
	s.DriverReady()
	t.Logf("kubelet had no driver for %v during the upgrade", gap())
	after := s.DriverPod()
	if args := s.MustKubectl("", "-n", system, "get", "pods", after, "-o", "jsonpath={.spec.containers[*].args}"); before == after || !strings.Contains(args, "--rotation-interval=3s") {
		t.Errorf("%s was not upgraded: %s", before, args)
	}
	all := append([]string{"old"}, crowd...)
	s.Rotates(name, all...)
	s.NeverFailed("old")
	s.Gone(all...)
}

// watchRegistration watches whether kubelet has the driver, until the returned function is called, which says for how long it had not.
func (s *suite) watchRegistration() func() time.Duration {
	s.Helper()
	stop, gap := make(chan struct{}), make(chan time.Duration, 1)
	go func() {
		var lost time.Time
		var total time.Duration
		for {
			out, err := s.Kubectl("", "get", "csinode", cluster.NodeName, "-o", "jsonpath={.spec.drivers[*].name}")
			here := strings.Contains(out, "secrets-store.csi.k8s.io")
			switch {
			case err != nil:
			case !here && lost.IsZero():
				lost = time.Now()
			case here && !lost.IsZero():
				total += time.Since(lost)
				lost = time.Time{}
			}
			select {
			case <-stop:
				gap <- total.Round(100 * time.Millisecond)
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return func() time.Duration {
		close(stop)
		return <-gap
	}
}

// TestDriverComesLater schedules a Pod on a node without the driver.
func TestDriverComesLater(t *testing.T) {
	s := begin(t)
	name := s.Namespace + "-db"
	s.Secret(name, "s3cret")
	s.Class("web", kubelet.Objects(name))
	t.Cleanup(func() { s.install() })
	s.Helm("uninstall", release, "-n", system, "--wait")
	s.Pod("early", "web")
	s.Eventually("an event that names the driver", func() bool {
		return strings.Contains(s.Events("early"), "secrets-store.csi.k8s.io")
	})
	s.install()
	s.Ready("early")
	if got := s.Read("early", name); got != "s3cret" {
		t.Errorf("the Pod reads %q", got)
	}
	s.Gone("early")
}

// TestUninstalledAndInstalledAgain uninstalls the release under running Pods. They go on reading, everybody's objects stay, a Pod that
// is deleted in the meantime goes when the driver runs again, and the others are refreshed again.
func TestUninstalledAndInstalledAgain(t *testing.T) {
	s := begin(t)
	name := s.prepareReader("stays")
	s.Pod("goes", "web")
	s.Ready("goes")
	t.Cleanup(func() { s.install() })
	s.Helm("uninstall", release, "-n", system, "--wait")
	s.Eventually("the driver to end", func() bool { return s.DriverPod() == "" })
	s.Eventually("kubelet to forget the driver", func() bool { return s.registered() == "" })
	for _, object := range []string{
		"crd/secretproviderclasses.secrets-store.csi.x-k8s.io", "crd/secretproviderclasspodstatuses.secrets-store.csi.x-k8s.io",
		"csidriver/secrets-store.csi.k8s.io", "secretproviderclass/web",
	} {
		s.MustKubectl("", "-n", s.Namespace, "get", object)
	}
	s.MustKubectl("", "-n", s.Namespace, "delete", "pod", "goes", "--wait=false")
	if got := s.Read("stays", name); got != "v1" {
		t.Errorf("without the driver the Pod reads %q", got)
	}
	s.install()
	s.MustKubectl("", "-n", s.Namespace, "wait", "--for=delete", "pod/goes", "--timeout=90s")
	s.Rotates(name, "stays")
	s.NeverFailed("stays")
	s.Gone("stays")
}

// TestKubeletRestarted restarts kubelet: the driver refreshes the files without it, then it is registered again.
func TestKubeletRestarted(t *testing.T) {
	s := begin(t)
	name := s.prepareReader("old")
	var volumes []string
	s.Eventually("its mount alone", func() bool { volumes = s.Volumes(); return len(volumes) == 1 }) // an earlier test's may be going
	s.StopKubelet()
	s.Secret(name, "v2")
	s.Eventually("the rotation without kubelet", func() bool {
		out, err := s.Exec("cat", volumes[0]+"/"+name)
		return err == nil && out == "v2"
	})
	s.StartKubelet()
	s.Pod("new", "web")
	s.Ready("new")
	s.NeverFailed("old")
	s.Gone("old", "new")
}

// TestAPIServerRestarted stops the API server under Pods that read: their files are refreshed without it, and new Pods start when it is back.
func TestAPIServerRestarted(t *testing.T) {
	s := begin(t)
	s.NeedsOwn("it stops the API server")
	name := s.prepareReader("old")
	var volumes []string
	s.Eventually("its mount alone", func() bool { volumes = s.Volumes(); return len(volumes) == 1 })
	s.StopAPIServer()
	s.Secret(name, "v2")
	s.Eventually("the rotation without the API server", func() bool {
		out, err := s.Exec("cat", volumes[0]+"/"+name)
		return err == nil && out == "v2"
	})
	s.StartAPIServer()
	s.DriverReady()
	s.Pod("new", "web")
	s.Ready("new")
	s.Rotates(name, "old", "new")
	s.NeverFailed("old")
	s.Gone("old", "new")
}

// TestNodeRebooted takes the node's power away: every process and mount is gone. Its Pods come back with their volumes; of one that
// was deleted while the node was down nothing is left.
func TestNodeRebooted(t *testing.T) {
	s := begin(t)
	name := s.prepareReader("stays")
	s.Pod("goes", "web")
	s.Ready("goes")
	s.StopKubelet()
	s.MustKubectl("", "-n", s.Namespace, "delete", "pod", "goes", "--force", "--grace-period=0")
	s.Secret(name, "v2")
	s.Reboot()
	s.DriverReady()
	s.Eventually("the Pod to read again", func() bool {
		out, err := s.Run("stays", "cat "+mount+"/"+name)
		return err == nil && out == "v2"
	})
	s.Eventually("the other Pod's directory to go", func() bool { return len(s.Leftovers()) == 1 && len(s.Volumes()) == 1 })
	s.Rotates(name, "stays")
	s.Gone("stays")
}

// prepareReader has a secret with the value v1, the class web of it, and a Pod that reads it all the time. It returns the secret's name.
func (s *suite) prepareReader(pod string) string {
	s.Helper()
	name := s.Namespace + "-db"
	s.Secret(name, "v1")
	s.Class("web", kubelet.Objects(name))
	s.Pod(pod, "web", func(p *corev1.PodSpec) {
		p.Containers[0].Args = []string{fmt.Sprintf(
			`trap exit TERM; echo reading; while :; do v=$(cat %[1]s/%[2]s 2>&1) && case $v in v*) ;; *) false ;; esac || echo "BAD $v"; sleep 0.1 & wait; done`, mount, name)}
	})
	s.Ready(pod)
	return name
}

// NeverFailed fails the test where prepareReader's Pod was once without its secret.
func (s *suite) NeverFailed(pod string) {
	s.Helper()
	log := s.MustKubectl("", "-n", s.Namespace, "logs", pod)
	if !strings.HasPrefix(log, "reading") || strings.Contains(log, "BAD") {
		s.Errorf("%s could not always read its secret: %s", pod, log)
	}
	restarts := s.MustKubectl("", "-n", s.Namespace, "get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
	if restarts != "0" {
		s.Errorf("%s was restarted %s times", pod, restarts)
	}
}

// Rotates changes a secret and waits until all Pods read it.
func (s *suite) Rotates(name string, pods ...string) {
	s.Helper()
	s.Secret(name, "v-rotated")
	for _, pod := range pods {
		s.Eventually(pod+" to read the change", func() bool { return s.Read(pod, name) == "v-rotated" })
	}
}

// Gone deletes Pods and waits until nothing of any volume is left on the node.
func (s *suite) Gone(pods ...string) {
	s.Helper()
	for _, pod := range pods {
		s.Delete(pod)
	}
	s.Eventually("every mount and directory to go", func() bool { return len(s.Volumes()) == 0 && len(s.Leftovers()) == 0 })
}
