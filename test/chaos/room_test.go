//go:build chaos

package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyvault-csi/keyvault-csi-driver/test/chaos/outcome"
)

// TestMemoryLimit lets the driver allocate little more than it has, so that it is killed in the middle of what it does.
func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	n := start(t, "", "--rotation-interval", "1s")
	r := random(t)
	n.again("steady")
	w := n.watch()
	limit, how := memoryLimit(t)
	rounds, kills := times(8, 80), 0
	for i := range rounds {
		limit(n.PID(), (1+r.IntN(6000))<<10)
		n.advance()
		pods := make([]string, 10)
		var work sync.WaitGroup
		for k := range pods {
			pods[k] = fmt.Sprintf("pod-%d-%d", i, k)
			work.Go(func() { _ = n.publish(pods[k]) })
		}
		work.Wait()
		if ended(n.PID()) {
			kills++
		}
		n.Stop(syscall.SIGKILL)
		n.Run() // without the limit
		n.again("steady")
		for _, pod := range pods {
			n.again(pod)
			n.whole(pod)
			n.gone(pod)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	w.sees(n.advance())
	w.stop()
	if kills == 0 {
		t.Errorf("no limit has killed the driver in %d rounds", rounds)
	}
	found.Add(outcome.Row{
		Fault:  "out of memory during publishes (" + how + ")",
		Times:  kills,
		Driver: "is killed, starts again and takes the volumes over",
		Files:  "whole, of one generation",
	})
}

// memoryLimit returns what bounds the bytes that a process may still take, and what is used for it.
func memoryLimit(t *testing.T) (limit func(pid, bytes int), how string) {
	t.Helper()
	unified, err := os.ReadFile("/sys/fs/cgroup/cgroup.subtree_control")
	parent, file := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if err == nil && slices.Contains(strings.Fields(string(unified)), "memory") {
		parent, file = "/sys/fs/cgroup", "memory.max"
	}
	count := 0
	next := func() string { // a cgroup is a directory of that file system
		count++
		return filepath.Join(parent, fmt.Sprintf("keyvault-csi-chaos-%d-%d", os.Getpid(), count))
	}
	if probe := next(); os.Mkdir(probe, 0o700) == nil {
		must(t, os.Remove(probe))
		return func(pid, bytes int) {
			group := next()
			must(t, os.Mkdir(group, 0o700))
			t.Cleanup(func() {
				if err := os.Remove(group); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Error(err)
				}
			})
			must(t, os.WriteFile(filepath.Join(group, file), []byte(strconv.Itoa(bytes)), 0o600))
			must(t, os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o600))
		}, "cgroup"
	}
	fmt.Println("memory limit: no cgroup of this machine can be used; RLIMIT_DATA bounds the driver instead, which does not count tmpfs")
	return func(pid, bytes int) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		must(t, err)
		_, rest, _ := strings.Cut(string(status), "VmData:")
		have, err := strconv.Atoi(strings.Fields(rest)[0])
		must(t, err)
		must(t, unix.Prlimit(pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: uint64(have<<10 + bytes), Max: unix.RLIM_INFINITY}, nil))
	}, "RLIMIT_DATA"
}

// TestFullVolume has values that do not fit into the volume beside those that are there.
func TestFullVolume(t *testing.T) {
	t.Parallel()
	n := start(t, "", "--rotation-interval", "1s", "--volume-size", "65536")
	n.newest.Store(large - 2)
	n.advance()
	n.again("steady")
	w := n.watch()
	w.sees(large - 1)
	n.advance() // the large one
	n.Eventually("the driver to say so", func() bool { return strings.Contains(n.Log(), "no space left on device") })
	if err := n.publish("new"); err == nil {
		t.Error("a volume that is too small was published")
	}
	n.gone("new")
	if got := n.whole("steady"); got != large-1 {
		t.Errorf("generation %d", got)
	}
	w.sees(n.advance())
	n.again("new")
	n.gone("new")
	w.stop()
	found.Add(outcome.Row{
		Fault:  "the volume is full",
		Times:  1,
		Driver: "says so; refreshes again when the values fit",
		Files:  "stay as they are; new Pods wait",
	})
}

// TestFullDisk has no room for a directory on kubelet's disk.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	n := start(t, "", "--rotation-interval", "1s")
	pods := filepath.Join(n.Dir, "pods")
	must(t, unix.Mount("tmpfs", pods, "tmpfs", 0, "size=1m,nr_inodes=100"))
	t.Cleanup(func() {
		n.Stop(syscall.SIGTERM)
		for _, target := range n.Targets() {
			_ = unix.Unmount(target, unix.MNT_DETACH)
		}
		must(t, unix.Unmount(pods, unix.MNT_DETACH))
	})
	n.again("steady")
	w := n.watch()
	rounds := times(2, 10)
	for i := range rounds {
		pod := fmt.Sprintf("pod-%d", i)
		n.Request(pod, "c") // kubelet has made its directories
		var fill []string
		for k := 0; ; k++ {
			name := filepath.Join(pods, fmt.Sprintf("fill-%d", k))
			if err := os.Mkdir(name, 0o700); err != nil {
				if !errors.Is(err, syscall.ENOSPC) {
					t.Fatal(err)
				}
				break
			}
			fill = append(fill, name)
		}
		if err := n.publish(pod); err == nil || !strings.Contains(err.Error(), "no space left on device") {
			t.Errorf("on a full disk: %v", err)
		}
		w.sees(n.advance()) // running Pods do not need the disk
		for _, name := range fill {
			must(t, os.Remove(name))
		}
		n.again(pod)
		n.whole(pod)
		n.gone(pod)
		must(t, os.RemoveAll(filepath.Join(pods, "uid-"+pod)))
	}
	w.stop()
	found.Add(outcome.Row{
		Fault:  "kubelet's disk is full",
		Times:  rounds,
		Driver: "says so; new Pods wait",
		Files:  "of running Pods follow the vault",
	})
}
