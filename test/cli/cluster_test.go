package cli

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// issuerOf is a cluster's issuer that the emulator knows.
func issuerOf(d *session) *emulatortest.Issuer { return emulatortest.StartIssuer(d, d.Server) }

// kubeconfig writes one whose context "shop" is of the namespace "default", and "other" of the namespace "other".
func kubeconfig(d *session, server string, ca ...byte) string {
	d.Helper()
	text, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "shop",
		"clusters": []any{map[string]any{"name": "c", "cluster": map[string]any{"server": server, "certificate-authority-data": ca}}},
		"users":    []any{map[string]any{"name": "u", "user": map[string]any{"token": "canary-of-the-person"}}},
		"contexts": []any{
			map[string]any{"name": "shop", "context": map[string]any{"cluster": "c", "user": "u", "namespace": "default"}},
			map[string]any{"name": "other", "context": map[string]any{"cluster": "c", "user": "u", "namespace": "other"}},
		},
	})
	if err != nil {
		d.Fatal(err)
	}
	return d.file("kubeconfig", string(text))
}

// apiServer answers as the API server does to what the tools ask: it holds one class, and gives tokens.
func apiServer(d *session, class string, more ...func(*http.ServeMux)) (config string) {
	d.Helper()
	issuer := issuerOf(d)
	text, err := yaml.YAMLToJSON([]byte(class))
	if err != nil {
		d.Fatal(err)
	}
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, status int, body any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
	refuse := func(w http.ResponseWriter, code int32, reason metav1.StatusReason) {
		answer(w, int(code), metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: reason,
			Code: code, Message: "said by the API server",
		})
	}
	const classes = "/apis/secrets-store.csi.x-k8s.io/v1/namespaces/{namespace}/secretproviderclasses"
	mux.HandleFunc("GET "+classes+"/{name}", func(w http.ResponseWriter, r *http.Request) {
		switch r.PathValue("namespace") + "/" + r.PathValue("name") {
		case "default/shop":
			answer(w, http.StatusOK, json.RawMessage(text))
		case "default/forbidden":
			refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden)
		default:
			refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound)
		}
	})
	mux.HandleFunc("GET "+classes, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{
			"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClassList", "items": []any{json.RawMessage(text)},
		})
	})
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/serviceaccounts", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{"apiVersion": "v1", "kind": "ServiceAccountList", "items": []any{
			map[string]any{"metadata": map[string]any{"name": "app"}}, map[string]any{"metadata": map[string]any{"name": "default"}}}})
	})
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/serviceaccounts/{name}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, map[string]any{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": map[string]any{
			"name": r.PathValue("name"), "annotations": map[string]string{"azure.workload.identity/client-id": kubelet.Client}}})
	})
	mux.HandleFunc("POST /api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", func(w http.ResponseWriter, r *http.Request) {
		var asked authenticationv1.TokenRequest
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &asked); err != nil || len(asked.Spec.Audiences) != 1 {
			refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest)
			return
		}
		switch r.PathValue("name") {
		case "forbidden":
			refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden)
			return
		case "gone":
			refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound)
			return
		}
		asked.APIVersion, asked.Kind = "authentication.k8s.io/v1", "TokenRequest"
		asked.Status.Token = issuer.Token(r.PathValue("namespace"), r.PathValue("name"), asked.Spec.Audiences[0], time.Hour)
		asked.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(time.Hour))
		answer(w, http.StatusCreated, asked)
	})
	for _, add := range more {
		add(mux)
	}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer canary-of-the-person" {
			refuse(w, http.StatusUnauthorized, metav1.StatusReasonUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	d.Cleanup(s.Close)
	return kubeconfig(d, s.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})...)
}

// anonymous is the environment of a person without credentials.
func anonymous() map[string]string {
	return map[string]string{"AZURE_TENANT_ID": "-", "AZURE_CLIENT_ID": "-", "AZURE_CLIENT_SECRET": "-"}
}

func TestAsServiceAccount(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	config := apiServer(d, classText(t, "shop", nil, "db"))
	file := d.class("shop", nil, "db")
	bare := d.class("bare", map[string]string{"clientID": "-"}, "db")
	const who = "workload identity " + kubelet.Client + " of tenant " + kubelet.Tenant + " as system:serviceaccount:default:app"
	for name, tc := range map[string]struct {
		args []string
		exit int
		want string
	}{
		"class of a file":     {[]string{"-f", file, "--service-account", "app"}, 0, who},
		"class by name":       {[]string{"default/shop", "--service-account", "app"}, 0, who},
		"class by short name": {[]string{"shop", "--service-account", "app"}, 0, who},
		"client id from the account's annotation": {
			[]string{"-f", bare, "--service-account", "app", "--service-account-annotations"}, 0, who},
		"no client id":      {[]string{"-f", bare, "--service-account", "app"}, 1, "set clientID"},
		"not federated":     {[]string{"-f", file, "--service-account", "other"}, 1, "subject system:serviceaccount:default:other"},
		"no right":          {[]string{"-f", file, "--service-account", "forbidden"}, 1, "create serviceaccounts/token"},
		"no such account":   {[]string{"-f", file, "--service-account", "gone"}, 1, "service account default/gone was not found"},
		"no such class":     {[]string{"default/nope", "--service-account", "app"}, 1, "default/nope was not found"},
		"forbidden class":   {[]string{"default/forbidden", "--service-account", "app"}, 1, "get secretproviderclasses"},
		"another namespace": {[]string{"shop", "--service-account", "app", "--namespace", "other"}, 1, "other/shop was not found"},
		"another context":   {[]string{"shop", "--service-account", "app", "--context", "other"}, 1, "other/shop was not found"},
		"unknown context":   {[]string{"shop", "--service-account", "app", "--context", "nope"}, 1, "nope"},
	} {
		t.Run(name, func(t *testing.T) {
			d := d.in(t)
			for _, verb := range []string{"preview", "check"} {
				r := d.run(anonymous(), append([]string{verb, "--kubeconfig", config}, tc.args...)...)
				d.secretless(r)
				if r.exit != tc.exit || !strings.Contains(r.stdout+r.stderr, tc.want) || tc.exit == 0 && !strings.Contains(r.stdout, "secret/db") {
					t.Errorf("%s: %s", verb, r)
				}
			}
		})
	}
	// by name, as the person, with KUBECONFIG
	env := asPerson()
	env["KUBECONFIG"] = config
	if r := d.run(env, "preview", "default/shop"); r.exit != 0 || !strings.Contains(r.stdout, "as you") || !strings.Contains(r.stdout, "(cluster)") {
		t.Error(r)
	}
}

// Every program says its version in the same words.
func TestVersionOfOtherPrograms(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"keyvault-controller", "keyvault-emulator", "keyvault-render"} {
		program, err := binaries.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(program, "--version").CombinedOutput() //nolint:gosec,noctx // a test
		if err != nil || !regexp.MustCompile(`^`+name+` version \S+ \(commit .*; go1\.\S+\)\n$`).Match(out) {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	config := apiServer(d, classText(t, "shop", nil, "db"))
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{""}, "check\t"},
		{[]string{"pre"}, "preview\t"},
		{[]string{"preview", "-o", ""}, "table\nwide\njson\nyaml\n"},
		{[]string{"check", "--output", "y"}, "table\nwide\njson\nyaml\n"},
		{[]string{"validate", "-o", ""}, "text\ntable\nwide\njson\nyaml\n"},
		{[]string{"version", "-o", ""}, "json\nyaml\ntext\n"},
		{[]string{"driver", "--log-format", ""}, "text\njson\n"},
		{[]string{"driver", "--cloud", ""}, "AzurePublicCloud\n"},
		{[]string{"preview", "-f", ""}, "yaml\nyml\njson\n:8\n"},
		{[]string{"validate", ""}, "yaml\nyml\njson\n:8\n"},
		{[]string{"preview", "--kubeconfig", config, ""}, "default/shop\n:4\n"},
		{[]string{"check", "--kubeconfig", config, "--service-account", ""}, "app\ndefault\n"},
		{[]string{"check", "--kubeconfig", config, "--context", ""}, "shop\n"},
		{[]string{"check", "--kubeconfig", "/nonexistent", ""}, ":4\n"},
	} {
		r := d.run(nil, append([]string{"__complete"}, tc.args...)...)
		if r.exit != 0 || !strings.Contains(r.stdout, tc.want) {
			t.Errorf("%v: no %q in %s", tc.args, tc.want, r)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if r := d.run(nil, "completion", shell); r.exit != 0 || len(r.stdout) < 1000 {
			t.Errorf("%s: %d bytes", shell, len(r.stdout))
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	var build struct{ Version, Commit, Go string }
	r := d.run(nil, "version")
	if err := json.Unmarshal([]byte(r.stdout), &build); err != nil || build.Version == "" || !strings.HasPrefix(build.Go, "go1.") {
		t.Error(err, r)
	}
	r = d.run(nil, "version", "-o", "text")
	if want := fmt.Sprintf("keyvault-csi version %s (commit ", build.Version); !strings.HasPrefix(r.stdout, want) || !strings.Contains(r.stdout, build.Go) {
		t.Error(r)
	}
	if flag := d.run(nil, "--version"); flag.exit != 0 || flag.stdout != r.stdout {
		t.Errorf("--version: %s", flag)
	}
	if r := d.run(nil, "version", "-o", "yaml"); r.exit != 0 || !strings.Contains(r.stdout, "version: ") {
		t.Error(r)
	}
	if r := d.run(nil, "version", "-o", "xml"); r.exit != 1 {
		t.Error(r)
	}
}
