//go:build integration

package integration

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/nodesync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
)

// eventsOf counts the different events of a reason about a Pod, and how often they repeat.
func (s *syncSite) eventsOf(pod, reason string) (different, repeated int) {
	s.Helper()
	list, err := s.Client().CoreV1().Events(s.namespace).List(s.Context(), metav1.ListOptions{})
	s.must(err)
	for i := range list.Items {
		if e := &list.Items[i]; e.InvolvedObject.Name == pod && e.Reason == reason {
			different++
			repeated += int(e.Count) - 1
		}
	}
	return different, repeated
}

// A full node starts while the API server is killed: every Pod starts, and the Secret has all owners once it is back.
func TestAPIServerIsKilledUnderAFullNode(t *testing.T) {
	t.Parallel()
	c := controlplane.Start(t, controlplane.Options{})
	s := newSite(t, c)
	n := s.node("--rotation=false")
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	var list []*corev1.Pod
	for i := range 110 {
		pod := s.pod(fmt.Sprintf("web-%d", i))
		s.tokens[pod.UID] = s.Tokens(pod)
		list = append(list, pod)
	}
	s.publish(n, list[0], "web") // the class is known
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		c.StopAPIServer()
	}()
	s.startTogether(n, list[1:], func(int) string { return "web" }, nil)
	<-killed
	for _, pod := range list {
		if got := n.Read(pod.Name, "db"); got != canaryValue+"1" {
			t.Fatalf("%s reads %q", pod.Name, got)
		}
	}
	c.StartAPIServer()
	s.Eventually("all owners", func() bool {
		found := s.secret("db")
		return found != nil && len(found.OwnerReferences) == len(list)
	})
	s.want("db", "password", canaryValue+"1")
}

// While the API server answers 500 for half a minute nothing is asked in a hot loop, and each cause is told once.
func TestRequestsWhileTheAPIServerFails(t *testing.T) {
	t.Parallel()
	s, w := newSite(t, controlplane.Shared(t)), &way{}
	n := s.nodeVia(w.through(t), "--rotation-interval", "1s")
	n.Secret("db", canaryValue+"1")
	const count = 5
	for i := range count {
		s.class(fmt.Sprintf("web-%d", i), []string{"db"}, secretObject{"secretName": fmt.Sprintf("db-%d", i), "data": data("db", "password")})
	}
	w.set(refuse(500))
	for i := range count {
		s.publish(n, s.pod(fmt.Sprintf("web-%d", i)), fmt.Sprintf("web-%d", i))
	}
	time.Sleep(30 * time.Second)
	asked := w.secrets.Load()
	t.Logf("%d requests about %d Secrets in 30 s of errors, with a refresh each second", asked, count)
	if asked > 8*count { // at once, and after 1, 2, 4, 8 and 16 s
		t.Errorf("%d requests about %d Secrets in 30 s", asked, count)
	}
	for i := range count {
		if different, repeated := s.eventsOf(fmt.Sprintf("web-%d", i), "FailedToCreateSecret"); different > 1 || repeated > 0 {
			t.Errorf("web-%d: %d events, repeated %d times", i, different, repeated)
		}
	}
	w.set(nil)
	s.Eventually("the Secrets", func() bool {
		for i := range count {
			if !s.holds(fmt.Sprintf("db-%d", i), "password", canaryValue+"1") {
				return false
			}
		}
		return true
	})
}

// Who denies the Secret is named in one event; once it is allowed the Secret comes by itself.
func TestDeniedSecrets(t *testing.T) {
	t.Parallel()
	t.Run("by a policy", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, controlplane.Shared(t))
		n := s.node("--rotation-interval", "1s")
		n.Secret("db", canaryValue+"1")
		s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
		name := "deny-" + s.namespace
		s.ApplyYAML(fmt.Sprintf(`{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: %[1]s}, spec: {
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [secrets]}]},
  matchConditions: [{name: here, expression: "request.namespace == '%[2]s'"}], validations: [{expression: "false", message: no Secrets on Fridays}]}}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: %[1]s}, spec: {policyName: %[1]s, validationActions: [Deny]}}
`, name, s.namespace))
		t.Cleanup(func() { s.MustKubectl("", "delete", "--ignore-not-found", "validatingadmissionpolicy", name) })
		s.Eventually("the policy", func() bool {
			_, err := s.Kubectl("", "-n", s.namespace, "create", "secret", "generic", "x", "--dry-run=server")
			return err != nil
		})
		s.publish(n, s.pod("a"), "web")
		s.reported("a FailedToCreateSecret", "/db is not written", "no Secrets on Fridays")
		if s.secret("db") != nil {
			t.Error("it exists")
		}
		s.MustKubectl("", "delete", "validatingadmissionpolicybinding", name)
		s.Eventually("the Secret", func() bool { return s.holds("db", "password", canaryValue+"1") })
		if different, repeated := s.eventsOf("a", "FailedToCreateSecret"); different != 1 || repeated > 0 {
			t.Errorf("%d events, repeated %d times", different, repeated)
		}
	})
	t.Run("by a quota", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, controlplane.Shared(t))
		n := s.node("--rotation-interval", "1s")
		n.Secret("db", canaryValue+"1")
		s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
		s.MustKubectl("", "-n", s.namespace, "create", "quota", "none", "--hard=secrets=0")
		s.Eventually("the quota", func() bool {
			_, err := s.Kubectl("", "-n", s.namespace, "create", "secret", "generic", "x", "--dry-run=server")
			return err != nil
		})
		s.publish(n, s.pod("a"), "web")
		s.reported("a FailedToCreateSecret", "/db is not written", "exceeded quota")
		s.MustKubectl("", "-n", s.namespace, "delete", "quota", "none")
		s.Eventually("the Secret", func() bool { return s.holds("db", "password", canaryValue+"1") })
	})
}

// Every request about a Secret takes two seconds more: Pods start, with their Secrets.
func TestSlowWrites(t *testing.T) {
	t.Parallel()
	s, w := newSite(t, controlplane.Shared(t)), &way{}
	n := s.nodeVia(w.through(t), "--rotation=false")
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	w.set(func(http.ResponseWriter, *http.Request) bool {
		time.Sleep(2 * time.Second)
		return false
	})
	s.publish(n, s.pod("a"), "web")
	s.want("db", "password", canaryValue+"1")
	if got := s.owners("db"); !strings.Contains(got, "Pod a") {
		t.Errorf("owners %q", got)
	}
}

// What people do to a Secret: it is put right where it may be, and told where not.
func TestSecretInTheHandsOfPeople(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node("--rotation-interval", "1s")
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	s.publish(n, s.pod("a"), "web")

	// other managers take a key over, and a new Pod comes. Of stringData the API server does not tell who owns the key.
	for i, field := range []string{"stringData: {password: mine}", "data: {password: bWluZQ==}"} {
		s.MustKubectl("apiVersion: v1\nkind: Secret\nmetadata: {name: db, namespace: "+s.namespace+"}\n"+field+"\n",
			"apply", "--server-side", "--force-conflicts", "--field-manager=flux", "-f", "-")
		time.Sleep(11 * time.Second) // Pods that start within ten seconds share what is known
		s.publish(n, s.pod(fmt.Sprintf("b-%d", i)), "web")
		s.want("db", "password", canaryValue+"1")
	}
	s.reported("SecretConflict", "/db had other values", "data.password", `"flux"`)

	// it is frozen as it is
	s.MustKubectl("", "-n", s.namespace, "patch", "secret", "db", "-p", `{"immutable":true}`)
	n.Secret("db", canaryValue+"2")
	s.reported("FailedToCreateSecret", "/db is immutable")
	s.MustKubectl("", "-n", s.namespace, "delete", "secret", "db")
	s.Eventually("a new one", func() bool { return s.holds("db", "password", canaryValue+"2") })

	// a person takes the label away: it is the person's from then on
	s.MustKubectl("", "-n", s.namespace, "label", "secret", "db", "secrets-store.csi.k8s.io/managed-")
	version := s.secret("db").ResourceVersion
	n.Secret("db", canaryValue+"3")
	s.reported("SecretConflict", "/db exists and is not the driver's")
	s.publish(n, s.pod("c"), "web")
	if got := s.secret("db"); got.ResourceVersion != version {
		t.Errorf("it was written: %v", got)
	}

	// the namespace goes: nothing is asked in a hot loop
	s.MustKubectl("", "delete", "namespace", s.namespace, "--wait=false")
	before := len(s.requests())
	n.Secret("db", canaryValue+"4")
	time.Sleep(20 * time.Second)
	if asked := len(s.requests()) - before; asked > 30 {
		t.Errorf("%d requests in 20 s about a namespace that is being deleted", asked)
	}
}

// Without the policy a person who takes the label away means it too.
func TestLabelTakenAwayWithoutThePolicy(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t), "policies.enabled=false", "syncSecret.withoutAdmissionPolicy=true")
	n := s.node("--rotation-interval", "1s")
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	s.publish(n, s.pod("a"), "web")
	s.MustKubectl("", "-n", s.namespace, "label", "secret", "db", "secrets-store.csi.k8s.io/managed-")
	version := s.secret("db").ResourceVersion
	n.Secret("db", canaryValue+"2")
	s.reported("SecretConflict", "/db exists and is not the driver's")
	if got := s.secret("db"); got.ResourceVersion != version {
		t.Errorf("it was written: %v", got)
	}
}

// Two nodes, one of whose clocks is five minutes ahead: what the vault answered later is kept, whoever wrote it, at whatever time of
// the nodes, also within one second of the API server's clock.
func TestClocksOfNodesMeanNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	now := time.Now()
	class := &v1.SecretProviderClass{}
	class.UID, class.Generation = "u", 1
	class.Spec.SecretObjects = []v1.SecretObject{{SecretName: "db", Data: []v1.SecretObjectData{{ObjectName: "db", Key: "password"}}}}
	type node struct {
		syncer *nodesync.Syncer
		clock  *clocktesting.FakeClock
		ref    volume.Ref
	}
	var mu sync.Mutex
	refetched := map[string]int{}
	start := func(name string, ahead time.Duration) node {
		cluster, err := kube.Open(t.Context(), kube.Options{
			Kubeconfig: s.kubeconfig("node-1"), DriverName: "secrets-store.csi.k8s.io", NodeID: name, Version: "test",
			Log: slog.New(slog.DiscardHandler),
		})
		must(t, err)
		t.Cleanup(func() { must(t, cluster.Close()) })
		clk := clocktesting.NewFakeClock(now.Add(ahead))
		syncer := nodesync.New(t.Context(), nodesync.Options{
			Secrets: cluster, Classes: cluster, Pods: cluster, Clock: clk, Safe: safe.Handler{Log: slog.New(slog.DiscardHandler)},
			Report: func(context.Context, nodesync.Event) {},
			Refetch: func(ref volume.Ref) {
				mu.Lock()
				defer mu.Unlock()
				refetched[ref.Pod.Name]++
			},
		})
		t.Cleanup(func() { must(t, syncer.Close()) })
		pod := s.pod(name)
		return node{syncer, clk, volume.Ref{TargetPath: "/" + name, Class: "web", Pod: volume.Pod{
			Namespace: s.namespace, Name: name, UID: string(pod.UID),
		}}}
	}
	// bring gives a node what the vault answered some seconds after the start, by the vault's clock
	bring := func(n node, version string, second int) {
		t.Helper()
		key := volume.SourceKey{Vault: "https://kv.vault.azure.net/", Kind: "secret", Name: "db"}
		n.syncer.Apply(t.Context(), n.ref, class, &volume.Bundle{
			Files:   []volume.File{{Path: "db", Data: []byte(canaryValue + version), Source: key}},
			Sources: []volume.Source{{Key: key, Version: version, Date: now.Add(time.Duration(second) * time.Second)}}, FetchedAt: n.clock.Now(),
		})
		n.clock.Step(11 * time.Second)
	}
	right, ahead := start("right", 0), start("ahead", 5*time.Minute)
	bring(right, "1", 1)
	bring(ahead, "2", 2)
	s.want("db", "password", canaryValue+"2")
	bring(right, "3", 3) // although the other node's clock says it wrote later
	s.want("db", "password", canaryValue+"3")
	bring(ahead, "2", 2) // a retry with what it had, within the second
	bring(start("late", 0), "1", 1)
	s.want("db", "password", canaryValue+"3")
	bring(ahead, "4", 3) // the same second, another version
	s.want("db", "password", canaryValue+"3")
	s.Eventually("to be asked for newer values", func() bool {
		ahead.clock.Step(time.Second)
		mu.Lock()
		defer mu.Unlock()
		return refetched["ahead"] > 0
	})
	bring(ahead, "4", 4)
	s.want("db", "password", canaryValue+"4")
	right.clock.Step(volume.SecretRepairInterval) // what this node brought is the same as before
	bring(right, "3", 5)                          // the newest was disabled
	s.want("db", "password", canaryValue+"3")
	if got := len(s.secret("db").OwnerReferences); got != 3 {
		t.Errorf("%d owners", got)
	}
	for key, text := range s.secret("db").Annotations {
		if strings.Contains(text, canaryValue) || strings.HasPrefix(key, "keyvault-csi/written-") && !strings.Contains(text, `"generation":1`) {
			t.Errorf("%s: %s", key, text)
		}
	}
}
