package footprint

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"
)

// fileKiB is the resident memory of this process that is pages of files.
func fileKiB(t *testing.T) (kib int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "RssFile:")
	if _, err := fmt.Sscan(after, &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}

// touch reads the whole program, as a start does with much of it.
func touch(t *testing.T) {
	t.Helper()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = memory.Close() }()
	for line := range strings.Lines(string(maps)) {
		from, to, ok := programRange(strings.TrimSpace(line), program)
		for at := from; ok && at < to; at += 4096 {
			if _, err := memory.ReadAt(make([]byte, 1), int64(at)); err != nil { //nolint:gosec // an address
				t.Fatal(err)
			}
		}
	}
}

func TestTheProgramsPagesGoAndComeBack(t *testing.T) {
	touch(t)
	before := fileKiB(t)
	if err := dropProgramPages(); err != nil {
		t.Fatal(err)
	}
	after := fileKiB(t)
	t.Logf("%d KiB of files before, %d after", before, after)
	if after > before*3/4 {
		t.Errorf("%d KiB of files before, %d after", before, after)
	}
	touch(t) // and they are what they were: this test still runs
}

func TestProgramRange(t *testing.T) {
	const program = "/usr/bin/a b"
	for line, want := range map[string]bool{
		"00400000-00e4b000 r-xp 00000000 fe:00 42 /usr/bin/a b":           true,
		"00e4b000-019bf000 r--p 00a4b000 fe:00 42 /usr/bin/a b":           true,
		"019bf000-01a72000 rw-p 015bf000 fe:00 42 /usr/bin/a b":           false,
		"00400000-00e4b000 r-xp 00000000 fe:00 42 /usr/bin/c":             false,
		"00400000-00e4b000 r-xp 00000000 fe:00 42 /usr/bin/a b (deleted)": false,
		"38882400000-38883000000 rw-p 00000000 00:00 0":                   false,
		"00e4b000-00400000 r-xp 00000000 fe:00 42 /usr/bin/a b":           false,
		"x-y r-xp 00000000 fe:00 42 /usr/bin/a b":                         false,
		"": false,
	} {
		if from, to, ok := programRange(line, program); ok != want || ok && to <= from {
			t.Errorf("%s: %x-%x %v", line, from, to, ok)
		}
	}
}

func TestTrimAfterStart(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			TrimAfterStart(ctx, clock.RealClock{}, log)
			close(ended)
		}()
		time.Sleep(settle / 2)
		cancel()
		<-ended
	})
	touch(t)
	before := fileKiB(t)
	synctest.Test(t, func(t *testing.T) { TrimAfterStart(t.Context(), clock.RealClock{}, log) })
	if after := fileKiB(t); after > before*3/4 {
		t.Errorf("%d KiB of files before, %d after", before, after)
	}
}
