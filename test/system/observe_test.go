package system

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/audit"
	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// run runs a command of the driver's binary and returns its output.
func run(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	c := exec.CommandContext(t.Context(), binaries.Driver(t), args...) //nolint:gosec // the test's own
	c.Env = append(os.Environ(), "HTTP_PROXY=http://127.0.0.1:1")
	var out, errOut bytes.Buffer
	c.Stdout, c.Stderr = &out, &errOut
	if err := c.Run(); err != nil {
		return errOut.String(), err
	}
	return out.String(), nil
}

func auditLines(t *testing.T, path string) []audit.Line {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	var lines []audit.Line
	for text := range bytes.Lines(data) {
		var line audit.Line
		must(t, json.Unmarshal(text, &line))
		lines = append(lines, line)
	}
	return lines
}

func TestAuditLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	n := kubelet.Start(t, kubelet.Seed, "--audit-log", path, "--rotation-interval", "1s", "--cache-ttl", "5s")
	n.Secret("s", canary)
	n.Secret("t", "steady")
	n.Class("c", map[string]string{"objects": kubelet.Objects("s", "t")})
	n.MustPublish("a", "c")
	n.MustPublish("b", "c")
	mounted := func(pod string) (found []audit.Line) {
		for _, l := range auditLines(t, path) {
			if l.Pod == pod && l.Event == "mounted" {
				found = append(found, l)
			}
		}
		return found
	}
	n.Eventually("four lines", func() bool { return len(mounted("a"))+len(mounted("b")) == 4 })
	first, second := mounted("a")[0], mounted("b")[0]
	if first.Source != "fetched" || second.Source != "cached" {
		t.Errorf("sources %q and %q", first.Source, second.Source)
	}
	if first.Node != "node-1" || first.Namespace != "default" || first.PodUID != "uid-a" || first.ServiceAccount != "app" ||
		first.Class != "c" || !strings.Contains(first.Identity, kubelet.Client) || !strings.HasPrefix(first.Vault, "contoso.vault") ||
		first.Object != "secret/s" || first.Path != "s" || first.Version == "" || first.RequestID == "" || first.Time.IsZero() {
		t.Errorf("%+v", first)
	}
	// a new version reaches both pods; the object that did not change is not logged again
	n.Secret("s", canary+"2")
	rotated := func() (found []audit.Line) {
		for _, l := range auditLines(t, path) {
			if l.Event == "rotated" {
				found = append(found, l)
			}
		}
		return found
	}
	n.Eventually("both rotations", func() bool { return len(rotated()) >= 2 })
	for _, l := range rotated() {
		if l.Object != "secret/s" || l.Version == first.Version {
			t.Errorf("%+v", l)
		}
	}
	// rename and hang up, as logrotate does
	must(t, os.Rename(path, path+".1"))
	must(t, syscall.Kill(n.PID(), syscall.SIGHUP))
	n.Eventually("a new file", func() bool { _, err := os.Stat(path); return err == nil })
	n.MustPublish("c", "c")
	n.Eventually("lines in the new file", func() bool { return len(mounted("c")) == 2 })
	for _, file := range []string{path, path + ".1"} {
		if data, err := os.ReadFile(file); err != nil || bytes.Contains(data, []byte(canary)) {
			t.Errorf("%s: a secret value, or %v", file, err)
		}
	}
}

// A full disk loses lines, says so, and stops no pod.
func TestAuditLogThatFails(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--audit-log", "/dev/full", "--http-addr", kubelet.AnyPort)
	address := n.Address("health and metrics")
	n.Secret("s", canary)
	n.Class("c", map[string]string{"objects": kubelet.Objects("s")})
	n.MustPublish("a", "c")
	n.MustPublish("b", "c")
	n.Eventually("the metric", func() bool {
		_, body := get(t, "http://"+address+"/metrics")
		return strings.Contains(body, "\nkeyvault_csi_audit_errors_total 2\n")
	})
	if got := strings.Count(n.Log(), "the audit log cannot be written"); got != 1 {
		t.Errorf("logged %d times", got)
	}
}

func TestStatusAndLogLevel(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--admin-addr", kubelet.AnyPort, "--rotation-interval", "1h", "--cache-ttl", "0s", "--v", "0")
	address := n.Address("admin")
	n.Secret("s", canary)
	n.Class("c", map[string]string{"objects": kubelet.Objects("s")})
	n.Class("broken", map[string]string{"objects": kubelet.Objects("missing")})
	n.MustPublish("a", "c")
	if err := n.Publish("b", "broken"); err == nil {
		t.Fatal("a missing secret was mounted")
	}
	text, err := run(t, "status", "--admin-addr", address, "-o", "json")
	must(t, err)
	var s struct {
		Driver, Node string
		Ready        bool
		Volumes      []struct {
			Namespace, Pod, ServiceAccount, Class, Identity string
			FetchedAt, NextRefresh                          time.Time
			Objects                                         []struct{ Vault, Object, Version, Path string }
		}
		Sources  []struct{ Source, Identity string }
		Hosts    []struct{ Host string }
		Troubles []struct{ Kind, Reason, Pod, Message, RequestID string }
	}
	must(t, json.Unmarshal([]byte(text), &s))
	if s.Driver != "secrets-store.csi.k8s.io" || s.Node != "node-1" || !s.Ready || len(s.Volumes) != 1 || len(s.Sources) != 1 ||
		len(s.Hosts) != 2 || len(s.Troubles) != 1 {
		t.Fatalf("%s", text)
	}
	v, trouble := s.Volumes[0], s.Troubles[0]
	if v.Namespace != "default" || v.Pod != "a" || v.ServiceAccount != "app" || v.Class != "c" || !strings.Contains(v.Identity, kubelet.Client) ||
		v.FetchedAt.IsZero() || !v.NextRefresh.After(v.FetchedAt) || len(v.Objects) != 1 || v.Objects[0].Version == "" ||
		v.Objects[0].Object != "secret/s" || v.Objects[0].Path != "s" {
		t.Errorf("%+v", v)
	}
	if trouble.Kind != "PublishFailed" || trouble.Reason != "NotFound" || trouble.Pod != "b" || trouble.RequestID == "" ||
		!strings.Contains(trouble.Message, "missing") {
		t.Errorf("%+v", trouble)
	}
	table, err := run(t, "status", "--admin-addr", address)
	must(t, err)
	for _, want := range []string{"default/a", "fresh", "secret/s", "contoso.vault.azure.net", "NotFound", "ready"} {
		if !strings.Contains(table, want) {
			t.Errorf("the table lacks %q", want)
		}
	}
	if strings.ContainsRune(table, '\x1b') || strings.Contains(table+text, canary) {
		t.Error("colours in a pipe, or a secret value")
	}

	// the level changes while it runs, for the driver, the SDK and the libraries
	if strings.Contains(n.Log(), `"level":"DEBUG`) {
		t.Error("debug lines at verbosity 0")
	}
	for _, wrong := range []string{"11", "-1", "loud"} {
		if out, err := run(t, "log-level", "--admin-addr", address, "--", wrong); err == nil || !strings.Contains(out, "0 to 10") {
			t.Errorf("%s: %q, %v", wrong, out, err)
		}
	}
	out, err := run(t, "log-level", "--admin-addr", address, "10")
	if err != nil || out != "10\n" {
		t.Errorf("%q, %v", out, err)
	}
	n.MustPublish("c", "c")
	for _, want := range []string{"call done", `"from":"azure sdk"`, "X-Ms-Request-Id"} {
		n.Eventually("the log at verbosity 10 to have "+want, func() bool { return strings.Contains(n.Log(), want) })
	}
	if out, err = run(t, "log-level", "--admin-addr", address); err != nil || out != "10\n" {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := run(t, "status", "--admin-addr", freePort(t)); err == nil || !strings.Contains(out, "--admin-addr") {
		t.Errorf("nothing listens there: %q, %v", out, err)
	}
	for _, wrong := range []string{"0.0.0.0:8096", "192.0.2.1:1", "[::]:1", "node:1", "x"} {
		if out, err := run(t, "driver", "--node-id", "x", "--admin-addr", wrong); err == nil || !strings.Contains(out, "--admin-addr") {
			t.Errorf("%s: %q, %v", wrong, out, err)
		}
	}
}

// A failure is one line of the log, for all volumes that it affects, with the pod and the vault's request id.
func TestOneStoryPerFailure(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--rotation-interval", "1s", "--cache-ttl", "0s", "--v", "0")
	n.Secret("s", canary)
	n.Class("c", map[string]string{"objects": kubelet.Objects("s")})
	n.Class("broken", map[string]string{"objects": kubelet.Objects("s", "missing")})
	n.MustPublish("a", "c")
	loud := func() (lines []string) {
		for line := range strings.Lines(n.Log()) {
			if strings.Contains(line, `"level":"WARN"`) || strings.Contains(line, `"level":"ERROR"`) {
				if !strings.Contains(line, "noswap") { // of this machine's kernel
					lines = append(lines, line)
				}
			}
		}
		return lines
	}
	if err := n.Publish("b", "broken"); err == nil {
		t.Fatal("a missing secret was mounted")
	}
	if lines := loud(); len(lines) != 1 || !strings.Contains(lines[0], "default/b") || !strings.Contains(lines[0], "x-ms-request-id") {
		t.Errorf("a failed publish: %v", lines)
	}
	n.Emulator.AddFault(emulator.Fault{Kind: emulator.FaultStatus, Status: 503, Host: "contoso.vault.azure.net"})
	n.Eventually("the failed refresh in the log", func() bool { return len(loud()) == 2 })
	n.Eventually("more failures", func() bool { return len(n.Emulator.Requests()) > 6 })
	if lines := loud(); len(lines) != 2 || !strings.Contains(lines[1], "the files stay as they are") {
		t.Errorf("failed refreshes: %v", lines)
	}
}

// The driver starts and is ready while nothing of Azure can be reached.
func TestStartNeedsNoAzure(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--http-addr", kubelet.AnyPort)
	n.Emulator.AddFault(emulator.Fault{Kind: emulator.FaultConnect, Status: 502})
	n.Stop(syscall.SIGTERM)
	n.Emulator.ResetRequests()
	n.Run()
	if code, body := get(t, "http://"+n.Address("health and metrics")+"/readyz"); code != http.StatusOK {
		t.Errorf("%d %s", code, body)
	}
	if requests := n.Emulator.Requests(); len(requests) > 0 {
		t.Errorf("the start made requests: %v", requests)
	}
}
