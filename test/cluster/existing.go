//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
)

// How tests use the node of the cluster of E2E_KUBECONFIG (controlplane.Existing). For a context kind-NAME the defaults
// are kind's.
const (
	// importVariable is a command that gives the node a container image: the path of an archive is added.
	importVariable = "E2E_IMPORT"
	// execVariable is a command that runs a command on the node: its words are added.
	execVariable = "E2E_NODE_EXEC"
	// hostVariable is the address of this machine for Pods.
	hostVariable = "E2E_HOST_ADDRESS"
)

// existing is another's cluster with one node.
type existing struct {
	importImage, exec []string
	hostAddress       string
}

func useExisting(config *clientcmdapi.Config) (*existing, error) {
	e := &existing{
		importImage: strings.Fields(os.Getenv(importVariable)),
		exec:        strings.Fields(os.Getenv(execVariable)),
		hostAddress: os.Getenv(hostVariable),
	}
	if name, ok := strings.CutPrefix(config.CurrentContext, "kind-"); ok {
		if len(e.importImage) == 0 {
			e.importImage = []string{"kind", "load", "image-archive", "--name", name}
		}
		if len(e.exec) == 0 {
			e.exec = []string{"docker", "exec", name + "-control-plane"}
		}
		if e.hostAddress == "" {
			out, err := exec.CommandContext(context.Background(), "docker", "network", "inspect", "kind", "-f",
				`{{range .IPAM.Config}}{{.Gateway}} {{end}}`).Output()
			if err != nil {
				return nil, fmt.Errorf("find the address of this machine for Pods, or set %s: %w", hostVariable, err)
			}
			for address := range strings.FieldsSeq(string(out)) {
				if !strings.Contains(address, ":") { // IPv6
					e.hostAddress = address
				}
			}
		}
	}
	if len(e.importImage) == 0 || len(e.exec) == 0 || e.hostAddress == "" {
		return nil, errors.New("a cluster that is not of kind needs " + importVariable + ", " + execVariable + " and " + hostVariable)
	}
	return e, nil
}

// run runs one of the commands with more words.
func (e *existing) run(ctx context.Context, command []string, words ...string) (string, error) {
	out, err := exec.CommandContext(ctx, command[0], append(command[1:len(command):len(command)], words...)...).CombinedOutput() //nolint:gosec // the caller's choice
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", strings.Join(command, " "), strings.Join(words, " "), err, out)
	}
	return string(out), nil
}

// sharedExisting is the cluster of E2E_KUBECONFIG in a test's hands, nil if there is none.
func sharedExisting(t testing.TB) *Cluster {
	t.Helper()
	config, err := controlplane.Existing()
	if err != nil {
		t.Fatal(err)
	}
	if config == nil {
		return nil
	}
	e, err := useExisting(config)
	if err != nil {
		t.Fatal(err)
	}
	return &Cluster{ControlPlane: controlplane.Shared(t), existing: e}
}
