//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/audit"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	must(t, err)
	resp, err := new(http.Client).Do(req)
	if err != nil {
		return 0, err.Error() // nothing listens yet
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(body)
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return string(text)
}

// auditLines are those of an audit log that is being written: a last line without its end is left out.
func auditLines(t *testing.T, path string) (lines []audit.Line) {
	t.Helper()
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil
	}
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			continue
		}
		var one audit.Line
		must(t, json.Unmarshal([]byte(line), &one))
		lines = append(lines, one)
	}
	return lines
}

// TestControllerIsObserved: metrics, probes and the audit log say what the controller does.
func TestControllerIsObserved(t *testing.T) {
	t.Parallel()
	metrics, health, lines := freeAddress(t), freeAddress(t), filepath.Join(t.TempDir(), "audit.log")
	s := newController(t, controlplane.Shared(t), "--metrics-addr", metrics, "--health-addr", health, "--audit-log", lines)
	s.set("db", canaryValue+"1")
	s.class("web", []string{"db"})
	s.class("lost", []string{"nothing"})
	s.sync("shop-db", "web", "{sourcePath: db, targetKey: password}")
	s.sync("broken", "lost", "{sourcePath: nothing, targetKey: k}")
	s.Eventually("the Secret", func() bool { return s.holds("shop-db", "password", canaryValue+"1") })
	scraped := ""
	for _, want := range []string{
		`keyvault_csi_secretsync_syncs_total{reason="",result="created"} 1`,
		`keyvault_csi_secretsyncs{state="synced"} 1`,
		`keyvault_csi_secretsyncs{state="failing"} 1`,
		`keyvault_csi_secretsync_syncs_total{reason="NotFound",result="failed"} `,
		`workqueue_depth{controller="secretsync",name="secretsync"`,
		`keyvault_csi_vault_requests_total{operation="get secret",reason=""} `,
		`keyvault_csi_token_requests_total{mode="workload identity",reason=""} `,
		`keyvault_csi_gate_in_flight{host="contoso.vault.azure.net"} `,
		`keyvault_csi_panics_total 0`,
	} {
		s.Eventually(want, func() bool {
			_, scraped = fetch(t, "http://"+metrics+"/metrics")
			return strings.Contains(scraped, want)
		})
	}
	oldest := func() float64 {
		_, text := fetch(t, "http://"+metrics+"/metrics")
		_, after, _ := strings.Cut(text, "\nkeyvault_csi_secretsync_oldest_unsynced_seconds ")
		value, _, _ := strings.Cut(after, "\n")
		age, err := strconv.ParseFloat(value, 64)
		must(t, err)
		return age
	}
	s.Eventually("the age of the failure", func() bool { return oldest() > 0 })
	s.set("nothing", canaryValue+"n")
	s.Eventually("the end of the failure", func() bool { return oldest() == 0 })
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, text := fetch(t, "http://"+health+path); code != 200 {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	var line audit.Line
	s.Eventually("the audit log", func() bool {
		for _, line = range auditLines(t, lines) {
			if line.Secret == "shop-db" {
				return true
			}
		}
		return false
	})
	if line.Event != "synced" || line.Namespace != s.shop || line.ServiceAccount != "app" || line.Class != "web" || line.Identity == "" ||
		line.Vault != "contoso.vault.azure.net" || line.Object != "secret/db" || line.Version == "" || line.Path != "db" ||
		line.Source != "fetched" || line.RequestID == "" || line.Pod != "" {
		t.Errorf("%+v", line)
	}
	for _, text := range []string{scraped, fmt.Sprint(auditLines(t, lines))} {
		if strings.Contains(text, canaryValue) {
			t.Error("a value is in the metrics or in the audit log")
		}
	}
	s.noCanaryIn(t)
}

// TestLeaderIsReplaced kills the leader while values change and SecretSyncs come: the other replica takes over, nothing is lost, and no value
// is written twice.
func TestLeaderIsReplaced(t *testing.T) {
	t.Parallel()
	const count = 15
	s := newController(t, controlplane.Shared(t), "--leader-elect", "--audit-log", "-")
	first := s.log
	name := func(i int) string { return fmt.Sprintf("load-%d", i) }
	s.class("load", []string{"db", "mail"})
	s.set("db", canaryValue+"0")
	s.set("mail", canaryValue+"m")
	for i := range count {
		s.sync(name(i), "load", "{sourcePath: db, targetKey: k}")
	}
	s.Eventually("the leader's work", func() bool { return s.holds(name(count-1), "k", canaryValue+"0") })
	second := filepath.Join(t.TempDir(), "second.log")
	s.launchTo(t, second, "--leader-elect", "--audit-log", "-")
	s.Eventually("the other replica", func() bool { return strings.Contains(content(t, second), "Attempting to acquire leader lease") })
	// the leader dies in the middle of this
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := 1; i <= 20; i++ {
			_, _ = s.vault.SetSecret(kubelet.Vault, emulator.Secret{Name: "db", Value: canaryValue + strconv.Itoa(i)})
			time.Sleep(100 * time.Millisecond)
		}
	}()
	s.Eventually("a change", func() bool { return strings.Count(content(t, first), `"event":"synced"`) > count })
	s.stop(syscall.SIGKILL)
	died := time.Now()
	<-written
	s.sync("late", "load", "{sourcePath: mail, targetKey: k}")
	s.Eventually("the new leader", func() bool { return strings.Contains(content(t, second), "Successfully acquired lease") })
	t.Logf("the other replica leads %v after the leader was killed", time.Since(died).Round(100*time.Millisecond))
	for i := range count {
		s.Eventually("the newest value in "+name(i), func() bool { return s.holds(name(i), "k", canaryValue+"20") })
	}
	s.Eventually("what came in between", func() bool { return s.holds("late", "k", canaryValue+"m") })
	delivered := map[string]bool{}
	for _, log := range []string{first, second} {
		for line := range strings.Lines(content(t, log)) {
			var one audit.Line
			if !strings.HasPrefix(line, `{"time"`) || json.Unmarshal([]byte(line), &one) != nil || one.Event != "synced" {
				continue
			}
			key := one.Secret + " " + one.Object + " " + one.Version
			if delivered[key] {
				t.Errorf("%s is written twice", key)
			}
			delivered[key] = true
		}
	}
	s.noCanaryIn(t)
}

// TestControllerInARestrictedNamespace: the Pods of the Deployment are admitted where the restricted Pod Security Standard is enforced.
func TestControllerInARestrictedNamespace(t *testing.T) {
	t.Parallel()
	c := controlplane.Shared(t)
	namespace := c.Namespace()
	c.MustKubectl("", "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
	c.CreateServiceAccount(namespace, "controller")
	var d struct {
		Spec struct{ Template struct{ Spec map[string]any } }
	}
	must(t, yaml.Unmarshal([]byte(template(t, c.Version(), "controller", "kube-system", "templates/controller.yaml", "Deployment", "controller.enabled=true")), &d))
	d.Spec.Template.Spec["serviceAccountName"] = "controller"
	delete(d.Spec.Template.Spec, "priorityClassName") // one of the cluster's own
	try := func(edit func(container map[string]any)) error {
		container := d.Spec.Template.Spec["containers"].([]any)[0].(map[string]any)
		edit(container)
		pod, err := json.Marshal(map[string]any{
			"apiVersion": "v1", "kind": "Pod", "metadata": map[string]string{"name": "controller", "namespace": namespace}, "spec": d.Spec.Template.Spec,
		})
		must(t, err)
		_, err = c.Kubectl(string(pod), "create", "--dry-run=server", "-f", "-")
		return err
	}
	if err := try(func(map[string]any) {}); err != nil {
		t.Error(err)
	}
	err := try(func(container map[string]any) { delete(container, "securityContext") })
	if err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
		t.Errorf("the standard is not enforced: %v", err)
	}
}
