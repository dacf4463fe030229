package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
)

// asCommand makes the test's program be keyvault-emulator.
const asCommand = "TEST_AS_KEYVAULT_EMULATOR"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		os.Args = append(os.Args[:1], strings.Fields(os.Getenv(asCommand))...)
		main()
		return
	}
	os.Exit(m.Run())
}

// TestFigures starts the emulator with a thousand objects, and holds its memory to the limit that docs/emulator.md
// names. It prints how long it took until it answered.
func TestFigures(t *testing.T) {
	var seed strings.Builder
	seed.WriteString("vaults:\n- name: contoso\n  tenant: t\n  secrets:\n")
	for i := range 1000 {
		fmt.Fprintf(&seed, "  - {name: secret-%d, value: %s}\n", i, strings.Repeat("x", 100))
	}
	file := filepath.Join(t.TempDir(), "seed.yaml")
	if err := os.WriteFile(file, []byte(seed.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	// The built program: this one may have the race detector, which takes memory of its own.
	c := exec.CommandContext(t.Context(), binaries.Emulator(t), "--listen", "127.0.0.1:0", "--seed", file) //nolint:gosec // the test's own
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "keyvault-emulator listens on ")
	if err != nil || !ok {
		t.Fatalf("%q: %v", line, err)
	}
	ask := func(path string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		a, err := new(http.Client).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = a.Body.Close()
		if a.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d", path, a.StatusCode)
		}
	}
	ask("/healthz")
	ready := time.Since(begin)
	ask("/page/vaults/contoso")
	status, err := os.ReadFile("/proc/" + strconv.Itoa(c.Process.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if match == nil {
		t.Fatalf("no VmHWM in %s", status)
	}
	kib, err := strconv.Atoi(string(match[1]))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("from start to ready %s; at most %.1f MiB of memory with 1,000 secrets", ready.Round(time.Millisecond), float64(kib)/1024)
	if kib > 40<<10 {
		t.Errorf("%d KiB of memory: more than 40 MiB", kib)
	}
}
