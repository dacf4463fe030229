//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/controller/restart"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// running are the names of a Deployment's Pods that are not being deleted.
func (s *suite) running(deployment string) (names []string) {
	s.Helper()
	list, err := s.Client().CoreV1().Pods(s.Namespace).List(s.Context(), metav1.ListOptions{LabelSelector: "app=" + deployment})
	s.must(err)
	for i := range list.Items {
		if pod := &list.Items[i]; pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning {
			names = append(names, pod.Name)
		}
	}
	slices.Sort(names)
	return names
}

// TestDeploymentIsRestartedOnChange rotates a value that Pods have in a variable: they are replaced, once, and those of a Deployment
// without the annotation stay.
func TestDeploymentIsRestartedOnChange(t *testing.T) {
	s := begin(t)
	db := s.Namespace + "-db"
	s.Secret(db, "one")
	s.Class("web", kubelet.Objects(db), secretObject("web-db", "Opaque", "password", db))
	s.controller(t, "controller.restart.enabled=true,controller.restart.delay=3s")
	s.Crowd("shop", "web", 2, withPassword)
	s.Crowd("plain", "web", 1, withPassword)
	s.MustKubectl("", "-n", s.Namespace, "annotate", "deployment", "shop", restart.Annotation+"="+restart.OnChange, restart.IntervalAnnotation+"=10s")
	first, plain := s.running("shop"), s.running("plain")
	variable := func(pod string) string {
		out, err := s.Run(pod, `printf %s "$PASSWORD"`)
		if err != nil {
			return err.Error()
		}
		return out
	}
	for _, pod := range slices.Concat(first, plain) {
		if got := variable(pod); got != "one" {
			t.Fatalf("the variable of %s is %q", pod, got)
		}
	}
	rotated := time.Now()
	s.Secret(db, "two")
	s.Eventually("the new Pods", func() bool {
		now := s.running("shop")
		return len(now) == 2 && !slices.ContainsFunc(now, func(pod string) bool { return slices.Contains(first, pod) || variable(pod) != "two" })
	})
	t.Logf("all Pods were replaced %s after the change in the vault, with a delay of 3s", time.Since(rotated).Round(100*time.Millisecond))
	s.MustKubectl("", "-n", s.Namespace, "rollout", "status", "deployment/shop", "--timeout=2m")
	second := s.running("shop")
	revision := func() string {
		return s.MustKubectl("", "-n", s.Namespace, "get", "deployment", "shop", "-o", "jsonpath={.metadata.generation}")
	}
	before := revision()
	time.Sleep(25 * time.Second) // twice the interval: a second restart would come now
	if after := revision(); after != before || !slices.Equal(s.running("shop"), second) {
		t.Errorf("restarted again: generation %s, then %s; Pods %v, then %v", before, after, second, s.running("shop"))
	}
	if got := s.running("plain"); !slices.Equal(got, plain) || variable(plain[0]) != "one" {
		t.Errorf("Pods of a Deployment without the annotation: %v, then %v", plain, got)
	}
	events := s.MustKubectl("", "-n", s.Namespace, "get", "events", "--field-selector", "involvedObject.name=shop", "-o", "jsonpath={.items[*].reason}")
	if n := strings.Count(events, "RestartedOnChange"); n != 1 {
		t.Errorf("%d events of restarts: %s", n, events)
	}
	// an edit of the class that adds an object is no change of what the Pods started with
	s.Secret(s.Namespace+"-api", "key")
	s.Class("web", kubelet.Objects(db, s.Namespace+"-api"), secretObject("web-db", "Opaque", "password", db))
	s.Eventually("the added file", func() bool {
		out, err := s.Run(second[0], "cat "+mount+"/"+s.Namespace+"-api")
		return err == nil && out == "key"
	})
	time.Sleep(8 * time.Second)
	if after := revision(); after != before {
		t.Errorf("an added object restarted the Deployment: generation %s, then %s", before, after)
	}
}
