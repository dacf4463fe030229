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
    tenantID: 11111111-2222-3333-4444-555555555555
    clientID: 66666666-7777-8888-9999-aaaaaaaaaaaa
    objects: |
      array:
      - |
        objectName: db
        objectType: secret
`

const workloadText = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec:
  containers:
  - name: web
    volumeMounts: [{name: secrets, mountPath: /secrets}]
  volumes:
  - name: secrets
    csi:
      driver: secrets-store.csi.k8s.io
      readOnly: true
      volumeAttributes:
        secretProviderClass: ap
`

func TestValidate(t *testing.T) {
	t.Parallel()
	binary, dir := binaries.Driver(t), t.TempDir()
	for name, text := range map[string]string{
		"good.yaml":       goodClass,
		"bad.yaml":        strings.Replace(goodClass, "objectType: secret", "objectType: sekret", 1),
		"warned.yaml":     strings.Replace(goodClass, "    clientID:", "    objectz: x\n    clientID:", 1),
		"managed.yaml":    strings.Replace(goodClass, "clientID: 66666666-7777-8888-9999-aaaaaaaaaaaa", "useVMManagedIdentity: \"true\"", 1),
		"mix/values.yaml": "replicas: 1\n", "mix/kustomization.yaml": "resources: [a.yaml]\n", "mix/other.json": "{}", "mix/broken.yaml": "{{ if .x }}\na: [",
		"mix/chart/Chart.yaml": "name: x\n", "mix/chart/templates/class.yaml": "kind: SecretProviderClass\n{{ if }}\n", "mix/.git/x.yaml": "a: [",
		"linked/a.yaml":  goodClass,
		"workload.yaml":  workloadText,
		"both.yaml":      goodClass + "---\n" + strings.Replace(workloadText, "secretProviderClass: ap", "secretProviderClass: app", 1),
		"pod.yaml":       "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n",
		"broken.yaml":    "a: [",
		"tree/a.yml":     goodClass,
		"tree/sub/b.yml": strings.NewReplacer("keyvaultName: kv1", "keyvaultName: k_v", "name: app", "name: other").Replace(goodClass),
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
	for link, target := range map[string]string{
		"link": "linked", "linked/loop": ".", "linked/again.yaml": "a.yaml", "linked/gone.yaml": "nowhere", "mix/more": "../linked",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	deploy, err := filepath.Abs("../../deploy")
	if err != nil {
		t.Fatal(err)
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
		"standard input":     {[]string{"-f", "-"}, strings.Replace(goodClass, "clientID: 66666666-7777-8888-9999-aaaaaaaaaaaa", "clientID: 5", 1), 1, []string{"<stdin>:9: error"}, nil},
		"a warning":          {[]string{"-f", "warned.yaml"}, "", 0, []string{"warned.yaml:9: warning"}, nil},
		"a warning, strict":  {[]string{"-f", "warned.yaml", "--strict"}, "", 1, []string{"warned.yaml:9: warning"}, nil},
		"node's identity":    {[]string{"-f", "managed.yaml", "--node-identity", "none"}, "", 1, []string{"managed.yaml:9: error"}, nil},
		"a wrong rule":       {[]string{"-f", "good.yaml", "--node-identity", "x"}, "", 2, nil, []string{`--node-identity "x" is not known`}},
		"no class":           {[]string{"-f", "pod.yaml"}, "", 2, nil, []string{"no SecretProviderClass was found"}},
		"not YAML":           {[]string{"-f", "broken.yaml"}, "", 1, []string{"broken.yaml:", "is not YAML"}, nil},
		"no such file":       {[]string{"-f", "missing.yaml"}, "", 2, nil, []string{"missing.yaml"}},
		"nothing":            {nil, "", 2, nil, []string{"nothing to check"}},
		"host not allowed":   {[]string{"-f", "custom.yaml"}, "", 1, []string{"custom.yaml:7: error"}, nil},
		"host allowed":       {[]string{"-f", "custom.yaml", "--allowed-vault-hosts", "vault.corp.example"}, "", 0, nil, []string{"0 findings"}},
		"cloud not known":    {[]string{"-f", "good.yaml", "--cloud", "x"}, "", 2, nil, []string{"--cloud"}},
		"output not known":   {[]string{"-f", "good.yaml", "-o", "xml"}, "", 2, nil, []string{"use text, table, wide, json, yaml, sarif or github"}},
		"flag not known":     {[]string{"--nope"}, "", 2, nil, []string{"unknown flag"}},
		"this repository":    {[]string{"-f", deploy, "--strict"}, "", 0, nil, []string{"1 class and 1 workload checked, 0 findings\n"}},
		"a mixed directory":  {[]string{"-f", "mix"}, "", 0, nil, []string{"1 class checked, 0 findings\n"}},
		"a link":             {[]string{"-f", "link"}, "", 0, nil, []string{"1 class checked, 0 findings\n"}},
		"one of two is lost": {[]string{"-f", "good.yaml", "-f", "missing.yaml"}, "", 2, nil, []string{"1 class checked", "missing.yaml: no such file or directory"}},
		"unrelated files":    {[]string{"--allow-empty", "pod.yaml", "mix/values.yaml"}, "", 0, nil, []string{"0 classes checked, 0 findings"}},
		"workload":           {[]string{"both.yaml"}, "", 0, nil, []string{"1 class and 1 workload checked, 0 findings\n"}},
		"two files":          {[]string{"--strict", "good.yaml", "workload.yaml"}, "", 1, []string{`workload.yaml:14: warning: pod shop/web: spec.volumes[0].csi.volumeAttributes.secretProviderClass "ap" is no class of the files: did you mean app?`}, []string{"1 finding (1 warning)"}},
		"GitHub":             {[]string{"bad.yaml", "-o", "github"}, "", 1, []string{`::error file=bad.yaml,line=14,title=keyvault-csi validate%3A object::shop/app: objects[0] "db" objectType "sekret" is not`}, nil},
		"SARIF":              {[]string{"bad.yaml", "-o", "sarif"}, "", 1, []string{`"version": "2.1.0"`, `"ruleId": "object"`, `"startLine": 14`, `"uri": "bad.yaml"`, `"level": "error"`}, nil},
		"SARIF of nothing":   {[]string{"good.yaml", "-o", "sarif"}, "", 0, []string{`"results": []`}, nil},
		"JSON of a good one": {[]string{"-f", "good.yaml", "-o", "json"}, "", 0, []string{"[]"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := exec.CommandContext(t.Context(), binary, append([]string{"validate"}, tc.args...)...) //nolint:gosec // the test's own command
			c.Dir, c.Stdin = dir, strings.NewReader(tc.stdin)
			c.Env = binaries.Environment("HTTPS_PROXY=http://127.0.0.1:1", "HTTP_PROXY=http://127.0.0.1:1") // it must not need the network
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
		File, Severity, Class, Message, Field, Value, Fix, Rule string
		Line                                                    int
	}
	if err := json.Unmarshal(out, &findings); err != nil || len(findings) != 1 || findings[0].Line != 14 || findings[0].Severity != "error" ||
		findings[0].Class != "shop/app" || findings[0].Field != "objects[0].objectType" || findings[0].Value != "sekret" ||
		findings[0].Fix != "write secret, key or cert, in lower case" || findings[0].Rule != "object" || findings[0].File != filepath.Join(dir, "bad.yaml") {
		t.Errorf("JSON: %s, %v", out, err)
	}
}
