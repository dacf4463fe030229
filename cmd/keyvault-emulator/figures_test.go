package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
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
	begin := time.Now()
	p := launchProgram(t, binaries.Emulator(t), "--seed="+file)
	ask := func(path string) {
		if status, body := p.ask(http.MethodGet, path, ""); status != http.StatusOK {
			t.Fatalf("%s: %d %s", path, status, body)
		}
	}
	ask("/healthz")
	ready := time.Since(begin)
	ask("/page/vaults/contoso")
	kib := p.peakMemory()
	t.Logf("from start to ready %s; at most %.1f MiB of memory with 1,000 secrets", ready.Round(time.Millisecond), float64(kib)/1024)
	if kib > 40<<10 {
		t.Errorf("%d KiB of memory: more than 40 MiB", kib)
	}
}
