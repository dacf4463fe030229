//go:build integration

package integration

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
)

const canary = "canary-5ab1e-value"

// TestWhatTheDriverMayDo goes through what the driver's own token may do and what it may not, with all options on.
func TestWhatTheDriverMayDo(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c, "syncSecret.enabled=true", "rbac.ownerReferences=true", "syncSecret.types={example.com/x}")
	s.addNode("node-2")
	pod := s.pod("cart")
	secret := func(name, kind string, labels map[string]string) string {
		var label strings.Builder
		for k, v := range labels {
			fmt.Fprintf(&label, `, labels: {%s: %q}`, k, v)
		}
		return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s%s}\ntype: %s\nstringData: {password: %s}\n",
			name, s.shop, label.String(), kind, canary)
	}
	ours := map[string]string{"secrets-store.csi.k8s.io/managed": "true"}
	c.ApplyYAML(secret("foreign", "Opaque", nil) + "---\n" + secret("ours", "Opaque", ours) + "---\n" +
		secret("half", "Opaque", map[string]string{"secrets-store.csi.k8s.io/managed": "false"}))
	// of a Pod, as the driver writes it
	uids := map[string]string{}
	for _, name := range []string{"theirs", "mine", "old"} {
		uids[name] = string(s.pod(name).UID) // else the garbage collector takes its status object
	}
	status := func(pod, node string) string {
		return strings.Replace(fmt.Sprintf(statusObject, pod+"-"+s.shop+"-web", s.shop, node), "}}\n", "}, "+
			fmt.Sprintf("ownerReferences: [{apiVersion: v1, kind: Pod, name: %[1]s, uid: %[2]q}]}\nstatus: {podName: %[1]s, secretProviderClassName: web}\n",
				pod, cmp.Or(uids[pod], "u")), 1)
	}
	c.ApplyYAML(status("theirs", "node-2") + "---\n" + status("mine", "node-1") + "---\n" +
		strings.Replace(status("old", "x"), ", labels: {internal.secrets-store.csi.k8s.io/node-name: x}", "", 1))
	owned := func(count int) string {
		var list []string
		for i := range count {
			list = append(list, fmt.Sprintf(`{"apiVersion":"argoproj.io/v1alpha1","kind":"Workflow","name":"some-workflow-with-a-long-name-%[1]d","uid":"00000000-0000-0000-0000-%012[1]d"}`, i))
		}
		return "[" + strings.Join(list, ",") + "]"
	}
	c.MustKubectl("", "-n", s.shop, "patch", "secret", "ours", "--type=merge", "-p", `{"metadata":{"ownerReferences":`+owned(500)+`}}`)
	event := func(name, kind, apiVersion, component string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q},"involvedObject":{"kind":%q,"apiVersion":%q,"namespace":%q,"name":"cart"},"reportingComponent":%[5]q,"source":{"component":%[5]q}}`,
			name, kind, apiVersion, s.shop, component)
	}
	const self = "secrets-store.csi.k8s.io"
	c.MustKubectl(strings.Replace(event("forged", "Pod", "v1", "kubelet"), `"metadata":{`, `"apiVersion":"v1","kind":"Event","type":"Normal","metadata":{"namespace":"`+s.shop+`",`, 1), "create", "-f", "-")
	s.class("web")

	driver := callerOf(t, s.kubeconfig("node-1"))
	core := "/api/v1/namespaces/" + s.shop
	secrets := core + "/secrets"
	classes := "/apis/secrets-store.csi.x-k8s.io/v1/namespaces/" + s.shop + "/secretproviderclasses"
	statuses := "/apis/secrets-store.csi.x-k8s.io/v1/namespaces/" + s.shop + "/secretproviderclasspodstatuses"
	const merge, json, apply = "merge-patch+json", "json-patch+json", "apply-patch+yaml"
	forced := "?fieldManager=test&force=true"
	const label = `"labels":{"secrets-store.csi.k8s.io/managed":"true"}`
	const noRight, fence = "cannot", "ValidatingAdmissionPolicy"

	for name, tt := range map[string]struct {
		method, path, kind, body string
		code                     int
		says                     string
	}{
		// what it needs
		"list classes":             {"GET", "/apis/secrets-store.csi.x-k8s.io/v1/secretproviderclasses", "", "", 200, ""},
		"get a class":              {"GET", classes + "/web", "", "", 200, ""},
		"apply a Secret":           {"PATCH", secrets + "/made" + forced, apply, secret("made", "Opaque", ours), 201, ""},
		"apply a TLS Secret":       {"PATCH", secrets + "/ours-tls?dryRun=All&fieldManager=a", apply, strings.Replace(secret("ours-tls", "kubernetes.io/tls", ours), "{password:", "{tls.crt: x, tls.key:", 1), 201, ""},
		"a type of somebody's":     {"PATCH", secrets + "/own-type?dryRun=All&fieldManager=a", apply, secret("own-type", "example.com/x", ours), 201, ""},
		"patch its own Secret":     {"PATCH", secrets + "/ours", merge, `{"stringData":{"more":"x"}}`, 200, ""},
		"ask whose a Secret is":    {"PATCH", secrets + "/ours", json, `[{"op":"test","path":"/metadata/labels/secrets-store.csi.k8s.io~1managed","value":"true"}]`, 200, ""},
		"ask of a foreign Secret":  {"PATCH", secrets + "/foreign", json, `[{"op":"test","path":"/metadata/labels/secrets-store.csi.k8s.io~1managed","value":"true"}]`, 422, ""},
		"ask of no Secret":         {"PATCH", secrets + "/none", json, `[{"op":"test","path":"/metadata/labels/secrets-store.csi.k8s.io~1managed","value":"true"}]`, 404, ""},
		"apply its node's status":  {"PATCH", statuses + "/new-" + s.shop + "-web" + forced, apply, status("new", "node-1"), 201, ""},
		"change its node's status": {"PATCH", statuses + "/mine-" + s.shop + "-web" + forced, apply, status("mine", "node-1"), 200, ""},
		"take one without labels":  {"PATCH", statuses + "/old-" + s.shop + "-web" + forced, apply, status("old", "node-1"), 200, ""},
		"write an event":           {"POST", core + "/events", "json", event("e1", "Pod", "v1", self), 201, ""},
		"an event about a class":   {"POST", core + "/events", "json", event("e2", "SecretProviderClass", "secrets-store.csi.x-k8s.io/v1", self), 201, ""},
		"add to 500 owners":        {"PATCH", secrets + "/ours?dryRun=All", "strategic-merge-patch+json", `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"cart","uid":"` + string(pod.UID) + `"}]}}`, 200, ""},
		"get a Pod":                {"GET", core + "/pods/cart", "", "", 200, ""},

		// Secrets
		"get a Secret":               {"GET", secrets + "/ours", "", "", 403, noRight},
		"list Secrets":               {"GET", secrets, "", "", 403, noRight},
		"list all Secrets":           {"GET", "/api/v1/secrets", "", "", 403, noRight},
		"watch Secrets":              {"GET", secrets + "?watch=true", "", "", 403, noRight},
		"replace a Secret":           {"PUT", secrets + "/ours", "json", `{"metadata":{"name":"ours",` + label + `}}`, 403, noRight},
		"delete a Secret":            {"DELETE", secrets + "/ours", "", "", 403, fence},
		"delete a foreign Secret":    {"DELETE", secrets + "/foreign", "", "", 403, fence},
		"delete Secrets":             {"DELETE", secrets, "", "", 403, noRight},
		"empty patch":                {"PATCH", secrets + "/foreign", merge, `{}`, 403, fence},
		"empty JSON patch":           {"PATCH", secrets + "/foreign", json, `[]`, 403, fence},
		"empty patch, dry run":       {"PATCH", secrets + "/foreign?dryRun=All", merge, `{}`, 403, fence},
		"empty apply":                {"PATCH", secrets + "/foreign" + forced, apply, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"foreign"}}`, 403, fence},
		"take a Secret over":         {"PATCH", secrets + "/foreign", merge, `{"metadata":{` + label + `}}`, 403, fence},
		"take over the label's no":   {"PATCH", secrets + "/half", merge, `{"metadata":{` + label + `}}`, 403, fence},
		"write a foreign Secret":     {"PATCH", secrets + "/foreign" + forced, apply, secret("foreign", "Opaque", ours), 403, fence},
		"own a foreign Secret":       {"PATCH", secrets + "/foreign", merge, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"cart","uid":"` + string(pod.UID) + `"}]}}`, 403, fence},
		"create without the label":   {"POST", secrets, "json", `{"metadata":{"name":"free"}}`, 403, fence},
		"take the label away":        {"PATCH", secrets + "/ours", merge, `{"metadata":{"labels":null}}`, 403, fence},
		"a service account token":    {"POST", secrets, "json", `{"metadata":{"name":"t",` + label + `,"annotations":{"kubernetes.io/service-account.name":"app"}},"type":"kubernetes.io/service-account-token"}`, 403, fence},
		"a bootstrap token":          {"POST", secrets, "json", `{"metadata":{"name":"t",` + label + `},"type":"bootstrap.kubernetes.io/token"}`, 403, fence},
		"a type of the future":       {"POST", secrets, "json", `{"metadata":{"name":"t",` + label + `},"type":"kubernetes.io/unheard-of"}`, 403, fence},
		"a Secret of another system": {"PATCH", "/api/v1/namespaces/kube-system/secrets/t", merge, `{}`, 404, ""},

		"a Helm release":             {"PATCH", secrets + "/sh.helm.release.v1.x.v1" + forced, apply, secret("sh.helm.release.v1.x.v1", "helm.sh/release.v1", ours), 403, fence},
		"another type of somebody's": {"PATCH", secrets + "/own-type-2" + forced, apply, secret("own-type-2", "example.com/y", ours), 403, fence},
		"kube-system":                {"PATCH", "/api/v1/namespaces/kube-system/secrets/made" + forced, apply, strings.Replace(secret("made", "Opaque", ours), s.shop, "kube-system", 1), 403, fence},
		"its own namespace":          {"PATCH", "/api/v1/namespaces/" + s.system + "/secrets/made" + forced, apply, strings.Replace(secret("made", "Opaque", ours), s.shop, s.system, 1), 403, fence},
		"freeze":                     {"PATCH", secrets + "/ours", merge, `{"immutable":true}`, 403, fence},
		"create frozen":              {"POST", secrets, "json", `{"metadata":{"name":"frozen",` + label + `},"immutable":true}`, 403, fence},
		"a finalizer":                {"PATCH", secrets + "/ours", merge, `{"metadata":{"finalizers":["example.com/x"]}}`, 403, fence},
		"drop an owner":              {"PATCH", secrets + "/ours", merge, `{"metadata":{"ownerReferences":` + owned(499) + `}}`, 403, fence},
		"forge an owner":             {"PATCH", secrets + "/ours", merge, `{"metadata":{"ownerReferences":` + strings.Replace(owned(500), "Workflow", "Pod", 1) + `}}`, 403, fence},
		"a controller":               {"PATCH", secrets + "/ours", "strategic-merge-patch+json", `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"cart","uid":"u","controller":true}]}}`, 403, fence},
		"block a deletion":           {"PATCH", secrets + "/ours", "strategic-merge-patch+json", `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"cart","uid":"u","blockOwnerDeletion":true}]}}`, 403, fence},

		// events
		"an event about a Node":    {"POST", core + "/events", "json", event("e3", "Node", "v1", self), 403, fence},
		"an event about a Secret":  {"POST", core + "/events", "json", event("e4", "Secret", "v1", self), 403, fence},
		"an event of kubelet":      {"POST", core + "/events", "json", event("e5", "Pod", "v1", "kubelet"), 403, fence},
		"change an event":          {"PATCH", core + "/events/forged", merge, `{"message":"x"}`, 403, fence},
		"take an event over":       {"PATCH", core + "/events/forged", merge, `{"reportingComponent":"` + self + `","source":{"component":"` + self + `"}}`, 403, fence},
		"an event of another kind": {"POST", core + "/events", "json", event("e6", "Pod", "example.com/v1", self), 403, fence},

		// status objects
		"get a status":               {"GET", statuses + "/mine-" + s.shop + "-web", "", "", 403, noRight},
		"list statuses":              {"GET", statuses, "", "", 403, noRight},
		"delete a status":            {"DELETE", statuses + "/mine-" + s.shop + "-web", "", "", 403, fence},
		"another node's new status":  {"PATCH", statuses + "/other-" + s.shop + "-web" + forced, apply, status("other", "node-2"), 403, fence},
		"take another node's status": {"PATCH", statuses + "/theirs-" + s.shop + "-web" + forced, apply, status("theirs", "node-1"), 403, fence},
		"a status of another name":   {"PATCH", statuses + "/x-" + s.shop + "-web" + forced, apply, strings.Replace(status("mine", "node-1"), "name: mine-", "name: x-", 1), 403, fence},
		"a status of another owner":  {"PATCH", statuses + "/fresh-" + s.shop + "-web" + forced, apply, strings.Replace(status("fresh", "node-1"), "kind: Pod, name: fresh", "kind: Pod, name: other", 1), 403, fence},
		"a status without an owner":  {"PATCH", statuses + "/fresh-" + s.shop + "-web" + forced, apply, strings.Replace(status("fresh", "node-1"), "ownerReferences: [", "annotations: {}} #", 1), 403, fence},
		"touch another node's":       {"PATCH", statuses + "/theirs-" + s.shop + "-web", merge, `{}`, 403, fence},
		"give its status away":       {"PATCH", statuses + "/mine-" + s.shop + "-web", merge, `{"metadata":{"labels":{"internal.secrets-store.csi.k8s.io/node-name":"node-2"}}}`, 403, fence},
		"a status of no node":        {"PATCH", statuses + "/mine-" + s.shop + "-web", merge, `{"metadata":{"labels":null}}`, 403, fence},
		"the old version too":        {"PATCH", strings.Replace(statuses, "/v1/", "/v1alpha1/", 1) + "/theirs-" + s.shop + "-web", merge, `{}`, 403, fence},

		// everything else
		"create a class":        {"POST", classes, "json", `{}`, 403, noRight},
		"change a class":        {"PATCH", classes + "/web", merge, `{}`, 403, noRight},
		"list Pods":             {"GET", core + "/pods", "", "", 403, noRight},
		"change a Pod":          {"PATCH", core + "/pods/cart", merge, `{}`, 403, noRight},
		"exec into a Pod":       {"POST", core + "/pods/cart/exec?command=sh", "", "", 403, noRight},
		"get a ServiceAccount":  {"GET", core + "/serviceaccounts/app", "", "", 403, noRight},
		"make a token":          {"POST", core + "/serviceaccounts/app/token", "json", `{}`, 403, noRight},
		"read ConfigMaps":       {"GET", core + "/configmaps", "", "", 403, noRight},
		"read events":           {"GET", core + "/events", "", "", 403, noRight},
		"get its Node":          {"GET", "/api/v1/nodes/node-1", "", "", 403, noRight},
		"change the fence":      {"PATCH", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/" + s.account + "-driver", merge, `{}`, 403, noRight},
		"change its own rights": {"PATCH", "/apis/rbac.authorization.k8s.io/v1/clusterroles/" + s.account + "-driver", merge, `{}`, 403, noRight},
	} {
		t.Run(name, func(t *testing.T) {
			got := driver.do(tt.method, tt.path, tt.kind, tt.body)
			if got.code != tt.code || !strings.Contains(got.body, tt.says) {
				t.Errorf("answered %d, want %d and %q:\n%s", got.code, tt.code, tt.says, got.body)
			}
			if got.code >= http.StatusBadRequest {
				noCanary(t, got.body)
			}
		})
	}
	data := s.get("secret", "foreign", "-o", "jsonpath={.data.password} {.metadata.labels} {.metadata.ownerReferences}")
	if want := base64.StdEncoding.EncodeToString([]byte(canary)) + "  "; data != want {
		t.Errorf("the foreign Secret is %q now, want %q", data, want)
	}
}

// TestTokensThatTheFenceDoesNotKnow: a token of the account that is bound to no node writes no status.
func TestTokensThatTheFenceDoesNotKnow(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	token := strings.TrimSpace(c.MustKubectl("", "-n", s.system, "create", "token", s.account))
	config := c.Admin()
	config.CertData, config.KeyData, config.CertFile, config.KeyFile, config.BearerToken = nil, nil, "", "", token
	loose := newCaller(t, config)
	path := "/apis/secrets-store.csi.x-k8s.io/v1/namespaces/" + s.shop + "/secretproviderclasspodstatuses/x?fieldManager=a"
	for _, node := range []string{"node-1", `""`} {
		got := loose.do("PATCH", path, "apply-patch+yaml", fmt.Sprintf(statusObject, "x", s.shop, node))
		if got.code != http.StatusForbidden || !strings.Contains(got.body, "is not bound to a Pod on a node") {
			t.Errorf("node %s: %d: %s", node, got.code, got.body)
		}
	}
}

// TestRightsFollowTheOptions: what is off is not granted.
func TestRightsFollowTheOptions(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c, "policies.enabled=false")
	s.pod("cart")
	driver := callerOf(t, s.kubeconfig("node-1"))
	core := "/api/v1/namespaces/" + s.shop
	for _, tt := range []struct{ method, path string }{
		{"PATCH", core + "/secrets/x"}, {"POST", core + "/secrets"}, {"DELETE", core + "/secrets/x"}, {"GET", core + "/pods/cart"},
		{"GET", core + "/serviceaccounts/app"},
		{"DELETE", "/apis/secrets-store.csi.x-k8s.io/v1/namespaces/" + s.shop + "/secretproviderclasspodstatuses/x"},
	} {
		if got := driver.do(tt.method, tt.path, "merge-patch+json", "{}"); got.code != http.StatusForbidden || !strings.Contains(got.body, "cannot") {
			t.Errorf("%s %s: %d: %s", tt.method, tt.path, got.code, got.body)
		}
	}
	s = install(t, c, "policies.enabled=false", "syncSecret.withoutAdmissionPolicy=true", "syncSecret.enabled=true", "syncSecret.namespaces={"+s.system+"}")
	driver = callerOf(t, s.kubeconfig("node-1"))
	if got := driver.do("PATCH", "/api/v1/namespaces/"+s.shop+"/secrets/x", "merge-patch+json", "{}"); got.code != http.StatusForbidden {
		t.Errorf("a Secret outside of syncSecret.namespaces: %d: %s", got.code, got.body)
	}
}

// TestPatchIsARightToRead holds docs/security.md to what it says: no policy stops an API server from quoting what a patch moves
// about. If this fails with a newer Kubernetes, the documentation may promise more.
func TestPatchIsARightToRead(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c, "syncSecret.enabled=true")
	c.ApplyYAML(fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: foreign, namespace: %s}\nstringData: {password: %s}\n", s.shop, canary))
	got := callerOf(t, s.kubeconfig("node-1")).do("PATCH", "/api/v1/namespaces/"+s.shop+"/secrets/foreign", "json-patch+json",
		`[{"op":"copy","from":"/data/password","path":"/type"}]`)
	if got.code != http.StatusUnprocessableEntity || !strings.Contains(got.body, base64.StdEncoding.EncodeToString([]byte(canary))) {
		t.Errorf("docs/security.md is out of date: %d: %s", got.code, got.body)
	}
}

// noCanary fails where a text holds the canary, plain or as Secrets have it.
func noCanary(t *testing.T, text string) {
	t.Helper()
	for _, value := range []string{canary, base64.StdEncoding.EncodeToString([]byte(canary))} {
		if strings.Contains(text, value) {
			t.Errorf("a secret value stands in: %s", text)
		}
	}
}
