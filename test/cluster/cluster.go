//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
)

// Cluster is a cluster in a test's hands: what fails, fails the test. Its control plane's helpers are its own.
type Cluster struct {
	*controlplane.ControlPlane
	*Node // nil if the cluster is that of E2E_KUBECONFIG

	existing *existing
}

// Start runs a cluster of its own until the test ends.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	if c := sharedExisting(t); c != nil {
		c.NeedsOwn("it needs an empty cluster, or reboots its node")
	}
	node, err := up(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Down(); err != nil {
			t.Error(err)
		}
	})
	return For(t, node)
}

// shared is the cluster of a test process, once it was asked for.
var shared struct {
	sync.Mutex

	node *Node
}

// Shared is a cluster that all tests of the package use; the first one's options are everybody's. Main ends it. It is
// the cluster of E2E_KUBECONFIG if there is one.
func Shared(t testing.TB, o Options) *Cluster {
	t.Helper()
	if c := sharedExisting(t); c != nil {
		return c
	}
	shared.Lock()
	defer shared.Unlock()
	if shared.node == nil {
		node, err := up(o)
		if err != nil {
			t.Fatal(err)
		}
		shared.node = node
	}
	return For(t, shared.node)
}

// Main runs the tests of a package and ends the cluster that they share. Call it in TestMain.
func Main(m interface{ Run() int }) int {
	code := controlplane.Main(m) // ends nothing but files, if the cluster runs here
	shared.Lock()
	defer shared.Unlock()
	if shared.node == nil {
		return code
	}
	if err := shared.node.Down(); err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return code
}

// up makes a directory with a short path where none is given: the path of a socket has at most 107 bytes.
func up(o Options) (*Node, error) {
	if o.Dir == "" {
		if err := sweep(); err != nil {
			return nil, err
		}
		var err error
		if o.Dir, err = os.MkdirTemp("", "cluster-"); err != nil {
			return nil, err
		}
	}
	node, err := Up(context.Background(), o)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(o.Dir))
	}
	return node, nil
}

// sweep removes what is left of clusters of tests that were killed.
func sweep() error {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), "cluster-*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if old, err := Load(dir); err == nil && !old.alive() {
			if err := old.Down(); err != nil {
				return err
			}
		}
	}
	return nil
}

// For puts a cluster in a test's hands.
func For(t testing.TB, node *Node) *Cluster {
	t.Helper()
	plane, err := controlplane.With(node.planeConfig(), node.Programs)
	if err != nil {
		t.Fatal(err)
	}
	return &Cluster{ControlPlane: controlplane.Open(t, plane), Node: node}
}

func (c *Cluster) do(verb, program string) {
	c.Helper()
	c.NeedsOwn("it stops kubelet or the API server")
	if err := c.Do(context.Background(), verb, program); err != nil {
		c.Fatal(err)
	}
}

// StopKubelet ends kubelet; Pods go on running.
func (c *Cluster) StopKubelet() { c.Helper(); c.do("stop", "kubelet") }

// StartKubelet starts it again and returns when the node is ready.
func (c *Cluster) StartKubelet() { c.Helper(); c.do("start", "kubelet") }

// StopAPIServer ends the API server at once.
func (c *Cluster) StopAPIServer() { c.Helper(); c.do("stop", "kube-apiserver") }

// StartAPIServer starts it again and returns when it is ready.
func (c *Cluster) StartAPIServer() { c.Helper(); c.do("start", "kube-apiserver") }

// Pause makes the API server answer nothing until Resume.
func (c *Cluster) Pause() { c.Helper(); c.do("pause", "kube-apiserver") }

// Resume ends Pause.
func (c *Cluster) Resume() { c.Helper(); c.do("resume", "kube-apiserver") }

// Logs are the last lines of the cluster's logs.
func (c *Cluster) Logs() string {
	if c.existing != nil {
		return ""
	}
	return c.Node.Logs()
}

// HostAddress is this machine as the cluster's Pods reach it.
func (c *Cluster) HostAddress() string {
	if c.existing != nil {
		return c.existing.hostAddress
	}
	return c.Node.HostAddress()
}

// Owned is true unless the cluster is that of E2E_KUBECONFIG, which is used with care.
func (c *Cluster) Owned() bool { return c.existing == nil }

// Kubeconfig is an administrator's kubeconfig file.
func (c *Cluster) Kubeconfig() string { return c.AdminKubeconfig() }

// Reboot stops everything as a loss of power does, and starts it again.
func (c *Cluster) Reboot() {
	c.Helper()
	c.NeedsOwn("it reboots the node")
	if err := c.Node.Reboot(context.Background()); err != nil {
		c.Fatal(err)
	}
}

// Import gives the node the images of an archive.
func (c *Cluster) Import(archive string) {
	c.Helper()
	if c.existing != nil {
		if _, err := c.existing.run(c.Context(), c.existing.importImage, archive); err != nil {
			c.Fatal(err)
		}
		return
	}
	if err := c.ImportImage(context.Background(), archive); err != nil {
		c.Fatal(err)
	}
}

// ImportBuilt gives the node an image that is built here.
func (c *Cluster) ImportBuilt(image Image) {
	c.Helper()
	archive := filepath.Join(c.TempDir(), "image.tar")
	if err := image.WriteFile(archive); err != nil {
		c.Fatal(err)
	}
	c.Import(archive)
}

// Busybox is the name of an image of a shell and its tools, once ImportBusybox was called.
const Busybox = "localhost/busybox:1"

// ImportBusybox gives the node Busybox, from the machine's static busybox.
func (c *Cluster) ImportBusybox() {
	c.Helper()
	image, err := BusyboxImage(Busybox)
	if err != nil {
		c.Fatal(err)
	}
	c.ImportBuilt(image)
}

// BusyboxImage is an image of a name with the machine's static busybox and its tools; its entry point is the shell with
// a command.
func BusyboxImage(name string) (Image, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return Image{}, fmt.Errorf("install the package busybox-static: %w", err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return Image{}, fmt.Errorf("busybox: %w", err)
	}
	tools, err := exec.Command(path, "--list").Output() //nolint:gosec,noctx // returns at once
	if err != nil {
		return Image{}, fmt.Errorf("busybox --list: %w", err)
	}
	links := map[string]string{}
	for tool := range strings.FieldsSeq(string(tools)) {
		if tool != "busybox" {
			links["bin/"+tool] = "busybox"
		}
	}
	return Image{
		Name: name, Entrypoint: []string{"/bin/sh", "-c"}, Files: map[string][]byte{"bin/busybox": program}, Links: links, Dirs: []string{"tmp"},
	}, nil
}

// Exec runs a command on the node and returns what it printed.
func (c *Cluster) Exec(args ...string) (string, error) {
	if c.existing != nil {
		return c.existing.run(context.Background(), c.existing.exec, args...)
	}
	out, err := c.Command(context.Background(), args...).CombinedOutput()
	return string(out), err
}
