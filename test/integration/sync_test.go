//go:build integration

package integration

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
)

// TestSyncedSecret follows one class from its first Pod to its rotation, and counts what it costs.
func TestSyncedSecret(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	address := freeAddress(t)
	n := s.node("--rotation-interval", "1s", "--http-addr", address, "-v", "10") // at 10 client-go would log what it sends
	n.Secret("db", canaryValue+"1")
	n.Secret("tls", readPKI(t, "rsa.key")+readPKI(t, "rsa.pem"))
	s.class("web", []string{"db", "tls"},
		secretObject{"secretName": "db", "labels": map[string]string{"app": "shop"}, "annotations": map[string]string{"a/b": "c"}, "data": data("db", "password")},
		secretObject{"secretName": "tls", "type": "kubernetes.io/tls", "data": data("tls", "tls.crt", "tls", "tls.key")})
	web := s.owner("web-1")
	first := s.pod("web-1-a", controlplane.OwnedBy("v1", "ConfigMap", web))

	secrets, pods, list := s.during(func() {
		s.publish(n, first, "web")
		// it stands before the call returns
		s.want("db", "password", canaryValue+"1")
		s.want("tls", "tls.crt", readPKI(t, "rsa.pem"), "tls.key", readPKI(t, "rsa.pkcs1.key"))
	})
	t.Logf("first apply of two Secrets: %d requests about Secrets, %d about Pods: %v", secrets, pods, list)
	if secrets > 6 || pods > 1 {
		t.Error("at most 3 requests per Secret and 1 per Pod")
	}
	db, tls := s.secret("db"), s.secret("tls")
	if db.Type != "Opaque" || tls.Type != "kubernetes.io/tls" || db.Labels["app"] != "shop" || db.Annotations["a/b"] != "c" ||
		db.Labels["secrets-store.csi.k8s.io/managed"] != "true" {
		t.Errorf("got %s %v, %s", db.Type, db.ObjectMeta, tls.Type)
	}
	if got, want := s.owners("db"), "ConfigMap web-1 "+string(web.UID); got != want {
		t.Errorf("owners %q, want %q", got, want)
	}
	if s.owners("tls") != s.owners("db") {
		t.Errorf("owners %q", s.owners("tls"))
	}
	s.reported("web-1-a", "SecretRotationComplete", "db was created")

	secrets, pods, list = s.during(func() {
		for range 20 {
			s.publish(n, first, "web")
		}
		time.Sleep(3 * time.Second) // several polls
	})
	t.Logf("20 unchanged republishes and about 3 polls: %d and %d requests", secrets, pods)
	if secrets+pods > 0 {
		t.Errorf("nothing changed: %v", list)
	}

	second := s.pod("web-1-b", controlplane.OwnedBy("v1", "ConfigMap", web))
	secrets, pods, list = s.during(func() { s.publish(n, second, "web") })
	t.Logf("another Pod of the same owner, 2 Secrets: %d and %d requests: %v", secrets, pods, list)
	if secrets > 4 || pods > 1 {
		t.Error("at most 2 requests per Secret and 1 per Pod")
	}

	secrets, pods, list = s.during(func() {
		n.Secret("db", canaryValue+"2")
		s.Eventually("the rotation of the Secret", func() bool { return s.holds("db", "password", canaryValue+"2") })
	})
	t.Logf("one of two Secrets rotates, two Pods: %d and %d requests: %v", secrets, pods, list)
	if secrets > 2 || pods > 0 {
		t.Error("at most 2 requests")
	}
	s.reported("SecretRotationComplete", "db was updated")

	other := s.pod("bare")
	secrets, pods, _ = s.during(func() { s.publish(n, other, "web") })
	t.Logf("a Pod of another owner, 2 Secrets: %d and %d requests", secrets, pods)
	if secrets > 4 || pods > 1 {
		t.Error("at most 2 requests per Secret and 1 per Pod")
	}
	if got := s.owners("db"); !strings.Contains(got, "Pod bare "+string(other.UID)) || !strings.Contains(got, "ConfigMap web-1") {
		t.Errorf("owners %q", got)
	}

	s.class("plain", []string{"db"})
	third := s.pod("plain")
	secrets, pods, _ = s.during(func() { s.publish(n, third, "plain") })
	t.Logf("a mount without Secrets: %d and %d requests", secrets, pods)
	if secrets+pods > 0 {
		t.Error("a class without Secrets asks for nothing")
	}
	for _, r := range s.requests() {
		if r.ObjectRef.Resource == "secrets" && r.Verb != "patch" && r.Verb != "create" || r.ObjectRef.Resource == "pods" && r.Verb != "get" {
			t.Errorf("%v is not among the driver's rights", r)
		}
	}
	if body := scrape(t, address); !strings.Contains(body, "sync_k8s_secret_total") || strings.Contains(body, canaryValue) {
		t.Errorf("metrics: %.2000s", body)
	}
}

// TestEveryMountedFile is a class without data, and one of a type that needs certain keys.
func TestEveryMountedFile(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node()
	n.Secret("a", canaryValue+"a")
	n.Secret("b", canaryValue+"b")
	n.Secret("docker", `{"auths":{"example.com":{"auth":"`+canaryValue+`"}}}`)
	s.class("all", []string{"a", "b"}, secretObject{"secretName": "all"})
	s.class("docker", []string{"docker"}, secretObject{"secretName": "pull", "type": "kubernetes.io/dockerconfigjson"})
	s.publish(n, s.pod("p"), "all")
	s.want("all", "a", canaryValue+"a", "b", canaryValue+"b")
	s.publish(n, s.pod("q"), "docker")
	s.want("pull", ".dockerconfigjson", `{"auths":{"example.com":{"auth":"`+canaryValue+`"}}}`)
}

// TestOneBadObjectStopsNothing has a wrong secretObject, one whose value does not fit and one of a type that the API server
// does not take beside good ones.
func TestOneBadObjectStopsNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node()
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"},
		secretObject{"secretName": "missing", "data": data("nope", "k")},
		secretObject{"secretName": "tls", "type": "kubernetes.io/tls", "data": data("db", "tls.crt", "db", "tls.key")},
		secretObject{"secretName": "good", "data": data("db", "k")},
		secretObject{"secretName": "good", "data": data("db", "other")},
		secretObject{"secretName": "too", "labels": map[string]string{"a b": "c"}, "data": data("db", "k")})
	s.publish(n, s.pod("p"), "web")
	s.want("good", "k", canaryValue+"1")
	s.reported("FailedToCreateSecret", "missing", `"nope" is not mounted`)
	s.reported("FailedToCreateSecret", "/tls cannot be created", "neither PEM nor PFX")
	s.reported("FailedToCreateSecret", "/good is in secretObjects more than once")
	s.reported("FailedToCreateSecret", "/too cannot be created", `"a b" is not a label's key`)
}

// TestManyPodsOfOneClass starts 100 Pods of one owner together.
func TestManyPodsOfOneClass(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node("--rotation-interval", "2s", "--cache-ttl", "10s")
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "k")}, secretObject{"secretName": "db2", "data": data("db", "k")})
	web := s.owner("web-1")
	var list []*corev1.Pod
	for i := range 100 {
		pod := s.pod("web-"+string(rune('a'+i/26))+string(rune('a'+i%26)), controlplane.OwnedBy("v1", "ConfigMap", web))
		s.tokens[pod.UID] = s.Tokens(pod)
		list = append(list, pod)
	}
	secrets, pods, _ := s.during(func() {
		failed := make(chan error, len(list))
		for _, pod := range list {
			go func() { failed <- s.try(n, pod, "web") }()
		}
		for range list {
			s.must(<-failed)
		}
	})
	t.Logf("100 Pods with 2 Secrets start together: %d requests about Secrets, %d about Pods", secrets, pods)
	if secrets > 40 || pods > 100 {
		t.Error("too many requests")
	}
	s.want("db", "k", canaryValue+"1")
	secrets, pods, _ = s.during(func() {
		n.Secret("db", canaryValue+"2")
		s.Eventually("the rotation", func() bool { return s.holds("db", "k", canaryValue+"2") && s.holds("db2", "k", canaryValue+"2") })
	})
	t.Logf("2 Secrets of 100 Pods rotate: %d and %d requests", secrets, pods)
	if secrets > 4 || pods > 0 {
		t.Error("too many requests")
	}
	start := time.Now()
	secrets, pods, _ = s.during(func() { time.Sleep(10 * time.Second) })
	t.Logf("100 idle volumes for %v: %d and %d requests", time.Since(start).Round(time.Second), secrets, pods)
	if secrets+pods > 0 {
		t.Error("nothing changed")
	}
}

// owner makes something that may own Pods and that no controller looks at.
func (s *syncSite) owner(name string) *corev1.ConfigMap {
	s.Helper()
	made, err := s.Client().CoreV1().ConfigMaps(s.namespace).Create(s.Context(),
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	s.must(err)
	return made
}

func readPKI(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../provider/encode/testdata/pki/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func scrape(t *testing.T, address string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := new(http.Client).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
