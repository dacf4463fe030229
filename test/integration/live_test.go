//go:build integration

package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// validateLive runs the command and returns its exit code and all that it prints.
func validateLive(t *testing.T, kubeconfig string, args ...string) (exit int, printed string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binaries.Driver(t), append([]string{"validate", "--live", "--kubeconfig", kubeconfig}, args...)...) //nolint:gosec // the test's own command
	cmd.Env = binaries.Environment("HOME=" + t.TempDir())
	out, err := cmd.CombinedOutput()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// TestValidateLiveKeepsWhatItHas: a page that fails for a while is asked for again, and one that fails for good leaves the findings of
// those before.
func TestValidateLiveKeepsWhatItHas(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{})
	s := install(t, c)
	makeClasses(t, c.Admin(), s.shop, 510)
	s.class("a-warning", "keyvaultName:", "tenentID: x\n    keyvaultName:")
	b, kubeconfig := stand(t, s.kubeconfig("node-1"))
	failures := func(count int) {
		var left atomic.Int32
		left.Store(int32(count)) //nolint:gosec // small
		b.set(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Query().Get("continue") == "" || left.Add(-1) < 0 {
				return false
			}
			http.Error(w, "no", http.StatusInternalServerError)
			return true
		})
	}
	for _, tt := range []struct {
		failures, exit int
		wants          []string
	}{
		{2, 0, []string{"a-warning: warning: tenentID", "511 classes checked, 1 finding"}},
		{1000, 2, []string{"a-warning: warning: tenentID", "500 classes checked, 1 finding", "not everything was checked"}},
	} {
		failures(tt.failures)
		exit, printed := validateLive(t, kubeconfig, "-A")
		if exit != tt.exit {
			t.Errorf("%d failures: exit %d", tt.failures, exit)
		}
		for _, want := range tt.wants {
			if !strings.Contains(printed, want) {
				t.Errorf("%d failures: lacks %q: %s", tt.failures, want, printed)
			}
		}
	}
	exit, printed := validateLive(t, kubeconfig, "-n", s.shop, "a-warning", "nowhere")
	if exit != 2 || !strings.Contains(printed, "a-warning: warning") || !strings.Contains(printed, "nowhere was not found") {
		t.Errorf("one of two names: exit %d: %s", exit, printed)
	}
}

// TestValidateLive checks the classes of a cluster with a person's own rights.
func TestValidateLive(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{})
	namespace, other := c.Namespace(), c.Namespace()
	viewer := "viewer-" + namespace
	must(t, c.AddUser(viewer))
	kubeconfig := c.Kubeconfig(viewer)
	run := func(exit int, wants []string, args ...string) (stdout string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), binaries.Driver(t), append([]string{"validate", "--live", "--kubeconfig", kubeconfig}, args...)...) //nolint:gosec // the test's own command
		var out, problems bytes.Buffer
		cmd.Stdout, cmd.Stderr, cmd.Env = &out, &problems, binaries.Environment("HOME="+t.TempDir())
		err := cmd.Run()
		if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
			t.Fatal(err)
		}
		if cmd.ProcessState.ExitCode() != exit {
			t.Errorf("%v: exit %d, want %d", args, cmd.ProcessState.ExitCode(), exit)
		}
		for _, want := range wants {
			if !strings.Contains(out.String()+problems.String(), want) {
				t.Errorf("%v: lacks %q:\n%s%s", args, want, &out, &problems)
			}
		}
		return out.String()
	}

	run(2, []string{"refuses you", "list secretproviderclasses"}, "-n", namespace)
	c.ApplyYAML("apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: viewer}\nrules:\n" +
		"- {apiGroups: [secrets-store.csi.x-k8s.io], resources: [secretproviderclasses], verbs: [get, list]}\n" +
		"---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: viewer}\n" +
		"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: viewer}\n" +
		"subjects: [{kind: User, name: " + viewer + ", apiGroup: rbac.authorization.k8s.io}]\n")
	c.Eventually("the viewer's rights", func() bool {
		_, err := c.Plane.Kubectl(kubeconfig, "", "get", "--raw", "/apis/secrets-store.csi.x-k8s.io/v1/secretproviderclasses")
		return err != nil && !strings.Contains(strings.ToLower(err.Error()), "forbidden")
	})
	run(2, []string{"CustomResourceDefinitions are not installed"}, "-A")
	c.ApplyCRDs()
	run(2, []string{"no SecretProviderClass was found"}, "-A")

	c.ApplyYAML(fmt.Sprintf(class, "good", namespace))
	run(0, []string{"1 class checked, 0 findings"}, "-n", namespace)
	bad := strings.NewReplacer("objectType: secret", "objectType: sekret", "keyvaultName: "+kubelet.Vault, "keyvaultName: k_v").Replace(fmt.Sprintf(class, "bad", namespace))
	c.ApplyYAML(bad)
	c.ApplyYAML(strings.Replace(fmt.Sprintf(class, "warned", namespace), "keyvaultName:", "tenentID: x\n    keyvaultName:", 1))
	c.ApplyYAML(strings.Replace(fmt.Sprintf(class, "foreign", other), "provider: azure", "provider: vault", 1))
	// two pages of what the API server gives at a time
	var many strings.Builder
	for i := range 600 {
		many.WriteString("---\n" + fmt.Sprintf(class, fmt.Sprintf("many-%03d", i), other))
	}
	c.MustKubectl(many.String(), "create", "-f", "-")

	run(1, []string{
		namespace + `/bad: error: keyvaultName "k_v" is not a vault name`, namespace + `/bad: error: objects[0] "db" objectType "sekret"`,
		namespace + "/warned: warning: tenentID", "did you mean tenantID?", "3 classes checked, 3 findings",
	}, "-n", namespace)
	run(0, []string{"warned: warning", "1 class checked, 1 finding"}, "-n", namespace, "warned")
	run(1, []string{"warned: warning"}, "-n", namespace, "--strict", "warned")
	run(2, []string{namespace + "/nowhere was not found"}, "-n", namespace, "nowhere")
	run(0, []string{other + `/foreign: note: the class is for the provider "vault"`, "601 classes checked"}, "-n", other)
	run(1, []string{"604 classes checked, 3 findings", ", 1 note"}, "-A")
	run(2, []string{"mutually exclusive"}, "-f", "x.yaml", "-A")
	run(2, []string{"mutually exclusive"}, "-A", "-n", namespace)
	run(2, []string{`context "elsewhere" does not exist`}, "--context", "elsewhere")
	var findings []struct {
		File, Severity, Class, Message string
		Line                           int
	}
	text := run(1, nil, "-n", namespace, "-o", "json", "bad")
	if err := json.Unmarshal([]byte(text), &findings); err != nil || len(findings) != 2 || findings[0].Class != namespace+"/bad" ||
		findings[0].Severity != "error" || strings.Contains(text, `"line"`) {
		t.Errorf("JSON: %v: %s", err, text)
	}
	offline := exec.CommandContext(t.Context(), binaries.Driver(t), "validate", "-f", "-", "-n", namespace) //nolint:gosec // the test's own command
	if out, err := offline.CombinedOutput(); err == nil || !strings.Contains(string(out), "need --live") {
		t.Errorf("offline with a namespace: %v: %s", err, out)
	}

	// workloads, with what the API server adds to them
	third := c.Namespace()
	c.ApplyYAML(fmt.Sprintf(class, "good", third))
	pod := func(class string) string {
		return "serviceAccountName: default, restartPolicy: %s, volumes: [{name: v, csi: {driver: secrets-store.csi.k8s.io, readOnly: true, " +
			"volumeAttributes: {secretProviderClass: " + class + "}}}], containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /s}]}]"
	}
	deployment := "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: %s, namespace: " + third + "}\nspec:\n  selector: {matchLabels: {a: b}}\n" +
		"  template: {metadata: {labels: {a: b}}, spec: {" + "%s}}\n"
	c.ApplyYAML(fmt.Sprintf(deployment, "right", fmt.Sprintf(pod("good"), "Always")))
	c.ApplyYAML(fmt.Sprintf(deployment, "wrong", fmt.Sprintf(pod("goodd"), "Always")))
	c.ApplyYAML("apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: nightly, namespace: " + third + "}\nspec:\n  schedule: '0 0 * * *'\n" +
		"  jobTemplate: {spec: {template: {spec: {" + fmt.Sprintf(pod("nothing"), "Never") + "}}}}\n")
	run(0, []string{"1 class checked, 0 findings", "not checked, because you may not list them: deployments, "}, "-n", third)
	c.ApplyYAML("apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: viewer-of-workloads}\nrules:\n" +
		"- {apiGroups: [apps], resources: [deployments, statefulsets, daemonsets, replicasets], verbs: [list]}\n" +
		"- {apiGroups: [batch], resources: [jobs, cronjobs], verbs: [list]}\n" +
		"- {apiGroups: [''], resources: [pods], verbs: [list]}\n" +
		"---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: viewer-of-workloads}\n" +
		"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: viewer-of-workloads}\n" +
		"subjects: [{kind: User, name: " + viewer + ", apiGroup: rbac.authorization.k8s.io}]\n")
	c.Eventually("the viewer's rights on workloads", func() bool {
		_, err := c.Plane.Kubectl(kubeconfig, "", "get", "deployments,cronjobs", "-n", third)
		return err == nil
	})
	if out := run(1, []string{"1 class and 3 workloads checked, 2 findings (2 errors)", `deployment ` + third + `/wrong: error: `, "did you mean good?",
		`cronjob ` + third + `/nightly: error: `}, "-n", third); strings.Contains(out, "right") {
		t.Errorf("a workload without a mistake: %s", out)
	}
}
