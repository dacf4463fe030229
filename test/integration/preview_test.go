//go:build integration

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// developer may read classes and have tokens of the service account app, and nothing else.
const developer = `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: developer, namespace: %[1]s}
rules:
- {apiGroups: [secrets-store.csi.x-k8s.io], resources: [secretproviderclasses], verbs: [get]}
- {apiGroups: [""], resources: [serviceaccounts/token], resourceNames: [app], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: developer, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: developer}
subjects: [{kind: User, name: "dev-%[1]s", apiGroup: rbac.authorization.k8s.io}]
`

// TestPreviewAsServiceAccount asks a real API server for the class and for a token of a service account, with the rights of a
// developer, and Entra ID and the vault with that token.
func TestPreviewAsServiceAccount(t *testing.T) {
	c := controlplane.Shared(t)
	c.ApplyCRDs()
	shop := c.Namespace()
	c.CreateServiceAccount(shop, "app")
	c.CreateServiceAccount(shop, "other")
	c.ApplyYAML(fmt.Sprintf(class, "web", shop))
	c.ApplyYAML(fmt.Sprintf(developer, shop))
	for _, user := range []string{"dev-" + shop, "stranger-" + shop} {
		if err := c.AddUser(user); err != nil {
			t.Fatal(err)
		}
	}
	server := emulatortest.Start(t, kubelet.InCluster(seedFor(shop), c.TokenIssuer()))
	if err := server.Apply(emulator.Seed{Issuers: []emulator.Issuer{c.TokenIssuer()}}); err != nil {
		t.Fatal(err)
	}
	if _, err := server.SetSecret(kubelet.Vault, emulator.Secret{Name: "db", Value: "canary"}); err != nil {
		t.Fatal(err)
	}
	env := append(binaries.Environment("HOME="+t.TempDir(), "PATH="+os.Getenv("PATH")), emulatortest.Environment(t, server)...)
	for _, tc := range []struct {
		user string
		args []string
		exit int
		want string
	}{
		{"dev", []string{"preview", shop + "/web", "--service-account", "app"}, 0, "as system:serviceaccount:" + shop + ":app"},
		{"dev", []string{"check", "web", "--namespace", shop, "--service-account", "app"}, 0, "answers as a vault of tenant " + kubelet.Tenant},
		{"dev", []string{"check", shop + "/web", "--service-account", "other"}, 1, "ask for the right to create serviceaccounts/token"},
		{"dev", []string{"check", shop + "/nowhere", "--service-account", "app"}, 1, shop + "/nowhere was not found"},
		{"stranger", []string{"preview", shop + "/web", "--service-account", "app"}, 1, "ask for the right to get secretproviderclasses"},
	} {
		args := append(tc.args, "--kubeconfig", c.Kubeconfig(tc.user+"-"+shop)) //nolint:gocritic // each case has its own
		cmd := exec.CommandContext(t.Context(), binaries.Driver(t), args...)    //nolint:gosec // the test's own command
		cmd.Env = env
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
			t.Fatal(err)
		}
		if cmd.ProcessState.ExitCode() != tc.exit || !strings.Contains(out.String(), tc.want) || strings.Contains(out.String(), "canary") {
			t.Errorf("%s: %v: exit %d:\n%s", tc.user, tc.args, cmd.ProcessState.ExitCode(), &out)
		}
	}
}
