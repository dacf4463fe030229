package main_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
)

// Before the program reads its request it has no capability and cannot get one, it can open no file or socket, and its
// memory and processor time are limited. As root it is an unprivileged user.
func TestConfinement(t *testing.T) {
	run := exec.CommandContext(t.Context(), binaries.Render(t)) //nolint:gosec // the project's own
	stdin, err := run.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stdin.Close()
		if err := run.Wait(); err == nil {
			t.Error("an empty request is taken")
		}
	}()
	read := func(name string) string {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", run.Process.Pid, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(strings.Fields(string(data)), " ")
	}
	// it waits for its request, which does not come, once it is confined: its last limit is that of open files
	for !strings.Contains(read("limits"), "Max open files 0 0 files") {
		if t.Context().Err() != nil {
			t.Fatal("the program does not limit its files")
		}
		time.Sleep(time.Millisecond)
	}
	limits, status := read("limits"), read("status")
	for _, want := range []string{
		"Max data size 134217728 134217728 bytes", "Max cpu time 1 1 seconds", "Max core file size 0 0 bytes",
	} {
		if !strings.Contains(limits, want) {
			t.Errorf("limits lack %q: %s", want, limits)
		}
	}
	wanted := []string{"CapPrm: 0000000000000000", "CapEff: 0000000000000000", "CapInh: 0000000000000000", "CapAmb: 0000000000000000", "NoNewPrivs: 1"}
	if os.Geteuid() == 0 {
		wanted = append(wanted, "Uid: 65534 65534 65534 65534", "Gid: 65534 65534 65534 65534", "Groups: NStgid")
	}
	for _, want := range wanted {
		if !strings.Contains(status, want) {
			t.Errorf("status lacks %q: %s", want, status)
		}
	}
}

// A template cannot reach anything but its request: no environment, and a request that is none is no more than an error.
func TestRequestThatIsNone(t *testing.T) {
	run := exec.CommandContext(t.Context(), binaries.Render(t)) //nolint:gosec // the project's own
	run.Stdin = io.LimitReader(strings.NewReader(`{"templates":[{"text":hunter2`), 1<<10)
	out, err := run.CombinedOutput()
	if err == nil || !strings.HasPrefix(string(out), "keyvault-render: request: ") || strings.Contains(string(out), "hunter2") {
		t.Errorf("%v: %s", err, out)
	}
}
