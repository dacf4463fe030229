package main_test

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
)

// The driver as people run it: linked without C.
func TestOnlyTheCapabilitiesOfMountingStay(t *testing.T) {
	dir := t.TempDir()
	binary, socket := filepath.Join(dir, "keyvault-csi"), filepath.Join(dir, "csi.sock")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", binary, ".") //nolint:gosec // the test's own
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	driver := exec.CommandContext(t.Context(), binary, "driver", "--endpoint", "unix://"+socket, "--node-id", "n", "--kubelet-dir", dir, //nolint:gosec // the test's own
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
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
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
