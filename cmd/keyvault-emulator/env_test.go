package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// envFiles are an authority and a seed, in a directory whose name a shell would split.
func envFiles(t *testing.T) (tlsDir, seedFile string) {
	t.Helper()
	tlsDir = filepath.Join(t.TempDir(), "it's here")
	seedFile = filepath.Join(tlsDir, "seed.yaml")
	certificate, _ := authorityFiles(t, true)
	data, err := os.ReadFile(certificate)
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{
		filepath.Join(tlsDir, "ca.pem"):   data,
		filepath.Join(tlsDir, "none.pem"): []byte("none"),
		seedFile: []byte(`
tenants:
- id: tenant
  applications:
  - {clientID: without}
  - {clientID: expired, secrets: [{value: old, expires: 2020-01-01T00:00:00Z}]}
  - {clientID: first, secrets: [{value: old, expires: 2020-01-01T00:00:00Z}, {value: "p4ss $HOME 'x'"}]}
  - {clientID: second, secrets: [{value: other}]}
`),
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return tlsDir, seedFile
}

func env(t *testing.T, args ...string) (string, error) {
	t.Helper()
	c := command()
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&bytes.Buffer{})
	c.SetArgs(append([]string{"env"}, args...))
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

func TestEnvIsWhatAShellTakes(t *testing.T) {
	tlsDir, seedFile := envFiles(t)
	out, err := env(t, "--tls-dir", tlsDir, "--seed", seedFile, "--no-proxy", "kubernetes.default,10.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	script := "set -eu\n" + out + `printf '%s\n' "$HTTPS_PROXY" "$http_proxy" "$NO_PROXY" "$no_proxy" ` +
		`"$SSL_CERT_FILE" "$NODE_EXTRA_CA_CERTS" "$REQUESTS_CA_BUNDLE" ` +
		`"$AZURE_TENANT_ID" "$AZURE_CLIENT_ID" "$AZURE_CLIENT_SECRET"`
	got, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput() //nolint:gosec // the test's own
	if err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	ca, noProxy := filepath.Join(tlsDir, "ca.pem"), "localhost,127.0.0.1,::1,kubernetes.default,10.0.0.1"
	want := []string{
		"http://127.0.0.1:8200", "http://127.0.0.1:8200", noProxy, noProxy,
		ca, ca, ca, "tenant", "first", "p4ss $HOME 'x'", "",
	}
	if lines := strings.Split(string(got), "\n"); !slices.Equal(lines, want) {
		t.Errorf("%q", lines)
	}
}

func TestEnvForms(t *testing.T) {
	tlsDir, seedFile := envFiles(t)
	out, err := env(t, "--tls-dir", tlsDir, "--seed", seedFile, "--client-id", "SECOND", "--listen", ":8300", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if got["https_proxy"] != "http://127.0.0.1:8300" || got["AZURE_CLIENT_SECRET"] != "other" || len(got) != 13 {
		t.Errorf("%s", out)
	}
	out, err = env(t, "--ca-file", filepath.Join(tlsDir, "ca.pem"), "--listen", "[::1]:8300", "-o", "dotenv")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "\nHTTP_PROXY=http://[::1]:8300\n") ||
		!strings.Contains(out, "\nSSL_CERT_FILE="+tlsDir+"/ca.pem\n") || strings.Contains(out, "AZURE_") {
		t.Errorf("%s", out)
	}
}

func TestEnvNamesTheAuthorityByItsWholePath(t *testing.T) {
	tlsDir, _ := envFiles(t)
	t.Chdir(tlsDir)
	out, err := env(t, "--tls-dir", ".", "-o", "dotenv")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "\nSSL_CERT_FILE="+tlsDir+"/ca.pem\n") {
		t.Errorf("%s", out)
	}
}

func TestEnvRefuses(t *testing.T) {
	tlsDir, seedFile := envFiles(t)
	for want, args := range map[string][]string{
		"--tls-dir is missing":               {},
		"start the emulator with --tls-dir":  {"--tls-dir", filepath.Join(tlsDir, "absent")},
		"is not a certificate in PEM":        {"--ca-file", filepath.Join(tlsDir, "none.pem")},
		"give one":                           {"--ca-file", "a", "--tls-dir", "b"},
		"the port that the emulator printed": {"--tls-dir", tlsDir, "--listen", "127.0.0.1:0"},
		"missing port":                       {"--tls-dir", tlsDir, "--listen", "127.0.0.1"},
		"it is sh, dotenv or json":           {"--tls-dir", tlsDir, "--output", "yaml"},
		"no application expired with a":      {"--tls-dir", tlsDir, "--seed", seedFile, "--client-id", "expired"},
		"selects an application of --seed":   {"--tls-dir", tlsDir, "--client-id", "first"},
		"no such file":                       {"--tls-dir", tlsDir, "--seed", seedFile + ".none"},
		"unknown command":                    {"more"},
		"unknown flag":                       {"--tls-directory", tlsDir},
		"seed: line 1: cannot unmarshal":     {"--tls-dir", tlsDir, "--seed", filepath.Join(tlsDir, "ca.pem")},
	} {
		out, err := env(t, args...)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") || out != "" {
			t.Errorf("%s: %v %s", want, err, out)
		}
	}
}
