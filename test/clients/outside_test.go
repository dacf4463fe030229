//go:build clients

package clients

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
)

const module = "github.com/keyvault-csi/keyvault-csi-driver"

// TestEmulatortestFromAnotherModule runs the example of package emulatortest in a module of its own, which requires this one, and looks at what it
// is built from: nothing of the driver. The network is not used.
func TestEmulatortestFromAnotherModule(t *testing.T) {
	root, err := binaries.Root()
	must(t, err)
	dir := t.TempDir()
	write := func(name, text string) { must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)) }
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(root, name))
		must(t, err)
		return string(text)
	}
	write("go.mod", "module example.com/shop\n\ngo 1.26.0\n\nrequire "+module+" v0.0.0\n\nreplace "+module+" => "+root+"\n")
	write("go.sum", read("go.sum"))
	write("example_test.go", strings.Replace(read("test/emulator/emulatortest/example_test.go"), "package emulatortest_test", "package shop", 1))
	command := func(args ...string) string {
		t.Helper()
		c := exec.CommandContext(t.Context(), "go", args...) //nolint:gosec // the test's own
		c.Dir = dir
		c.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
		var problems strings.Builder
		c.Stderr = &problems
		out, err := c.Output()
		if err != nil {
			t.Fatalf("go %s: %v\n%s%s", strings.Join(args, " "), err, out, problems.String())
		}
		return string(out)
	}
	if out := command("test", "-count=1", "-v", "."); !strings.Contains(out, "--- PASS: Example") {
		t.Errorf("the example did not run:\n%s", out)
	}
	for name := range strings.Lines(command("list", "-deps", module+"/test/emulator/emulatortest")) {
		if name, ours := strings.CutPrefix(strings.TrimSpace(name), module); ours && !strings.HasPrefix(name, "/test/emulator") {
			t.Errorf("package emulatortest needs %s", name)
		}
	}
	for name := range strings.Lines(command("list", "-deps", module+"/test/emulator")) {
		if name := strings.TrimSpace(name); name == "testing" || strings.HasPrefix(name, "k8s.io/") || strings.HasPrefix(name, "github.com/Azure/") {
			t.Errorf("package emulator needs %s", name)
		}
	}
}
