//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/cluster"
)

// TestNewcomersWalk runs the commands of the README's section for kind, one by one as they are written there, on a cluster of its own with
// nothing on it: no Azure, the emulator of the manifest for kind instead. Then it does the same with the emulator of the chart. What is not as there: the
// cluster and how it gets its images, and the emulator's address, since this cluster has no DNS.
func TestNewcomersWalk(t *testing.T) {
	s := &suite{Cluster: cluster.Start(t, cluster.Options{}), Namespace: "default"}
	s.ImportBusybox()
	if out, err := s.Command(t.Context(), s.Programs["ctr"], "-n", "k8s.io", "images", "tag", cluster.Busybox, "docker.io/library/busybox:1.37").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.describeSystem())
		}
	})
	commands := readmeCommands(s)
	if len(commands) != 11 {
		t.Fatalf("the README's walk has %d commands: %q", len(commands), commands)
	}
	for _, command := range commands {
		switch {
		case command == "make image": // hack/e2e did
		case command == "kind create cluster": // above
		case strings.HasPrefix(command, "kind load image-archive bin/image/"):
			name := strings.TrimSuffix(strings.TrimPrefix(command, "kind load image-archive bin/image/"), "-amd64.tar")
			s.Import(filepath.Join(s.root(), ".cache/image", name+"-"+runtime.GOARCH+".tar"))
		case command == "kubectl apply -f "+kindManifest:
			s.MustKubectl(s.kindManifest(), "apply", "-f", "-")
		default:
			s.step(command)
		}
	}
	s.arrived()

	// the emulator keeps its authority: the driver trusts the next one too
	s.walk("kubectl -n kube-system rollout restart deployment/keyvault-emulator")
	s.walk("kubectl -n kube-system rollout status deployment/keyvault-emulator --timeout=2m")
	s.step("kubectl delete pod shop --wait --grace-period=1")
	s.step("kubectl apply -f deploy/examples/first.yaml")
	s.step("kubectl wait --for=condition=Ready pod/shop")
	s.step("kubectl exec shop -- cat /secrets/db-password")
	// and a change of the seed arrives
	seed := s.walk("kubectl -n kube-system get configmap keyvault-emulator -o yaml")
	s.MustKubectl(strings.Replace(seed, "correct horse battery staple", "changed", 1), "apply", "-f", "-")
	s.arrived()

	// the same with the chart
	s.Gone("shop")
	s.MustKubectl(s.kindManifest(), "delete", "-f", "-", "--wait")
	for _, command := range []string{
		"helm install keyvault-csi deploy/chart --namespace kube-system --set emulator.enabled=true --set emulator.clusterIP=10.96.100.1 " +
			"--set rotationPollInterval=2s",
		"kubectl create serviceaccount shop",
		"kubectl apply -f deploy/examples/first.yaml",
		"kubectl wait --for=condition=Ready pod/shop",
		"kubectl exec shop -- cat /secrets/db-password",
		"kubectl -n kube-system port-forward service/keyvault-csi-emulator 8201:8200 &",
		`curl -d '{"name":"db-password","value":"changed"}' http://localhost:8201/vaults/contoso-shop/secrets`,
	} {
		s.step(command)
	}
	s.arrived()
	s.Gone("shop")
}

const kindManifest = "deploy/manifests/kind.yaml"

// kindManifest is the manifest for a cluster without DNS: the emulator has an address that is known.
func (s *suite) kindManifest() string {
	s.Helper()
	text, err := os.ReadFile(filepath.Join(s.root(), kindManifest))
	s.must(err)
	const name, address, service = "keyvault-emulator.kube-system.svc:8200", "10.96.100.1", "spec:\n  selector:\n    app.kubernetes.io/name: keyvault-emulator\n  ports:"
	if strings.Count(string(text), name) != 2 || strings.Count(string(text), service) != 1 {
		s.Fatalf("%s names the emulator otherwise", kindManifest)
	}
	return strings.NewReplacer(name, address+":8200", service, "spec:\n  clusterIP: "+address+strings.TrimPrefix(service, "spec:")).Replace(string(text))
}

// step is a command of a person, who tries again what does not work at once.
func (s *suite) step(command string) {
	s.Helper()
	switch {
	case strings.HasPrefix(command, "kubectl exec "):
		s.Eventually("the Pod to read the secret", func() bool { return s.walk(command) == "correct horse battery staple" })
	case strings.HasSuffix(command, " &"):
		s.background(strings.TrimSuffix(command, " &"))
	case strings.HasPrefix(command, "kubectl wait "): // on a slow machine a person types it twice
		s.Eventually("the Pod to be ready", func() bool { return s.shell(command).Run() == nil })
	case strings.Contains(command, " rollout status "):
		s.Eventually("the driver to be rolled out", func() bool { return s.shell(command).Run() == nil })
	case strings.HasPrefix(command, "curl "): // the port is not forwarded at once
		s.Eventually("the emulator to take the change", func() bool { return s.shell(command+" --fail").Run() == nil })
	default:
		s.walk(command)
	}
}

// arrived waits for the change of the secret in the Pod, and looks at its certificate.
func (s *suite) arrived() {
	s.Helper()
	s.Eventually("the change in the Pod", func() bool { return s.walk("kubectl exec shop -- cat /secrets/db-password") == "changed" })
	if tls := s.walk("kubectl exec shop -- cat /secrets/tls/server.pem"); !strings.Contains(tls, "BEGIN CERTIFICATE") || !strings.Contains(tls, "PRIVATE KEY") {
		s.Error("no certificate with its key in tls/server.pem")
	}
}

// readmeCommands are the commands of the README from kind's on.
func readmeCommands(s *suite) []string {
	s.Helper()
	text, err := os.ReadFile(filepath.Join(s.root(), "README.md"))
	s.must(err)
	_, section, _ := strings.Cut(string(text), "\n## Try it: on kind")
	section, _, _ = strings.Cut(section, "\n## ")
	var commands []string
	for line := range strings.Lines(section) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			commands = append(commands, strings.TrimSpace(command))
		}
	}
	return commands
}

// shell is a command as a person types it in the project's directory.
func (s *suite) shell(command string) *exec.Cmd {
	cmd := exec.CommandContext(s.Context(), "sh", "-c", command) //nolint:gosec // the README's
	cmd.Dir = s.root()
	cmd.Env = []string{
		"KUBECONFIG=" + s.Kubeconfig(), "HOME=" + s.TempDir(),
		"PATH=" + strings.Join([]string{filepath.Dir(binaries.Helm(s)), filepath.Dir(s.Programs["kubectl"]), os.Getenv("PATH")}, ":"),
	}
	return cmd
}

// walk runs a command, which must work, and returns what it printed on stdout.
func (s *suite) walk(command string) string {
	s.Helper()
	cmd := s.shell(command)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		s.Fatalf("%s: %v\n%s%s\n%s", command, err, out, problems.String(), s.describeSystem())
	}
	return string(out)
}

// background runs a command until the test ends.
func (s *suite) background(command string) {
	s.Helper()
	cmd := s.shell("exec " + command)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.must(cmd.Start())
	s.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}
