//go:build integration

package integration

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// newPodSecrets installs the chart so that the controller writes the Secrets of Pods, and starts it.
func newPodSecrets(t *testing.T, c *controlplane.ControlPlane, flags ...string) *controllerSite {
	t.Helper()
	s := newControllerWith(t, c, []string{"syncSecret.enabled=true", "syncSecret.by=controller"}, append([]string{"--pod-secrets"}, flags...)...)
	t.Cleanup(s.noCanary)
	t.Cleanup(func() { s.noCanaryIn(t) })
	return s
}

// mounting makes a Pod's volumes, one for each class.
func mounting(classes ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, class := range classes {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: class, VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{
				Driver: "secrets-store.csi.k8s.io", ReadOnly: new(true), VolumeAttributes: map[string]string{"secretProviderClass": class},
			}}})
		}
	}
}

// claim writes a status object with the token of a node's driver.
func (s *controllerSite) claim(node, label string, pod *corev1.Pod, uid, class string) error {
	s.Helper()
	_, err := s.Plane.Kubectl(s.kubeconfig(node), fmt.Sprintf(`
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClassPodStatus
metadata:
  name: %[1]s-%[2]s-%[3]s
  namespace: %[2]s
  labels: {internal.secrets-store.csi.k8s.io/node-name: %[4]s}
  ownerReferences: [{apiVersion: v1, kind: Pod, name: %[1]s, uid: %[5]s}]
status: {podName: %[1]s, secretProviderClassName: %[3]s, mounted: true, targetPath: "/var/lib/kubelet/pods/%[5]s/volumes/x/mount"}
`, pod.Name, s.shop, class, label, uid), "apply", "--server-side", "--force-conflicts", "--field-manager=keyvault-csi", "-f", "-")
	return err
}

// mounted has node-1 say that a Pod mounts a class.
func (s *controllerSite) mounted(pod *corev1.Pod, class string) {
	s.Helper()
	s.must(s.claim("node-1", "node-1", pod, string(pod.UID), class))
}

// asked counts the controller's requests about a resource of the shop.
func (s *controllerSite) asked(resource, name string) (count int) {
	s.Helper()
	for _, r := range s.Requests("keyvault-controller/") {
		if r.ObjectRef.Namespace == s.shop && r.ObjectRef.Resource == resource && (name == "" || r.ObjectRef.Name == name) {
			count++
		}
	}
	return count
}

// logged reports whether a line of the controller's log has these words.
func (s *controllerSite) logged(words ...string) bool {
	s.Helper()
	text, err := os.ReadFile(s.log)
	s.must(err)
	for line := range strings.Lines(string(text)) {
		found := true
		for _, word := range words {
			found = found && strings.Contains(line, word)
		}
		if found {
			return true
		}
	}
	return false
}

// TestPodSecrets follows the Secrets of Pods whose driver has no right on Secrets.
func TestPodSecrets(t *testing.T) {
	t.Parallel()
	s := newPodSecrets(t, controlplane.Shared(t))
	n := kubelet.StartInCluster(t, seedFor(s.shop), s.kubeconfig("node-1"), s.TokenIssuer(), "--node-id", "node-1", "--rotation-interval", "1s")
	s.nodes = append(s.nodes, n)
	n.Secret("db", canaryValue+"1")
	s.set("db", canaryValue+"1")
	s.set("mail", canaryValue+"m")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password"), "labels": map[string]string{"app": "shop"}},
		secretObject{"secretName": "other", "data": data("db", "other")})
	owner := s.owner("web-1")
	first := s.pod("web-1-a", mounting("web"), controlplane.OwnedBy("v1", "ConfigMap", owner))
	s.publish(n, first, "web")
	s.Eventually("the Secrets", func() bool {
		return s.holds("db", "password", canaryValue+"1") && s.holds("other", "other", canaryValue+"1")
	})
	made := s.secret("db")
	if made.Labels["secrets-store.csi.k8s.io/managed"] != "true" || made.Labels["app"] != "shop" || made.Type != corev1.SecretTypeOpaque {
		t.Errorf("%s, labels %v", made.Type, made.Labels)
	}
	if m := made.ManagedFields; len(m) != 1 || m[0].Manager != "keyvault-csi/web" || m[0].Operation != metav1.ManagedFieldsOperationApply {
		t.Errorf("managed by %+v", m)
	}
	if got, want := s.owners("db"), "ConfigMap web-1 "+string(owner.UID); got != want {
		t.Errorf("owners %q, want %q", got, want)
	}
	s.reported("web-1-a", "SecretRotationComplete", "db was created")

	s.set("db", canaryValue+"2")
	s.Eventually("the new value", func() bool { return s.holds("db", "password", canaryValue+"2") })

	// an edit of the class, and one that asks for a Secret where there was none
	s.class("mail", []string{"mail"})
	both := s.pod("both", mounting("web", "mail"))
	s.mounted(both, "web")
	s.mounted(both, "mail")
	s.Eventually("an owner of another Pod", func() bool { return strings.Contains(s.owners("db"), "Pod both "+string(both.UID)) })
	s.class("mail", []string{"mail"}, secretObject{"secretName": "mail", "data": data("mail", "m")})
	s.Eventually("the Secret of an edited class", func() bool { return s.holds("mail", "m", canaryValue+"m") })
	s.class("web", []string{"db", "mail"}, secretObject{"secretName": "db", "data": data("db", "password", "mail", "m")})
	s.Eventually("the new key", func() bool { return s.holds("db", "password", canaryValue+"2", "m", canaryValue+"m") })

	// what people do
	s.MustKubectl("", "-n", s.shop, "delete", "secret", "mail")
	s.MustKubectl("", "-n", s.shop, "annotate", "secretproviderclass", "mail", "keyvault-csi/refresh=a/0s")
	s.MustKubectl("", "-n", s.shop, "patch", "secret", "db", "--type=merge", "-p", `{"stringData":{"password":"edited"}}`)
	s.MustKubectl("", "-n", s.shop, "annotate", "secretproviderclass", "web", "keyvault-csi/refresh=a/0s")

	// an outage changes nothing, and a Pod that comes meanwhile gets its owner later
	s.vault.AddFault(emulator.Fault{Kind: emulator.FaultStatus, Status: 503, Host: "contoso.vault.azure.net"})
	late := s.pod("late", mounting("web"))
	s.mounted(late, "web")
	s.reported("late", "FailedToCreateSecret", "its Secrets are not synced by the controller")
	s.vault.ClearFaults()
	s.Eventually("the owner of a Pod that came in an outage", func() bool { return strings.Contains(s.owners("db"), "Pod late ") })

	// the Secret of a Pod goes with it
	s.must(s.Client().CoreV1().Pods(s.shop).Delete(s.Context(), "both", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	s.Eventually("the Secret to go with its only Pod", func() bool { return s.secret("mail") == nil })
	s.Eventually("the owner to go", func() bool { return !strings.Contains(s.owners("db"), "Pod both ") })
	if s.asked("pods", first.Name) != 1 {
		t.Errorf("a Pod is read %d times", s.asked("pods", first.Name))
	}
	for _, r := range s.Requests("keyvault-csi/") {
		if r.ObjectRef.Namespace == s.shop && (r.ObjectRef.Resource == "secrets" || r.ObjectRef.Resource == "pods") {
			t.Errorf("the driver of a node asked for %s", r)
		}
	}
	if log := n.Log(); strings.Contains(log, "Secret sync") || strings.Contains(log, "secretObjects") {
		t.Errorf("the driver says of Secrets: %s", log)
	}
}

// TestPodSecretsBelieveNoNode: a status object that the API server's Pod does not bear out causes no Secret, no token and no request to a vault.
func TestPodSecretsBelieveNoNode(t *testing.T) {
	t.Parallel()
	s := newPodSecrets(t, controlplane.Shared(t))
	s.addNode("node-2")
	s.set("db", canaryValue+"1")
	for _, name := range []string{"elsewhere", "forged", "uid", "unnamed", "deleted", "ended", "principal", "driver", "good"} {
		s.class(name, []string{"db"}, secretObject{"secretName": name, "data": data("db", "password")})
	}
	on := func(name, node string, edit ...func(*corev1.Pod)) *corev1.Pod {
		return s.CreatePod(s.shop, name, node, "liar", edit...)
	}
	// Pods of another node: in the own name, and in that node's, which the policy of the driver refuses
	elsewhere := on("elsewhere", "node-2", mounting("elsewhere", "forged"))
	s.must(s.claim("node-1", "node-1", elsewhere, string(elsewhere.UID), "elsewhere"))
	if err := s.claim("node-1", "node-2", elsewhere, string(elsewhere.UID), "forged"); err == nil || !strings.Contains(err.Error(), "on that node alone") {
		t.Errorf("a status object in the name of another node: %v", err)
	}
	uid := on("uid", "node-1", mounting("uid"))
	s.must(s.claim("node-1", "node-1", uid, "00000000-0000-0000-0000-000000000001", "uid"))
	unnamed := on("unnamed", "node-1", mounting("good"))
	s.must(s.claim("node-1", "node-1", unnamed, string(unnamed.UID), "unnamed"))
	deleted := on("deleted", "node-1", mounting("deleted"))
	s.must(s.Client().CoreV1().Pods(s.shop).Delete(s.Context(), "deleted", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	s.must(s.claim("node-1", "node-1", deleted, string(deleted.UID), "deleted"))
	ended := on("ended", "node-1", mounting("ended"))
	ended.Status.Phase = corev1.PodSucceeded
	_, err := s.Client().CoreV1().Pods(s.shop).UpdateStatus(s.Context(), ended, metav1.UpdateOptions{})
	s.must(err)
	s.must(s.claim("node-1", "node-1", ended, string(ended.UID), "ended"))
	principal := on("principal", "node-1", mounting("principal"), func(p *corev1.Pod) {
		p.Spec.Volumes[0].CSI.NodePublishSecretRef = &corev1.LocalObjectReference{Name: "creds"}
	})
	s.must(s.claim("node-1", "node-1", principal, string(principal.UID), "principal"))
	driver := on("driver", "node-1", mounting("driver"), func(p *corev1.Pod) { p.Spec.Volumes[0].CSI.Driver = "other.csi.k8s.io" })
	s.must(s.claim("node-1", "node-1", driver, string(driver.UID), "driver"))

	good := s.pod("good", mounting("good"))
	s.mounted(good, "good")
	s.Eventually("the Secret of a Pod that mounts its class", func() bool { return s.holds("good", "password", canaryValue+"1") })
	s.reported("principal", "FailedToCreateSecret", "nodePublishSecretRef", "syncSecret.by=nodes")
	for name, tc := range map[string]string{
		"elsewhere-" + s.shop + "-elsewhere": "does not run on the node",
		"uid-" + s.shop + "-uid":             "another UID",
		"unnamed-" + s.shop + "-unnamed":     "no volume of the Pod names the class",
		"ended-" + s.shop + "-ended":         "has ended",
		"driver-" + s.shop + "-driver":       "no volume of the Pod names the class",
	} {
		s.Eventually("the refusal of "+name, func() bool { return s.logged(name, tc) })
	}
	for _, name := range []string{"elsewhere", "forged", "uid", "unnamed", "deleted", "ended", "principal", "driver"} {
		if s.asked("secrets", name) > 0 || s.secret(name) != nil {
			t.Errorf("the Secret %s was asked for", name)
		}
	}
	if count := s.asked("serviceaccounts", "liar"); count > 0 {
		t.Errorf("%d tokens of the service account", count)
	}
}

// TestPodSecretsOfOthers: a Secret that is not the driver's is left as it is, and identities that the controller must not use are refused.
func TestPodSecretsOfOthers(t *testing.T) {
	t.Parallel()
	s := newPodSecrets(t, controlplane.Shared(t), "--node-identity", "none")
	s.set("db", canaryValue+"1")
	s.ApplyYAML(fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: foreign, namespace: %s}\nstringData: {a: b}\n", s.shop))
	s.class("web", []string{"db"}, secretObject{"secretName": "foreign", "data": data("db", "password")},
		secretObject{"secretName": "own", "data": data("db", "password")})
	s.class("node", []string{"db"}, secretObject{"secretName": "node", "data": data("db", "password")})
	s.MustKubectl("", "-n", s.shop, "patch", "secretproviderclass", "node", "--type=merge", "-p", `{"spec":{"parameters":{"useVMManagedIdentity":"true"}}}`)
	pod := s.pod("a", mounting("web", "node"))
	s.mounted(pod, "web")
	s.mounted(pod, "node")
	s.Eventually("the Secret beside it", func() bool { return s.holds("own", "password", canaryValue+"1") })
	s.reported("a SecretConflict", "/foreign exists and is not the driver's")
	s.reported("a FailedToCreateSecret", "class node", "its Secrets are not synced by the controller")
	if got := s.secret("foreign"); len(got.Data) != 1 || string(got.Data["a"]) != "b" || len(got.OwnerReferences) > 0 {
		t.Errorf("a Secret of somebody else became %v", got.Data)
	}
	if s.secret("node") != nil {
		t.Error("the identity of a node was used")
	}
	// a Secret of a SecretSync is none of Pods, and the other way round
	s.sync("synced", "web", "{sourcePath: db, targetKey: password}")
	s.Eventually("the Secret of a SecretSync", func() bool { return s.holds("synced", "password", canaryValue+"1") })
	s.class("clash", []string{"db"}, secretObject{"secretName": "synced", "data": data("db", "x")})
	clash := s.pod("clash", mounting("clash"))
	s.mounted(clash, "clash")
	s.reported("clash SecretConflict", "/synced exists and is not the driver's")
	s.sync("own", "web", "{sourcePath: db, targetKey: x}")
	s.Eventually("the conflict of a SecretSync", func() bool { return strings.HasPrefix(s.condition("own", "SecretCreated"), "False SecretConflict") })
	if !s.holds("synced", "password", canaryValue+"1") || !s.holds("own", "password", canaryValue+"1") {
		t.Error("one took the other's Secret")
	}
}

// TestPodSecretsAreBounded: a class that is edited a hundred times, and a status object that changes a hundred times, cost a bounded number of
// requests.
func TestPodSecretsAreBounded(t *testing.T) {
	t.Parallel()
	s := newPodSecrets(t, controlplane.Shared(t), "--rotation-interval", "1h", "--cache-ttl", "10s")
	s.set("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	pod := s.pod("a", mounting("web"))
	s.mounted(pod, "web")
	s.Eventually("the Secret", func() bool { return s.holds("db", "password", canaryValue+"1") })
	start := time.Now()
	for i := range 100 {
		s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", fmt.Sprintf("key-%d", i))})
	}
	s.Eventually("the last edit", func() bool { return s.holds("db", "key-99", canaryValue+"1") })
	for range 20 {
		s.MustKubectl("", "-n", s.shop, "delete", "secretproviderclasspodstatus", "a-"+s.shop+"-web")
		s.mounted(pod, "web")
	}
	time.Sleep(2 * time.Second)
	seconds := int(time.Since(start)/time.Second) + 2
	if got := s.asked("secrets", "db"); got > 3*seconds+10 {
		t.Errorf("%d requests about the Secret in %d seconds", got, seconds)
	}
	if got := s.asked("pods", "a"); got > 21 {
		t.Errorf("a Pod is read %d times", got)
	}
	if got := s.asked("serviceaccounts", "app"); got > 1 {
		t.Errorf("%d tokens", got)
	}
	if strings.Count(s.events(), "SecretRotationComplete") > 10 {
		t.Errorf("events: %s", s.events())
	}
}

// TestPodSecretsShareRequests: Pods of several nodes, owners and classes with one identity cost one token and one request for each object, and one
// write for each Secret.
func TestPodSecretsShareRequests(t *testing.T) {
	t.Parallel()
	lines, address := t.TempDir()+"/audit.log", freeAddress(t)
	s := newPodSecrets(t, controlplane.Shared(t), "--rotation-interval", "1h", "--cache-ttl", "1m", "--audit-log", lines, "--metrics-addr", address)
	s.addNode("node-2")
	s.set("db", canaryValue+"1")
	var classes []string
	for i := range 5 {
		class := fmt.Sprintf("web-%d", i)
		classes = append(classes, class)
		s.class(class, []string{"db"}, secretObject{"secretName": class, "data": data("db", "password")})
	}
	for i := range 10 {
		node := fmt.Sprintf("node-%d", i%2+1)
		pod := s.CreatePod(s.shop, fmt.Sprintf("pod-%d", i), node, "app", mounting(classes...))
		for _, class := range classes {
			s.must(s.claim(node, node, pod, string(pod.UID), class))
		}
	}
	for _, class := range classes {
		s.Eventually("all owners of "+class, func() bool { return strings.Count(s.owners(class), "Pod pod-") == 10 })
		if !s.holds(class, "password", canaryValue+"1") {
			t.Errorf("Secret %s: %v", class, s.secret(class))
		}
	}
	gets := 0
	for _, r := range s.vault.Requests() {
		if r.Operation == "get secret" && r.Status == 200 {
			gets++
		}
	}
	if gets != 1 {
		t.Errorf("%d requests for one object: %v", gets, s.vault.Counts())
	}
	if got := s.asked("serviceaccounts", "app"); got != 1 {
		t.Errorf("%d tokens", got)
	}
	for i := range 10 {
		if got := s.asked("pods", fmt.Sprintf("pod-%d", i)); got != 1 {
			t.Errorf("a Pod is read %d times", got)
		}
	}
	s.Eventually("a line of the audit log for each Secret", func() bool { return len(auditLines(t, lines)) >= len(classes) })
	written := map[string]int{}
	for _, line := range auditLines(t, lines) {
		if line.Event != "synced" || line.ServiceAccount != "app" || line.Class != line.Secret || line.Object != "secret/db" || line.Version == "" {
			t.Errorf("%+v", line)
		}
		written[line.Secret]++
	}
	if len(written) != len(classes) {
		t.Errorf("audit lines of %v", written)
	}
	scraped := scrape(t, address)
	for _, want := range []string{
		`keyvault_csi_podsecrets_groups{state="synced"} 5`, `keyvault_csi_podsecrets_status_objects{result="counted"} 50`,
		`keyvault_csi_podsecrets_status_objects{result="refused"} 0`, `keyvault_csi_podsecrets_writes_total{result="written"} `,
		`keyvault_csi_podsecrets_fetches_total{reason=""} `,
	} {
		if !strings.Contains(scraped, want) {
			t.Errorf("%s is not in the metrics: %s", want, scraped)
		}
	}
}

// TestStolenTokensWithPodSecrets: what the tokens of a node's driver and of the controller may not do when the controller writes the Secrets of
// Pods.
func TestStolenTokensWithPodSecrets(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%t", restart), func(t *testing.T) {
			t.Parallel()
			stealTokens(t, restart)
		})
	}
}

// stealTokens tries what stolen tokens may do, also where the controller restarts workloads and has the rights for it.
func stealTokens(t *testing.T, restart bool) {
	t.Helper()
	c := controlplane.Shared(t)
	s := install(t, c, "controller.enabled=true", "syncSecret.enabled=true", "syncSecret.by=controller", fmt.Sprintf("controller.restart.enabled=%t", restart))
	s.CreatePod(s.system, "controller", "node-1", s.account+"-controller")
	pod := s.CreatePod(s.shop, "cart", "node-1", "app")
	secret := func(name, labels, owners string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":%q,"namespace":%q,"labels":{%s},"ownerReferences":[%s]},"stringData":{"password":%q}}`,
			name, s.shop, labels, owners, canary)
	}
	owner := func(more string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","name":"cart","uid":%q%s}`, pod.UID, more)
	}
	const managed, synced = `"secrets-store.csi.k8s.io/managed":"true"`, `"secrets-store.sync.x-k8s.io":""`
	c.ApplyYAML(secret("foreign", "", "") + "\n---\n" + secret("ours", managed, owner("")) + "\n---\n" + secret("bare", managed, "") + "\n---\n" +
		secret("synced", synced, ""))
	node, controller := callerOf(t, s.kubeconfig("node-1")), callerOf(t, s.BoundKubeconfig(s.system, s.account+"-controller", "controller"))
	core := "/api/v1/namespaces/" + s.shop
	secrets := core + "/secrets"
	const merge, json, apply = "merge-patch+json", "json-patch+json", "apply-patch+yaml"
	const noRight, fence = "cannot", "ValidatingAdmissionPolicy"
	const by = "?fieldManager=keyvault-csi/web&force=true"
	test := `[{"op":"test","path":"/metadata/labels/secrets-store.csi.k8s.io~1managed","value":"true"}]`
	s.Eventually("the policy", func() bool {
		return controller.do("PATCH", secrets+"/probe"+by, apply, secret("probe", "", owner(""))).code == http.StatusForbidden
	})
	for name, tt := range map[string]struct {
		who                      caller
		method, path, kind, body string
		code                     int
		says                     string
	}{
		// the driver of a node has no right on Secrets and Pods at all
		"node: get a Secret":     {node, "GET", secrets + "/ours", "", "", 403, noRight},
		"node: list Secrets":     {node, "GET", secrets, "", "", 403, noRight},
		"node: patch a Secret":   {node, "PATCH", secrets + "/ours", merge, "{}", 403, noRight},
		"node: create a Secret":  {node, "POST", secrets, "json", secret("x", managed, owner("")), 403, noRight},
		"node: delete a Secret":  {node, "DELETE", secrets + "/ours", "", "", 403, noRight},
		"node: read by an error": {node, "PATCH", secrets + "/foreign", json, `[{"op":"copy","from":"/data/password","path":"/type"}]`, 403, noRight},
		"node: get a Pod":        {node, "GET", core + "/pods/cart", "", "", 403, noRight},
		"node: make a token":     {node, "POST", core + "/serviceaccounts/app/token", "json", "{}", 403, noRight},

		// what the controller needs
		"probe":               {controller, "PATCH", secrets + "/ours", json, test, 200, ""},
		"probe without owner": {controller, "PATCH", secrets + "/bare", json, test, 200, ""},
		"create":              {controller, "PATCH", secrets + "/new" + by, apply, secret("new", managed, owner("")), 201, ""},
		"update":              {controller, "PATCH", secrets + "/ours" + by, apply, secret("ours", managed, owner("")), 200, ""},
		"add an owner":        {controller, "PATCH", secrets + "/bare", "strategic-merge-patch+json", `{"metadata":{"ownerReferences":[` + owner("") + `]}}`, 200, ""},
		"get a Pod":           {controller, "GET", core + "/pods/cart", "", "", 200, ""},
		"list statuses":       {controller, "GET", "/apis/secrets-store.csi.x-k8s.io/v1/secretproviderclasspodstatuses", "", "", 200, ""},

		// and what it may not
		"get a Secret":            {controller, "GET", secrets + "/ours", "", "", 403, noRight},
		"list Secrets":            {controller, "GET", secrets, "", "", 403, noRight},
		"watch Secrets":           {controller, "GET", secrets + "?watch=true", "", "", 403, noRight},
		"list Pods":               {controller, "GET", core + "/pods", "", "", 403, noRight},
		"change a Pod":            {controller, "PATCH", core + "/pods/cart", merge, "{}", 403, noRight},
		"write a status":          {controller, "POST", "/apis/secrets-store.csi.x-k8s.io/v1/namespaces/" + s.shop + "/secretproviderclasspodstatuses", "json", "{}", 403, noRight},
		"delete a Secret":         {controller, "DELETE", secrets + "/ours", "", "", 403, ""},
		"touch a foreign Secret":  {controller, "PATCH", secrets + "/foreign", merge, "{}", 403, fence},
		"label a foreign Secret":  {controller, "PATCH", secrets + "/foreign", merge, `{"metadata":{"labels":{` + managed + `}}}`, 403, fence},
		"take a SecretSync's":     {controller, "PATCH", secrets + "/synced", merge, `{"metadata":{"labels":{` + managed + `,"secrets-store.sync.x-k8s.io":null}}}`, 403, fence},
		"give one to SecretSyncs": {controller, "PATCH", secrets + "/ours", merge, `{"metadata":{"labels":{"secrets-store.csi.k8s.io/managed":null,` + synced + `}}}`, 403, fence},
		"take the label off":      {controller, "PATCH", secrets + "/ours", merge, `{"metadata":{"labels":null}}`, 403, fence},
		"take an owner off":       {controller, "PATCH", secrets + "/ours", merge, `{"metadata":{"ownerReferences":[]}}`, 403, fence},
		"no owner":                {controller, "PATCH", secrets + "/x" + by, apply, secret("x", managed, ""), 403, fence},
		"an owner that controls":  {controller, "PATCH", secrets + "/x" + by, apply, secret("x", managed, owner(`,"controller":true`)), 403, fence},
		"an owner that blocks":    {controller, "PATCH", secrets + "/x" + by, apply, secret("x", managed, owner(`,"blockOwnerDeletion":true`)), 403, fence},
		"immutable":               {controller, "PATCH", secrets + "/ours", merge, `{"immutable":true}`, 403, fence},
		"a finalizer":             {controller, "PATCH", secrets + "/ours", merge, `{"metadata":{"finalizers":["a/b"]}}`, 403, fence},
		"a bootstrap token": {controller, "PATCH", secrets + "/x" + by, apply,
			strings.Replace(secret("x", managed, owner("")), `"kind":"Secret"`, `"kind":"Secret","type":"bootstrap.kubernetes.io/token"`, 1), 403, fence},
		"a release of Helm": {controller, "PATCH", secrets + "/x" + by, apply,
			strings.Replace(secret("x", managed, owner("")), `"kind":"Secret"`, `"kind":"Secret","type":"helm.sh/release.v1"`, 1), 403, fence},
		"another namespace": {controller, "PATCH", strings.Replace(secrets, s.shop, s.system, 1) + "/x" + by, apply,
			strings.ReplaceAll(secret("x", managed, owner("")), s.shop, s.system), 403, fence},
	} {
		if restart && name == "list Pods" {
			continue // of workloads that it restarts
		}
		t.Run(name, func(t *testing.T) {
			got := tt.who.do(tt.method, tt.path, tt.kind, tt.body)
			if got.code != tt.code || !strings.Contains(got.body, tt.says) {
				t.Errorf("answered %d, want %d and %q:\n%s", got.code, tt.code, tt.says, got.body)
			}
			if got.code >= http.StatusBadRequest {
				noCanary(t, got.body)
			}
		})
	}
}
