package refresh_test

import (
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/driver/refresh"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/tmpfs"
)

// faultyMounts are mounts of which some calls fail.
type faultyMounts struct {
	refresh.Mounts

	mu    sync.Mutex
	fails map[string]bool
	calls map[string]int
}

var errFault = errors.New("input/output error")

// set names the calls that fail from now on.
func (m *faultyMounts) set(calls ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fails = map[string]bool{}
	for _, call := range calls {
		m.fails[call] = true
	}
}

func (m *faultyMounts) called(call string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[call]
}

func (m *faultyMounts) failure(call string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls[call]++
	if m.fails[call] {
		return &volume.Error{Reason: volume.ReasonFilesystem, Message: call, Cause: errFault}
	}
	return nil
}

func (m *faultyMounts) State(target string) (tmpfs.State, error) {
	if err := m.failure("state"); err != nil {
		return "", err
	}
	return m.Mounts.State(target)
}

func (m *faultyMounts) Adopt(target string) ([]string, error) {
	if err := m.failure("adopt"); err != nil {
		return nil, err
	}
	return m.Mounts.Adopt(target)
}

func (m *faultyMounts) Mount(target string, exec bool) error {
	return errors.Join(m.failure("mount"), m.Mounts.Mount(target, exec))
}

func (m *faultyMounts) Write(target string, files []volume.File, group *int64) (bool, error) {
	if err := m.failure("write"); err != nil {
		return false, err
	}
	return m.Mounts.Write(target, files, group)
}

func (m *faultyMounts) Sweep(target string) (time.Duration, error) {
	if err := m.failure("sweep"); err != nil {
		return 0, err
	}
	return m.Mounts.Sweep(target)
}

func (m *faultyMounts) Unmount(target string) error {
	if err := m.failure("unmount"); err != nil {
		return err
	}
	return m.Mounts.Unmount(target)
}

// withFaults is onNode with mounts that can fail, and a class whose object the vault holds.
func withFaults(t *testing.T, test func(*node, *faultyMounts)) {
	t.Helper()
	m := &faultyMounts{calls: map[string]int{}}
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.classes.Put("db", map[string]string{"objects": "user"})
		test(n, m)
	}, func(o *refresh.Options) {
		m.Mounts = o.Mounts
		o.Mounts = m
	})
}

// A publish that cannot mount or write is an error with its reason, is reported, leaves nothing that is taken for a volume, and
// succeeds as soon as it can.
func TestPublishWhoseMountFails(t *testing.T) {
	for name, tc := range map[string]struct {
		fails []string
		// left is whether a mount is left, which is logged.
		left bool
	}{
		"state":             {fails: []string{"state"}},
		"write":             {fails: []string{"write"}},
		"write and unmount": {fails: []string{"write", "unmount"}, left: true},
	} {
		t.Run(name, func(t *testing.T) {
			withFaults(t, func(n *node, m *faultyMounts) {
				m.set(tc.fails...)
				err := n.publish("a", "db")
				if volume.ReasonOf(err) != volume.ReasonFilesystem {
					n.Fatalf("%v", err)
				}
				if got := len(n.recorder.Of(report.KindPublishFailed)); got != 1 && name != "state" {
					n.Errorf("reported %d times", got)
				}
				m.set()
				if _, err := os.Lstat(n.target("a")); err == nil != tc.left {
					n.Errorf("the target: %v", err)
				}
				if strings.Contains(n.log.String(), "an unfinished mount is left") != tc.left {
					n.Errorf("log: %s", n.log)
				}
				if n.snapshot("a") != nil {
					n.Error("it is taken for a volume")
				}
				n.mustPublish("a", "db")
				n.wantFile("a", "user", "alice")
			})
		})
	}
}

// A refresh that cannot write leaves the files as they are, says so, and is tried again.
func TestRefreshThatCannotWrite(t *testing.T) {
	for _, call := range []string{"state", "write"} {
		t.Run(call, func(t *testing.T) {
			withFaults(t, func(n *node, m *faultyMounts) {
				n.mustPublish("a", "db")
				n.vault.Set("user", "bob")
				m.set(call)
				n.pass(3 * time.Minute)
				n.wantFile("a", "user", "alice")
				if s := n.snapshot("a"); s.Failure == nil || s.Failure.Reason != volume.ReasonFilesystem || len(n.recorder.Of(report.KindRefreshFailed)) == 0 {
					n.Errorf("%+v", s.Failure)
				}
				m.set()
				n.pass(5 * time.Minute)
				n.wantFile("a", "user", "bob")
				if n.snapshot("a").Failure != nil || len(n.recorder.Of(report.KindRecovered)) != 1 {
					n.Errorf("it has not recovered: %+v", n.snapshot("a").Failure)
				}
			})
		})
	}
}

// Files that become executable need a mount that allows it; until it does, the old ones stay.
func TestRefreshThatNeedsAnExecutableMount(t *testing.T) {
	withFaults(t, func(n *node, m *faultyMounts) {
		n.mustPublish("a", "db")
		n.vault.Locked(func() { n.vault.Mode, n.vault.Values["user"] = 0o755, "bob" })
		m.set("mount")
		n.pass(3 * time.Minute)
		n.wantFile("a", "user", "alice")
		m.set()
		n.pass(5 * time.Minute)
		n.wantFile("a", "user", "bob")
	})
}

// Replaced files that cannot be removed are removed later.
func TestSweepIsRetried(t *testing.T) {
	withFaults(t, func(n *node, m *faultyMounts) {
		n.mustPublish("a", "db")
		n.vault.Set("user", "bob")
		m.set("sweep")
		n.pass(3*time.Minute + tmpfs.Retention)
		if !strings.Contains(n.log.String(), "their removal is retried") {
			n.Errorf("log: %s", n.log)
		}
		m.set()
		before := m.called("sweep")
		n.pass(tmpfs.Retention)
		if m.called("sweep") == before {
			n.Error("it is not retried")
		}
		n.wantFile("a", "user", "bob")
	})
}

// An unmount that fails is an error and is reported; kubelet's next call finishes it.
func TestUnpublishThatFails(t *testing.T) {
	withFaults(t, func(n *node, m *faultyMounts) {
		n.mustPublish("a", "db")
		m.set("unmount")
		err := n.volumes.Unpublish(n.Context(), n.ref("a", "db"))
		if volume.ReasonOf(err) != volume.ReasonFilesystem || len(n.recorder.Of(report.KindUnpublishFailed)) != 1 {
			n.Errorf("%v", err)
		}
		m.set()
		n.unpublish("a")
		if _, err := os.Lstat(n.target("a")); !os.IsNotExist(err) {
			n.Errorf("the target: %v", err)
		}
	})
}

// A volume of an earlier process whose mount cannot be changed is adopted as it is.
func TestAdoptedMountThatCannotBeChanged(t *testing.T) {
	withFaults(t, func(n *node, m *faultyMounts) {
		n.mustPublish("a", "db")
		n.restart()
		m.set("adopt")
		n.mustPublish("a", "db")
		if !strings.Contains(n.log.String(), "keeps its size and mode") {
			n.Errorf("log: %s", n.log)
		}
		m.set()
		n.vault.Set("user", "bob")
		n.pass(5 * time.Minute)
		n.wantFile("a", "user", "bob")
	})
}

// After failed refreshes the files of running Pods follow at once where a new Pod's publish succeeds, without the rest of the wait.
func TestNewPodEndsTheWaitOfOthers(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.classes.Put("db", map[string]string{"objects": "user"})
		n.mustPublish("a", "db")
		n.vault.Locked(func() { n.vault.Fail = &volume.Error{Reason: volume.ReasonUnavailable, Message: "503"} })
		n.pass(time.Hour)
		n.vault.Locked(func() { n.vault.Fail = nil; n.vault.Values["user"] = "bob" })
		n.mustPublish("b", "db")
		n.pass(time.Second)
		n.wantFile("a", "user", "bob")
	})
}

// A refresh that failed for its identity is tried again with the next token that kubelet brings, but not with each.
func TestNewTokenEndsTheWait(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.classes.Put("db", map[string]string{"objects": "user", "rotationInterval": "24h"})
		n.mustPublish("a", "db")
		n.vault.Locked(func() { n.vault.Fail = &volume.Error{Reason: volume.ReasonIdentity, Message: "AADSTS700024"} })
		n.volumes.Refresh(n.ref("a", "db"))
		n.pass(time.Second)
		failed := n.vault.Requests["failed"]
		n.mustPublish("a", "db")
		n.pass(time.Second)
		if got := n.vault.Requests["failed"]; failed == 0 || got != failed {
			n.Errorf("%d tries, then %d right after the failure", failed, got)
		}
		n.vault.Locked(func() { n.vault.Fail = nil; n.vault.Values["user"] = "bob" })
		n.pass(time.Minute)
		n.mustPublish("a", "db")
		n.pass(time.Second)
		n.wantFile("a", "user", "bob")
	})
}
