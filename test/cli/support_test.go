package cli

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// The forms in which a secret may be where it does not belong.
const (
	plantedToken = "eyJhbGciOiJSUzI1NiJ9.eyJjYW5hcnkiOiJjYW5hcnkifQ.c2lnbmF0dXJlLWNhbmFyeQ" //nolint:gosec // planted, to be found
	plantedKey   = "-----BEGIN PRIVATE KEY-----\nY2FuYXJ5Y2FuYXJ5\n-----END PRIVATE KEY-----"
	plantedBlob  = "q8Xf3Zk9LmP2vR7tYw4BnC6dEa1Gh5Jo0Ks"
)

// unpack returns the files of an archive.
func unpack(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(h.Name, "keyvault-csi-support/")] = string(text)
	}
}

// planted is a cluster that has a canary everywhere.
func planted(t *testing.T) func(mux *http.ServeMux) {
	t.Helper()
	answer := func(value any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(value)
		}
	}
	list := func(items ...any) http.HandlerFunc {
		return answer(map[string]any{"metadata": map[string]any{}, "items": items})
	}
	text := classText(t, "shop", map[string]string{
		"password": "canary-unknown-parameter", "templates": "array:\n- |\n  path: f\n  template: canary-template\n", "staleIfError": "canary",
	}, "db")
	text = strings.Replace(text, "metadata:\n", "metadata:\n  annotations: {note: canary-annotation}\n", 1)
	var shop map[string]any
	if err := yaml.Unmarshal([]byte(text), &shop); err != nil {
		t.Fatal(err)
	}
	app := pod("app", "app", "shop", "Pending", map[string]string{"apiKey": "canary-attribute", "clientID": "22222222-2222-2222-2222-222222222222"})
	app["metadata"].(map[string]any)["annotations"] = map[string]string{"x": "canary-pod-annotation"}
	app["spec"].(map[string]any)["containers"] = []any{map[string]any{"name": "c", "env": []any{map[string]string{"name": "PASSWORD", "value": "canary-env"}}}}
	program := map[string]any{
		"metadata": map[string]any{"name": "keyvault-csi-x", "namespace": "storage"},
		"spec": map[string]any{"nodeName": "node-1", "containers": []any{map[string]any{
			"name": "driver", "image": "driver:1", "args": []string{"driver", "--rotation-interval=2m", "--some-token=canary-argument"},
			"env": []any{map[string]string{"name": "HTTPS_PROXY", "value": "http://me:canary-proxy@proxy:1"}}, //nolint:gosec // planted, to be found
		}}},
		"status": map[string]any{"phase": "Running", "containerStatuses": []any{map[string]any{
			"name": "driver", "ready": false, "restartCount": 2, "lastState": map[string]any{"terminated": map[string]any{"reason": "OOMKilled", "exitCode": 137}},
		}}},
	}
	event := func(reason, source, message string) map[string]any {
		return map[string]any{"involvedObject": map[string]any{"uid": "uid-app", "kind": "Pod", "name": "app", "namespace": "default"}, "reason": reason,
			"source": map[string]string{"component": source}, "message": message, "lastTimestamp": time.Now().UTC().Format(time.RFC3339)}
	}
	const driver = "secrets-store.csi.k8s.io"
	events := list(
		event("RefreshFailed", driver, "tenant 11111111-1111-1111-1111-111111111111 refused token "+plantedToken+": add a federated credential"),
		event("FailedMount", "kubelet", `MountVolume.SetUp failed for volume "v": proxy http://me:canary-proxy@proxy:1 refused Bearer canary-bearer`),
		event("FailedMount", "kubelet", `MountVolume.SetUp failed for volume "nfs": mount -o password=canary-other-volume`),
		event("Unhealthy", "kubelet", "Readiness probe failed: canary-probe"),
	)
	// a Pod of a tenant that has the label, and trouble, so that its log would come first
	hostile := map[string]any{
		"metadata": map[string]any{"name": "keyvault-csi-evil", "namespace": "tenant"},
		"spec":     map[string]any{"containers": []any{map[string]any{"name": "driver", "args": []string{"of-a-tenant"}}}},
		"status":   map[string]any{"containerStatuses": []any{map[string]any{"name": "driver", "restartCount": 99}}},
	}
	return func(mux *http.ServeMux) {
		mux.HandleFunc("GET /version", answer(map[string]string{"gitVersion": "v1.35.0"}))
		pods := list(app)
		mux.HandleFunc("GET /api/v1/pods", func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Query().Get("labelSelector"), "keyvault-csi") {
				list(hostile, program)(w, r)
				return
			}
			pods(w, r)
		})
		mux.HandleFunc("GET /api/v1/namespaces/{namespace}/pods", func(w http.ResponseWriter, r *http.Request) {
			switch selector := r.URL.Query().Get("labelSelector"); {
			case r.PathValue("namespace") == "tenant":
				list(hostile)(w, r)
			case r.PathValue("namespace") == "storage" && strings.Contains(selector, "keyvault-csi-controller"):
				list(program)(w, r)
			default:
				list()(w, r)
			}
		})
		mux.HandleFunc("GET /api/v1/namespaces/tenant/pods/keyvault-csi-evil/log", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "of a tenant")
		})
		mux.HandleFunc("GET /api/v1/events", events)
		mux.HandleFunc("GET /apis/secrets-store.csi.x-k8s.io/v1/secretproviderclasses", list(shop))
		mux.HandleFunc("GET /apis/secrets-store.csi.x-k8s.io/v1/secretproviderclasspodstatuses", list(status("gone", "shop", map[string]string{
			"keyvault-csi/failing-since": "2026-11-01T00:00:00Z", "keyvault-csi/failure-reason": "Unavailable", "keyvault-csi/failure": "GET https://x/?sig=canary-signature", "other": "canary-status-annotation",
		})))
		mux.HandleFunc("GET /apis/storage.k8s.io/v1/csidrivers/"+driver, answer(map[string]any{
			"metadata": map[string]any{"annotations": map[string]string{"x": "canary-csidriver", "meta.helm.sh/release-namespace": "storage"}}, "spec": map[string]any{"podInfoOnMount": true}}))
		mux.HandleFunc("GET /api/v1/namespaces/storage/pods/keyvault-csi-x/log", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("previous") != "" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			_, _ = io.WriteString(w, "level=info msg=mounted pod=shop/web-0 request=7d3a\n"+plantedKey+"\nclientSecret=canary-secret {\"password\": \"canary-json\"} key "+plantedBlob+"\n")
		})
	}
}

// The archive has what a report needs, and none of the secrets that are where they do not belong.
func TestSupportBundle(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	config := apiServer(d, classText(t, "shop", nil, "db"), planted(t))
	r := d.run(nil, "support-bundle", "--kubeconfig", config, "--file", "report.tar.gz")
	d.secretless(r)
	if r.exit != 0 {
		t.Fatal(r)
	}
	files := unpack(t, filepath.Join(d.dir, "report.tar.gz"))
	for name, text := range files {
		if strings.Contains(name+text, "evil") || strings.Contains(text, "of a tenant") || strings.Contains(text, "of-a-tenant") {
			t.Errorf("%s has a Pod of a tenant: %s", name, text)
		}
		for _, secret := range []string{"canary", "Y2FuYXJ5", "eyJ", plantedBlob, "11111111-1111", "22222222-2222"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s has %q:\n%s", name, secret, text)
			}
		}
		if name != "contents.json" && (!strings.Contains(r.stdout, name) || !strings.Contains(files["contents.json"], name)) {
			t.Errorf("%s is not in a list", name)
		}
	}
	for name, wants := range map[string][]string{
		"version.json":                   {"v1.35.0"},
		"programs.json":                  {"driver:1", "--rotation-interval=2m", "--some-token=[redacted]", "OOMKilled 137"},
		"csidriver.json":                 {"podInfoOnMount"},
		"classes.json":                   {`"keyvaultName": "contoso"`, `"password": "[redacted]"`, "error: parameter: staleIfError"},
		"pods.json":                      {`"app"`, `"apiKey": "[redacted]"`, "node-1"},
		"events.json":                    {"add a federated credential", `failed for volume \"v\"`},
		"status.json":                    {"Unavailable", `"failing"`},
		"logs/keyvault-csi-x/driver.log": {"pod=shop/web-0 request=7d3a"},
		"logs/keyvault-csi-x/driver.previous.log": {""},
	} {
		text, ok := files[name]
		if !ok {
			t.Errorf("no %s", name)
		}
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %q:\n%s", name, want, text)
			}
		}
	}
	if !strings.Contains(r.stdout, "the right to get pods/log") {
		t.Errorf("what could not be read is not named: %s", r)
	}
	r = d.run(nil, "support-bundle", "--kubeconfig", config, "--file", "elsewhere.tar.gz", "--driver-namespace", "kube-system")
	if want := "the namespace kube-system has no Pod with app.kubernetes.io/name in (keyvault-csi,keyvault-csi-controller): set --driver-namespace or --selector"; r.exit != 0 ||
		!strings.Contains(r.stdout, want) {
		t.Errorf("no %q in %s", want, r)
	}
	info, err := os.Stat(filepath.Join(d.dir, "report.tar.gz"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if r := d.run(nil, "support-bundle", "--kubeconfig", config, "--file", "report.tar.gz"); r.exit != 2 || !strings.Contains(r.stderr, "report.tar.gz exists: name another file") {
		t.Error(r)
	}
	if r := d.run(nil, "support-bundle", "--kubeconfig", config, "--file", "second.tar.gz", "-o", "json"); r.exit != 0 || !json.Valid([]byte(r.stdout)) {
		t.Error(r)
	}
}
