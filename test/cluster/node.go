//go:build linux

// Package cluster runs Kubernetes on this machine: the control plane and a real node with containerd, runc and kubelet,
// in namespaces of their own, so that nothing of it is left when it has ended. The cluster of hack/cluster is Up, Down
// and Load; a test's is Start.
package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
)

// NodeName is the name of the only node.
const NodeName = "node-1"

// Options say how a cluster is to be.
type Options struct {
	// Dir holds all of the cluster's files, images and logs among them. A cluster goes on with what it finds there.
	Dir string
	// SyncFrequency is how often kubelet looks at each Pod, and calls drivers again; a minute where 0.
	SyncFrequency time.Duration
	// Kubernetes is its version, such as 1.32.13; the default is as in controlplane.Build.
	Kubernetes string
	// Detach lets the cluster live on when the process that called Up ends.
	Detach bool
}

// Node is a cluster from the outside.
type Node struct {
	settings

	pid   int
	ended chan struct{} // closed when process 1 has ended; nil where another process started it
}

// builds are all programs of a cluster.
var builds = []string{
	"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl",
	"containerd", "containerd-shim-runc-v2", "ctr", "runc", "bridge", "host-local",
}

// Up starts a cluster and returns when its node is ready. It needs root and the programs ip, iptables and nsenter.
func Up(ctx context.Context, o Options) (*Node, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("the cluster's directory: %w", err)
	}
	o.Dir = dir
	n := &Node{settings: settings{Options: o, Network: -1}}
	if old, err := Load(o.Dir); err == nil {
		if old.alive() {
			return nil, fmt.Errorf("a cluster runs in %s already (process %d)", o.Dir, old.pid)
		}
		n.Network = old.Network // its keys are for these addresses
		if err := old.Stop(); err != nil {
			return nil, err
		}
	}
	if err := n.build(); err != nil {
		return nil, err
	}
	return n, n.begin(ctx)
}

// Load finds the cluster of a directory, which may have ended.
func Load(dir string) (*Node, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("the cluster's directory: %w", err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "cluster.json"))
	if err != nil {
		return nil, fmt.Errorf("no cluster: %w", err)
	}
	var saved savedNode
	if err := json.Unmarshal(data, &saved); err != nil {
		return nil, fmt.Errorf("cluster of %s: %w", dir, err)
	}
	n := &Node{settings: saved.Settings, pid: saved.PID}
	if started(n.pid) != saved.Started {
		n.pid = 0 // the number is another's now
	}
	return n, nil
}

type savedNode struct {
	Settings settings
	PID      int
	Started  string
}

// started is when a process was started, in the kernel's notation; empty where there is none.
func started(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(data), ") ") // the name before it may hold spaces
	if fields := strings.Fields(rest); len(fields) > 19 && fields[0] != "Z" {
		return fields[19]
	}
	return ""
}

func (n *Node) save() error {
	data, err := json.Marshal(savedNode{n.settings, n.pid, started(n.pid)})
	if err != nil {
		return fmt.Errorf("save the cluster: %w", err)
	}
	if err := os.WriteFile(n.path("cluster.json"), data, 0o600); err != nil {
		return fmt.Errorf("save the cluster: %w", err)
	}
	return nil
}

// build builds the cluster's programs, and finds this project's own two.
func (n *Node) build() error {
	var err error
	if n.Programs, err = controlplane.Build(n.Kubernetes, builds...); err != nil {
		return err
	}
	if n.Tool, err = binaries.Find("cluster"); err != nil {
		return err
	}
	n.Programs["pause"], err = binaries.Find("pause")
	return err
}

// begin starts process 1 with the network it is to have, and waits until the node is ready.
func (n *Node) begin(ctx context.Context) error {
	if err := os.MkdirAll(n.path("logs"), 0o755); err != nil {
		return fmt.Errorf("the cluster's directory: %w", err)
	}
	_ = os.Remove(n.path("control.sock"))
	log, err := os.OpenFile(n.path("logs/cluster.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("the cluster's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(n.Tool, "init") //nolint:gosec,noctx // it lives until Stop
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Setsid:     true,
	}
	if !n.Detach {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start the cluster: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the cluster (root with CAP_SYS_ADMIN is needed): %w", err)
	}
	ended := make(chan struct{})
	n.pid, n.ended = cmd.Process.Pid, ended
	go func() {
		_ = cmd.Wait() // its log has how it ended
		close(ended)
	}()
	err = n.connect()
	if err == nil {
		err = errors.Join(n.save(), json.NewEncoder(stdin).Encode(n.settings))
	}
	if err == nil {
		err = n.awaitReady(ctx)
	}
	if err = errors.Join(err, stdin.Close()); err != nil {
		return errors.Join(err, n.Stop())
	}
	return nil
}

// connect makes the pair of network devices that joins the cluster to this machine. Its name is what keeps two clusters
// apart.
func (n *Node) connect() error {
	numbers := []int{n.Network}
	if n.Network < 0 {
		numbers = numbers[:0]
		for i := range 64 {
			numbers = append(numbers, i)
		}
	}
	var err error
	for _, n.Network = range numbers {
		err = ip("link", "add", n.veth(), "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(n.pid))
		if err == nil {
			return errors.Join(ip("address", "add", n.hostAddress()+"/30", "dev", n.veth()), ip("link", "set", n.veth(), "up"))
		}
	}
	return err
}

func (n *Node) awaitReady(ctx context.Context) error {
	deadline := time.Now().Add(4 * time.Minute)
	for {
		err := n.ask(ctx, http.MethodGet, "ready")
		if err == nil {
			return nil
		}
		select {
		case <-n.ended:
			return fmt.Errorf("the cluster ended: %s", n.Logs())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the cluster does not get ready: %w: %s", err, n.Logs())
		}
	}
}

// ask sends a request to the supervisor.
func (n *Node) ask(ctx context.Context, method, path string) error {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", n.path("control.sock"))
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://cluster/"+path, nil)
	if err != nil {
		return fmt.Errorf("ask the cluster: %w", err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("ask the cluster: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s", path, bytes.TrimSpace(text))
	}
	return nil
}

// Do stops, starts, pauses or resumes a program: "stop", "kubelet". Started means ready.
func (n *Node) Do(ctx context.Context, verb, program string) error {
	return n.ask(ctx, http.MethodPost, verb+"/"+program)
}

// Command is a command in the cluster's namespaces. Its own environment is a short one.
func (n *Node) Command(ctx context.Context, args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(n.pid), "--mount", "--pid", "--net", "--uts", "--ipc", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...) //nolint:gosec // a test's own
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=" + n.path("tmp")}
	return cmd
}

// ImportImage gives the node the images of an archive, in the form of `docker save` or of an OCI layout, and a name
// where it has none.
func (n *Node) ImportImage(ctx context.Context, archive string) error {
	out, err := n.Command(ctx, n.Programs["ctr"], "--address", containerdSocket, "-n", "k8s.io", "images", "import", archive).CombinedOutput()
	if err != nil {
		return fmt.Errorf("import %s: %w: %s", archive, err, out)
	}
	return nil
}

// Kubeconfig is an administrator's kubeconfig file, which works inside the cluster's namespaces and outside.
func (n *Node) Kubeconfig() string {
	return filepath.Join(n.planeConfig().Dir, "keys/admin.kubeconfig")
}

// HostAddress is this machine as the cluster's Pods reach it.
func (n *Node) HostAddress() string { return n.hostAddress() }

// NodeAddress is the node as this machine reaches it.
func (n *Node) NodeAddress() string { return n.nodeAddress() }

// Logs are the last lines of the cluster's logs.
func (n *Node) Logs() string {
	var all []string
	for _, pattern := range []string{"logs/*.log", "control-plane/logs/*.log"} {
		paths, _ := filepath.Glob(n.path(pattern))
		for _, path := range paths {
			data, _ := os.ReadFile(path)
			lines := strings.Split(strings.TrimSpace(string(data)), "\n")
			all = append(all, filepath.Base(path)+", the last of it:", strings.Join(lines[max(0, len(lines)-15):], "\n"))
		}
	}
	return strings.Join(all, "\n")
}

func (n *Node) alive() bool { return n.pid != 0 && started(n.pid) != "" }

// Stop ends the cluster as if its machine lost power: every process and mount is gone, its files stay. It waits for
// that.
func (n *Node) Stop() error {
	if n.alive() {
		if err := unix.Kill(n.pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop the cluster: %w", err)
		}
	}
	deadline := time.Now().Add(time.Minute)
	for n.alive() {
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d does not end", n.pid)
		}
		time.Sleep(20 * time.Millisecond)
	}
	n.pid = 0
	_ = ip("link", "delete", n.veth()) // the kernel deletes it too, a little later
	return n.removeCgroups()
}

// removeCgroups removes what a reboot would: the groups of processes that are gone.
func (n *Node) removeCgroups() error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*" + n.cgroup())
	if err != nil {
		return fmt.Errorf("cgroups: %w", err)
	}
	deadline := time.Now().Add(time.Minute)
	for _, root := range roots {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			for {
				err := unix.Rmdir(dir)
				if err == nil || errors.Is(err, unix.ENOENT) {
					break
				}
				if time.Now().After(deadline) { // a process that is ending holds it
					return fmt.Errorf("remove cgroup %s: %w", dir, err)
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
	return nil
}

// Down is Stop, and removes all files.
func (n *Node) Down() error {
	if err := n.Stop(); err != nil {
		return err
	}
	if err := os.RemoveAll(n.Dir); err != nil {
		return fmt.Errorf("remove the cluster's directory: %w", err)
	}
	return nil
}

// Reboot is Stop, and Up with the same files.
func (n *Node) Reboot(ctx context.Context) error {
	if err := n.Stop(); err != nil {
		return err
	}
	return n.begin(ctx)
}
