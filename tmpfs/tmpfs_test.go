package tmpfs

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

var discard = slog.New(slog.DiscardHandler)

// newMounts returns probed Mounts that mount for real.
func newMounts(t testing.TB, size int64) *Mounts {
	t.Helper()
	m, err := New(Options{Mounter: SystemMounter(), Log: discard, Size: size})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Probe(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	return m
}

func newVolume(t testing.TB, m *Mounts) string {
	t.Helper()
	target := filepath.Join(t.TempDir(), "mount")
	if err := m.Mount(target, false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmount(target); err != nil {
			t.Error(err)
		}
	})
	return target
}

func file(path, data string) volume.File {
	return volume.File{Path: path, Mode: 0o644, Data: []byte(data)}
}

func write(t testing.TB, m *Mounts, target string, files ...volume.File) bool {
	t.Helper()
	changed, err := m.Write(target, files, nil)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

func wantState(t testing.TB, m *Mounts, target string, want State) {
	t.Helper()
	if got, err := m.State(target); err != nil || got != want {
		t.Fatalf("state is %q (%v), want %q", got, err, want)
	}
}

// mountLine returns the mount's line of mountinfo.
func mountLine(t testing.TB, target string) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == target {
			return line
		}
	}
	t.Fatalf("%s is not mounted", target)
	return ""
}

func TestMountOptionsAreWhatTheProbeSaid(t *testing.T) {
	m := newMounts(t, 1<<20)
	line := mountLine(t, newVolume(t, m))
	for _, want := range []string{"nosuid", "nodev", "noexec", "size=1024k", "mode=755"} {
		if !strings.Contains(line, want) {
			t.Errorf("%s is missing in %s", want, line)
		}
	}
	if got := strings.Contains(line, "noswap"); got != m.NoSwap() {
		t.Errorf("noswap is %v, the probe said %v: %s", got, m.NoSwap(), line)
	}
}

func TestMountAllowsExecutionWhereAsked(t *testing.T) {
	m := newMounts(t, 1<<20)
	target := newVolume(t, m)
	write(t, m, target, file("a", "x"))
	if err := m.Mount(target, true); err != nil {
		t.Fatal(err)
	}
	line := mountLine(t, target)
	if strings.Contains(line, "noexec") || !strings.Contains(line, "nosuid") || !strings.Contains(line, "size=1024k") {
		t.Errorf("after the remount: %s", line)
	}
	if got := strings.Contains(line, "noswap"); got != m.NoSwap() {
		t.Errorf("noswap changed: %s", line)
	}
	wantState(t, m, target, Complete)
}

func TestStates(t *testing.T) {
	m := newMounts(t, 1<<20)
	target := filepath.Join(t.TempDir(), "mount")
	wantState(t, m, target, Absent)
	if err := os.Mkdir(target, 0o750); err != nil {
		t.Fatal(err)
	}
	wantState(t, m, target, Directory)
	if err := m.Mount(target, false); err != nil {
		t.Fatal(err)
	}
	wantState(t, m, target, Mounted)
	if err := os.Symlink("nowhere", filepath.Join(target, dataLink)); err != nil {
		t.Fatal(err)
	}
	wantState(t, m, target, Mounted)
	write(t, m, target)
	wantState(t, m, target, Complete)
	if err := m.Unmount(target); err != nil {
		t.Fatal(err)
	}
	wantState(t, m, target, Absent)
}

func TestUnmountSucceedsWhereNothingIsLeft(t *testing.T) {
	m := newMounts(t, 1<<20)
	target := filepath.Join(t.TempDir(), "mount")
	unmount := func() {
		t.Helper()
		if err := m.Unmount(target); err != nil {
			t.Fatal(err)
		}
		wantState(t, m, target, Absent)
	}
	unmount()
	if err := os.Mkdir(target, 0o750); err != nil {
		t.Fatal(err)
	}
	unmount()
	if err := os.Mkdir(target, 0o750); err != nil {
		t.Fatal(err)
	}
	for range 3 { // mounts on top of each other
		if err := m.mounter.Mount("tmpfs", target, "tmpfs", nil); err != nil {
			t.Fatal(err)
		}
	}
	unmount()
}

func TestUnmountKeepsFilesThatAreNotOurs(t *testing.T) {
	m := newMounts(t, 1<<20)
	target := filepath.Join(t.TempDir(), "mount")
	if err := os.MkdirAll(filepath.Join(target, "precious"), 0o750); err != nil {
		t.Fatal(err)
	}
	var e *volume.Error
	if err := m.Unmount(target); !errors.As(err, &e) || e.Reason != volume.ReasonFilesystem {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(target, "precious")); err != nil {
		t.Error(err)
	}
}

// faulty is a mounter whose mounts fail.
type faulty struct{ *mount.FakeMounter }

func (faulty) Mount(string, string, string, []string) error { return unix.EPERM }

func TestFailedMountLeavesNothing(t *testing.T) {
	m, err := New(Options{Mounter: faulty{mount.NewFakeMounter(nil)}, Log: discard})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := m.Probe(dir); err == nil || !strings.Contains(err.Error(), "privileged") {
		t.Errorf("probe said %v", err)
	}
	if m.Ready() == nil {
		t.Error("ready although nothing can be mounted")
	}
	if err := m.Mount(filepath.Join(dir, "mount"), false); err == nil {
		t.Error("no error")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestUsage(t *testing.T) {
	m := newMounts(t, 1<<20)
	target := newVolume(t, m)
	write(t, m, target, file("a", strings.Repeat("x", 10<<10)))
	u, err := m.Usage(target)
	if err != nil || u.Bytes.Total != 1<<20 || u.Bytes.Used < 10<<10 || u.Bytes.Used+u.Bytes.Available != u.Bytes.Total {
		t.Errorf("usage %+v, %v", u, err)
	}
	if u.Inodes.Used < 4 {
		t.Errorf("inodes %+v", u.Inodes)
	}
	for _, other := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		if _, err := m.Usage(other); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	}
}

func TestCheckPath(t *testing.T) {
	for p, ok := range map[string]bool{
		"a": true, "a/b/c": true, ".hidden": true, "a..b": true, "...": false, "é": true, "a b": true,
		"": false, "/a": false, "..": false, "../a": false, "a/../b": false, "a/..": false, "..a": false, ".": false,
		"./a": false, "a//b": false, "a/": false, "a\x00": false, "a\nb": false, "\xff": false,
		strings.Repeat("x", 255): true, strings.Repeat("x", 256): false, strings.Repeat("x/", 2100) + "x": false,
	} {
		if err := volume.CheckPath(p); (err == nil) != ok {
			t.Errorf("%.40q: %v", p, err)
		}
	}
	err := volume.CheckFiles([]volume.File{file("a", ""), file("a/b", ""), file("c", ""), file("c", ""), {Path: "d", Mode: 0o4755}})
	for _, want := range []string{"directory of", "two files", "permission bits"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}
