package tmpfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// crowded mounts file systems that hold so many inodes.
type crowded struct {
	mount.Interface

	inodes int
}

func (c crowded) Mount(source, target, fstype string, options []string) error {
	return c.Interface.Mount(source, target, fstype, append(options, "nr_inodes="+strconv.Itoa(c.inodes)))
}

// A volume that is full at any step of a write, be it a directory, a file, a name or the rename, shows all of the files from before and no
// name of the new ones; a first write leaves nothing. What fits is written.
func TestWriteThatIsFullAtAnyStep(t *testing.T) {
	first := []volume.File{file("a", "1"), file("d/b", "1")}
	second := []volume.File{file("a", "2"), file("c", "2"), file("d/b", "2"), file("e/f/g", "2")}
	outcomes := map[string]int{}
	for inodes := 2; inodes < 32; inodes++ {
		m, err := New(Options{Mounter: crowded{SystemMounter(), inodes}, Log: discard, Size: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		target := newVolume(t, m)
		if _, err := m.Write(target, first, nil); err != nil {
			outcomes["no first one"]++
			wantFull(t, err)
			if entries, err := os.ReadDir(target); err != nil || len(entries) > 0 {
				t.Errorf("%d inodes: %v is left, %v", inodes, entries, err)
			}
			wantState(t, m, target, Mounted)
			continue
		}
		wantAll(t, target, "1", "a", "d/b")
		if _, err := m.Write(target, second, nil); err != nil {
			outcomes["the first one stays"]++
			wantFull(t, err)
			wantAll(t, target, "1", "a", "d/b")
			entries, err := os.ReadDir(target)
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range entries {
				if _, err := os.Stat(filepath.Join(target, entry.Name())); err != nil {
					t.Errorf("%d inodes: %s leads nowhere: %v", inodes, entry.Name(), err)
				}
			}
			continue
		}
		outcomes["the second one"]++
		wantAll(t, target, "2", "a", "c", "d/b", "e/f/g")
	}
	if len(outcomes) != 3 {
		t.Errorf("%v", outcomes)
	}
}

func wantFull(t *testing.T, err error) {
	t.Helper()
	if volume.ReasonOf(err) != volume.ReasonFilesystem || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v", err)
	}
}

func wantAll(t *testing.T, target, want string, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if data, err := os.ReadFile(filepath.Join(target, path)); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", path, data, err)
		}
	}
}

// busy is a mounter whose unmounts fail, or whose remounts do.
type busy struct {
	mount.Interface

	remount bool
}

func (b busy) Mount(source, target, fstype string, options []string) error {
	if b.remount && options[len(options)-1] == "remount" {
		return unix.EINVAL
	}
	return b.Interface.Mount(source, target, fstype, options)
}

func (b busy) Unmount(target string) error {
	if b.remount {
		return b.Interface.Unmount(target)
	}
	return unix.EBUSY
}

// What the kernel refuses is an error that names the target and what was to be done.
func TestWhatTheKernelRefuses(t *testing.T) {
	m := newMounts(t, 1<<20)
	target := newVolume(t, m)
	write(t, m, target, file("a", "x"))
	with := func(mounter mount.Interface) *Mounts {
		made, err := New(Options{Mounter: mounter, Log: discard, Size: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	outside := filepath.Join(t.TempDir(), "none", "mount")
	isFile := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(isFile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		err  error
		says string
	}{
		"no directory above it":   {m.Mount(outside, false), "make the target directory"},
		"unmount":                 {with(busy{SystemMounter(), false}).Unmount(target), "unmount the volume"},
		"remount":                 {with(busy{SystemMounter(), true}).Mount(target, true), "be executed"},
		"write without a volume":  {second(m.Write(outside, nil, nil)), "open the volume"},
		"sweep without a volume":  {second(m.Sweep(outside)), "open the volume"},
		"a file is in its place":  {m.Unmount(isFile + "/mount"), "look at"},
		"usage without a volume":  {second(m.Usage(isFile + "/mount")), "look at"},
		"adopt what is not there": {second(m.Adopt(outside)), "look at"},
	} {
		if volume.ReasonOf(tc.err) != volume.ReasonFilesystem || !strings.Contains(tc.err.Error(), tc.says) {
			t.Errorf("%s: %v", name, tc.err)
		}
	}
	wantState(t, m, target, Complete)
	if err := m.Mount(target, true); err != nil {
		t.Error(err)
	}
	if err := m.Mount(target, true); err != nil { // it is executable already
		t.Error(err)
	}
	if _, err := fs.Stat(os.DirFS(target), "a"); err != nil {
		t.Error(err)
	}
}

func second[T any](_ T, err error) error { return err }
