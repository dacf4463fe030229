package system

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// mountForeign mounts a pod's volume as the Secrets Store CSI Driver does: a tmpfs without options, and its layout of files.
func mountForeign(n *kubelet.Node, pod string, files map[string]string) {
	n.Helper()
	target := n.Target(pod)
	generation := filepath.Join(target, "..2026_01_02_15_04_05.123456789")
	steps := []error{os.MkdirAll(target, 0o750), unix.Mount("tmpfs", target, "tmpfs", 0, ""), os.Mkdir(generation, 0o755)}
	for name, data := range files {
		steps = append(steps, os.WriteFile(filepath.Join(generation, name), []byte(data), 0o644), //nolint:gosec // as that driver does
			os.Symlink("..data/"+name, filepath.Join(target, name)))
	}
	for _, err := range append(steps, os.Symlink(filepath.Base(generation), filepath.Join(target, "..data"))) {
		if err != nil {
			n.Fatal(err)
		}
	}
}

// TestVolumesOfAnotherDriverAreAdopted finds volumes that the Secrets Store CSI Driver mounted: kubelet's next call adopts them.
// They are limited as this driver's are, refreshed, shown by status, and unmounted with their Pods, known or not.
func TestVolumesOfAnotherDriverAreAdopted(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--admin-addr", kubelet.AnyPort, "--rotation-interval", "1s", "--cache-ttl", "0s")
	n.Secret("s", "new")
	n.Class("c", map[string]string{"objects": kubelet.Objects("s")})
	mountForeign(n, "a", map[string]string{"s": "old", "left": "over"})
	mountForeign(n, "gone", map[string]string{"s": "old"})

	n.MustPublish("a", "c")
	n.Eventually("the refresh", func() bool { return n.Read("a", "s") == "new" })
	n.Eventually("the end of a file that the class has not", func() bool { // it goes after the new ones are there
		_, err := os.Lstat(filepath.Join(n.Target("a"), "left"))
		return os.IsNotExist(err)
	})
	info, err := os.Stat(n.Target("a"))
	must(t, err)
	var st unix.Statfs_t
	must(t, unix.Statfs(n.Target("a"), &st))
	if size := int64(st.Blocks) * st.Bsize; info.Mode().Perm() != 0o755 || info.Mode()&os.ModeSticky != 0 || size != 64<<20 { //nolint:gosec // 64 MiB
		t.Errorf("the volume has the mode %v and %d bytes", info.Mode(), size)
	}
	if !strings.Contains(n.Log(), "the mount of another driver is adopted") {
		t.Error("the log does not say that a mount of another driver is adopted")
	}

	address := n.Address("admin")
	text, err := run(t, "status", "--admin-addr", address, "-o", "json")
	must(t, err)
	var s struct {
		Volumes []struct{ MountLacks []string }
	}
	must(t, json.Unmarshal([]byte(text), &s))
	if len(s.Volumes) != 1 || len(s.Volumes[0].MountLacks) < 3 || !slices.Contains(s.Volumes[0].MountLacks, "noexec") {
		t.Errorf("status: %s", text)
	}
	table, err := run(t, "status", "--admin-addr", address)
	must(t, err)
	if !strings.Contains(table, "mounted by another driver: without nosuid, nodev, noexec") {
		t.Errorf("status: %s", table)
	}

	n.Unpublish("a")
	n.Unpublish("gone") // kubelet never calls again for a Pod that is being deleted
	if left := n.Targets(); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
	if !strings.Contains(n.Log(), "unmounted; its Pod with the UID uid-gone is unknown") {
		t.Error("the log does not say whose volume was unmounted")
	}

	// The next one of the Pod is this driver's.
	n.MustPublish("a", "c")
	if text, err = run(t, "status", "--admin-addr", address, "-o", "json"); err != nil || strings.Contains(text, "mountLacks") {
		t.Errorf("status of a new volume: %s, %v", text, err)
	}
}
