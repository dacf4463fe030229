package driver

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/driver/internal/drivertest"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
	"github.com/keyvault-csi/keyvault-csi-driver/tmpfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a driver that serves on a socket, with real mounts, and the client that kubelet would be.
type node struct {
	*testing.T
	dir      string
	driver   *Driver
	options  Options
	vault    *drivertest.Vault
	classes  *drivertest.Classes
	recorder *drivertest.Recorder
	log      *syncBuffer
	mounts   *tmpfs.Mounts

	csi.IdentityClient
	csi.NodeClient
	stop func()
	// step moves the injected clock, where a test has one.
	step func()
}

// syncBuffer is a bytes.Buffer for several goroutines.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func startNode(t *testing.T, edit ...func(*Options)) *node {
	t.Helper()
	n := &node{
		T: t, dir: t.TempDir(), classes: &drivertest.Classes{}, recorder: &drivertest.Recorder{},
		vault: drivertest.NewVault(clock.RealClock{}), log: &syncBuffer{},
	}
	log, err := logging.New(n.log, logging.JSON, slog.LevelDebug)
	if err != nil {
		t.Fatal(err)
	}
	n.mounts, err = tmpfs.New(tmpfs.Options{Mounter: tmpfs.SystemMounter(), Log: log, Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.mounts.Probe(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	n.options = Options{
		NodeID: "node-1", Version: "v0", KubeletDir: n.dir, Classes: n.classes, Provider: n.vault, Mounts: n.mounts,
		Reporter: n.recorder, RotationInterval: 2 * time.Minute, CacheTTL: 10 * time.Second, Log: log,
	}
	for _, f := range edit {
		f(&n.options)
	}
	n.driver, err = New(n.options)
	if err != nil {
		t.Fatal(err)
	}
	n.serve(ServeOptions{Endpoint: "unix://" + filepath.Join(n.dir, "csi.sock")})
	t.Cleanup(func() {
		n.stop()
		for _, target := range n.targets() {
			if err := n.mounts.Unmount(target); err != nil {
				t.Error(err)
			}
		}
	})
	return n
}

// serve runs the driver until n.stop.
func (n *node) serve(o ServeOptions) {
	n.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	listening, ended := make(chan struct{}), make(chan error, 1)
	o.Listening = func() { close(listening) }
	go func() { ended <- n.driver.Serve(ctx, o) }()
	select {
	case <-listening:
	case err := <-ended:
		cancel()
		n.Fatal(err)
	}
	conn, err := grpc.NewClient(o.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.Fatal(err)
	}
	n.IdentityClient, n.NodeClient = csi.NewIdentityClient(conn), csi.NewNodeClient(conn)
	n.stop = sync.OnceFunc(func() {
		if err := conn.Close(); err != nil {
			n.Error(err)
		}
		cancel()
		if err := <-ended; err != nil {
			n.Errorf("serve: %v", err)
		}
	})
	n.eventually("the watch of classes", n.classes.Watched)
}

// start serves with a new driver over the same mounts.
func (n *node) start(edit ...func(*ServeOptions)) {
	n.Helper()
	d, err := New(n.options)
	if err != nil {
		n.Fatal(err)
	}
	n.driver = d
	o := ServeOptions{Endpoint: "unix://" + filepath.Join(n.dir, "csi.sock")}
	for _, f := range edit {
		f(&o)
	}
	n.serve(o)
}

// restart ends the driver and starts a new one.
func (n *node) restart(edit ...func(*ServeOptions)) {
	n.Helper()
	n.stop()
	n.start(edit...)
}

func (n *node) targets() []string {
	found, err := filepath.Glob(filepath.Join(n.dir, "pods/*/volumes/kubernetes.io~csi/*/mount"))
	if err != nil {
		n.Fatal(err)
	}
	return found
}

func (n *node) target(pod string) string {
	return filepath.Join(n.dir, "pods", "uid-"+pod, "volumes/kubernetes.io~csi/secrets/mount")
}

// request is what kubelet says for a pod whose volume names the class.
func (n *node) request(pod, class string, edit ...func(*csi.NodePublishVolumeRequest)) *csi.NodePublishVolumeRequest {
	target := n.target(pod)
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		n.Fatal(err)
	}
	req := &csi.NodePublishVolumeRequest{
		VolumeId:   "csi-" + pod,
		TargetPath: target,
		Readonly:   true,
		VolumeCapability: &csi.VolumeCapability{
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		},
		VolumeContext: map[string]string{
			"csi.storage.k8s.io/ephemeral":           "true",
			"csi.storage.k8s.io/pod.name":            pod,
			"csi.storage.k8s.io/pod.namespace":       "ns",
			"csi.storage.k8s.io/pod.uid":             "uid-" + pod,
			"csi.storage.k8s.io/serviceAccount.name": "sa",
			"secretProviderClass":                    class,
		},
	}
	for _, f := range edit {
		f(req)
	}
	return req
}

// publish publishes the volume of pod a.
func (n *node) publish(class string, edit ...func(*csi.NodePublishVolumeRequest)) error {
	n.Helper()
	_, err := n.NodePublishVolume(n.Context(), n.request("a", class, edit...))
	return err
}

// mustPublish publishes the volume of pod a, whose class is db.
func (n *node) mustPublish(edit ...func(*csi.NodePublishVolumeRequest)) {
	n.Helper()
	if err := n.publish("db", edit...); err != nil {
		n.Fatal(err)
	}
}

func (n *node) unpublish(pod string) {
	n.Helper()
	_, err := n.NodeUnpublishVolume(n.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: "csi-" + pod, TargetPath: n.target(pod)})
	if err != nil {
		n.Fatal(err)
	}
}

// wantFile fails unless pod a's file holds the text.
func (n *node) wantFile(path, want string) {
	n.Helper()
	got, err := os.ReadFile(filepath.Join(n.target("a"), path))
	if err != nil {
		n.Fatal(err)
	}
	if string(got) != want {
		n.Fatalf("pod a reads %q from %s, want %q", got, path, want)
	}
}

func (n *node) wantGone(pod string) {
	n.Helper()
	if _, err := os.Lstat(n.target(pod)); !os.IsNotExist(err) {
		n.Fatalf("target of pod %s is still there: %v", pod, err)
	}
}

func (n *node) eventually(what string, ok func() bool) {
	n.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			n.Fatalf("waited in vain for %s\nlog:\n%s", what, n.log)
		}
		time.Sleep(time.Millisecond)
	}
}
