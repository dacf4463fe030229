package main

import (
	"bufio"
	"context"
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
		ctx, kill := context.WithCancel(t.Context()) // SIGKILL
		c := exec.CommandContext(ctx, os.Args[0])    //nolint:gosec // this program
		c.Env = append(os.Environ(), asCommand+"=--listen 127.0.0.1:0 --seed "+seed+" --data-dir "+filepath.Join(directory, "data"))
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		address, ok := strings.CutPrefix(strings.TrimSpace(line), "keyvault-emulator listens on ")
		if err != nil || !ok {
			t.Fatalf("round %d: %q: %v", round, line, err)
		}
		for _, name := range answered {
			if status, err := ask(http.MethodGet, address, "/page/vaults/contoso/secrets/"+name, ""); err != nil || status != http.StatusOK {
				t.Errorf("round %d: %s: %d, %v", round, name, status, err)
			}
		}
		for i := 0; ; i++ {
			name := fmt.Sprintf("secret-%d-%d", round, i)
			if i == 10*(round+1) {
				go kill() // while it works
			}
			status, err := ask(http.MethodPost, address, "/vaults/contoso/secrets", `{"name":"`+name+`","value":"v"}`)
			if err != nil {
				break
			}
			if status != http.StatusOK {
				t.Fatalf("%s: %d", name, status)
			}
			answered = append(answered, name)
		}
		kill()
		_ = c.Wait()
	}
}
