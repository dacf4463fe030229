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
// nothing on it: no Azure, the chart's emulator instead. What is not as there: the cluster and how it gets its images, the
// emulator's address, since this cluster has no DNS, and the interval, to not wait two minutes.
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
		case strings.HasPrefix(command, "helm install "):
			s.walk(command + " --set emulator.clusterIP=10.96.100.1 --set rotationPollInterval=2s")
		case strings.HasPrefix(command, "kubectl exec "):
			s.Eventually("the Pod to read the secret", func() bool { return s.walk(command) == "correct horse battery staple" })
		case strings.HasSuffix(command, " &"):
			s.background(strings.TrimSuffix(command, " &"))
		case strings.HasPrefix(command, "kubectl wait "): // on a slow machine a person types it twice
			s.Eventually("the Pod to be ready", func() bool { return s.shell(command).Run() == nil })
		case strings.HasPrefix(command, "curl "): // the port is not forwarded at once
			s.Eventually("the emulator to take the change", func() bool { return s.shell(command+" --fail").Run() == nil })
		default:
			s.walk(command)
		}
	}
	s.Eventually("the change in the Pod", func() bool { return s.walk("kubectl exec shop -- cat /secrets/db-password") == "changed" })
	if tls := s.walk("kubectl exec shop -- cat /secrets/tls/server.pem"); !strings.Contains(tls, "BEGIN CERTIFICATE") || !strings.Contains(tls, "PRIVATE KEY") {
		t.Error("no certificate with its key in tls/server.pem")
	}
	s.Gone("shop")
}

// readmeCommands are the commands of the README from kind's on.
func readmeCommands(s *suite) []string {
	s.Helper()
	text, err := os.ReadFile(filepath.Join(s.root(), "README.md"))
	s.must(err)
	_, section, _ := strings.Cut(string(text), "\nOn [kind]")
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
