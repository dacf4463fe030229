//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// controller installs one replica of the controller for the test's namespace, with more values of the chart, until the test ends.
func (s *suite) controller(t *testing.T, values string) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := s.Kubectl("", "-n", system, "logs", "deployment/"+release+"-controller", "--tail=60")
			t.Logf("the controller's log, the last of it:\n%s", out)
		}
		s.install()
	})
	s.install("--set", s.controllerValues(values))
}

// controllerValues gives the node the controller's image, and returns the values for one replica, with more of them.
func (s *suite) controllerValues(values string) string {
	s.Helper()
	s.Import(filepath.Join(s.root(), ".cache/image/keyvault-controller-"+runtime.GOARCH+".tar"))
	return "controller.enabled=true,controller.replicas=1,controller.namespaces={" + s.Namespace + "}," + values
}

// trustsEmulator are values with which the controller trusts the emulator.
const trustsEmulator = "controller.extraArgs={--ca-file=/ca/ca.crt},controller.volumes[0].name=ca,controller.volumes[0].configMap.name=emulator-ca," +
	"controller.volumeMounts[0].name=ca,controller.volumeMounts[0].mountPath=/ca"

// controllerSync has the controller write the Secrets of Pods.
func (s *suite) controllerSync(t *testing.T) {
	t.Helper()
	s.controller(t, "syncSecret.by=controller,"+trustsEmulator)
}

// scaleController sets the number of its replicas, and waits until they are there or gone.
func (s *suite) scaleController(replicas int) {
	s.Helper()
	s.MustKubectl("", "-n", system, "scale", "deployment/"+release+"-controller", fmt.Sprintf("--replicas=%d", replicas))
	s.Eventually("the controller", func() bool {
		out := s.MustKubectl("", "-n", system, "get", "pods", "-l", "app.kubernetes.io/name=keyvault-csi-controller", "-o",
			`jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{" "}{end}`)
		return strings.TrimSpace(out) == strings.TrimSpace(strings.Repeat("True ", replicas))
	})
}

// startsWithVariable starts Pods one after the other, each of which has to have the Secret made for it, and prints how long that took.
func (s *suite) startsWithVariable(t *testing.T, by string) {
	t.Helper()
	var written, ready []time.Duration
	missed := 0
	for i := range 10 {
		name := fmt.Sprintf("%s-%d", by, i)
		created := time.Now()
		s.Pod(name, "web", withPassword)
		for s.Synced("web-db") == nil {
			if time.Since(created) > 2*time.Minute {
				t.Fatalf("no Secret: %s", s.Events(name))
			}
			time.Sleep(20 * time.Millisecond)
		}
		written = append(written, time.Since(created))
		s.Ready(name)
		ready = append(ready, time.Since(created))
		out, err := s.Run(name, `printf %s "$PASSWORD"`)
		s.must(err)
		if out != "s3cret" {
			t.Errorf("the variable is %q", out)
		}
		if strings.Contains(s.Events(name), `"web-db" not found`) {
			missed++
		}
		if secret := s.Synced("web-db"); secret.Labels["secrets-store.csi.k8s.io/managed"] != "true" || owners(secret) != "Pod/"+name {
			t.Errorf("labels %v, owners %s", secret.Labels, owners(secret))
		}
		s.Delete(name)
		s.Eventually("the garbage collection of the Secret", func() bool { return s.Synced("web-db") == nil })
	}
	slices.Sort(written)
	slices.Sort(ready)
	t.Logf("Secrets by %s: written %s after the Pod's creation (median of 10; at most %s), Pod ready after %s (at most %s); %d missed it at first",
		by, written[5].Round(10*time.Millisecond), written[9].Round(10*time.Millisecond), ready[5].Round(10*time.Millisecond),
		ready[9].Round(10*time.Millisecond), missed)
}

// TestSecretsOfPodsByTheController starts Pods that read a Secret as a variable, which the controller writes; no driver of a node may.
func TestSecretsOfPodsByTheController(t *testing.T) {
	s := begin(t)
	db := s.Namespace + "-db"
	s.Secret(db, "s3cret")
	s.Class("web", kubelet.Objects(db), secretObject("web-db", "Opaque", "password", db))
	s.startsWithVariable(t, "nodes")
	s.controllerSync(t)
	for _, verb := range []string{"get", "list", "watch", "create", "patch", "update", "delete"} {
		out, err := s.Kubectl("", "auth", "can-i", verb, "secrets", "--as=system:serviceaccount:"+system+":"+release, "-n", s.Namespace)
		if err == nil || strings.TrimSpace(out) != "no" {
			t.Errorf("the driver of a node may %s Secrets: %s", verb, out)
		}
	}
	s.startsWithVariable(t, "controller")

	s.Pod("cart", "web", withPassword)
	s.Ready("cart")
	s.Secret(db, "two")
	s.Eventually("the Secret to change", func() bool { return string(s.Synced("web-db").Data["password"]) == "two" })
	s.Eventually("the file to change", func() bool { return s.Read("cart", db) == "two" })

	// A Pod that finds no Secret starts by itself once there is one.
	s.Class("late", kubelet.Objects(db), secretObject("late-db", "Opaque", "password", db))
	s.scaleController(0)
	s.Pod("late", "late", func(p *corev1.PodSpec) {
		withPassword(p)
		p.Containers[0].Env[0].ValueFrom.SecretKeyRef.Name = "late-db"
	})
	s.Eventually("kubelet to miss the Secret", func() bool { return strings.Contains(s.Events("late"), `"late-db" not found`) })
	s.scaleController(1)
	s.Eventually("the Secret", func() bool { return s.Synced("late-db") != nil })
	written := time.Now()
	s.Ready("late")
	t.Logf("a Pod that missed its Secret was ready %s after the Secret was there", time.Since(written).Round(100*time.Millisecond))
	for line := range strings.Lines(s.DriverLog(-1)) {
		if strings.Contains(line, "s3cret") || strings.Contains(line, "Secret sync") {
			t.Errorf("the driver's log: %s", line)
		}
	}
}
