//go:build integration

package integration

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
)

// create makes a Secret as somebody with a field manager would, by a plain create.
func (s *syncSite) create(manager string, secret *corev1.Secret) *corev1.Secret {
	s.Helper()
	made, err := s.Client().CoreV1().Secrets(s.namespace).Create(s.Context(), secret, metav1.CreateOptions{FieldManager: manager})
	s.must(err)
	return made
}

func secretOf(name string, labels map[string]string, pairs ...string) *corev1.Secret {
	made := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, StringData: map[string]string{}}
	for i := 0; i+1 < len(pairs); i += 2 {
		made.StringData[pairs[i]] = pairs[i+1]
	}
	return made
}

func managed() map[string]string {
	return map[string]string{"secrets-store.csi.k8s.io/managed": "true"}
}

// A Secret that is not the driver's is not touched, whatever it holds, and outlives the workload.
func TestForeignSecretIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node("--rotation-interval", "1s")
	n.Secret("db", canaryValue+"1")
	secrets := []*corev1.Secret{
		secretOf("same-keys", nil, "password", "theirs"), secretOf("other-keys", nil, "other", "theirs"), secretOf("empty", nil),
		secretOf("label-says-no", map[string]string{"secrets-store.csi.k8s.io/managed": "false"}, "password", "theirs"),
	}
	var objects []secretObject
	before := map[string]*corev1.Secret{}
	for _, secret := range secrets {
		before[secret.Name] = s.create("kubectl", secret)
		objects = append(objects, secretObject{"secretName": secret.Name, "data": data("db", "password")})
	}
	s.class("web", []string{"db"}, append(objects, secretObject{"secretName": "ours", "data": data("db", "password")})...)
	s.deployment("web")
	pod := s.podsOf("web", 1)[0]
	s.publish(n, pod, "web")
	s.want("ours", "password", canaryValue+"1")
	for name := range before {
		s.reported(pod.Name, "SecretConflict", "/"+name+" exists and is not the driver's", "left as it is")
	}
	n.Secret("db", canaryValue+"2")
	s.Eventually("the rotation", func() bool { return s.holds("ours", "password", canaryValue+"2") })
	s.MustKubectl("", "-n", s.namespace, "delete", "deployment", "web", "--wait=false")
	n.Unpublish(pod.Name)
	s.Eventually("the garbage collection of our own", func() bool { return s.secret("ours") == nil })
	for name, was := range before {
		if is := s.secret(name); is == nil || is.ResourceVersion != was.ResourceVersion || len(is.OwnerReferences) > 0 {
			t.Errorf("%s was touched: %v", name, is)
		}
	}
}

// A Secret that was ours and that somebody replaced under its name is not ours any more.
func TestReplacedSecretIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node("--rotation-interval", "1s")
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	s.publish(n, s.pod("a"), "web")
	s.MustKubectl("", "-n", s.namespace, "delete", "secret", "db")
	was := s.create("kubectl", secretOf("db", nil, "password", "theirs", "more", "theirs"))
	n.Secret("db", canaryValue+"2")
	s.reported("SecretConflict", "/db exists and is not the driver's")
	s.publish(n, s.pod("b"), "web")
	if is := s.secret("db"); is == nil || is.ResourceVersion != was.ResourceVersion {
		t.Errorf("it was touched: %v", is)
	}
	// once it is gone, ours comes again by itself
	s.MustKubectl("", "-n", s.namespace, "delete", "secret", "db")
	s.Eventually("our own again", func() bool { return s.holds("db", "password", canaryValue+"2") })
}

// A Secret that was deleted by hand is there again for the next Pod, and at the next change.
func TestDeletedSecretComesAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node("--rotation-interval", "1s")
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	a, b := s.pod("a"), s.pod("b")
	s.publish(n, a, "web")
	s.MustKubectl("", "-n", s.namespace, "delete", "secret", "db")
	s.Eventually("a poll, so that the next Pod does not share the last Pod's fetch", func() bool {
		return strings.Count(n.Log(), `"msg":"refreshed"`) > 2
	})
	s.publish(n, b, "web")
	s.want("db", "password", canaryValue+"1")
	s.MustKubectl("", "-n", s.namespace, "delete", "secret", "db")
	n.Secret("db", canaryValue+"2")
	s.Eventually("the Secret with the new value", func() bool { return s.holds("db", "password", canaryValue+"2") })
	s.Eventually("its owner, which is a request of its own", func() bool {
		return strings.Contains(s.owners("db"), "Pod a") || strings.Contains(s.owners("db"), "Pod b")
	})
}

// What the Secrets Store CSI Driver left behind, written by update, is taken over with its owners.
func TestUpstreamsSecretIsTakenOver(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node("--rotation-interval", "1s")
	n.Secret("db", canaryValue+"2")
	n.Secret("same", canaryValue+"same")
	s.class("web", []string{"db", "same"}, secretObject{"secretName": "db", "type": "Opaque", "data": data("db", "password", "same", "same")})
	owner := s.owner("replica-set")
	left := secretOf("db", managed(), "password", canaryValue+"1", "same", canaryValue+"same", "dropped", canaryValue+"0")
	left.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}}
	s.create("csi-secrets-store", left)
	next := s.owner("next-set") // as after a rollout, which a move of drivers needs
	pod := s.pod("a", controlplane.OwnedBy("v1", "ConfigMap", next))
	owners := "ConfigMap replica-set " + string(owner.UID) + ", ConfigMap next-set " + string(next.UID)
	secrets, _, list := s.during(func() { s.publish(n, pod, "web") })
	t.Logf("%d requests take a Secret over: %v", secrets, list)
	if secrets > 3 {
		t.Error("at most 3")
	}
	s.want("db", "password", canaryValue+"2", "same", canaryValue+"same")
	if got := s.owners("db"); got != owners {
		t.Errorf("owners %q", got)
	}
	s.reported("a SecretConflict", "/db was taken over from the Secrets Store CSI Driver", `"csi-secrets-store"`, "keys dropped, password, same")
	// a key that the class drops now goes, and the owners stay
	s.class("web", []string{"db", "same"}, secretObject{"secretName": "db", "type": "Opaque", "data": data("db", "password")})
	s.Eventually("the key's end", func() bool { return s.holds("db", "password", canaryValue+"2") })
	if got := s.owners("db"); got != owners {
		t.Errorf("owners %q", got)
	}
}

// A person's edit of our Secret is put right, and told.
func TestEditedSecretIsPutRight(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node("--rotation-interval", "1s")
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	a := s.pod("a")
	s.publish(n, a, "web")
	s.MustKubectl("", "-n", s.namespace, "patch", "secret", "db", "--field-manager=kubectl-edit", "-p", `{"stringData":{"password":"mine","more":"mine"}}`)
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "labels": map[string]string{"a": "b"}, "data": data("db", "password")})
	s.Eventually("our value", func() bool { return s.holds("db", "password", canaryValue+"1", "more", "mine") })
	s.reported("SecretConflict", "/db had other values", "data.password", `"kubectl-edit"`)
}

// Two classes feed one Secret; where they want different values of one key, neither wipes the other's.
func TestTwoClassesOfOneSecret(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node("--rotation-interval", "1s")
	n.Secret("user", canaryValue+"user")
	n.Secret("password", canaryValue+"password")
	s.class("blue", []string{"user"}, secretObject{"secretName": "both", "data": data("user", "user")})
	s.class("green", []string{"password"}, secretObject{"secretName": "both", "data": data("password", "password")})
	blue, green := s.pod("blue"), s.pod("green")
	s.publish(n, blue, "blue")
	s.publish(n, green, "green")
	s.want("both", "user", canaryValue+"user", "password", canaryValue+"password")
	n.Secret("user", canaryValue+"user2")
	s.Eventually("one's rotation", func() bool {
		return s.holds("both", "user", canaryValue+"user2", "password", canaryValue+"password")
	})

	s.class("red", []string{"password"}, secretObject{"secretName": "both", "data": data("password", "user")})
	red := s.pod("red")
	s.publish(n, red, "red")
	s.reported("red SecretConflict", "/both is not written", "data.user of class blue")
	s.want("both", "user", canaryValue+"user2", "password", canaryValue+"password")

	// once blue asks no more for the Secret, its key is red's
	s.class("blue", []string{"user"}, secretObject{"secretName": "other", "data": data("user", "user")})
	s.Eventually("red's value", func() bool {
		return s.holds("both", "user", canaryValue+"password", "password", canaryValue+"password")
	})
	s.reported("red SecretConflict", "/both had other values", "data.user", `"keyvault-csi/blue"`)
}

// A class that was renamed: the new one takes the Secret over from the one that is gone.
func TestRenamedClass(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node("--rotation-interval", "1s")
	n.Secret("db", canaryValue+"1")
	long := "old-" + strings.Repeat("x", 150) // its field manager's name is cut
	s.class(long, []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	old := s.pod("old")
	s.publish(n, old, long)
	s.want("db", "password", canaryValue+"1")
	s.MustKubectl("", "-n", s.namespace, "delete", "secretproviderclass", long)
	n.Unpublish("old")
	n.Secret("db", canaryValue+"2")
	s.class("new", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	s.publish(n, s.pod("new"), "new")
	s.want("db", "password", canaryValue+"2")
	s.reported("new SecretConflict", "/db had other values", "keyvault-csi/old-x")
}

// What Kubernetes does not let anybody change is told with the way out.
func TestImmutableSecretsAndTypes(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node("--rotation-interval", "1s")
	n.Secret("db", canaryValue+"1")
	yes := true
	fixed := secretOf("fixed", managed(), "password", "older")
	fixed.Immutable = &yes
	s.create("somebody", fixed)
	typed := secretOf("typed", managed(), "password", "older")
	typed.Type = corev1.SecretTypeBasicAuth
	s.create("somebody", typed)
	s.class("web", []string{"db"}, secretObject{"secretName": "fixed", "data": data("db", "password")},
		secretObject{"secretName": "typed", "data": data("db", "password")})
	s.publish(n, s.pod("a"), "web")
	s.reported("FailedToCreateSecret", "/fixed is immutable", "delete the Secret")
	s.reported("FailedToCreateSecret", "/typed has another type than the class asks for (Opaque)", "delete the Secret")
	s.want("fixed", "password", "older")
	s.MustKubectl("", "-n", s.namespace, "delete", "secret", "fixed", "typed")
	s.Eventually("new ones", func() bool {
		return s.holds("fixed", "password", canaryValue+"1") && s.holds("typed", "password", canaryValue+"1")
	})
}
