//go:build linux

package cluster

import (
	"context"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
)

// settings are passed from outside to inside.
type settings struct {
	Options

	// Network numbers the addresses; no two clusters have the same at a time.
	Network int
	// Tool is the program of hack/cluster.
	Tool     string
	Programs controlplane.Programs
}

func (s *settings) hostAddress() string { return fmt.Sprintf("198.18.%d.1", s.Network) }
func (s *settings) nodeAddress() string { return fmt.Sprintf("198.18.%d.2", s.Network) }
func (s *settings) veth() string        { return fmt.Sprintf("kvcsi%d", s.Network) }
func (s *settings) cgroup() string      { return fmt.Sprintf("/keyvault-csi-%d", s.Network) }
func (s *settings) path(name string) string {
	return filepath.Join(s.Dir, name)
}

func (s *settings) planeConfig() controlplane.Config {
	return controlplane.Config{
		Dir: s.path("control-plane"), Address: s.nodeAddress(), Bind: "0.0.0.0", Port: 443,
		Controllers: []string{"*"}, Scheduler: true,
	}
}

// Init is process 1 of the cluster's namespaces: it makes the file system what a node's is, waits for the settings on
// stdin, runs Supervise and reaps what is orphaned. When it ends, all of the cluster ends.
func Init() error {
	var s settings
	if err := json.NewDecoder(os.Stdin).Decode(&s); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	if err := mountAll(&s); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(NodeName)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	supervisor, err := syscall.ForkExec(s.Tool, []string{s.Tool, "supervise", string(text)}, &syscall.ProcAttr{ //nolint:gosec // this program itself
		Env: os.Environ(), Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if pid == supervisor {
			return fmt.Errorf("the supervisor ended: %d", status)
		}
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("wait: %w", err)
		}
	}
}

// sysctls are what kubelet wants of the machine. It finds them so and does not touch the machine's.
var sysctls = map[string]string{
	"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// mountAll makes mounts shared among the cluster's processes and hidden from the machine, and gives the cluster
// directories of its own where its programs have fixed paths.
func mountAll(s *settings) error {
	for _, step := range []error{
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""),
		unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
	} {
		if step != nil {
			return fmt.Errorf("mount: %w", step)
		}
	}
	for _, dir := range []string{"/run", "/var/lib", "/var/log"} {
		if strings.HasPrefix(s.Dir, dir+"/") {
			return fmt.Errorf("the cluster's directory %s is below %s, which the cluster replaces: choose another", s.Dir, dir)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	// A user namespace may mount a proc only where one is seen whole; the sysctls below hide parts of the other.
	if err := os.Mkdir("/run/proc", 0o755); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if err := unix.Mount("proc", "/run/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	for _, dir := range []string{s.path("kubelet"), s.path("tmp"), s.path("sysctl"), kubeletDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make the cluster's directories: %w", err)
		}
	}
	if err := unix.Mount(s.path("kubelet"), kubeletDir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", kubeletDir, err)
	}
	for name, value := range sysctls {
		file := s.path("sysctl/" + strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
			return fmt.Errorf("sysctl: %w", err)
		}
		if err := unix.Mount(file, "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount over sysctl %s: %w", name, err)
		}
	}
	return nil
}

// supervisor runs the cluster's programs and does what the outside asks for.
type supervisor struct {
	settings

	plane      *controlplane.Plane
	containerd *controlplane.Process
	kubelet    *controlplane.Process
	mu         sync.Mutex // one request at a time
}

// Supervise starts the cluster's programs, inside its namespaces, and serves requests of the outside on a socket until
// it is killed.
func Supervise(ctx context.Context, text string) error {
	s := &supervisor{}
	if err := json.Unmarshal([]byte(text), &s.settings); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /{verb}/{program}", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.do(ctx, r.PathValue("verb"), r.PathValue("program")); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	socket := s.path("control.sock")
	_ = os.Remove(socket)
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	return server.Serve(listener)
}

func (s *supervisor) do(ctx context.Context, verb, program string) error {
	switch verb + " " + program {
	case "stop kubelet":
		s.kubelet.Stop(syscall.SIGTERM)
	case "start kubelet":
		return s.startKubelet(ctx)
	case "stop containerd":
		s.containerd.Stop(syscall.SIGTERM)
	case "start containerd":
		return s.startContainerd()
	case "stop kube-apiserver":
		s.plane.StopAPIServer()
	case "start kube-apiserver":
		return s.plane.StartAPIServer(ctx)
	case "pause kube-apiserver":
		return s.plane.Pause()
	case "resume kube-apiserver":
		return s.plane.Resume()
	default:
		return fmt.Errorf("%s %s: not known", verb, program)
	}
	return nil
}

// start brings up the network, the control plane and the node, and returns when the node is ready.
func (s *supervisor) start(ctx context.Context) error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"address", "add", controlplane.ServiceAddress + "/32", "dev", "lo"}, // the Service default/kubernetes, without a proxy
		{"address", "add", s.nodeAddress() + "/30", "dev", "eth0"},
		{"link", "set", "eth0", "up"},
		{"route", "add", "default", "via", s.hostAddress()},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	var err error
	if s.plane, err = controlplane.With(s.planeConfig(), s.Programs); err != nil {
		return err
	}
	if err := writeConfigs(&s.settings, s.Programs, s.plane.Key("ca.pem")); err != nil {
		return err
	}
	if err := s.makeCgroup(); err != nil {
		return err
	}
	if err := s.plane.Run(ctx); err != nil {
		return err
	}
	if err := s.startContainerd(); err != nil {
		return err
	}
	if err := s.importPause(ctx); err != nil {
		return err
	}
	if err := s.startProxy(); err != nil {
		return err
	}
	return s.startKubelet(ctx)
}

// startProxy starts what makes Services reachable.
func (s *supervisor) startProxy() error {
	const user = "system:kube-proxy"
	if _, err := os.Stat(s.plane.Kubeconfig(user)); err != nil {
		if err := s.plane.AddUser(user); err != nil {
			return err
		}
	}
	cmd := exec.Command(s.Programs["kube-proxy"], "--kubeconfig", s.plane.Kubeconfig(user), //nolint:gosec,noctx // as above
		"--hostname-override", NodeName, "--proxy-mode", "iptables", "--masquerade-all", "--iptables-localhost-nodeports=false",
		"--conntrack-max-per-core", "0", "--conntrack-min", "0", "--conntrack-tcp-timeout-established", "0", "--conntrack-tcp-timeout-close-wait", "0")
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	_, err := controlplane.StartProcess(s.Dir, "kube-proxy", cmd)
	return err
}

// makeCgroup makes the cgroup below which kubelet makes its own, in every hierarchy.
func (s *supervisor) makeCgroup() error {
	hierarchies, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil {
		return fmt.Errorf("cgroups: %w", err)
	}
	for _, file := range hierarchies {
		dir := filepath.Join(filepath.Dir(file), s.cgroup())
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cgroups: %w", err)
		}
		// a cpuset without processors and memory holds no process
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			if data, err := os.ReadFile(filepath.Join(filepath.Dir(file), name)); err == nil {
				if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil { //nolint:gosec // of the cgroup file system
					return fmt.Errorf("cgroups: %w", err)
				}
			}
		}
	}
	return nil
}

func (s *supervisor) startContainerd() error {
	cmd := exec.Command(s.Programs["containerd"], "--config", s.path("containerd.toml")) //nolint:gosec,noctx // built by this project; it lives until it is stopped
	// it finds its shim, and the shim what it runs, in PATH
	cmd.Env = append(os.Environ(), "TMPDIR="+s.path("tmp"), "PATH="+strings.Join([]string{
		filepath.Dir(s.Programs["containerd-shim-runc-v2"]), filepath.Dir(s.Programs["runc"]), os.Getenv("PATH"), "/usr/sbin", "/sbin",
	}, ":"))
	var err error
	if s.containerd, err = controlplane.StartProcess(s.Dir, "containerd", cmd); err != nil {
		return err
	}
	return s.containerd.Await("containerd", func() error {
		return exec.Command(s.Programs["ctr"], "--address", containerdSocket, "version").Run() //nolint:gosec,noctx // as above
	})
}

func (s *supervisor) importPause(ctx context.Context) error {
	program, err := os.ReadFile(s.Programs["pause"])
	if err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	archive := s.path("tmp/pause.tar")
	image := Image{Name: pauseImage, Entrypoint: []string{"/pause"}, Files: map[string][]byte{"pause": program}}
	if err := image.WriteFile(archive); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, s.Programs["ctr"], "--address", containerdSocket, "-n", "k8s.io", "images", "import", archive).CombinedOutput() //nolint:gosec // as above
	if err != nil {
		return fmt.Errorf("import %s: %w: %s", pauseImage, err, out)
	}
	return nil
}

func (s *supervisor) startKubelet(ctx context.Context) error {
	user := "system:node:" + NodeName
	if _, err := os.Stat(s.plane.Kubeconfig(user)); err != nil {
		if err := errors.Join(s.plane.AddUser(user, "system:nodes"), s.plane.AddServer("kubelet", pkix.Name{CommonName: NodeName}, NodeName, s.nodeAddress())); err != nil {
			return err
		}
	}
	cmd := exec.Command(s.Programs["kubelet"], "--config", s.path("kubelet.yaml"), "--kubeconfig", s.plane.Kubeconfig(user), //nolint:gosec,noctx // as above
		"--root-dir", kubeletDir, "--hostname-override", NodeName, "--node-ip", s.nodeAddress(), "--v", "2",
		"--tls-cert-file", s.plane.Key("kubelet.pem"), "--tls-private-key-file", s.plane.Key("kubelet.key"), "--cert-dir", s.path("tmp"))
	cmd.Env = append(os.Environ(), "TMPDIR="+s.path("tmp"))
	started := time.Now().Add(-time.Second)
	var err error
	if s.kubelet, err = controlplane.StartProcess(s.Dir, "kubelet", cmd); err != nil {
		return err
	}
	config, err := s.plane.AdminConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("client of the API server: %w", err)
	}
	return s.kubelet.Await("the node to be ready", func() error {
		return nodeReady(ctx, client, started)
	})
}

// nodeReady returns nil where kubelet has said since some time that the node is ready and Pods can be made.
func nodeReady(ctx context.Context, client kubernetes.Interface, since time.Time) error {
	node, err := client.CoreV1().Nodes().Get(ctx, NodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && (c.Status != corev1.ConditionTrue || c.LastHeartbeatTime.Time.Before(since)) {
			return fmt.Errorf("node is not ready: %s", c.Message)
		}
	}
	if len(node.Status.Conditions) == 0 || len(node.Spec.Taints) > 0 {
		return fmt.Errorf("node is not ready: taints %v", node.Spec.Taints)
	}
	_, err = client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
	return err
}

func ip(args ...string) error {
	cmd := exec.Command("ip", args...) //nolint:gosec,noctx // returns at once
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
