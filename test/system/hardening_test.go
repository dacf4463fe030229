package system

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// TestNoCoreFiles ends the driver as a crash does, after somebody has allowed it core files of any size again.
func TestNoCoreFiles(t *testing.T) {
	t.Setenv("GOTRACEBACK", "crash") // SIGQUIT then ends it by SIGABRT
	n := kubelet.Start(t, kubelet.Seed)
	n.Secret("s", canary)
	n.Class("c", map[string]string{"objects": kubelet.Objects("s")})
	n.MustPublish("a", "c")
	limits, err := os.ReadFile(filepath.Join("/proc", "self", "limits"))
	must(t, err)
	var had unix.Rlimit
	must(t, unix.Prlimit(n.PID(), unix.RLIMIT_CORE, nil, &had))
	if had.Cur != 0 || had.Max != 0 {
		t.Errorf("core files of %d to %d bytes are allowed; of the tests themselves:\n%s", had.Cur, had.Max, limits)
	}
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(n.PID(), unix.RLIMIT_CORE, &unlimited, nil); err != nil {
		t.Logf("an ordinary user cannot raise the limit of another process: %v", err)
	}
	must(t, syscall.Kill(n.PID(), syscall.SIGQUIT))
	err = n.Wait()
	exit, ok := err.(*exec.ExitError) //nolint:errorlint // of os/exec itself
	if !ok {
		t.Fatalf("it ended with %v", err)
	}
	if status := exit.Sys().(syscall.WaitStatus); !status.Signaled() || status.CoreDump() {
		t.Errorf("ended by a signal: %v, with a core file: %v", status.Signaled(), status.CoreDump())
	}
	// What the runtime prints at a crash are stacks, with addresses.
	if strings.Contains(n.Log(), canary) {
		t.Error("the value is in what was printed at the crash")
	}
}

func TestSocketIsForItsUserAlone(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed)
	info, err := os.Stat(filepath.Join(n.Dir, "csi.sock"))
	must(t, err)
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode %v", got)
	}
}

// TestContainerThatWritesIntoItsVolume does to a volume what root in a container could, with a mount that is not read-only. Nothing outside
// of the volume may be written, read into it or deleted, and the driver goes on for others.
func TestContainerThatWritesIntoItsVolume(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "file"), []byte("of the host"), 0o600))
	for name, attack := range map[string]func(t *testing.T, target string){
		"current directory points outside": func(t *testing.T, target string) {
			must(t, os.Remove(filepath.Join(target, "..data")))
			must(t, os.Symlink(outside, filepath.Join(target, "..data")))
		},
		"current directory points above": func(t *testing.T, target string) {
			must(t, os.Remove(filepath.Join(target, "..data")))
			must(t, os.Symlink("../../../../..", filepath.Join(target, "..data")))
		},
		"files point outside": func(t *testing.T, target string) {
			data, err := os.Readlink(filepath.Join(target, "..data"))
			must(t, err)
			must(t, os.Remove(filepath.Join(target, data, "s")))
			must(t, os.Symlink(filepath.Join(outside, "file"), filepath.Join(target, data, "s")))
		},
		"a generation points outside": func(t *testing.T, target string) {
			must(t, os.Symlink(outside, filepath.Join(target, "..2001_01_01_00_00_00.AAAAAAAAAA")))
		},
		"what the driver makes is there": func(t *testing.T, target string) {
			must(t, os.MkdirAll(filepath.Join(target, "..data_tmp", "full"), 0o700))
		},
		"a pipe instead of a file": func(t *testing.T, target string) {
			data, err := os.Readlink(filepath.Join(target, "..data"))
			must(t, err)
			must(t, os.Remove(filepath.Join(target, data, "s")))
			must(t, unix.Mkfifo(filepath.Join(target, data, "s"), 0o600))
		},
		"all is deleted": func(t *testing.T, target string) {
			entries, err := os.ReadDir(target)
			must(t, err)
			for _, entry := range entries {
				must(t, os.RemoveAll(filepath.Join(target, entry.Name())))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := kubelet.Start(t, kubelet.Seed, "--rotation-interval", "1s", "--cache-ttl", "0s")
			n.Secret("s", "one")
			n.Class("c", map[string]string{"objects": kubelet.Objects("s")})
			n.MustPublish("hostile", "c")
			n.MustPublish("other", "c")
			attack(t, n.Target("hostile"))
			n.Secret("s", "two")
			n.Eventually("the other Pod's refresh", func() bool { return n.Read("other", "s") == "two" })
			must(t, n.Publish("hostile", "c")) // kubelet goes on to call
			n.Secret("s", "three")
			n.Eventually("the next one", func() bool { return n.Read("other", "s") == "three" })
			n.Unpublish("hostile")
			if _, err := os.Lstat(n.Target("hostile")); !os.IsNotExist(err) {
				t.Errorf("the volume is left: %v", err)
			}
			entries, err := os.ReadDir(outside)
			must(t, err)
			text, err := os.ReadFile(filepath.Join(outside, "file"))
			must(t, err)
			if len(entries) != 1 || string(text) != "of the host" {
				t.Errorf("outside of the volume: %v, %q", entries, text)
			}
		})
	}
}
