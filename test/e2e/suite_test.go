//go:build e2e

package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/cluster"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

func TestMain(m *testing.M) {
	code := cluster.Main(leaver{m})
	if world.emulator != nil {
		_ = world.emulator.Close()
	}
	os.Exit(code)
}

// leaver runs the tests and removes what they leave in a cluster that is not their own.
type leaver struct{ tests *testing.M }

// Run implements what Main takes.
func (l leaver) Run() int {
	code := l.tests.Run()
	if world.leave != nil {
		if err := world.leave(); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, "uninstall:", err)
			code = 1
		}
	}
	return code
}

// syncFrequency is kubelet's: how often it looks at each Pod and calls the driver again.
const syncFrequency = 5 * time.Second

// system is the driver's namespace, release the name of its Helm release and of its DaemonSet.
const (
	system  = "kube-system"
	release = "keyvault-csi"
)

// world is what all tests share: a cluster with the driver, and the emulator.
var world struct {
	sync.Mutex

	emulator *emulator.Server
	leave    func() error // of a cluster of E2E_KUBECONFIG
}

// suite is a cluster with the driver, in a test's hands.
type suite struct {
	*cluster.Cluster
	Emulator *emulator.Server
	// Namespace is the test's own. Its service account app may read all of the vault.
	Namespace string
}

// begin gives a test a namespace on the cluster, which the first test starts and installs the driver on.
func begin(t testing.TB) *suite {
	t.Helper()
	world.Lock()
	defer world.Unlock()
	s := &suite{Cluster: cluster.Shared(t, cluster.Options{SyncFrequency: syncFrequency}), Emulator: world.emulator}
	if s.Emulator == nil {
		s.prepare()
		if !s.Owned() {
			world.leave = leave(binaries.Helm(t), s.Plane, s.Kubeconfig())
		}
		s.install()
		world.emulator = s.Emulator
	}
	s.Namespace = s.ControlPlane.Namespace()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the driver's log, the last of it:\n%s", s.DriverLog(40))
		}
	})
	s.Federate(s.Namespace, "app", "*")
	return s
}

// leave returns what uninstalls the driver. CustomResourceDefinitions stay, as the chart says.
func leave(helm string, plane *controlplane.Plane, kubeconfig string) func() error {
	return func() error {
		out, err := exec.Command(helm, "--kubeconfig", kubeconfig, "uninstall", release, "-n", system).CombinedOutput() //nolint:gosec,noctx // the project's own tool
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		_, problem := plane.Kubectl(kubeconfig, "", "-n", system, "delete", "configmap", "emulator-ca", "--ignore-not-found")
		return errors.Join(err, problem)
	}
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// prepare starts the emulator and imports the images: the chart can be installed.
func (s *suite) prepare() {
	s.Helper()
	seed, err := emulator.ParseSeed([]byte(kubelet.Seed))
	s.must(err)
	seed.Issuers = []emulator.Issuer{s.TokenIssuer()}
	s.Emulator, err = emulator.New(emulator.Options{Seed: seed})
	s.must(err)
	s.must(s.Emulator.Start(s.HostAddress() + ":0"))
	s.ImportBusybox()
	s.Import(filepath.Join(s.root(), ".cache/image/keyvault-csi-"+runtime.GOARCH+".tar"))
	ca := filepath.Join(s.TempDir(), "ca.crt")
	s.must(os.WriteFile(ca, s.Emulator.CAPEM(), 0o600))
	s.MustKubectl("", "-n", system, "create", "configmap", "emulator-ca", "--from-file", ca)
}

func (s *suite) root() string {
	s.Helper()
	root, err := binaries.Root()
	s.must(err)
	return root
}

// values are the chart's: the driver reaches the emulator through the proxy settings that people use for their proxies. Under hack/coverage, the
// driver's container has the program that counts what it runs in place of the image's, and writes that where the tests write theirs.
func (s *suite) values() string {
	env, volumes, mounts := "", "", ""
	if dir := os.Getenv("GOCOVERDIR"); dir != "" {
		env = "{name: GOCOVERDIR, value: /coverage}"
		volumes = fmt.Sprintf(", {name: coverage, hostPath: {path: %q}}, {name: counting, hostPath: {path: %q}}", dir, binaries.Driver(s))
		mounts = ", {name: coverage, mountPath: /coverage}, {name: counting, mountPath: /keyvault-csi, readOnly: true}"
	}
	return fmt.Sprintf(`
syncSecret: {enabled: true}
rotationPollInterval: 2s
cacheTTL: 0s
logFormatJSON: true
logVerbosity: 5
proxy: {https: %[1]q, http: %[1]q}
linux:
  driver:
    extraArgs: [--ca-file=/ca/ca.crt]
  env: [%[2]s]
  volumes: [{name: ca, configMap: {name: emulator-ca}}%[3]s]
  volumeMounts: [{name: ca, mountPath: /ca}%[4]s]
`, s.Emulator.ProxyURL(), env, volumes, mounts)
}

// install installs the chart, or upgrades it, and returns when the driver is ready.
func (s *suite) install(flags ...string) {
	s.Helper()
	s.Helm(append([]string{"upgrade", "--install", release, filepath.Join(s.root(), "deploy/chart"), "-n", system, "-f", "-", "--wait", "--timeout", "3m"}, flags...)...)
	s.DriverReady() // Helm takes a DaemonSet for ready that may have one Pod unavailable
}

// Helm runs helm with the suite's values on stdin.
func (s *suite) Helm(args ...string) string {
	s.Helper()
	cmd := exec.Command(binaries.Helm(s), args...) //nolint:gosec,noctx // the project's own tool
	home := s.TempDir()
	cmd.Env = []string{"KUBECONFIG=" + s.Kubeconfig(), "HOME=" + home, "PATH=" + os.Getenv("PATH")}
	cmd.Stdin = strings.NewReader(s.values())
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.Fatalf("helm %s: %v\n%s\n%s", strings.Join(args, " "), err, out, s.describeSystem())
	}
	return string(out)
}

// describeSystem shows why a Pod of the driver may not run.
func (s *suite) describeSystem() string {
	pods, _ := s.Kubectl("", "-n", system, "describe", "pods")
	logs, _ := s.Kubectl("", "-n", system, "logs", "daemonset/"+release, "--tail=30")
	return pods + logs
}

// Federate lets a service account's Pods do something in the vault: permissions as emulator.Grant has them. It returns the client id.
func (s *suite) Federate(namespace, serviceAccount string, permissions ...string) string {
	s.Helper()
	client := clientOf(namespace + "/" + serviceAccount)
	s.must(s.Emulator.Apply(emulator.Seed{Tenants: []emulator.Tenant{{ID: kubelet.Tenant, Applications: []emulator.Application{{
		ClientID: client, ObjectID: client,
		Federated: []emulator.Federated{{Issuer: s.TokenIssuer().Issuer, Subject: "system:serviceaccount:" + namespace + ":" + serviceAccount}},
	}}}}}))
	s.must(s.Emulator.Grant(kubelet.Vault, client, permissions...))
	s.CreateServiceAccount(namespace, serviceAccount)
	return client
}

// clientOf makes a client id from a name.
func clientOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// Secret sets a secret of the vault. The vault is one for all tests: put the namespace into the name.
func (s *suite) Secret(name, value string) {
	s.Helper()
	_, err := s.Emulator.SetSecret(kubelet.Vault, emulator.Secret{Name: name, Value: value})
	s.must(err)
}

// Class makes or changes a class of the test's namespace for the service account app. More is the rest of the spec as YAML, with
// the indentation of two spaces.
func (s *suite) Class(name, objects string, more ...string) {
	s.Helper()
	s.ClassIn(s.Namespace, name, objects, more...)
}

// ClassIn is Class for another namespace, whose service account app was federated.
func (s *suite) ClassIn(namespace, name, objects string, more ...string) {
	s.Helper()
	s.ApplyYAML(fmt.Sprintf(`
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: %s, namespace: %s}
spec:
  provider: azure
  parameters:
    keyvaultName: %s
    tenantID: %s
    clientID: %s
    objects: |
      %s
%s`, name, namespace, kubelet.Vault, kubelet.Tenant, clientOf(namespace+"/app"), strings.ReplaceAll(strings.TrimSpace(objects), "\n", "\n      "), strings.Join(more, "\n")))
}

// mount is where the Pods of these tests have their volume.
const mount = "/mnt/secrets"

// volume is an inline volume of a class.
func volume(name, class string) corev1.Volume {
	readOnly := true
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{
		Driver: "secrets-store.csi.k8s.io", ReadOnly: &readOnly, VolumeAttributes: map[string]string{"secretProviderClass": class},
	}}}
}

// podSpec is a Pod of the service account app that sleeps, with the class's volume.
func podSpec(class string, edit ...func(*corev1.PodSpec)) corev1.PodSpec {
	grace := int64(1)
	no := false
	spec := corev1.PodSpec{
		ServiceAccountName: "app", TerminationGracePeriodSeconds: &grace, AutomountServiceAccountToken: &no,
		Containers: []corev1.Container{{
			Name: "app", Image: cluster.Busybox, ImagePullPolicy: corev1.PullNever, Args: []string{"trap exit TERM; while :; do sleep 1 & wait; done"},
			VolumeMounts: []corev1.VolumeMount{{Name: "secrets", MountPath: mount, ReadOnly: true}},
		}},
		Volumes: []corev1.Volume{volume("secrets", class)},
	}
	for _, f := range edit {
		f(&spec)
	}
	return spec
}

// Pod makes a Pod of the test's namespace.
func (s *suite) Pod(name, class string, edit ...func(*corev1.PodSpec)) {
	s.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: podSpec(class, edit...)}
	_, err := s.Client().CoreV1().Pods(s.Namespace).Create(s.Context(), pod, metav1.CreateOptions{})
	s.must(err)
}

// Ready waits until Pods are ready.
func (s *suite) Ready(names ...string) {
	s.Helper()
	for _, name := range names {
		if _, err := s.Kubectl("", "-n", s.Namespace, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=120s"); err != nil {
			out, _ := s.Kubectl("", "-n", s.Namespace, "describe", "pod", name)
			s.Fatalf("%v\n%s\n%s", err, out, s.DriverLog(30))
		}
	}
}

// Run runs a shell command in a Pod and returns what it printed.
func (s *suite) Run(pod, command string) (string, error) {
	return s.Kubectl("", "-n", s.Namespace, "exec", pod, "--", "sh", "-c", command)
}

// Read returns a file of a Pod's volume.
func (s *suite) Read(pod, path string) string {
	s.Helper()
	out, err := s.Run(pod, "cat "+mount+"/"+path)
	s.must(err)
	return out
}

// Delete deletes a Pod and waits until it is gone.
func (s *suite) Delete(pod string) {
	s.Helper()
	s.MustKubectl("", "-n", s.Namespace, "delete", "pod", pod, "--wait", "--timeout=90s")
}

// Events are the messages of a Pod's events.
func (s *suite) Events(pod string) string {
	s.Helper()
	return s.MustKubectl("", "-n", s.Namespace, "get", "events", "--field-selector", "involvedObject.name="+pod, "-o", `jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}`)
}

// DriverPod is the name of the driver's Pod.
func (s *suite) DriverPod() string {
	s.Helper()
	return strings.TrimSpace(s.MustKubectl("", "-n", system, "get", "pods", "-l", "app.kubernetes.io/instance="+release, "-o", "jsonpath={.items[*].metadata.name}"))
}

// DriverLog is the end of the driver's log.
func (s *suite) DriverLog(lines int) string {
	out, err := s.Kubectl("", "-n", system, "logs", "daemonset/"+release, fmt.Sprintf("--tail=%d", lines))
	if err != nil {
		return err.Error()
	}
	return out
}

// DriverReady waits until the DaemonSet is rolled out.
func (s *suite) DriverReady() {
	s.Helper()
	if _, err := s.Kubectl("", "-n", system, "rollout", "status", "daemonset/"+release, "--timeout=90s"); err != nil {
		s.Fatalf("%v\n%s", err, s.describeSystem())
	}
}

// Volumes are the mounts of the driver on the node. (The cluster's directory, where kubelet's is mounted from, shows each again.)
func (s *suite) Volumes() []string {
	s.Helper()
	out, err := s.Exec("cat", "/proc/mounts")
	s.must(err)
	var found []string
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == "tmpfs" &&
			strings.HasPrefix(fields[1], "/var/lib/kubelet/") && strings.Contains(fields[1], "/volumes/kubernetes.io~csi/") {
			found = append(found, fields[1])
		}
	}
	return found
}

// Leftovers are directories of CSI volumes of Pods that are on the node, mounted or not.
func (s *suite) Leftovers() []string {
	s.Helper()
	out, err := s.Exec("sh", "-c", "ls -d /var/lib/kubelet/pods/*/volumes/kubernetes.io~csi/* 2>/dev/null || true")
	s.must(err)
	return strings.Fields(out)
}
