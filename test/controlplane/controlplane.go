package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/canary"
)

// admissionPlugins is the environment variable that names more admission plugins, by spaces, for all control planes of
// a run.
const admissionPlugins = "CONTROLPLANE_ADMISSION_PLUGINS"

// Options are what a test may choose.
type Options struct {
	// AdmissionPlugins are enabled beside the default ones and NodeRestriction.
	AdmissionPlugins []string
	// ControllerManager is true where kube-controller-manager is to run: with garbage collection, Deployments, Jobs and
	// so on, without what watches over nodes, since there is no kubelet.
	ControllerManager bool
	// APIServerFlags are more flags of kube-apiserver.
	APIServerFlags []string
}

// ControlPlane is a control plane in a test's hands: what fails, fails the test. There is no kubelet: nodes and Pods
// are objects.
type ControlPlane struct {
	testing.TB
	*Plane

	client *kubernetes.Clientset
}

// Start runs a control plane of its own until the test ends. It is up in a few seconds; Shared takes none where it is
// up already.
func Start(t testing.TB, o Options) *ControlPlane {
	t.Helper()
	needsOwn(t, "it needs an API server that it can stop, or whose settings it chooses")
	plane, err := run(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(plane.Logs())
		}
		end(plane)
	})
	return Open(t, plane)
}

// shared is the control plane of a test process, once it was asked for.
var shared struct {
	sync.Mutex

	plane *Plane
}

// Shared is a control plane with a controller manager that all tests of the package use, each in namespaces of its own.
// Main ends it. It is the cluster of E2E_KUBECONFIG if there is one.
func Shared(t testing.TB) *ControlPlane {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.plane == nil {
		plane, err := runShared()
		if err != nil {
			t.Fatal(err)
		}
		shared.plane = plane
	}
	return Open(t, shared.plane)
}

// Main runs the tests of a package and ends what they share. Call it in TestMain.
func Main(m interface{ Run() int }) int {
	code := m.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.plane != nil {
		shared.plane.deleteNodes()
		end(shared.plane)
	}
	return code
}

func runShared() (*Plane, error) {
	config, err := Existing()
	if err != nil {
		return nil, err
	}
	if config == nil {
		return run(Options{ControllerManager: true})
	}
	dir, err := os.MkdirTemp("", "controlplane-")
	if err != nil {
		return nil, err
	}
	return UseExisting(config, dir)
}

func run(o Options) (*Plane, error) {
	dir, err := os.MkdirTemp("", "controlplane-")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	config := Config{Dir: dir, Address: "127.0.0.1", Port: port, APIServerFlags: o.APIServerFlags}
	config.AdmissionPlugins = append(strings.Fields(os.Getenv(admissionPlugins)), o.AdmissionPlugins...)
	if o.ControllerManager {
		config.Controllers = []string{"*", "-node-lifecycle-controller", "-taint-eviction-controller"}
	}
	plane, err := New(config)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := plane.Run(context.Background()); err != nil {
		end(plane)
		return nil, err
	}
	return plane, nil
}

func end(p *Plane) {
	p.Stop()
	_ = os.RemoveAll(p.Dir)
}

// freePort is a port of the loopback address that is not in use.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // returns at once
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// Open puts a control plane in a test's hands.
func Open(t testing.TB, p *Plane) *ControlPlane {
	t.Helper()
	c := &ControlPlane{TB: t, Plane: p}
	client, err := kubernetes.NewForConfig(c.Admin())
	c.must(err)
	c.client = client
	return c
}

func (c *ControlPlane) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// Version is the API server's, such as 1.32.13.
func (c *ControlPlane) Version() string {
	c.Helper()
	return c.version().String()
}

// Since reports whether the API server is of a version of Kubernetes, such as 1.35, or newer.
func (c *ControlPlane) Since(version string) bool {
	c.Helper()
	return c.version().AtLeast(utilversion.MustParseGeneric(version))
}

func (c *ControlPlane) version() *utilversion.Version {
	c.Helper()
	info, err := c.client.Discovery().ServerVersion()
	c.must(err)
	v, err := utilversion.ParseGeneric(info.GitVersion)
	c.must(err)
	return v
}

// Admin is how an administrator reaches the API server.
func (c *ControlPlane) Admin() *rest.Config {
	c.Helper()
	config, err := c.AdminConfig()
	c.must(err)
	return config
}

// AdminKubeconfig is an administrator's kubeconfig file.
func (c *ControlPlane) AdminKubeconfig() string { return c.Kubeconfig("admin") }

// Client is an administrator's client.
func (c *ControlPlane) Client() kubernetes.Interface { return c.client }

// StopAPIServer ends the API server at once.
func (c *ControlPlane) StopAPIServer() {
	c.Helper()
	c.NeedsOwn("it stops the API server")
	c.Plane.StopAPIServer()
}

// StartAPIServer starts it again, on the same port, and returns when it is ready.
func (c *ControlPlane) StartAPIServer() {
	c.Helper()
	c.must(c.Plane.StartAPIServer(c.Context()))
}

// Pause makes the API server answer nothing until Resume.
func (c *ControlPlane) Pause() {
	c.Helper()
	c.NeedsOwn("it stops the API server")
	c.must(c.Plane.Pause())
}

// Resume ends Pause.
func (c *ControlPlane) Resume() {
	c.Helper()
	c.must(c.Plane.Resume())
}

// Kubectl runs kubectl as an administrator and returns what it printed.
func (c *ControlPlane) Kubectl(stdin string, args ...string) (string, error) {
	return c.Plane.Kubectl(c.AdminKubeconfig(), stdin, args...)
}

// Kubectl runs kubectl with a kubeconfig and returns what it printed; what it printed on stderr is in the error.
func (p *Plane) Kubectl(kubeconfig, stdin string, args ...string) (string, error) {
	var out, problems bytes.Buffer
	cmd := exec.Command(p.programs["kubectl"], args...) //nolint:gosec,noctx // built by this project
	cmd.Env = []string{"KUBECONFIG=" + kubeconfig, "HOME=" + p.path("home"), "PATH=" + os.Getenv("PATH")}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &problems
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(problems.String()))
	}
	return out.String(), nil
}

// MustKubectl is Kubectl where an error fails the test.
func (c *ControlPlane) MustKubectl(stdin string, args ...string) string {
	c.Helper()
	out, err := c.Kubectl(stdin, args...)
	c.must(err)
	return out
}

// Apply applies files or directories, by server-side apply.
func (c *ControlPlane) Apply(files ...string) {
	c.Helper()
	args := []string{"apply", "--server-side", "--force-conflicts"}
	for _, file := range files {
		args = append(args, "-f", file)
	}
	c.MustKubectl("", args...)
}

// ApplyYAML applies objects.
func (c *ControlPlane) ApplyYAML(text string) {
	c.Helper()
	// kubectl before 1.33 takes YAML that begins with a brace for JSON
	c.MustKubectl("---\n"+text, "apply", "--server-side", "--force-conflicts", "-f", "-")
}

// ApplyCRDs applies the project's CRDs and returns when they are served.
func (c *ControlPlane) ApplyCRDs() {
	c.Helper()
	root, err := binaries.Root()
	c.must(err)
	c.Apply(filepath.Join(root, "deploy/crds"))
	c.MustKubectl("", "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
}

// Namespace makes a namespace with a name that no other test has; it goes with the test.
func (c *ControlPlane) Namespace() string {
	c.Helper()
	ns, err := c.client.CoreV1().Namespaces().Create(c.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	c.must(err)
	c.Cleanup(func() {
		c.checkNamespace(ns.Name)
		_ = c.client.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{})
	})
	return ns.Name
}

// checkNamespace fails the test where an object that says what happened holds a secret value. A test may have stopped the API
// server: then there is nothing to be looked at.
func (c *ControlPlane) checkNamespace(name string) {
	c.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, path := range []string{
		"/api/v1/namespaces/" + name + "/events",
		"/apis/secrets-store.csi.x-k8s.io/v1/namespaces/" + name + "/secretproviderclasspodstatuses",
		"/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/" + name + "/secretsyncs",
	} {
		text, err := c.client.CoreV1().RESTClient().Get().AbsPath(path).DoRaw(ctx)
		if err != nil {
			continue // no such kind, or no API server
		}
		if where := canary.Find(string(text)); where != "" {
			c.Errorf("%s: a secret value: %s", path, where)
		}
	}
}

// Eventually waits for a condition.
func (c *ControlPlane) Eventually(what string, ok func() bool) {
	c.Helper()
	deadline := time.Now().Add(5 * time.Minute) // also on a machine that is ten times slower
	for !ok() {
		if time.Now().After(deadline) {
			c.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
