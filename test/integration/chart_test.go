//go:build integration

package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
)

// helm runs Helm against a control plane.
func helm(t *testing.T, c *controlplane.ControlPlane, args ...string) (string, error) {
	t.Helper()
	root, err := binaries.Root()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), binaries.Helm(t), append([]string{"--kubeconfig", c.AdminKubeconfig()}, args...)...) //nolint:gosec // the project's own tool
	var out bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = root, &out, &out
	err = cmd.Run()
	return out.String(), err
}

// all enables the options whose objects the API server knows without further CustomResourceDefinitions.
const all = "syncSecret.enabled=true,serviceAccountAnnotations.enabled=true,rbac.ownerReferences=true,emulator.enabled=true," +
	"networkPolicy.enabled=true,openshift.scc=privileged,linux.hostNetwork=true,linux.metricsAddr=127.0.0.1:9095," +
	"proxy.https=http://proxy:3128,linux.podAnnotations.a=b,linux.driver.resources.limits.memory=1Gi,commonLabels.team=platform"

// before are objects of the Secrets Store CSI Driver, as its chart leaves them in a cluster.
const before = `
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata:
  name: secrets-store.csi.k8s.io
  labels: {app.kubernetes.io/managed-by: Helm}
  annotations: {meta.helm.sh/release-name: csi, meta.helm.sh/release-namespace: kube-system}
spec:
  podInfoOnMount: true
  attachRequired: false
  volumeLifecycleModes: [Ephemeral]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: secretproviderclasses.secrets-store.csi.x-k8s.io
  labels: {app.kubernetes.io/managed-by: Helm}
  annotations: {meta.helm.sh/release-name: csi, meta.helm.sh/release-namespace: kube-system}
spec:
  group: secrets-store.csi.x-k8s.io
  names: {kind: SecretProviderClass, listKind: SecretProviderClassList, plural: secretproviderclasses, singular: secretproviderclass}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: &schema {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
  - name: v1alpha1
    served: true
    storage: false
    deprecated: true
    schema: *schema
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: secretproviderclasspodstatuses.secrets-store.csi.x-k8s.io
spec:
  group: secrets-store.csi.x-k8s.io
  names: {kind: SecretProviderClassPodStatus, listKind: SecretProviderClassPodStatusList, plural: secretproviderclasspodstatuses, singular: secretproviderclasspodstatus}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

const oldClass = `
apiVersion: secrets-store.csi.x-k8s.io/v1alpha1
kind: SecretProviderClass
metadata: {name: old, namespace: default}
spec: {provider: azure, parameters: {keyvaultName: kv1, tenantID: t, objects: "array: []"}}
`

// TestChartOverAnotherDriversObjects follows docs/migration.md: it installs over the objects of another installation, and uninstalls.
func TestChartOverAnotherDriversObjects(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{})
	release := func(verb string, more ...string) (string, error) {
		t.Helper()
		return helm(t, c, append([]string{verb, "keyvault-csi", "deploy/chart", "--namespace", "kube-system", "--set", all}, more...)...)
	}
	c.ApplyYAML(before)
	c.Eventually("the class", func() bool { _, err := c.Kubectl(oldClass, "apply", "-f", "-"); return err == nil })

	if out, err := release("install"); err == nil || !strings.Contains(out, "invalid ownership metadata") {
		t.Errorf("objects of another release are taken without a word: %v\n%s", err, out)
	}
	out, err := release("install", "--take-ownership", "--set", "livenessProbe.port=9808,linux.registrar.logVerbosity=5")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, text := range []string{"secretProviderClass: NAME", "livenessProbe: the driver answers probes itself", "linux.registrar: the driver registers itself", "emulator"} {
		if !strings.Contains(out, text) {
			t.Errorf("the notes do not say %q:\n%s", text, out)
		}
	}
	if strings.Contains(out, "Warning") || strings.Contains(out, "warning") {
		t.Errorf("the API server warns:\n%s", out)
	}
	authority := c.MustKubectl("", "get", "secret", "keyvault-csi-emulator", "-n", "kube-system", "-o", "jsonpath={.data}")
	if out, err := release("upgrade", "--set", "logVerbosity=2"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if after := c.MustKubectl("", "get", "secret", "keyvault-csi-emulator", "-n", "kube-system", "-o", "jsonpath={.data}"); after != authority || len(after) < 1000 {
		t.Error("an upgrade makes another authority")
	}
	var driver struct {
		Spec struct {
			RequiresRepublish, ServiceAccountTokenInSecrets bool
			FSGroupPolicy                                   string
		}
	}
	must(t, json.Unmarshal([]byte(c.MustKubectl("", "get", "csidriver", "secrets-store.csi.k8s.io", "-o", "json")), &driver))
	if !driver.Spec.RequiresRepublish || driver.Spec.ServiceAccountTokenInSecrets != c.Since("1.35") || driver.Spec.FSGroupPolicy != "File" {
		t.Errorf("%+v", driver)
	}
	if columns := c.MustKubectl("", "get", "secretproviderclasses"); !strings.Contains(columns, "kv1") {
		t.Errorf("the class, as this chart's definition shows it:\n%s", columns)
	}
	if out, err := helm(t, c, "uninstall", "keyvault-csi", "--namespace", "kube-system"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.MustKubectl("", "get", "secretproviderclass/old", "csidriver/secrets-store.csi.k8s.io",
		"crd/secretproviderclasspodstatuses.secrets-store.csi.x-k8s.io")
	if left := c.MustKubectl("", "get", "clusterroles,clusterrolebindings,validatingadmissionpolicies,daemonsets,deployments,services,secrets", "-A",
		"-l", "app.kubernetes.io/instance=keyvault-csi", "-o", "name"); left != "" {
		t.Errorf("left after uninstalling:\n%s", left)
	}
	// A second installation of the release finds its own objects.
	if out, err := release("install"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := helm(t, c, "install", "blue", "deploy/chart", "--namespace", "kube-system", "--set", "driverName=blue.csi.example,linux.crds.enabled=false"); err != nil {
		t.Errorf("side by side: %v\n%s", err, out)
	}
}

// oldChart is what the release of another driver consists of, as far as Helm sees it. CustomResourceDefinitions are not of it: a job of that chart
// applies them.
var oldChart = map[string]string{
	"Chart.yaml":  "apiVersion: v2\nname: csi-secrets-store-provider-azure\nversion: 1.8.2\n",
	"values.yaml": "secrets-store-csi-driver: {install: true}\n",
	"templates/all.yaml": `
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: secrets-store.csi.k8s.io}
spec: {podInfoOnMount: true, attachRequired: false, volumeLifecycleModes: [Ephemeral], requiresRepublish: true}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: secrets-store-csi-driver, namespace: kube-system}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: csi-secrets-store-provider-azure, namespace: kube-system}
spec:
  selector: {matchLabels: {app: csi-secrets-store-provider-azure}}
  template:
    metadata: {labels: {app: csi-secrets-store-provider-azure}}
    spec:
      containers: [{name: provider-azure-installer, image: "example.com/provider-azure:v1.8.2"}]
`,
}

// TestUpgradeOfTheOldRelease replaces another driver in place, as docs/migration.md says: with its own release, and helm upgrade.
func TestUpgradeOfTheOldRelease(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{})
	old := t.TempDir()
	for name, text := range oldChart {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(old, name)), 0o750))
		must(t, os.WriteFile(filepath.Join(old, name), []byte(text), 0o600))
	}
	documents := strings.SplitN(before, "\n---\n", 2) // without the CSIDriver
	c.ApplyYAML(strings.ReplaceAll(documents[1], "meta.helm.sh/release-name: csi, meta.helm.sh/release-namespace: kube-system", ""))
	c.Eventually("the class", func() bool { _, err := c.Kubectl(oldClass, "apply", "-f", "-"); return err == nil })
	run := func(args ...string) (string, error) {
		t.Helper()
		return helm(t, c, append(args, "--namespace", "kube-system")...)
	}
	if out, err := run("install", "csi", old, "--set", "secrets-store-csi-driver.syncSecret.enabled=true"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, tt := range []struct {
		why   string
		flags []string
		want  string // the error; empty where it works
	}{
		{"the old values stay", nil, "secrets-store-csi-driver.syncSecret.enabled: there is no chart below this one: write syncSecret.enabled=true"},
		{"definitions that are no release's", []string{"--reset-values"}, "invalid ownership metadata"},
		{"without the definitions", []string{"--reset-values", "--set", "linux.crds.enabled=false,syncSecret.enabled=true"}, ""},
		{"as documented", []string{"--reset-values", "--take-ownership", "--set", "syncSecret.enabled=true"}, ""},
	} {
		out, err := run(append([]string{"upgrade", "csi", "deploy/chart"}, tt.flags...)...)
		if (err != nil) != (tt.want != "") || !strings.Contains(out, tt.want) {
			t.Fatalf("%s: %v\n%s", tt.why, err, out)
		}
	}
	if sets := c.MustKubectl("", "-n", "kube-system", "get", "daemonsets", "-o", "name"); sets != "daemonset.apps/csi-keyvault-csi\n" {
		t.Errorf("DaemonSets: %s", sets)
	}
	if audiences := c.MustKubectl("", "get", "csidriver", "secrets-store.csi.k8s.io", "-o", "jsonpath={.spec.tokenRequests[*].audience}"); !strings.Contains(audiences, "api://AzureADTokenExchange") {
		t.Errorf("the CSIDriver asks for tokens of %q", audiences)
	}
	if columns := c.MustKubectl("", "get", "secretproviderclasses"); !strings.Contains(columns, "kv1") {
		t.Errorf("the class, as this chart's definition shows it:\n%s", columns)
	}
	if out, err := run("uninstall", "csi"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	c.MustKubectl("", "get", "secretproviderclass/old", "csidriver/secrets-store.csi.k8s.io")
}

// TestChartDryRun has the API server validate every object of the chart and of the manifests strictly.
func TestChartDryRun(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{})
	for name, args := range map[string][]string{"as it is": nil, "everything": {"--set", all}} {
		objects, err := helm(t, c, append([]string{"template", "keyvault-csi", "deploy/chart", "--namespace", "kube-system", "--kube-version", c.Version()}, args...)...)
		if err != nil {
			t.Fatalf("%v\n%s", err, objects)
		}
		if out, err := c.Kubectl(objects, "apply", "--dry-run=server", "--validate=strict", "-f", "-"); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	root, err := binaries.Root()
	must(t, err)
	// Secret sync is turned on later.
	manifests := root + "/deploy/manifests/kubernetes-1.32-to-1.34"
	if c.Since("1.35") {
		manifests = root + "/deploy/manifests/kubernetes-1.35"
	}
	c.Apply(manifests + ".yaml")
	c.Apply(manifests + "-secret-sync.yaml")
}
