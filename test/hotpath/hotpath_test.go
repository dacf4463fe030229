// Package hotpath measures what one call of kubelet costs the driver: in one process, with the real provider, real mounts and the
// emulator.
package hotpath

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/driver"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube/classdir"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/provider"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
	"github.com/keyvault-csi/keyvault-csi-driver/tmpfs"
)

// node is a driver without its socket.
type node struct {
	testing.TB
	dir      string
	driver   *driver.Driver
	issuer   *emulatortest.Issuer
	emulator *emulator.Server
}

// start returns a driver whose class "c" has so many secrets.
func start(t testing.TB, secrets int) *node {
	t.Helper()
	n := &node{TB: t, dir: t.TempDir(), emulator: emulatortest.Start(t, kubelet.Seed)}
	n.issuer = emulatortest.StartIssuer(t, n.emulator)
	ca, classes := filepath.Join(n.dir, "ca.pem"), filepath.Join(n.dir, "classes")
	n.must(os.WriteFile(ca, n.emulator.CAPEM(), 0o600))
	n.must(os.Mkdir(classes, 0o700))
	names := make([]string, secrets)
	for i := range names {
		names[i] = "s" + strconv.Itoa(i)
		_, err := n.emulator.SetSecret(kubelet.Vault, emulator.Secret{Name: names[i], Value: "value"})
		n.must(err)
	}
	class := kubelet.ClassJSON("c", map[string]string{"objects": kubelet.Objects(names...)})
	n.must(os.WriteFile(filepath.Join(classes, "c.json"), class, 0o600))

	clk := clock.RealClock{}
	seen := metrics.New(clk)
	log, err := logging.New(io.Discard, logging.Text, slog.LevelInfo)
	n.must(err)
	mounts, err := tmpfs.New(tmpfs.Options{Mounter: tmpfs.SystemMounter(), Log: log})
	n.must(err)
	n.must(mounts.Probe(n.dir))
	dir, err := classdir.Open(classes, log)
	n.must(err)
	keyVault, err := provider.New(provider.Options{
		CAFile: ca, Dial: n.emulator.Dial, CacheTTL: time.Hour, Observer: seen, Log: log, Clock: clk,
	})
	n.must(err)
	n.driver, err = driver.New(driver.Options{
		NodeID: "node-1", KubeletDir: n.dir, Classes: dir, Provider: keyVault, Mounts: mounts,
		Reporter: report.All{seen, report.NewRecent(clk)}, RotationInterval: 2 * time.Minute, CacheTTL: time.Hour, Clock: clk, Log: log,
	})
	n.must(err)
	t.Cleanup(func() {
		keyVault.Close()
		n.must(dir.Close())
	})
	return n
}

func (n *node) must(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

// request is kubelet's for the pod.
func (n *node) request(pod string) *csi.NodePublishVolumeRequest {
	n.Helper()
	target := kubelet.Target(n.dir, pod)
	n.must(os.MkdirAll(filepath.Dir(target), 0o750))
	return kubelet.PublishRequest(target, pod, "c", kubelet.Tokens(n.issuer, "default", "app", time.Hour))
}

func (n *node) publish(r *csi.NodePublishVolumeRequest) {
	_, err := n.driver.NodePublishVolume(context.Background(), r)
	n.must(err)
}

func (n *node) unpublish(r *csi.NodePublishVolumeRequest) {
	_, err := n.driver.NodeUnpublishVolume(context.Background(),
		&csi.NodeUnpublishVolumeRequest{VolumeId: r.GetVolumeId(), TargetPath: r.GetTargetPath()})
	n.must(err)
}

// BenchmarkRepublish is the call that kubelet makes for each volume each minute; nothing has changed.
func BenchmarkRepublish(b *testing.B) {
	n := start(b, 10)
	r := n.request("a")
	n.publish(r)
	defer n.unpublish(r)
	b.ReportAllocs()
	for b.Loop() {
		n.publish(r)
	}
}

// BenchmarkPublish is a Pod's start and end with ten secrets that another Pod of its class and service account has.
func BenchmarkPublish(b *testing.B) {
	n := start(b, 10)
	first, next := n.request("a"), n.request("b")
	n.publish(first)
	defer n.unpublish(first)
	b.ReportAllocs()
	for b.Loop() {
		n.publish(next)
		b.StopTimer()
		n.unpublish(next)
		b.StartTimer()
	}
}

// What a call allocates is counted, since it does not depend on the machine. The bounds leave room for the race detector, with which
// pools forget some of what they hold.
func TestAllocations(t *testing.T) {
	n := start(t, 10)
	first, next := n.request("a"), n.request("b")
	n.publish(first)
	defer n.unpublish(first)
	for _, tc := range []struct {
		name string
		call func()
		most float64
	}{
		{"an unchanged republish", func() { n.publish(first) }, 60},
		{"start and end of a Pod with ten known secrets", func() { n.publish(next); n.unpublish(next) }, 1100},
	} {
		if got := testing.AllocsPerRun(100, tc.call); got > tc.most {
			t.Errorf("%s: %v allocations, want at most %v", tc.name, got, tc.most)
		} else {
			t.Logf("%s: %v allocations", tc.name, got)
		}
	}
}

// Pods that come and go leave no goroutine behind.
func TestGoroutines(t *testing.T) {
	n := start(t, 2)
	first := n.request("a")
	n.publish(first)
	before := runtime.NumGoroutine()
	for i := range 50 {
		r := n.request("pod-" + strconv.Itoa(i))
		n.publish(r)
		n.publish(r)
		n.unpublish(r)
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines before, %d after 50 Pods", before, after)
	}
	n.unpublish(first)
}

// What the driver keeps of a volume, without the files, where others have its class and identity too: that they share what they know of its objects is a half of it.
func TestMemoryOfAVolume(t *testing.T) {
	const volumes, most = 200, 5 << 10
	n := start(t, 10)
	kept := func() uint64 {
		runtime.GC()
		runtime.GC() // what finalizers of the first freed
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	requests := make([]*csi.NodePublishVolumeRequest, 0, volumes+10)
	publish := func(count int) {
		for range count {
			r := n.request("pod-" + strconv.Itoa(len(requests)))
			n.publish(r)
			// The test keeps what ends the volume alone: kubelet's message does not outlive the call.
			requests = append(requests, &csi.NodePublishVolumeRequest{VolumeId: r.GetVolumeId(), TargetPath: r.GetTargetPath()})
		}
	}
	publish(10)
	before := kept()
	publish(volumes)
	each := (int64(kept()) - int64(before)) / volumes //nolint:gosec // far below the bound
	t.Logf("%d bytes for each volume", each)
	if each > most {
		t.Errorf("a volume takes %d bytes, want at most %d", each, most)
	}
	for _, r := range requests {
		n.unpublish(r)
	}
}
