//go:build integration

package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/docs/pages"
)

// Each kubectl command of the documentation is one that kubectl takes: verb, flags and the flags' values.
func TestKubectlCommandsOfTheDocumentationParse(t *testing.T) {
	programs, err := controlplane.Build("", "kubectl")
	if err != nil {
		t.Fatal(err)
	}
	// The tools are a plugin.
	plugins := t.TempDir()
	must(t, os.Symlink(binaries.Driver(t), filepath.Join(plugins, "kubectl-keyvault")))
	checked := 0
	for _, c := range pages.Commands(t) {
		if c.Words[0] != "kubectl" {
			continue
		}
		args := c.Words[1:]
		if args[0] == "krew" { // a plugin of others, which is not here
			if !slices.Equal(args, []string{"krew", "install", "--manifest=keyvault.yaml"}) {
				t.Errorf("%s: %s: krew installs a file by install --manifest=FILE", c.Page, c.Line)
			}
			continue
		}
		checked++
		if at := slices.Index(args, "--"); at >= 0 {
			args = args[:at] // what is run in a Pod is checked by package docs
		}
		// with --help a command parses its flags and does nothing
		command := exec.CommandContext(t.Context(), programs["kubectl"], append(slices.Clone(args), "--help")...) //nolint:gosec // the test's own
		command.Env = append(os.Environ(), "PATH="+plugins+":"+os.Getenv("PATH"))
		out, err := command.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "Usage:") {
			t.Errorf("%s: %s: %v\n%s", c.Page, c.Line, err, out)
		}
	}
	if checked < 8 {
		t.Errorf("only %d commands", checked)
	}
}
