package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
)

// pluginProgram is the program under the name by which kubectl finds it.
func pluginProgram(t *testing.T) string {
	t.Helper()
	program, err := binaries.Find("keyvault-csi")
	if err != nil {
		t.Fatal(err)
	}
	plugin := filepath.Join(t.TempDir(), "kubectl-keyvault")
	if err := os.Symlink(program, plugin); err != nil {
		t.Fatal(err)
	}
	return plugin
}

// What the plugin prints names commands that its users have.
func TestPluginNamesItsOwnCommands(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	d.program = pluginProgram(t)
	var wrong []string
	for i := range 20 {
		wrong = append(wrong, fmt.Sprintf("no name %d", i))
	}
	config := apiServer(d, classText(t, "shop", nil, wrong...))
	for _, tc := range []struct {
		args []string
		exit int
		want string
	}{
		{[]string{"explain", "qqqqqqqqqqqq"}, 1, "`kubectl keyvault explain` lists all of them"},
		{[]string{"version", "-o", "text"}, 0, "kubectl keyvault version "},
		{[]string{"check", "default/shop"}, 1, "`kubectl keyvault validate` lists them all"},
		{[]string{"preview", "default/shop"}, 1, "`kubectl keyvault validate` lists them all"},
		// without a flag the namespace of the context, and not a driver on this machine
		{[]string{"status", "--kubeconfig", config}, 0, ""},
	} {
		r := d.run(map[string]string{"KUBECONFIG": config}, tc.args...)
		if r.exit != tc.exit || !strings.Contains(r.stdout+r.stderr, tc.want) || strings.Contains(r.stdout+r.stderr, "keyvault-csi "+tc.args[0]) ||
			strings.Contains(r.stdout+r.stderr, "`keyvault-csi") {
			t.Errorf("%v: %s", tc.args, r)
		}
	}
}

// TestKubectlPlugin runs the program under the name by which kubectl finds it.
func TestKubectlPlugin(t *testing.T) {
	t.Parallel()
	plugin := pluginProgram(t)
	run := func(args ...string) (string, int) {
		c := exec.Command(plugin, args...) //nolint:gosec,noctx // a test
		out, err := c.CombinedOutput()
		if c.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), c.ProcessState.ExitCode()
	}
	for _, tc := range []struct {
		args  []string
		exit  int
		wants []string
	}{
		{nil, 0, []string{"kubectl keyvault [command]", "kubectl keyvault check -A", "validate"}},
		{[]string{"check", "--help"}, 0, []string{"kubectl keyvault check [-f FILE...]", "az login && kubectl keyvault check -f class.yaml"}},
		{[]string{"status", "--help"}, 0, []string{"-- keyvault-csi status", "kubectl keyvault status --expiring 30d"}},
		{[]string{"--version"}, 0, []string{"kubectl keyvault "}},
		{[]string{"completion"}, 0, []string{"#!/usr/bin/env sh\nexec kubectl keyvault __complete \"$@\"\n"}},
		{[]string{"__complete", "pre"}, 0, []string{"preview\t"}},
		{[]string{"driver"}, 1, []string{`kubectl keyvault: unknown command "driver"`}},
	} {
		out, exit := run(tc.args...)
		for _, want := range tc.wants {
			if exit != tc.exit || !strings.Contains(out, want) {
				t.Errorf("%v: exit code %d, no %q in: %s", tc.args, exit, want, out)
			}
		}
	}
	for _, command := range []string{"validate", "preview", "check", "status", "support-bundle", "version", "explain"} {
		out, _ := run(command, "--help")
		if i := strings.Index(strings.ReplaceAll(out, "-- keyvault-csi ", ""), " keyvault-csi "+command); i >= 0 {
			t.Errorf("%s: the help names a program that users of the plugin do not have: %s", command, out)
		}
	}
}
