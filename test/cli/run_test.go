// Package cli runs the tools of the built binary as a person does, against the emulator.
package cli

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

func TestMain(m *testing.M) { os.Exit(kubelet.Main(m)) }

// Values that no output may hold unless --reveal asks for it.
const (
	canary       = "canary-value-4711"
	clientSecret = "canary-client-secret-0815"
)

const seed = `
tenants:
- id: 11111111-1111-1111-1111-111111111111
  applications:
  - clientID: 22222222-2222-2222-2222-222222222222
    objectID: 22222222-0000-0000-0000-000000000000
    secrets: [{value: ` + clientSecret + `}, {value: canary-old, expires: 2020-01-01T00:00:00Z}]
    federated:
    - {issuer: "https://oidc.example.com/cluster/", subject: "system:serviceaccount:default:app"}
managedIdentities: [{clientID: machine, objectID: machine-oid, system: true}]
vaults:
- name: contoso
  tenant: 11111111-1111-1111-1111-111111111111
  grants:
  - {clientID: 22222222-2222-2222-2222-222222222222, permissions: ["secrets/*", "keys/get"]}
  - {clientID: machine, permissions: ["secrets/get"]}
  secrets:
  - {name: db, value: ` + canary + `, version: "0123456789abcdef0123456789abcdef"}
  - {name: off, value: ` + canary + `, disabled: true}
  - {name: old, value: ` + canary + `, expires: 2020-01-01T00:00:00Z}
  - {name: next, value: ` + canary + `, notBefore: 2199-01-01T00:00:00Z}
  - {name: many, value: ` + canary + `1, version: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", created: 2025-01-01T00:00:00Z}
  - {name: many, value: ` + canary + `2, version: "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", created: 2026-01-01T00:00:00Z, expires: 2199-01-01T00:00:00Z}
  - {name: binary, value: "/w==", version: "cccccccccccccccccccccccccccccccc"}
  certificates: [{name: tls, chain: 1, keyType: EC}]
- name: policies
  tenant: 11111111-1111-1111-1111-111111111111
  policies: true
  secrets: [{name: db, value: ` + canary + `}]
- name: behind
  tenant: 11111111-1111-1111-1111-111111111111
  network: firewall
  secrets: [{name: db, value: ` + canary + `}]
- name: foreign
  tenant: 99999999-9999-9999-9999-999999999999
  secrets: [{name: db, value: ` + canary + `}]
`

// session is what a person works with: a directory, an environment, and an emulator.
type session struct {
	*testing.T
	*emulator.Server
	dir string
	env map[string]string
	// program is keyvault-csi where empty.
	program string
}

// asPerson is the environment of a person with a service principal.
func asPerson() map[string]string {
	return map[string]string{
		"AZURE_TENANT_ID": kubelet.Tenant, "AZURE_CLIENT_ID": kubelet.Client, "AZURE_CLIENT_SECRET": clientSecret,
	}
}

func newSession(t *testing.T) *session {
	t.Helper()
	d := &session{T: t, Server: emulatortest.Start(t, seed), dir: t.TempDir(), env: map[string]string{}}
	for _, v := range emulatortest.Environment(t, d.Server) {
		name, value, _ := strings.Cut(v, "=")
		d.env[name] = value
	}
	maps.Copy(d.env, asPerson())
	return d
}

// in is the session for a subtest, whose failures are the subtest's own.
func (d *session) in(t *testing.T) *session {
	own := *d
	own.T = t
	return &own
}

// file writes a file and returns its path.
func (d *session) file(name, text string) string {
	d.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		d.Fatal(err)
	}
	return path
}

// class writes a class with the objects; more parameters go over the usual ones, "-" takes one away.
func (d *session) class(name string, more map[string]string, objects ...string) string {
	d.Helper()
	return d.file(name+".yaml", classText(d.T, name, more, objects...))
}

func classText(t *testing.T, name string, more map[string]string, objects ...string) string {
	t.Helper()
	parameters := map[string]string{"keyvaultName": kubelet.Vault, "tenantID": kubelet.Tenant, "clientID": kubelet.Client}
	if len(objects) > 0 {
		parameters["objects"] = kubelet.Objects(objects...)
	}
	maps.Copy(parameters, more)
	maps.DeleteFunc(parameters, func(_, v string) bool { return v == "-" })
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
		"metadata": map[string]any{"name": name, "namespace": "default"},
		"spec":     map[string]any{"provider": "azure", "parameters": parameters},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// result is what a run left.
type result struct {
	stdout, stderr string
	exit           int
}

func (r result) String() string {
	return fmt.Sprintf("exit %d\n--- stdout\n%s\n--- stderr\n%s", r.exit, r.stdout, r.stderr)
}

func (d *session) command(more map[string]string, args ...string) *exec.Cmd {
	env := maps.Clone(d.env)
	env["PATH"], env["HOME"] = d.dir, d.dir // no az, no kubeconfig of the machine
	maps.Copy(env, more)
	c := exec.CommandContext(d.Context(), cmp.Or(d.program, binaries.Driver(d)), args...) //nolint:gosec // the test's own command
	c.Dir = d.dir
	c.Env = binaries.Environment()
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if env[name] != "-" {
			c.Env = append(c.Env, name+"="+env[name])
		}
	}
	return c
}

// run runs the binary with more variables; "-" takes one away.
func (d *session) run(more map[string]string, args ...string) result {
	d.Helper()
	c := d.command(more, args...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		d.Fatal(err)
	}
	return result{stdout: stdout.String(), stderr: stderr.String(), exit: c.ProcessState.ExitCode()}
}

// secretless fails where a canary is in the output.
func (d *session) secretless(r result) {
	d.Helper()
	if all := r.stdout + r.stderr; strings.Contains(all, "canary") || strings.Contains(all, "PRIVATE KEY") {
		d.Errorf("a secret is in the output: %s", r)
	}
}
