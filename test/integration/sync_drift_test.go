//go:build integration

package integration

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	clocktesting "k8s.io/utils/clock/testing"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/nodesync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
)

// kinds counts events by kind.
type kinds struct {
	mu   sync.Mutex
	seen map[nodesync.Kind]int
}

func (k *kinds) report(_ context.Context, e nodesync.Event) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen[e.Kind]++
}

// Fresh values that did not change are applied again once the last apply is older than ten minutes: what drifted is put right. The
// driver's clock is the test's; the API server is a real one.
func TestDriftIsPutRight(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	clk := clocktesting.NewFakeClock(time.Now())
	cluster, err := kube.Open(t.Context(), kube.Options{
		Kubeconfig: s.kubeconfig("node-1"), DriverName: "secrets-store.csi.k8s.io", NodeID: "node-1", Version: "test", Clock: clk,
		Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	defer func() { must(t, cluster.Close()) }()
	events := &kinds{seen: map[nodesync.Kind]int{}}
	syncer := nodesync.New(t.Context(), nodesync.Options{
		Secrets: cluster, Classes: cluster, Pods: cluster, Report: events.report, Clock: clk, Safe: safe.Handler{Log: slog.New(slog.DiscardHandler)},
	})
	defer func() { must(t, syncer.Close()) }()
	class := &v1.SecretProviderClass{}
	class.UID, class.Generation = "u", 1
	class.Spec.SecretObjects = []v1.SecretObject{{SecretName: "db", Data: []v1.SecretObjectData{{ObjectName: "db", Key: "password"}}}}
	var refs []volume.Ref
	for _, name := range []string{"a", "b"} {
		pod := s.pod(name)
		refs = append(refs, volume.Ref{TargetPath: "/" + name, Class: "web", Pod: volume.Pod{Namespace: s.namespace, Name: name, UID: string(pod.UID)}})
	}
	poll := func() int {
		t.Helper()
		secrets, _, _ := s.during(func() {
			bundle := &volume.Bundle{Files: []volume.File{{Path: "db", Data: []byte(canaryValue + "1")}}, FetchedAt: clk.Now()}
			for _, ref := range refs {
				syncer.Apply(t.Context(), ref, class, bundle)
			}
		})
		return secrets
	}
	if n := poll(); n > 4 {
		t.Errorf("the first applies took %d requests", n)
	}
	s.want("db", "password", canaryValue+"1")

	s.MustKubectl("", "-n", s.namespace, "patch", "secret", "db", "--type=merge", "-p", `{"metadata":{"ownerReferences":[]},"stringData":{"password":"mine"}}`)
	for range 5 {
		clk.Step(2 * time.Minute)
		if n := poll(); n > 0 {
			t.Errorf("a poll within ten minutes took %d requests", n)
		}
	}
	s.want("db", "password", "mine")
	clk.Step(2 * time.Minute)
	if n := poll(); n > 4 { // an apply, the same by force, and an owner for each Pod
		t.Errorf("the repair took %d requests", n)
	}
	s.want("db", "password", canaryValue+"1")
	if got := s.secret("db").OwnerReferences; len(got) != 2 {
		t.Errorf("owners %v", got)
	}
	if n := poll(); n > 0 {
		t.Errorf("a poll after the repair took %d requests", n)
	}

	s.MustKubectl("", "-n", s.namespace, "delete", "secret", "db")
	clk.Step(11 * time.Minute)
	poll()
	s.want("db", "password", canaryValue+"1")
	if got := s.secret("db").OwnerReferences; len(got) != 2 {
		t.Errorf("owners of the Secret that was made anew: %v", got)
	}
	hour := 0
	for range 30 {
		clk.Step(2 * time.Minute)
		hour += poll()
	}
	t.Logf("an hour of polls of an idle Secret that two volumes share: %d requests", hour)
	if hour > 6 {
		t.Errorf("%d requests in an hour", hour)
	}
	events.mu.Lock()
	defer events.mu.Unlock()
	if events.seen[nodesync.Synced] < 3 || events.seen[nodesync.Conflict] != 1 || events.seen[nodesync.Failed] > 0 {
		t.Errorf("events %v", events.seen)
	}
	if s.secret("db").Type != corev1.SecretTypeOpaque {
		t.Error("type")
	}
}
