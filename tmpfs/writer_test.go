package tmpfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

func TestWrite(t *testing.T) {
	m := newMounts(t, 1<<20)
	target := newVolume(t, m)
	if !write(t, m, target, file("a", "1"), file("dir/b", "2"), file("dir/sub/c", "3")) {
		t.Error("unchanged")
	}
	wantTree(t, target, "a=1", "dir/b=2", "dir/sub/c=3")
	if link, err := os.Readlink(filepath.Join(target, "dir")); err != nil || link != "..data/dir" {
		t.Errorf("dir leads to %q: %v", link, err)
	}
	if !write(t, m, target, file("a", "1"), file("dir/b", "new"), file("d", "\x00\r\n")) {
		t.Error("unchanged")
	}
	wantTree(t, target, "a=1", "d=\x00\r\n", "dir/b=new")
	if !write(t, m, target) {
		t.Error("unchanged")
	}
	wantTree(t, target)
}

// wantTree fails unless a user sees exactly these files.
func wantTree(t *testing.T, target string, want ...string) {
	t.Helper()
	var got []string
	entries, err := os.ReadDir(target)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), reserved) {
			continue
		}
		resolved, err := filepath.EvalSymlinks(filepath.Join(target, e.Name()))
		if err != nil {
			t.Errorf("%s dangles: %v", e.Name(), err)
			continue
		}
		err = filepath.WalkDir(resolved, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(p) //nolint:gosec // a file of the test
			rel, _ := filepath.Rel(resolved, p)
			got = append(got, strings.TrimSuffix(e.Name()+"/"+rel, "/.")+"="+string(data))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("files are %q, want %q", got, want)
	}
}

func TestModesAndGroupAreExact(t *testing.T) {
	m := newMounts(t, 1<<20)
	target := newVolume(t, m)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	gid := int64(os.Getegid())
	if _, err := m.Write(target, []volume.File{
		{Path: "secret", Mode: 0o400}, {Path: "d/open", Mode: 0o666}, {Path: "none", Mode: 0},
	}, &gid); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"secret": 0o400, "d/open": 0o666, "none": 0, "d": 0o755 | fs.ModeDir} {
		info, err := os.Stat(filepath.Join(target, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v (%v), want %v", name, info.Mode(), err, want)
		}
	}
	// another mode alone is a change
	if changed, err := m.Write(target, []volume.File{
		{Path: "secret", Mode: 0o440}, {Path: "d/open", Mode: 0o666}, {Path: "none", Mode: 0},
	}, &gid); err != nil || !changed {
		t.Errorf("changed %v, %v", changed, err)
	}
}

func TestUnchangedWriteTouchesNothing(t *testing.T) {
	m := newMounts(t, 1<<20)
	target := newVolume(t, m)
	files := []volume.File{file("a", "1"), file("dir/b", "2")}
	write(t, m, target, files...)
	before := snapshot(t, target)
	slices.Reverse(files)
	if write(t, m, target, files...) {
		t.Error("changed")
	}
	if after := snapshot(t, target); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// snapshot returns inodes and times of everything in the volume.
func snapshot(t *testing.T, target string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(target, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		b.WriteString(p + " " + filepath.Base(p) + " ")
		for _, n := range []int64{int64(st.Ino), st.Mtim.Nano(), st.Ctim.Nano()} { //nolint:gosec // for comparison only
			b.WriteString(" " + strconv.FormatInt(n, 10))
		}
		b.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestWriteClearsWhatAKilledWriterLeft(t *testing.T) {
	m := newMounts(t, 1<<20)
	target := newVolume(t, m)
	write(t, m, target, file("a", "1"))
	for _, dir := range []string{"..2026_01_01_00_00_00.1/x", "stale", nextNameLink} {
		if err := os.MkdirAll(filepath.Join(target, dir), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{nextDataLink, "gone"} {
		if err := os.Symlink("..data/gone", filepath.Join(target, link)); err != nil {
			t.Fatal(err)
		}
	}
	if write(t, m, target, file("a", "1")) {
		t.Error("changed")
	}
	wantTree(t, target, "a=1")
	sweepAfterRetention(t, target)
	entries, _ := os.ReadDir(target)
	if len(entries) != 3 {
		t.Errorf("left: %v", entries)
	}
	// entries of another writer make way, and nothing leads out of the volume
	if err := os.RemoveAll(filepath.Join(target, dataLink)); err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(target, dataLink)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(target, "b"), 0o750); err != nil {
		t.Fatal(err)
	}
	write(t, m, target, file("b", "2"))
	wantTree(t, target, "b=2")
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("written outside the volume: %v", entries)
	}
}

// A replaced generation stays for its Retention, also for the Mounts of another process, and no longer.
func TestReplacedGenerationStaysForItsRetention(t *testing.T) {
	clk := clocktesting.NewFakePassiveClock(time.Now())
	process := func() *Mounts {
		m, err := New(Options{Mounter: SystemMounter(), Log: discard, Size: 1 << 20, Clock: clk})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := process()
	target := newVolume(t, m)
	write(t, m, target, file("a", "1"), file("removed", "old"))
	reader, err := os.OpenRoot(filepath.Join(target, dataLink))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	write(t, m, target, file("a", "2"))
	wantTree(t, target, "a=2")
	sweep := func(m *Mounts, want time.Duration) {
		t.Helper()
		if again, err := m.Sweep(target); err != nil || again.Round(time.Second) != want {
			t.Fatalf("again in %v, want %v: %v", again, want, err)
		}
	}
	sweep(m, Retention)
	clk.SetTime(clk.Now().Add(Retention - time.Second))
	sweep(process(), time.Second)
	for name, want := range map[string]string{"a": "1", "removed": "old"} {
		if data, err := reader.ReadFile(name); err != nil || string(data) != want {
			t.Errorf("a reader that came before the change reads %q from %s: %v", data, name, err)
		}
	}
	clk.SetTime(clk.Now().Add(time.Second))
	sweep(process(), 0)
	if _, err := reader.ReadFile("removed"); !os.IsNotExist(err) {
		t.Errorf("the old value is still there: %v", err)
	}
	write(t, m, target, file("a", "3"))
	clk.SetTime(clk.Now().Add(-time.Hour))
	sweep(m, 0) // a clock that was set back keeps nothing for longer
	wantTree(t, target, "a=3")
}

// sweepAfterRetention removes what may be removed once the Retention has passed.
func sweepAfterRetention(t *testing.T, target string) {
	t.Helper()
	m, err := New(Options{
		Mounter: SystemMounter(),
		Log:     discard,
		Clock:   clocktesting.NewFakePassiveClock(time.Now().Add(Retention)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := m.Sweep(target); err != nil || again != 0 {
		t.Errorf("sweep: again in %v, %v", again, err)
	}
}

func TestFullVolumeKeepsTheLastGeneration(t *testing.T) {
	m := newMounts(t, 256<<10)
	target := newVolume(t, m)
	write(t, m, target, file("a", strings.Repeat("x", 100<<10)))
	_, err := m.Write(target, []volume.File{file("a", strings.Repeat("y", 200<<10)), file("b", "2")}, nil)
	var e *volume.Error
	if !errors.As(err, &e) || e.Reason != volume.ReasonFilesystem || !strings.Contains(err.Error(), "--volume-size") {
		t.Fatalf("got %v", err)
	}
	data, err := os.ReadFile(filepath.Join(target, "a"))
	if err != nil || string(data) != strings.Repeat("x", 100<<10) {
		t.Errorf("a holds %d bytes, %v", len(data), err)
	}
	entries, _ := os.ReadDir(target)
	if len(entries) != 3 { // ..data, its generation, a
		t.Errorf("left: %v", entries)
	}
	if !write(t, m, target, file("a", "small")) {
		t.Error("unchanged")
	}
}
