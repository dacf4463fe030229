//go:build integration

package integration

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
)

// deployment makes a Deployment of one Pod, which nothing runs.
func (s *syncSite) deployment(name string) {
	s.Helper()
	s.CreateServiceAccount(s.namespace, "app")
	s.ApplyYAML(fmt.Sprintf(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: %[1]s, namespace: %[2]s}, spec: {replicas: 1,
  strategy: {type: Recreate}, selector: {matchLabels: {app: %[1]s}}, template: {metadata: {labels: {app: %[1]s}}, spec: {
  serviceAccountName: app, terminationGracePeriodSeconds: 0, containers: [{name: app, image: app}]}}}}`, name, s.namespace))
}

// podsOf waits until a Deployment has as many Pods, none of which is one of these.
func (s *syncSite) podsOf(name string, count int, not ...*corev1.Pod) (pods []*corev1.Pod) {
	s.Helper()
	s.Eventually("the Pods of "+name, func() bool {
		list, err := s.Client().CoreV1().Pods(s.namespace).List(s.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
		s.must(err)
		pods = nil
		for i := range list.Items {
			pod := &list.Items[i]
			for _, old := range not {
				if old.UID == pod.UID {
					return false
				}
			}
			pods = append(pods, pod)
		}
		return len(pods) == count
	})
	return pods
}

// collected waits until the garbage collector has looked at everything that was deleted before.
func (s *syncSite) collected() {
	s.Helper()
	owner := s.owner("collected")
	probe := secretOf("collected", nil)
	probe.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}}
	s.create("test", probe)
	s.must(s.Client().CoreV1().ConfigMaps(s.namespace).Delete(s.Context(), owner.Name, metav1.DeleteOptions{}))
	s.Eventually("the garbage collector", func() bool { return s.secret("collected") == nil })
}

// A rollout replaces the ReplicaSet: the Secret stays, and goes with the Deployment. So does one of a Deployment that was scaled to
// nothing and back.
func TestSecretThroughRolloutAndScale(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node("--rotation-interval", "1s")
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	s.deployment("web")
	first := s.podsOf("web", 1)[0]
	s.publish(n, first, "web")
	uid := s.secret("db").UID

	s.MustKubectl("", "-n", s.namespace, "set", "image", "deployment/web", "app=app:2")
	second := s.podsOf("web", 1, first)[0]
	s.publish(n, second, "web")
	n.Unpublish(first.Name)
	s.MustKubectl("", "-n", s.namespace, "delete", "replicaset", first.OwnerReferences[0].Name)
	s.collected()
	if is := s.secret("db"); is == nil || is.UID != uid || !strings.Contains(s.owners("db"), second.OwnerReferences[0].Name) {
		t.Fatalf("after the rollout: %v, owners %q", is, s.owners("db"))
	}

	s.MustKubectl("", "-n", s.namespace, "scale", "deployment/web", "--replicas=0")
	s.podsOf("web", 0)
	n.Unpublish(second.Name)
	s.collected()
	if is := s.secret("db"); is == nil || is.UID != uid {
		t.Fatalf("scaled to nothing: %v", is)
	}
	n.Secret("db", canaryValue+"2")
	s.MustKubectl("", "-n", s.namespace, "scale", "deployment/web", "--replicas=1")
	third := s.podsOf("web", 1)[0]
	s.publish(n, third, "web")
	// where the vault answered both values within one second of its clock, their order is found out a second later
	s.Eventually("the new value", func() bool { return s.holds("db", "password", canaryValue+"2") })

	s.MustKubectl("", "-n", s.namespace, "delete", "deployment", "web", "--wait=false")
	s.Eventually("the Secret to go with the Deployment", func() bool { return s.secret("db") == nil })
}

// A Secret of two Deployments goes with the last of them.
func TestSecretOfTwoDeployments(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node()
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	s.deployment("blue")
	s.deployment("green")
	blue, green := s.podsOf("blue", 1)[0], s.podsOf("green", 1)[0]
	s.publish(n, blue, "web")
	s.publish(n, green, "web")
	if got := s.owners("db"); strings.Count(got, "ReplicaSet") != 2 {
		t.Errorf("owners %q", got)
	}
	s.MustKubectl("", "-n", s.namespace, "delete", "deployment", "blue", "--wait=false")
	s.Eventually("blue's end", func() bool { return !strings.Contains(s.owners("db"), "ReplicaSet blue") })
	s.collected()
	s.want("db", "password", canaryValue+"1")
	s.MustKubectl("", "-n", s.namespace, "delete", "deployment", "green", "--wait=false")
	s.Eventually("the Secret's end", func() bool { return s.secret("db") == nil })
}

// A Pod and its owner that come again under their names are others: owners are told apart by uid.
func TestRecreatedOwnersAreOthers(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node("--rotation-interval", "1s")
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	for round := range 2 {
		owner := s.owner("set")
		pod := s.pod("set-0", controlplane.OwnedBy("v1", "ConfigMap", owner))
		s.publish(n, pod, "web")
		if got := s.owners("db"); !strings.Contains(got, "ConfigMap set "+string(owner.UID)) {
			t.Fatalf("round %d: owners %q, want also %s", round, got, owner.UID)
		}
		if round == 1 {
			s.collected()
			s.want("db", "password", canaryValue+"1")
			break
		}
		s.must(s.Client().CoreV1().ConfigMaps(s.namespace).Delete(s.Context(), "set", metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationOrphan)}))
		s.Eventually("the first owner's end", func() bool {
			_, err := s.Client().CoreV1().ConfigMaps(s.namespace).Get(s.Context(), "set", metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})
		s.must(s.Client().CoreV1().Pods(s.namespace).Delete(s.Context(), "set-0", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
		// the volume of the first Pod is still there: kubelet comes later
		n.Unpublish("set-0")
	}
}

// A Pod without an owner owns its Secret; the next one of the name makes it anew.
func TestBarePodOwnsItsSecret(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node()
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	pod := s.pod("bare")
	s.publish(n, pod, "web")
	if got := s.owners("db"); got != "Pod bare "+string(pod.UID) {
		t.Errorf("owners %q", got)
	}
	s.must(s.Client().CoreV1().Pods(s.namespace).Delete(s.Context(), "bare", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	s.Eventually("the Secret to go with the Pod", func() bool { return s.secret("db") == nil })
	n.Unpublish("bare")
	s.publish(n, s.pod("bare"), "web")
	s.want("db", "password", canaryValue+"1")
}

// OpenShift's admission wants the right to delete of who changes owners. Without the chart's value the driver is told what to set;
// with it all is as elsewhere, for which hack/test-integration runs the tests of Secrets and status objects under it once more.
func TestOwnerReferencesPermissionEnforcement(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Start(t, controlplane.Options{AdmissionPlugins: []string{ownerEnforcement}}), "rbac.ownerReferences=false")
	n := s.node()
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	s.publish(n, s.pod("a"), "web")
	s.want("db", "password", canaryValue+"1")
	if got := s.owners("db"); !strings.Contains(got, "Pod a") { // who creates may set owners
		t.Errorf("owners %q", got)
	}
	s.publish(n, s.pod("another"), "web")
	s.reported("another FailedToCreateSecret", "/db exists, but the driver may not add an owner", "rbac.ownerReferences")

	// what the Secrets Store CSI Driver left is the class's all the same: a key that the class drops goes
	s.create("csi-secrets-store", secretOf("old", managed(), "password", canaryValue+"0", "dropped", canaryValue+"0"))
	s.class("taken", []string{"db"}, secretObject{"secretName": "old", "data": data("db", "password")})
	s.publish(n, s.pod("b"), "taken")
	s.want("old", "password", canaryValue+"1")
	s.reported("FailedToCreateSecret", "/old exists, but the driver may not add an owner")
}
