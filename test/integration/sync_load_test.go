//go:build integration

package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// startTogether publishes all Pods at the same time and returns how long the last one took. Check is called for each Pod as soon as its
// NodePublishVolume has returned.
func (s *syncSite) startTogether(n *kubelet.Node, pods []*corev1.Pod, class func(i int) string, check func(i int)) time.Duration {
	s.Helper()
	for _, pod := range pods {
		if s.tokens[pod.UID] == "" {
			s.tokens[pod.UID] = s.Tokens(pod)
		}
	}
	start := time.Now()
	failed := make(chan error, len(pods))
	for i, pod := range pods {
		go func() {
			err := n.Publish(pod.Name, class(i), kubelet.ForPod(pod, s.tokens[pod.UID]))
			if err == nil && check != nil {
				check(i)
			}
			failed <- err
		}()
	}
	for range pods {
		s.must(<-failed)
	}
	return time.Since(start)
}

// A node that comes up with 110 Pods, each with a Secret of its own: every Secret exists before its Pod's NodePublishVolume returns.
func TestFullNodeStartsTogether(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node("--rotation=false")
	n.Secret("db", canaryValue+"1")
	const count = 110
	var plain, synced []*corev1.Pod
	for i := range count {
		s.class(fmt.Sprintf("plain-%d", i), []string{"db"})
		s.class(fmt.Sprintf("synced-%d", i), []string{"db"}, secretObject{"secretName": fmt.Sprintf("db-%d", i), "data": data("db", "k")})
		plain = append(plain, s.pod(fmt.Sprintf("plain-%d", i)))
		synced = append(synced, s.pod(fmt.Sprintf("synced-%d", i)))
	}
	without := s.startTogether(n, plain, func(i int) string { return fmt.Sprintf("plain-%d", i) }, nil)
	missing := make(chan int, count)
	var with time.Duration
	secrets, pods, _ := s.during(func() {
		with = s.startTogether(n, synced, func(i int) string { return fmt.Sprintf("synced-%d", i) }, func(i int) {
			if s.secret(fmt.Sprintf("db-%d", i)) == nil {
				missing <- i
			}
		})
	})
	t.Logf("%d Pods without Secrets: the last mount after %v; with a Secret each: %v; requests: %.2f about its Secret and %.2f about itself per Pod",
		count, without, with, float64(secrets)/count, float64(pods)/count)
	if len(missing) > 0 {
		t.Errorf("%d Secrets were not there when their Pods' NodePublishVolume returned: db-%d and others", len(missing), <-missing)
	}
	if secrets > 2*count || pods > count {
		t.Errorf("%d requests about Secrets and %d about Pods", secrets, pods)
	}
	for i := range count {
		if got, want := s.owners(fmt.Sprintf("db-%d", i)), fmt.Sprintf("Pod synced-%d %s", i, synced[i].UID); got != want {
			t.Errorf("owners %q, want %q", got, want)
		}
	}
}

// Many Pods that share one Secret: of one owner, and bare ones, each of which is an owner.
func TestManyPodsShareOneSecret(t *testing.T) {
	t.Parallel()
	for name, owned := range map[string]bool{"one owner": true, "bare": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, controlplane.Shared(t))
			n := s.node("--rotation=false")
			n.Secret("db", canaryValue+"1")
			s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "k")})
			owner := s.owner("set")
			const count = 200
			var list []*corev1.Pod
			for i := range count {
				if owned {
					list = append(list, s.pod(fmt.Sprintf("web-%d", i), controlplane.OwnedBy("v1", "ConfigMap", owner)))
				} else {
					list = append(list, s.pod(fmt.Sprintf("web-%d", i)))
				}
			}
			var took time.Duration
			secrets, pods, _ := s.during(func() {
				took = s.startTogether(n, list, func(int) string { return "web" }, nil)
			})
			t.Logf("%d Pods (%s) with one Secret: the last mount after %v, %d requests about the Secret, %d about Pods", count, name, took, secrets, pods)
			if owned && secrets > 10 || secrets > count/2 || pods > count {
				t.Errorf("%d requests about the Secret and %d about Pods", secrets, pods)
			}
			want := count
			if owned {
				want = 1
			}
			if got := len(s.secret("db").OwnerReferences); got != want {
				t.Errorf("%d owners, want %d", got, want)
			}
			if events := s.events(); strings.Contains(events, "FailedToCreateSecret") {
				t.Errorf("events of failures: %.500s", events)
			}
		})
	}
}
