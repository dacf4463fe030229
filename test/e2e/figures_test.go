//go:build e2e && bench

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/keyvault-csi/keyvault-csi-driver/test/cluster"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// TestFigures measures the driver on a node of its own, with kubelet as it comes and the chart's own intervals, and prints what it
// finds. What is compared is measured in one run, in turns.
func TestFigures(t *testing.T) {
	out := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	defer func() { _ = out.Flush() }()
	row := func(what, format string, args ...any) {
		_, _ = fmt.Fprintf(out, "  %s\t"+format+"\n", append([]any{what}, args...)...)
	}

	start := time.Now()
	s := &suite{Cluster: cluster.Start(t, cluster.Options{})}
	row("an empty node is ready", "%s after the start of its cluster", since(start))
	s.prepare()
	s.Namespace = s.ControlPlane.Namespace()
	s.Federate(s.Namespace, "app", "*")
	name := s.Namespace + "-db"
	s.Secret(name, "s3cret")

	start = time.Now()
	s.Helm("install", release, filepath.Join(s.root(), "deploy/chart"), "-n", system, "-f", "-", "--set", "cacheTTL=10s,rotationPollInterval=2m,logVerbosity=1")
	s.Class("web", kubelet.Objects(name))
	s.start("first", "web")
	row("the first Pod with a volume is ready", "%s after helm install began (images on the node)", since(start))
	s.DriverReady()
	s.Delete("first")

	var with, without []time.Duration
	for i := range 10 {
		for _, kind := range []string{"with", "without"} {
			pod := fmt.Sprintf("%s-%d", kind, i)
			if kind == "with" {
				with = append(with, s.start(pod, "web"))
			} else {
				without = append(without, s.start(pod, "web", func(p *corev1.PodSpec) { p.Volumes, p.Containers[0].VolumeMounts = nil, nil }))
			}
			s.Delete(pod)
		}
	}
	slices.Sort(with)
	slices.Sort(without)
	a, b := with[len(with)/2], without[len(without)/2]
	row("a Pod is ready with the volume, without it", "%s, %s (medians of 10): %.2f to 1", a.Round(time.Millisecond), b.Round(time.Millisecond), a.Seconds()/b.Seconds())

	s.pushFigures(row)

	idle := s.memory()
	row("the driver's Pod, idle", "%s", idle)
	start = time.Now()
	s.Crowd("crowd", "web", crowd)
	row(fmt.Sprintf("%d Pods are ready together", crowd), "%s after their Deployment", since(start))
	full := s.memory()
	row(fmt.Sprintf("the driver's Pod with %d Pods", crowd), "%s", full)
	row("for each of them", "%d kB of its own, %d kB of files", (full.own-idle.own)/crowd, (full.files-idle.files)/crowd)

	const watched = 3 * time.Minute
	calls := s.republished(watched)
	row("kubelet calls again for each", "after %s in the mean (%d calls in %s)", (crowd * watched / time.Duration(calls)).Round(100*time.Millisecond), calls, watched)
	row(fmt.Sprintf("the driver's Pod after %s with them", since(start)), "%s", s.memory())
	for _, image := range []string{"keyvault-csi", "keyvault-emulator"} {
		info, err := os.Stat(filepath.Join(s.root(), ".cache/image", image+"-"+runtime.GOARCH+".tar"))
		s.must(err)
		row("the image "+image, "%.1f MB to pull", float64(info.Size())/1e6)
	}
}

// pushFigures measures push rotation with one node, and leaves the controller out afterwards.
func (s *suite) pushFigures(row func(what, format string, args ...any)) {
	s.Helper()
	name, address := s.Namespace+"-pushed", s.nodeAddress()
	certificate, key := s.certificate(address)
	upgrade := func(flags ...string) {
		s.Helm(append([]string{
			"upgrade", release, filepath.Join(s.root(), "deploy/chart"), "-n", system, "-f", "-", "--wait", "--timeout", "3m",
			"--set", "cacheTTL=10s,rotationPollInterval=2m,logVerbosity=1",
		}, flags...)...)
		s.DriverReady()
	}
	upgrade("--set", s.controllerValues(s.pushValues(certificate, key)))
	s.Secret(name, "first")
	s.Class("pushed", kubelet.Objects(name), "    rotationInterval: 24h")
	s.start("pushed", "pushed")
	s.sendEvents(address, certificate)
	took := s.pushed("pushed", name, 21)
	row("from the change in the vault to the file in the Pod, pushed", "%s (median of %d), at most %s", took[len(took)/2], len(took), took[len(took)-1])
	s.Delete("pushed")
	upgrade()
}

func since(start time.Time) time.Duration { return time.Since(start).Round(100 * time.Millisecond) }

// start makes a Pod and returns how long it took to be ready.
func (s *suite) start(name, class string, edit ...func(*corev1.PodSpec)) time.Duration {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 2*time.Minute)
	defer cancel()
	watch, err := s.Client().CoreV1().Pods(s.Namespace).Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
	s.must(err)
	defer watch.Stop()
	begun := time.Now()
	s.Pod(name, class, edit...)
	for event := range watch.ResultChan() {
		pod, ok := event.Object.(*corev1.Pod)
		if ok && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}) {
			return time.Since(begun)
		}
	}
	s.Fatalf("%s does not get ready: %s", name, s.DriverLog(20))
	return 0
}

// memory is what the driver's Pod takes, in kB: pages of its own, and those of the files in all volumes, as the kernel charges them.
type memory struct{ own, files, rss int }

func (m memory) String() string {
	return fmt.Sprintf("%d kB of its own and %d kB of files (cgroup); RSS %d kB", m.own, m.files, m.rss)
}

func (s *suite) memory() memory {
	s.Helper()
	pid := strings.TrimSpace(s.node("pidof", "keyvault-csi"))
	group, own, files := "", "rss", "shmem"
	for line := range strings.Lines(s.node("cat", "/proc/"+pid+"/cgroup")) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case slices.Contains(strings.Split(parts[1], ","), "memory"):
			group = "/sys/fs/cgroup/memory" + parts[2]
		case group == "" && parts[0] == "0":
			group = "/sys/fs/cgroup" + parts[2]
		}
	}
	if !strings.HasPrefix(group, "/sys/fs/cgroup/memory/") {
		own = "anon" // cgroup v2
	}
	stat := s.node("cat", group+"/memory.stat")
	return memory{s.number(stat, own) / 1024, s.number(stat, files) / 1024, s.number(s.node("cat", "/proc/"+pid+"/status"), "VmRSS:")}
}

// node runs a command on the node.
func (s *suite) node(args ...string) string {
	s.Helper()
	out, err := s.Exec(args...)
	s.must(err)
	return out
}

// number is the number that follows a word at the beginning of a line.
func (s *suite) number(text, word string) int {
	s.Helper()
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == word {
			n, err := strconv.Atoi(f[1])
			s.must(err)
			return n
		}
	}
	s.Fatalf("no %s", word)
	return 0
}

// republished is how many NodePublishVolume calls the driver has answered in some time from now on.
func (s *suite) republished(d time.Duration) int {
	s.Helper()
	time.Sleep(d)
	log := s.MustKubectl("", "-n", system, "logs", s.DriverPod(), "--since", d.String(), "--limit-bytes=100000000")
	calls := 0
	for line := range strings.Lines(log) {
		if strings.Contains(line, `"call done"`) && strings.Contains(line, `"NodePublishVolume"`) {
			calls++
		}
	}
	if calls == 0 {
		s.Fatal("kubelet does not call again")
	}
	return calls
}
