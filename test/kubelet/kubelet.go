// Package kubelet plays kubelet for tests: it starts the built driver against an emulator and calls its socket with
// real service account tokens.
package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/canary"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

// Tenant, Client and Vault are those of Seed.
const (
	Tenant = "11111111-1111-1111-1111-111111111111"
	Client = "22222222-2222-2222-2222-222222222222"
	Vault  = "contoso"
)

// Seed is a tenant with a client that the service account default/app federates with, and that may do all in one vault.
const Seed = `
tenants:
- id: 11111111-1111-1111-1111-111111111111
  applications:
  - clientID: 22222222-2222-2222-2222-222222222222
    objectID: 22222222-0000-0000-0000-000000000000
    federated:
    - {issuer: "https://oidc.example.com/cluster/", subject: "system:serviceaccount:default:app"}
vaults:
- name: contoso
  tenant: 11111111-1111-1111-1111-111111111111
  grants: [{clientID: 22222222-2222-2222-2222-222222222222, permissions: ["*"]}]
`

// Node is a node with a driver that runs.
type Node struct {
	testing.TB
	Dir      string
	Emulator *emulator.Server
	Issuer   *emulatortest.Issuer
	csi.NodeClient
	csi.IdentityClient

	binary  string
	wrapper []string // runs the driver, such as a tracer; empty: it is run as it is
	source  []string // the flags that say where classes come from
	flags   []string
	env     []string
	process *exec.Cmd
	exited  chan error
	conn    *grpc.ClientConn
	log     *os.File
}

// Main runs the tests of a package that starts drivers: four at once unless -parallel says otherwise, since they mostly
// wait. Call it in TestMain.
func Main(m *testing.M) int {
	// Not flag.Set, which looks like a flag of the command line, and csi-sanity refuses that one.
	if err := flag.Lookup("test.parallel").Value.Set("4"); err != nil {
		panic(err) // a number
	}
	return m.Run()
}

// Start runs an emulator with the seed and a driver with more flags until the test ends.
func Start(t testing.TB, seed string, flags ...string) *Node {
	t.Helper()
	server := emulatortest.Start(t, seed)
	return StartWith(t, server, emulatortest.StartIssuer(t, server), flags...)
}

// StartWith runs a driver against an emulator that runs.
func StartWith(t testing.TB, server *emulator.Server, issuer *emulatortest.Issuer, flags ...string) *Node {
	t.Helper()
	return StartWithout(t, server, issuer, "", flags...)
}

// InCluster is a seed whose federated credentials are for tokens of an API server's issuer.
func InCluster(seed string, issuer emulator.Issuer) string {
	return strings.ReplaceAll(seed, "https://oidc.example.com/cluster/", issuer.Issuer)
}

// StartInCluster runs a driver that takes its classes from an API server. The emulator trusts the tokens of the API
// server's issuer.
func StartInCluster(t testing.TB, seed, kubeconfig string, issuer emulator.Issuer, flags ...string) *Node {
	t.Helper()
	server := emulatortest.Start(t, InCluster(seed, issuer))
	if err := server.Apply(emulator.Seed{Issuers: []emulator.Issuer{issuer}}); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, server, nil)
	n.source, n.flags = []string{"--kubeconfig", kubeconfig}, flags
	n.begin()
	return n
}

// StartWithout is StartWith without one variable of the environment that leads to the emulator.
func StartWithout(
	t testing.TB,
	server *emulator.Server,
	issuer *emulatortest.Issuer,
	variable string,
	flags ...string,
) *Node {
	t.Helper()
	n := newNode(t, server, issuer)
	n.source, n.flags = []string{"--classes", filepath.Join(n.Dir, "classes")}, flags
	n.env = slices.DeleteFunc(
		n.env,
		func(v string) bool { return variable != "" && strings.HasPrefix(v, variable+"=") },
	)
	n.begin()
	return n
}

func newNode(t testing.TB, server *emulator.Server, issuer *emulatortest.Issuer) *Node {
	t.Helper()
	n := &Node{
		TB: t, Dir: t.TempDir(), Emulator: server, Issuer: issuer, binary: binaries.Driver(t),
		env: emulatortest.Environment(t, server), log: openLog(t),
	}
	for _, dir := range []string{"classes", "pods"} {
		if err := os.Mkdir(filepath.Join(n.Dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// begin starts the driver until the test ends.
func (n *Node) begin() {
	n.Helper()
	n.Run()
	n.Cleanup(func() {
		n.checkMetrics()
		n.Stop(syscall.SIGTERM)
		if where := canary.Find(n.Log()); where != "" {
			n.Errorf("the driver's log holds a secret value: %s", where)
		}
		for _, target := range n.Targets() {
			for unix.Unmount(target, unix.MNT_DETACH) == nil {
			}
		}
		if n.Failed() {
			log := n.Log()
			for _, race := range races.FindAllString(log, 3) {
				n.Logf("%s", race)
			}
			n.Logf("driver's log, the last of it:\n%s", tail(log))
		}
	})
}

// checkMetrics fails the test where the driver serves a secret value as a metric.
func (n *Node) checkMetrics() {
	n.Helper()
	if n.process == nil || !slices.Contains(n.flags, "--http-addr") {
		return
	}
	resp, err := http.Get("http://" + n.Address("health and metrics") + "/metrics") //nolint:noctx // a test helper
	if err != nil {
		return // the test has taken it away
	}
	defer func() { _ = resp.Body.Close() }()
	if text, err := io.ReadAll(resp.Body); err == nil && canary.Find(string(text)) != "" {
		n.Errorf("the metrics hold a secret value: %s", canary.Find(string(text)))
	}
}

// SetFlags replaces the flags that Start got, for the next Run.
func (n *Node) SetFlags(flags ...string) { n.flags = flags }

// SetWrapper has the next Run start the driver by a program that gets the driver's command line after these arguments. PID is
// then the wrapper's, and so are the signals of Stop. No arguments: the driver is run as it is.
func (n *Node) SetWrapper(command ...string) { n.wrapper = command }

// SetRelease has the next Run start the driver as it is shipped, without the race detector.
func (n *Node) SetRelease() { n.binary = binaries.Release(n.TB) }

// Beside is a node for another driver on the same directories, such as the next version's during an upgrade: its Run takes the socket
// over. It is killed when the test ends.
func (n *Node) Beside() *Node {
	next := *n
	next.process, next.exited, next.conn = nil, nil, nil
	n.Cleanup(func() { next.Stop(syscall.SIGKILL) })
	return &next
}

// Run starts the driver's process, again after Stop, and waits until it is ready.
func (n *Node) Run() {
	n.Helper()
	n.Launch()
	registers := slices.Contains(n.flags, "--registration-dir") // then it is ready when the test has registered it
	n.Eventually("the driver to be ready", func() bool {
		resp, err := n.Probe(context.Background(), &csi.ProbeRequest{})
		return err == nil && (registers || resp.GetReady().GetValue())
	})
}

// Launch starts the driver's process and returns when its socket answers.
func (n *Node) Launch() {
	n.Helper()
	if n.process != nil {
		n.Fatal("the driver runs already, and two would write to the same volumes: Stop it first")
	}
	socket := filepath.Join(n.Dir, "csi.sock")
	_ = os.Remove(socket)
	args := slices.Concat([]string{
		"driver", "--endpoint", "unix://" + socket, "--node-id", "node-1", "--kubelet-dir", n.Dir,
		"--http-addr", "", "--admin-addr", "", "--log-format", "json", "--v", "10",
	}, n.source, n.flags)
	command := slices.Concat(n.wrapper, []string{n.binary}, args)
	n.process = exec.Command(command[0], command[1:]...) //nolint:gosec,noctx // a test helper
	n.process.Env = append(os.Environ(), n.env...)
	n.process.Stderr = n.log
	n.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.process.Start(); err != nil {
		n.Fatal(err)
	}
	n.exited = make(chan error, 1)
	go func(p *exec.Cmd, exited chan error) { exited <- p.Wait() }(n.process, n.exited)
	// a gRPC client that finds no socket waits a second before it looks again
	n.Eventually("the driver's socket", func() bool {
		conn, err := net.Dial("unix", socket) //nolint:noctx // a test helper
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
	var err error
	n.conn, err = grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.Fatal(err)
	}
	n.NodeClient, n.IdentityClient = csi.NewNodeClient(n.conn), csi.NewIdentityClient(n.conn)
}

// Stop ends the driver's process and waits for it.
func (n *Node) Stop(sig syscall.Signal) {
	n.Helper()
	if n.process == nil {
		return
	}
	_ = n.conn.Close()
	_ = n.process.Process.Signal(sig)
	select {
	case err := <-n.exited:
		if _, killed := errors.AsType[*exec.ExitError](err); err != nil && (!killed || sig != syscall.SIGKILL) {
			n.Errorf("driver ended with %v", err)
		}
	case <-time.After(patience):
		n.Error("the driver does not stop")
		_ = n.process.Process.Kill()
	}
	n.process = nil
}

// Wait waits until the driver's process has ended by itself, and returns how.
func (n *Node) Wait() error {
	n.Helper()
	defer func() { n.process = nil }()
	_ = n.conn.Close()
	select {
	case err := <-n.exited:
		return err
	case <-time.After(patience):
		_ = n.process.Process.Kill()
		return errors.New("the driver does not end")
	}
}

// In is the node for a subtest, whose failures are the subtest's own.
func (n *Node) In(t testing.TB) *Node {
	own := *n
	own.TB = t
	return &own
}

// PID is that of the driver's process.
func (n *Node) PID() int { return n.process.Process.Pid }

// patience is how long a test waits for what must come, also on a machine that is ten times slower.
const patience = 5 * time.Minute

// Eventually waits for a condition.
func (n *Node) Eventually(what string, ok func() bool) {
	n.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			n.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Class writes a class of the namespace default. Parameters that are missing are those of Seed.
func (n *Node) Class(name string, parameters map[string]string) {
	n.Helper()
	n.ClassFile(name+".json", string(ClassJSON(name, parameters)))
}

// ClassJSON is a class of the namespace default. Parameters that are missing are those of Seed; one that is "-" is left out.
func ClassJSON(name string, parameters map[string]string) []byte {
	all := map[string]string{"keyvaultName": Vault, "tenantID": Tenant, "clientID": Client}
	maps.Copy(all, parameters)
	for k, v := range all {
		if v == "-" {
			delete(all, k)
		}
	}
	data, err := json.Marshal(map[string]any{
		"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
		"metadata": map[string]any{"name": name, "namespace": "default"},
		"spec":     map[string]any{"provider": "azure", "parameters": all},
	})
	if err != nil {
		panic(err) // strings marshal
	}
	return data
}

// ClassFile writes a file of the class directory by a rename; the driver's next call sees it.
func (n *Node) ClassFile(name, text string) {
	n.Helper()
	tmp := filepath.Join(n.Dir, "new-class")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		n.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(n.Dir, "classes", name)); err != nil {
		n.Fatal(err)
	}
}

// Objects is the objects parameter for secrets of these names.
func Objects(names ...string) string {
	var b strings.Builder
	b.WriteString("array:\n")
	for _, name := range names {
		b.WriteString("- |\n  objectName: " + name + "\n  objectType: secret\n")
	}
	return b.String()
}

// Target is where the pod's volume is to be.
func (n *Node) Target(pod string) string {
	return Target(n.Dir, pod)
}

// Targets are all targets that are there.
func (n *Node) Targets() []string {
	found, _ := filepath.Glob(filepath.Join(n.Dir, "pods/*/volumes/kubernetes.io~csi/*/mount"))
	return found
}

// Request is what kubelet sends for a pod of the service account default/app.
func (n *Node) Request(pod, class string, edit ...func(*csi.NodePublishVolumeRequest)) *csi.NodePublishVolumeRequest {
	n.Helper()
	target := n.Target(pod)
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		n.Fatal(err)
	}
	req := PublishRequest(target, pod, class, "")
	if n.Issuer != nil {
		req.Secrets[tokensKey] = n.Tokens("default", "app", time.Hour)
	}
	for _, f := range edit {
		f(req)
	}
	return req
}

// As makes the request that of a pod of another service account.
func (n *Node) As(namespace, serviceAccount string) func(*csi.NodePublishVolumeRequest) {
	return func(r *csi.NodePublishVolumeRequest) {
		r.VolumeContext["csi.storage.k8s.io/pod.namespace"] = namespace
		r.VolumeContext["csi.storage.k8s.io/serviceAccount.name"] = serviceAccount
		r.Secrets[tokensKey] = n.Tokens(namespace, serviceAccount, time.Hour)
	}
}

// Tokens is what kubelet passes for the audiences of the CSIDriver object.
func (n *Node) Tokens(namespace, serviceAccount string, lifetime time.Duration) string {
	n.Helper()
	return Tokens(n.Issuer, namespace, serviceAccount, lifetime)
}

// Publish calls NodePublishVolume.
func (n *Node) Publish(pod, class string, edit ...func(*csi.NodePublishVolumeRequest)) error {
	n.Helper()
	_, err := n.NodePublishVolume(context.Background(), n.Request(pod, class, edit...))
	return err
}

// MustPublish fails the test where Publish fails.
func (n *Node) MustPublish(pod, class string, edit ...func(*csi.NodePublishVolumeRequest)) {
	n.Helper()
	if err := n.Publish(pod, class, edit...); err != nil {
		n.Fatal(err)
	}
}

// Unpublish calls NodeUnpublishVolume.
func (n *Node) Unpublish(pod string) {
	n.Helper()
	_, err := n.NodeUnpublishVolume(
		context.Background(),
		&csi.NodeUnpublishVolumeRequest{VolumeId: "csi-" + pod, TargetPath: n.Target(pod)},
	)
	if err != nil {
		n.Fatal(err)
	}
}

// Read returns a file of a pod's volume.
func (n *Node) Read(pod, path string) string {
	n.Helper()
	data, err := os.ReadFile(filepath.Join(n.Target(pod), path))
	if err != nil {
		n.Fatal(err)
	}
	return string(data)
}

// Secret sets a secret of Vault.
func (n *Node) Secret(name, value string) {
	n.Helper()
	if _, err := n.Emulator.SetSecret(Vault, emulator.Secret{Name: name, Value: value}); err != nil {
		n.Fatal(err)
	}
}

// tail is the last 30 lines of a log.
func tail(text string) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}
