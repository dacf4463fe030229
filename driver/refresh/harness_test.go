package refresh_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/driver/internal/drivertest"
	"github.com/keyvault-csi/keyvault-csi-driver/driver/refresh"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/tmpfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is the volumes of one node, on real mounts and the clock of a synctest bubble.
type node struct {
	*testing.T

	dir      string
	options  refresh.Options
	volumes  *refresh.Volumes
	vault    *drivertest.Vault
	classes  *drivertest.Classes
	recorder *drivertest.Recorder
	secrets  *drivertest.Secrets
	mounts   *tmpfs.Mounts
	log      *strings.Builder
	stop     func()
}

// onNode runs the test on a node of its own.
func onNode(t *testing.T, test func(*node), edit ...func(*refresh.Options)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := &node{
			T:        t,
			dir:      dir,
			vault:    drivertest.NewVault(clock.RealClock{}),
			classes:  &drivertest.Classes{},
			recorder: &drivertest.Recorder{},
			secrets:  &drivertest.Secrets{},
			log:      &strings.Builder{},
		}
		log := slog.New(slog.NewTextHandler(n.log, nil))
		var err error
		n.mounts, err = tmpfs.New(tmpfs.Options{Mounter: tmpfs.SystemMounter(), Log: log, Size: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		n.options = refresh.Options{
			Node:           "node-1",
			Classes:        n.classes,
			Provider:       n.vault,
			Mounts:         n.mounts,
			Secrets:        n.secrets,
			SecretsTimeout: 10 * time.Second,
			Reporter:       n.recorder,
			Interval:       2 * time.Minute,
			CacheTTL:       10 * time.Second,
			Tracer:         noop.NewTracerProvider().Tracer(""),
			Clock:          clock.RealClock{},
			Log:            log,
		}
		for _, f := range edit {
			f(&n.options)
		}
		n.start()
		defer n.end()
		test(n)
	})
}

// start runs the volumes of a new process.
func (n *node) start() {
	n.volumes = refresh.New(n.options)
	ctx, cancel := context.WithCancel(n.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.volumes.Run(ctx)
	}()
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		if err := n.classes.Watch(ctx, n.volumes.ClassEdited); err != nil {
			n.Error(err)
		}
	}()
	synctest.Wait()
	n.stop = func() {
		cancel()
		<-ended
		<-watching
	}
}

func (n *node) end() {
	n.stop()
	found, err := filepath.Glob(filepath.Join(n.dir, "*/mount"))
	if err != nil {
		n.Fatal(err)
	}
	for _, target := range found {
		if err := n.mounts.Unmount(target); err != nil {
			n.Error(err)
		}
	}
}

// restart ends the process and starts another one over the same mounts.
func (n *node) restart() {
	n.stop()
	n.start()
}

func (n *node) target(pod string) string { return filepath.Join(n.dir, pod, "mount") }

func (n *node) ref(pod, class string) volume.Ref {
	return volume.Ref{
		ID:         "csi-" + pod,
		TargetPath: n.target(pod),
		Class:      class,
		Pod:        volume.Pod{Namespace: "ns", Name: pod, UID: "uid-" + pod, ServiceAccount: "sa"},
	}
}

func (n *node) publish(pod, class string) error {
	n.Helper()
	if err := os.MkdirAll(filepath.Dir(n.target(pod)), 0o750); err != nil {
		n.Fatal(err)
	}
	return n.volumes.Publish(n.Context(), refresh.Publication{Ref: n.ref(pod, class)})
}

func (n *node) mustPublish(pod, class string) {
	n.Helper()
	if err := n.publish(pod, class); err != nil {
		n.Fatal(err)
	}
}

func (n *node) unpublish(pod string) {
	n.Helper()
	if err := n.volumes.Unpublish(n.Context(), volume.Ref{ID: "csi-" + pod, TargetPath: n.target(pod)}); err != nil {
		n.Fatal(err)
	}
}

// pass lets time pass, and everything that is due in it happen.
func (n *node) pass(d time.Duration) {
	n.Helper()
	time.Sleep(d) // the bubble's clock
	synctest.Wait()
}

func (n *node) read(pod, path string) string {
	n.Helper()
	data, err := os.ReadFile(filepath.Join(n.target(pod), path))
	if err != nil {
		n.Fatal(err)
	}
	return string(data)
}

// wantFile fails unless the pod's file holds the text.
func (n *node) wantFile(pod, path, want string) {
	n.Helper()
	if got := n.read(pod, path); got != want {
		n.Fatalf("pod %s reads %q from %s, want %q", pod, got, path, want)
	}
}

func (n *node) wantNoFile(pod, path string) {
	n.Helper()
	if _, err := os.Lstat(filepath.Join(n.target(pod), path)); !os.IsNotExist(err) {
		n.Fatalf("pod %s has %s: %v", pod, path, err)
	}
}

// snapshot returns what is known of the pod's volume; nil where nothing is.
func (n *node) snapshot(pod string) *volume.Snapshot {
	for _, s := range n.volumes.Snapshots() {
		if s.Ref.Pod.Name == pod {
			return s
		}
	}
	return nil
}

// rewritten counts by pod how often files were rewritten.
func (n *node) rewritten() map[string]int {
	counts := map[string]int{}
	for _, e := range n.recorder.Of(report.KindRefreshed) {
		if e.(report.Refreshed).Changed {
			counts[e.Ref().Pod.Name]++
		}
	}
	return counts
}

func podName(i int) string { return fmt.Sprintf("pod-%d", i) }
