//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// canaryValue begins every value that the tests put into the vault. It may stand in files and Secrets and nowhere else.
const canaryValue = "canary-9b1d-"

// syncSite is a site with Secret sync, whose values are canaries.
type syncSite struct {
	site

	namespace string
	nodes     []*kubelet.Node
	tokens    map[types.UID]string
}

// newSite installs the driver's rights with Secret sync, and more values of the chart.
func newSite(t *testing.T, c *controlplane.ControlPlane, values ...string) *syncSite {
	t.Helper()
	s := &syncSite{site: install(t, c, append([]string{"syncSecret.enabled=true"}, values...)...), tokens: map[types.UID]string{}}
	s.namespace = s.shop
	t.Cleanup(s.noCanary)
	return s
}

// node starts a driver on a node of its own, with a vault of its own.
func (s *syncSite) node(flags ...string) *kubelet.Node {
	s.Helper()
	return s.nodeVia(nil, flags...)
}

// nodeVia is node where the driver's kubeconfig is edited.
func (s *syncSite) nodeVia(edit func(kubeconfig string) string, flags ...string) *kubelet.Node {
	s.Helper()
	name := fmt.Sprintf("node-%d", len(s.nodes)+1)
	if name != "node-1" { // which install makes
		s.addNode(name)
	}
	kubeconfig := s.kubeconfig(name)
	if edit != nil {
		kubeconfig = edit(kubeconfig)
	}
	all := append([]string{"--node-id", name, "--sync-secrets", "--cache-ttl", "0s"}, flags...)
	n := kubelet.StartInCluster(s.TB, seedFor(s.namespace), kubeconfig, s.TokenIssuer(), all...)
	s.nodes = append(s.nodes, n)
	return n
}

// secretObject is one entry of a class's secretObjects.
type secretObject = map[string]any

func data(pairs ...string) (list []map[string]string) {
	for i := 0; i+1 < len(pairs); i += 2 {
		list = append(list, map[string]string{"objectName": pairs[i], "key": pairs[i+1]})
	}
	return list
}

// class applies a class with objects of the vault and Secrets.
func (s *syncSite) class(name string, objects []string, secrets ...secretObject) {
	s.Helper()
	spec := map[string]any{
		"provider": "azure",
		"parameters": map[string]string{
			"keyvaultName": kubelet.Vault, "tenantID": kubelet.Tenant, "clientID": kubelet.Client, "objects": kubelet.Objects(objects...),
		},
	}
	if len(secrets) > 0 {
		spec["secretObjects"] = secrets
	}
	text, err := json.Marshal(map[string]any{
		"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
		"metadata": map[string]string{"name": name, "namespace": s.namespace}, "spec": spec,
	})
	s.must(err)
	s.ApplyYAML(string(text))
}

func (s *syncSite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// pod makes a Pod of a node that nothing runs.
func (s *syncSite) pod(name string, edit ...func(*corev1.Pod)) *corev1.Pod {
	s.Helper()
	return s.CreatePod(s.namespace, name, "node-1", "app", edit...)
}

// try calls NodePublishVolume for a Pod.
func (s *syncSite) try(n *kubelet.Node, pod *corev1.Pod, class string) error {
	s.Helper()
	if s.tokens[pod.UID] == "" {
		s.tokens[pod.UID] = s.Tokens(pod)
	}
	return n.Publish(pod.Name, class, kubelet.ForPod(pod, s.tokens[pod.UID]))
}

func (s *syncSite) publish(n *kubelet.Node, pod *corev1.Pod, class string) {
	s.Helper()
	s.must(s.try(n, pod, class))
}

// secret returns a Secret, nil where there is none.
func (s *syncSite) secret(name string) *corev1.Secret {
	s.Helper()
	found, err := s.Client().CoreV1().Secrets(s.namespace).Get(s.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	s.must(err)
	return found
}

// holds says whether a Secret holds exactly these keys and values, given in turn.
func (s *syncSite) holds(name string, pairs ...string) bool {
	s.Helper()
	found := s.secret(name)
	if found == nil {
		return false
	}
	want, got := map[string]string{}, map[string]string{}
	for i := 0; i+1 < len(pairs); i += 2 {
		want[pairs[i]] = pairs[i+1]
	}
	for key, value := range found.Data {
		got[key] = string(value)
	}
	return maps.Equal(want, got)
}

// want fails unless the Secret holds exactly these keys and values.
func (s *syncSite) want(name string, pairs ...string) {
	s.Helper()
	if !s.holds(name, pairs...) {
		s.Fatalf("Secret %s is %v, want %q\nevents: %s", name, s.secret(name), pairs, s.events())
	}
}

// owners are the kinds and names of a Secret's owners.
func (s *syncSite) owners(name string) string {
	s.Helper()
	var list []string
	if found := s.secret(name); found != nil {
		for _, o := range found.OwnerReferences {
			list = append(list, o.Kind+" "+o.Name+" "+string(o.UID))
		}
	}
	return strings.Join(list, ", ")
}

// events are the messages of the namespace's events, with their reasons.
func (s *syncSite) events() string {
	s.Helper()
	return s.MustKubectl("", "-n", s.namespace, "get", "events", "-o",
		`jsonpath={range .items[*]}{.involvedObject.name}{" "}{.reason}{": "}{.message}{"\n"}{end}`)
}

// reported waits for an event with these words.
func (s *syncSite) reported(words ...string) {
	s.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		events := s.events()
		for line := range strings.Lines(events) {
			found := true
			for _, word := range words {
				found = found && strings.Contains(line, word)
			}
			if found {
				return
			}
		}
		if time.Now().After(deadline) {
			s.Fatalf("no event has the words %q:\n%s", words, events)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// requests are the drivers' requests about Secrets and Pods of the site's namespace.
func (s *syncSite) requests() (list []controlplane.AuditEvent) {
	s.Helper()
	// a request of one's own, so that what went before it is in the log
	for _, r := range s.Requests("keyvault-csi/") {
		if r.ObjectRef.Namespace == s.namespace && (r.ObjectRef.Resource == "secrets" || r.ObjectRef.Resource == "pods") {
			list = append(list, r)
		}
	}
	return list
}

// during counts the requests that a step makes, once no more come.
func (s *syncSite) during(step func()) (secrets, pods int, list []controlplane.AuditEvent) {
	s.Helper()
	before := len(s.requests())
	step()
	settled := -1
	s.Eventually("the requests to end", func() bool {
		time.Sleep(300 * time.Millisecond)
		was := settled
		settled = len(s.requests())
		return settled == was
	})
	list = s.requests()[before:]
	for _, r := range list {
		if r.ObjectRef.Resource == "pods" {
			pods++
		} else {
			secrets++
		}
	}
	return secrets, pods, list
}

// noCanary looks for values where they must not be, and for requests that the least rights refused.
func (s *syncSite) noCanary() {
	if s.Failed() {
		return
	}
	out := map[string]string{}
	for _, n := range s.nodes {
		out["a driver's log"] += n.Log()
	}
	out["events and status objects"] = s.MustKubectl("", "-n", s.namespace, "get", "events,secretproviderclasspodstatuses", "-o", "json")
	for where, text := range out {
		for _, form := range []string{canaryValue, "Y2FuYXJ5LTliMWQt"} {
			if at := strings.Index(text, form); at >= 0 {
				s.Errorf("a value stands in %s: %.300s", where, text[max(0, at-200):])
			}
		}
	}
}

// freeAddress is one that nobody listens on now.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a test
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	return l.Addr().String()
}
