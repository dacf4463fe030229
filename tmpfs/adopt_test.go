package tmpfs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// newForeign mounts a volume as the Secrets Store CSI Driver does: without options, and so with the mode 1777 and half of the memory. The
// content is the file a of a generation of that driver's.
func newForeign(t *testing.T, m *Mounts, content string) string {
	t.Helper()
	target := filepath.Join(t.TempDir(), "mount")
	steps := []error{
		os.Mkdir(target, 0o750),
		unix.Mount("tmpfs", target, "tmpfs", 0, ""),
		os.Mkdir(filepath.Join(target, "..2026_01_02_15_04_05.123456789"), 0o755),
		os.WriteFile(filepath.Join(target, "..2026_01_02_15_04_05.123456789/a"), []byte(content), 0o644), //nolint:gosec // as that driver does
		os.Symlink("..2026_01_02_15_04_05.123456789", filepath.Join(target, "..data")),
		os.Symlink("..data/a", filepath.Join(target, "a")),
	}
	t.Cleanup(func() {
		if err := m.Unmount(target); err != nil {
			t.Error(err)
		}
	})
	for _, err := range steps {
		if err != nil {
			t.Fatal(err)
		}
	}
	return target
}

// foreignLacks is what mounts without options lack.
func foreignLacks(m *Mounts) []string {
	lacks := []string{"nosuid", "nodev", "noexec"}
	if m.NoSwap() {
		lacks = append(lacks, "noswap")
	}
	return lacks
}

func TestAdoptLimitsAMountOfAnotherDriver(t *testing.T) {
	m := newMounts(t, 1<<20)
	target := newForeign(t, m, "old")
	reader, err := os.Open(filepath.Join(target, "a")) // a Pod reads all the time
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	for range 2 { // every process of the driver does it
		lacks, err := m.Adopt(target)
		if err != nil || !slices.Equal(lacks, foreignLacks(m)) || !slices.Equal(m.Lacks(target), lacks) {
			t.Fatalf("lacks %q, %q, %v", lacks, m.Lacks(target), err)
		}
		if line := mountLine(t, target); !strings.Contains(line, "size=1024k") {
			t.Errorf("not limited: %s", line)
		}
		if info, err := os.Stat(target); err != nil || info.Mode() != os.ModeDir|0o755 {
			t.Errorf("root directory: %v, %v", info.Mode(), err)
		}
		wantState(t, m, target, Complete)
	}
	data := make([]byte, 10)
	if n, err := reader.Read(data); err != nil || string(data[:n]) != "old" {
		t.Errorf("an open file reads %q, %v", data[:n], err)
	}
	if !write(t, m, target, file("a", "new")) {
		t.Error("not written")
	}
	if got, err := os.ReadFile(filepath.Join(target, "a")); err != nil || string(got) != "new" {
		t.Errorf("%q, %v", got, err)
	}
}

// A volume that is full keeps its size: the next generation could not be written.
func TestAdoptKeepsTheSizeOfFullVolumes(t *testing.T) {
	m := newMounts(t, 1<<20)
	target := newForeign(t, m, strings.Repeat("x", 600<<10))
	before := mountLine(t, target)
	if _, err := m.Adopt(target); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(mountLine(t, target), "size=1024k") {
		t.Error("limited to less than two generations")
	}
	if !write(t, m, target, file("a", strings.Repeat("y", 600<<10))) {
		t.Error("not written")
	}
	t.Logf("before %s, after %s", before, mountLine(t, target))
}

// A volume of this driver is not touched, also if it has another size: that of an earlier --volume-size.
func TestAdoptLeavesOwnMounts(t *testing.T) {
	target := newVolume(t, newMounts(t, 2<<20))
	m := newMounts(t, 1<<20)
	before := mountLine(t, target)
	if lacks, err := m.Adopt(target); err != nil || lacks != nil || m.Lacks(target) != nil {
		t.Errorf("lacks %q, %v", lacks, err)
	}
	if after := mountLine(t, target); after != before {
		t.Errorf("%s became %s", before, after)
	}
}

// What another driver left unfinished is filled, with this driver's size.
func TestMountAdoptsAnUnfinishedMount(t *testing.T) {
	m := newMounts(t, 1<<20)
	target := newForeign(t, m, "old")
	if err := os.Remove(filepath.Join(target, "..data")); err != nil {
		t.Fatal(err)
	}
	if err := m.Mount(target, false); err != nil {
		t.Fatal(err)
	}
	if line := mountLine(t, target); !strings.Contains(line, "size=1024k") {
		t.Errorf("not limited: %s", line)
	}
	write(t, m, target, file("a", "new"))
	wantState(t, m, target, Complete)
}
