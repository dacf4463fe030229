package node_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
)

// The driver as it is shipped: only without cgo can it change all of its threads.
func TestOnlyTheCapabilitiesOfMountingStay(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "csi.sock")
	driver := exec.CommandContext(t.Context(), binaries.Release(t), "driver", "--endpoint", "unix://"+socket, "--node-id", "n", "--kubelet-dir", dir, //nolint:gosec // the test's own
		"--classes", dir, "--http-addr", "")
	var log strings.Builder
	driver.Stderr = &log
	if err := driver.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = driver.Process.Signal(syscall.SIGTERM)
		if err := driver.Wait(); err != nil || t.Failed() {
			t.Errorf("%v\n%s", err, &log)
		}
	}()
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the driver does not serve")
		}
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", driver.Process.Pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("%d threads, %v", len(threads), err)
	}
	const mounting = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE
	for _, path := range threads {
		status, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			_, rest, found := strings.Cut(string(status), set+":\t")
			line, _, _ := strings.Cut(rest, "\n")
			has, err := strconv.ParseUint(line, 16, 64)
			if !found || err != nil || has&^mounting != 0 {
				t.Errorf("%s: %s is %q, %v", path, set, line, err)
			}
			if set == "CapEff" && has != mounting {
				t.Errorf("%s: %s is %q: mounting needs more", path, set, line)
			}
		}
		if !strings.Contains(string(status), "NoNewPrivs:\t1\n") {
			t.Errorf("%s: new privileges may be had", path)
		}
	}
}
