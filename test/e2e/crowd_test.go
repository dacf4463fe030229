//go:build e2e

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// crowd is how many Pods start together.
const crowd = 60

// TestCrowd starts many Pods at once that share what they read: the vault is asked once for each source. When they have gone, the
// driver and the node are as they were.
func TestCrowd(t *testing.T) {
	s := begin(t)
	first, second, other := s.Namespace+"-a", s.Namespace+"-b", s.Namespace+"-c"
	s.Secret(first, "one")
	s.Secret(second, "two")
	s.Secret(other, "three")
	s.Class("web", kubelet.Objects(first, second))
	s.Class("warm", kubelet.Objects(other))
	t.Cleanup(func() { s.install() })
	s.install("--set", "cacheTTL=10m,rotationPollInterval=1h,syncSecret.enabled=false") // longer than the start takes
	s.Pod("warm", "warm")                                                               // connections and tokens stay
	s.Ready("warm")
	s.Gone("warm")
	base := s.Goroutines()

	s.Emulator.ResetRequests()
	s.Crowd("crowd", "web", crowd)
	if got := len(s.Volumes()); got != crowd {
		t.Errorf("%d mounts for %d Pods", got, crowd)
	}
	asked := map[string]int{}
	for _, r := range s.Emulator.Requests() {
		if strings.HasPrefix(r.Operation, "get ") {
			asked[r.Name]++
		}
	}
	for _, name := range []string{first, second} {
		if asked[name] != 1 {
			t.Errorf("the vault was asked %d times for %s", asked[name], name)
		}
	}
	out := s.MustKubectl("", "-n", s.Namespace, "exec", "deployment/crowd", "--", "sh", "-c", "cat "+mount+"/*")
	if out != "onetwo" {
		t.Errorf("a Pod reads %q", out)
	}
	s.MustKubectl("", "-n", s.Namespace, "delete", "deployment", "crowd", "--cascade=foreground", "--timeout=180s")
	s.Eventually("every mount and directory to go", func() bool { return len(s.Volumes()) == 0 && len(s.Leftovers()) == 0 })
	// The class stays watched for ten minutes, and probes come and go. A goroutine that a Pod leaves would be there crowd times.
	s.Eventually("the goroutines to end", func() bool { return s.Goroutines() < base+crowd/2 })
	if got := s.Metric("keyvault_csi_volumes"); got != 0 {
		t.Errorf("the driver keeps %v volumes", got)
	}
}

// Crowd makes a Deployment of some Pods and returns when all are ready.
func (s *suite) Crowd(name, class string, replicas int32, edit ...func(*corev1.PodSpec)) {
	s.Helper()
	labels := map[string]string{"app": name}
	_, err := s.Client().AppsV1().Deployments(s.Namespace).Create(s.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec(class, edit...)},
		},
	}, metav1.CreateOptions{})
	s.must(err)
	if _, err := s.Kubectl("", "-n", s.Namespace, "rollout", "status", "deployment/"+name, "--timeout=5m"); err != nil {
		events, _ := s.Kubectl("", "-n", s.Namespace, "get", "events", "--field-selector", "type=Warning")
		s.Fatalf("%v\n%s", err, events)
	}
}

// Metric is the value of one of the driver's metrics without labels.
func (s *suite) Metric(name string) float64 {
	s.Helper()
	text := s.MustKubectl("", "get", "--raw", fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:8095/proxy/metrics", system, s.DriverPod()))
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			s.must(err)
			return f
		}
	}
	s.Fatalf("no metric %s", name)
	return 0
}

// Goroutines is how many goroutines the driver has.
func (s *suite) Goroutines() float64 { s.Helper(); return s.Metric("go_goroutines") }
