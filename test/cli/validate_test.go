package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
)

const goodClass = `apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: app, namespace: shop}
spec:
  provider: azure
  parameters:
    keyvaultName: kv1
    tenantID: tenant
    clientID: client
    objects: |
      array:
      - |
        objectName: db
        objectType: secret
`

func TestValidate(t *testing.T) {
	t.Parallel()
	binary, dir := binaries.Driver(t), t.TempDir()
	for name, text := range map[string]string{
		"good.yaml":      goodClass,
		"bad.yaml":       strings.Replace(goodClass, "objectType: secret", "objectType: sekret", 1),
		"warned.yaml":    strings.Replace(goodClass, "tenantID: tenant", "tenantID: tenant\n    objectz: x", 1),
		"managed.yaml":   strings.Replace(goodClass, "tenantID: tenant", "tenantID: tenant\n    useVMManagedIdentity: \"true\"", 1),
		"pod.yaml":       "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n",
		"broken.yaml":    "a: [",
		"tree/a.yml":     goodClass,
		"tree/sub/b.yml": strings.Replace(goodClass, "keyvaultName: kv1", "keyvaultName: k_v", 1),
		"tree/notes.txt": "not for us: [",
		"custom.yaml":    strings.Replace(goodClass, "keyvaultName: kv1", "keyvaultURI: https://vault.corp.example/", 1),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		args           []string
		stdin          string
		exit           int
		stdout, stderr []string // texts in them
	}{
		"good":               {[]string{"-f", "good.yaml"}, "", 0, nil, []string{"1 class checked, 0 findings"}},
		"as an argument":     {[]string{"good.yaml"}, "", 0, nil, []string{"1 class checked, 0 findings"}},
		"bad":                {[]string{"-f", "bad.yaml"}, "", 1, []string{"bad.yaml:14: error: shop/app: ", "sekret"}, []string{"1 finding"}},
		"several":            {[]string{"-f", "good.yaml", "-f", "bad.yaml"}, "", 1, []string{"bad.yaml:14"}, []string{"2 classes checked"}},
		"a directory":        {[]string{"-f", "tree"}, "", 1, []string{filepath.Join("tree", "sub", "b.yml") + ":7: error"}, []string{"2 classes checked, 1 finding"}},
		"standard input":     {[]string{"-f", "-"}, strings.Replace(goodClass, "clientID: client", "clientID: 5", 1), 1, []string{"<stdin>:9: error"}, nil},
		"a warning":          {[]string{"-f", "warned.yaml"}, "", 0, []string{"warned.yaml:9: warning"}, nil},
		"a warning, strict":  {[]string{"-f", "warned.yaml", "--strict"}, "", 1, []string{"warned.yaml:9: warning"}, nil},
		"node's identity":    {[]string{"-f", "managed.yaml", "--node-identity", "none"}, "", 1, []string{"managed.yaml:9: error"}, nil},
		"a wrong rule":       {[]string{"-f", "good.yaml", "--node-identity", "x"}, "", 1, nil, []string{`--node-identity "x" is not known`}},
		"no class":           {[]string{"-f", "pod.yaml"}, "", 1, []string{"kind Pod is ignored"}, []string{"no SecretProviderClass was found"}},
		"not YAML":           {[]string{"-f", "broken.yaml"}, "", 1, []string{"broken.yaml:", "is not YAML"}, nil},
		"no such file":       {[]string{"-f", "missing.yaml"}, "", 1, nil, []string{"missing.yaml"}},
		"nothing":            {nil, "", 1, nil, []string{"nothing to check"}},
		"host not allowed":   {[]string{"-f", "custom.yaml"}, "", 1, []string{"custom.yaml:7: error"}, nil},
		"host allowed":       {[]string{"-f", "custom.yaml", "--allowed-vault-hosts", "vault.corp.example"}, "", 0, nil, []string{"0 findings"}},
		"cloud not known":    {[]string{"-f", "good.yaml", "--cloud", "x"}, "", 1, nil, []string{"--cloud"}},
		"output not known":   {[]string{"-f", "good.yaml", "-o", "xml"}, "", 1, nil, []string{"use text or json"}},
		"flag not known":     {[]string{"--nope"}, "", 1, nil, []string{"unknown flag"}},
		"JSON of a good one": {[]string{"-f", "good.yaml", "-o", "json"}, "", 0, []string{"[]"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := exec.CommandContext(t.Context(), binary, append([]string{"validate"}, tc.args...)...) //nolint:gosec // the test's own command
			c.Dir, c.Stdin = dir, strings.NewReader(tc.stdin)
			c.Env = []string{"HTTPS_PROXY=http://127.0.0.1:1", "HTTP_PROXY=http://127.0.0.1:1"} // it must not need the network
			var stdout, stderr bytes.Buffer
			c.Stdout, c.Stderr = &stdout, &stderr
			err := c.Run()
			if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
				t.Fatal(err)
			}
			if code := c.ProcessState.ExitCode(); code != tc.exit {
				t.Errorf("exit %d", code)
			}
			for _, text := range tc.stdout {
				if !strings.Contains(stdout.String(), text) {
					t.Errorf("output lacks %q", text)
				}
			}
			for _, text := range tc.stderr {
				if !strings.Contains(stderr.String(), text) {
					t.Errorf("error output lacks %q", text)
				}
			}
			if t.Failed() {
				t.Logf("output:\n%s\nerror output:\n%s", &stdout, &stderr)
			}
		})
	}
	out, _ := exec.CommandContext(t.Context(), binary, "validate", "-o", "json", filepath.Join(dir, "bad.yaml")).Output() //nolint:gosec // the test's own
	var findings []struct {
		File, Severity, Class, Message string
		Line                           int
	}
	if err := json.Unmarshal(out, &findings); err != nil || len(findings) != 1 || findings[0].Line != 14 || findings[0].Severity != "error" ||
		findings[0].Class != "shop/app" || findings[0].File != filepath.Join(dir, "bad.yaml") {
		t.Errorf("JSON: %s, %v", out, err)
	}
}
