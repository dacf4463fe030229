package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestKilledEmulatorKeepsWhatItAnswered kills the emulator while secrets are set, and looks for each of them that was
// answered in the next one.
func TestKilledEmulatorKeepsWhatItAnswered(t *testing.T) {
	directory := t.TempDir()
	seed := filepath.Join(directory, "seed.yaml")
	if err := os.WriteFile(seed, []byte("vaults:\n- {name: contoso, tenant: t}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(method, address, path, body string) (int, error) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, strings.NewReader(body))
		if err != nil {
			return 0, err
		}
		a, err := new(http.Client).Do(r)
		if err != nil {
			return 0, err
		}
		return a.StatusCode, a.Body.Close()
	}
	var answered []string
	for round := range 5 {
		p := launch(t, "--seed="+seed, "--data-dir="+filepath.Join(directory, "data"))
		for _, name := range answered {
			if status, err := ask(http.MethodGet, p.address, "/page/vaults/contoso/secrets/"+name, ""); err != nil || status != http.StatusOK {
				t.Errorf("round %d: %s: %d, %v", round, name, status, err)
			}
		}
		for i := 0; ; i++ {
			name := fmt.Sprintf("secret-%d-%d", round, i)
			if i == 10*(round+1) {
				go p.kill() // while it works
			}
			status, err := ask(http.MethodPost, p.address, "/vaults/contoso/secrets", `{"name":"`+name+`","value":"v"}`)
			if err != nil {
				break
			}
			if status != http.StatusOK {
				t.Fatalf("%s: %d", name, status)
			}
			answered = append(answered, name)
		}
		p.kill()
		_ = p.command.Wait()
	}
}

// TestTwoEmulatorsOnOneDirectory: the second one is refused in one line, and takes the directory once the first is gone,
// however it ended.
func TestTwoEmulatorsOnOneDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first := launch(t, "--data-dir="+dir)
	second := exec.CommandContext(t.Context(), os.Args[0]) //nolint:gosec // this program
	second.Env = append(os.Environ(), asCommand+"=--listen=127.0.0.1:0 --data-dir="+dir)
	out, err := second.CombinedOutput()
	want := "Error: data directory: another emulator uses " + dir + ": stop it, or give each its own\n"
	if second.ProcessState.ExitCode() != 1 || string(out) != want {
		t.Errorf("%v: %s", err, out)
	}
	if status, body := first.ask(http.MethodGet, "/healthz", ""); status != http.StatusOK {
		t.Errorf("the first one: %d %s", status, body)
	}
	first.kill()
	_ = first.command.Wait()
	launch(t, "--data-dir="+dir)
}
