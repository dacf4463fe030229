package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

// counted counts the emulator's requests by operation.
func counted(d *session) map[string]int {
	all := map[string]int{}
	for _, r := range d.Requests() {
		all[r.Operation]++
	}
	return all
}

// Many classes of one vault and one identity: one token, one look at the way to the vault, and each object once.
func TestManyClassesShareWhatTheyNeed(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	var text strings.Builder
	for i := range 200 {
		text.WriteString("---\n" + classText(t, fmt.Sprintf("class-%03d", i), nil, []string{"db", "old", "many"}[i%3]))
	}
	file := d.file("many.yaml", text.String())
	d.ResetRequests()
	d.AddFault(emulator.Fault{Kind: emulator.FaultLatency, Delay: emulator.Duration(20 * time.Millisecond)})
	began := time.Now()
	r := d.run(nil, "check", "-f", file)
	t.Logf("200 classes in %s", time.Since(began).Round(10*time.Millisecond))
	d.secretless(r)
	if r.exit != 1 || !strings.Contains(r.stdout, "200 classes checked: 133 ok, 67 not ok") { // "old" is expired
		t.Fatal(r)
	}
	if got := counted(d); got["token"] != 1 || got["get secret"] != 4 { // one of them looks at the way
		t.Errorf("requests: %v", got)
	}
	if strings.Count(r.stdout, "default/class-001  object secret/old: ") != 1 {
		t.Error("the summary does not name the class that is not ok")
	}
}

// Classes of a vault that hangs wait for it at once: there is one try, and not one for each.
func TestClassesWaitAtOnce(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	var text strings.Builder
	for i := range 8 {
		text.WriteString("---\n" + classText(t, fmt.Sprintf("class-%d", i), nil, "db"))
	}
	file := d.file("many.yaml", text.String())
	d.ResetRequests()
	d.AddFault(emulator.Fault{Kind: emulator.FaultHang, Host: "contoso.vault.azure.net"})
	began := time.Now()
	r := d.run(nil, "check", "-f", file, "--timeout", "4s")
	t.Logf("8 classes in %s", time.Since(began).Round(10*time.Millisecond))
	if r.exit != 1 || strings.Count(r.stdout, "unreachable") < 8 || !strings.Contains(r.stdout, "8 classes checked: 0 ok, 8 not ok") {
		t.Error(r)
	}
	if got := counted(d); got["get secret"] > 1 {
		t.Errorf("requests: %v", got)
	}
}

// pod is a Pod with a volume, as the API server has it.
func pod(name, account, class, phase string, attributes map[string]string) map[string]any {
	all := map[string]string{"secretProviderClass": class}
	maps.Copy(all, attributes)
	return map[string]any{
		"metadata": map[string]any{"name": name, "namespace": "default", "uid": "uid-" + name, "creationTimestamp": time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)},
		"spec": map[string]any{"nodeName": "node-1", "serviceAccountName": account, "volumes": []any{
			map[string]any{"name": "v", "csi": map[string]any{"driver": "secrets-store.csi.k8s.io", "readOnly": true, "volumeAttributes": all}},
		}},
		"status": map[string]any{"phase": phase},
	}
}

// status is the status object of a Pod.
func status(podName, class string, annotations map[string]string) map[string]any {
	return map[string]any{
		"metadata": map[string]any{"name": podName + "-default-" + class, "namespace": "default", "annotations": annotations,
			"labels": map[string]string{"internal.secrets-store.csi.k8s.io/node-name": "node-1"}},
		"status": map[string]any{"podName": podName, "secretProviderClassName": class, "mounted": true},
	}
}

// broken is a cluster with a Pod that fails, one that waits, one that is well, and others of the same causes.
func broken(mux *http.ServeMux) {
	list := func(items ...any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(map[string]any{"metadata": map[string]any{}, "items": items})
		}
	}
	pods := []any{
		pod("well", "app", "shop", "Running", nil),
		pod("fails", "other", "shop", "Running", nil),
		pod("waits-1", "app", "nowhere", "Pending", nil),
		pod("waits-2", "app", "nowhere", "Pending", nil),
		pod("node", "app", "shop", "Pending", map[string]string{"useVMManagedIdentity": "true"}),
		pod("done", "app", "nowhere", "Succeeded", nil),
	}
	statuses := list(status("well", "shop", nil), status("fails", "shop", map[string]string{
		"keyvault-csi/failing-since": "2026-11-01T00:00:00Z", "keyvault-csi/failure-reason": "Identity", "keyvault-csi/failure": "AADSTS700213",
	}))
	events := list(map[string]any{
		"involvedObject": map[string]any{"uid": "uid-node", "kind": "Pod"}, "message": "IMDS gives no token: assign an identity to the node",
		"lastTimestamp": time.Now().UTC().Format(time.RFC3339),
	})
	for _, prefix := range []string{"/api/v1", "/api/v1/namespaces/default"} {
		mux.HandleFunc("GET "+prefix+"/pods", list(pods...))
		mux.HandleFunc("GET "+prefix+"/events", events)
	}
	const group = "GET /apis/secrets-store.csi.x-k8s.io/v1"
	mux.HandleFunc(group+"/secretproviderclasspodstatuses", statuses)
	mux.HandleFunc(group+"/namespaces/default/secretproviderclasspodstatuses", statuses)
	mux.HandleFunc("GET /api/v1/namespaces/default/pods/{name}", func(w http.ResponseWriter, r *http.Request) {
		for _, p := range pods {
			if p.(map[string]any)["metadata"].(map[string]any)["name"] == r.PathValue("name") {
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(p)
				return
			}
		}
		http.NotFound(w, r)
	})
	mux.HandleFunc("GET /apis/apps/v1/namespaces/default/deployments/web", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"spec": map[string]any{
			"selector": map[string]any{"matchLabels": map[string]string{"app": "web"}}, "template": pod("", "app", "shop", "", nil),
		}})
	})
	mux.HandleFunc("GET /api/v1/namespaces", list(map[string]any{"metadata": map[string]any{"name": "default"}}, map[string]any{"metadata": map[string]any{"name": "bank"}}))
}

// `check -A`, --pod and --workload start from what is broken, and end with the one thing to do.
func TestDiagnosis(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	config := apiServer(d, classText(t, "shop", nil, "db"), broken)
	for name, tc := range map[string]struct {
		args  []string
		exit  int
		wants []string
		never []string
	}{
		"the cluster": {[]string{"-A"}, 1, []string{
			"default/fails  failing", "refused  identity", "subject system:serviceaccount:default:other",
			"default/waits-1 and 1 other Pod  waiting", "missing  class", "to do: secretproviderclass default/nowhere was not found",
			"default/node  waiting", "to do: the driver reported: IMDS gives no token: assign an identity to the node", "3 volumes to look at, 1 volume well",
		}, []string{"default/well", "done"}},
		"a namespace's Pod":    {[]string{"--pod", "fails"}, 1, []string{"to do: ", "federated", "failing"}, []string{"waits"}},
		"a Pod that is well":   {[]string{"--pod", "well"}, 0, []string{"nothing to do", "default/well  fresh"}, nil},
		"a Pod that is not":    {[]string{"--pod", "nope"}, 2, []string{"pod default/nope was not found"}, nil},
		"a workload":           {[]string{"--workload", "Deployment/web"}, 1, []string{"default/fails"}, nil},
		"a workload's name":    {[]string{"--workload", "web"}, 1, []string{"default/fails", "default/well"}, nil},
		"a workload not there": {[]string{"--workload", "deployment/nope"}, 2, []string{"deployment default/nope was not found"}, nil},
		"another kind":         {[]string{"--workload", "service/web"}, 2, []string{`the kind "service" is not known: use deployment`}, nil},
		"two of them":          {[]string{"-A", "--pod", "fails"}, 2, []string{"mutually exclusive"}, nil},
		"another driver":       {[]string{"--pod", "fails", "--driver-name", "other.csi"}, 2, []string{"has no volume of the driver other.csi"}, nil},
		"as JSON":              {[]string{"--pod", "fails", "-o", "json"}, 1, []string{`"toDo": "`, `"pods": [`, `"state": "failing"`}, nil},
		"nothing is broken":    {[]string{"-A", "--driver-name", "other.csi"}, 0, []string{"nothing is broken: 0 volumes well"}, nil},
		"nothing, as JSON":     {[]string{"-A", "--driver-name", "other.csi", "-o", "json"}, 0, []string{"[]"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := d.in(t)
			r := d.run(anonymous(), append([]string{"check", "--kubeconfig", config}, tc.args...)...)
			d.secretless(r)
			for _, want := range tc.wants {
				if !strings.Contains(r.stdout+r.stderr, want) {
					t.Errorf("lacks %q", want)
				}
			}
			for _, never := range tc.never {
				if strings.Contains(r.stdout, never) {
					t.Errorf("has %q", never)
				}
			}
			if r.exit != tc.exit || t.Failed() {
				t.Error(r)
			}
		})
	}
	// one token of each service account, and one of Entra ID for each identity
	d.ResetRequests()
	d.run(anonymous(), "check", "--kubeconfig", config, "--workload", "web")
	if got := counted(d); got["token"] > 2 {
		t.Errorf("requests: %v", got)
	}
	// completion of namespaces and Pods
	for flag, want := range map[string]string{"--namespace": "bank\ndefault\n", "--pod": "fails\n"} {
		r := d.run(nil, "__complete", "check", "--kubeconfig", config, flag, "")
		for line := range strings.FieldsSeq(want) {
			if !strings.Contains(r.stdout, line+"\n") {
				t.Errorf("%s: %s", flag, r)
			}
		}
	}
}
