package controlplane

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
)

// Programs are the paths of built programs, by name.
type Programs map[string]string

// Build builds the programs with hack/cluster/build, which keeps what it has built before. Those of Kubernetes have the
// given version, such as 1.32.13; where it is empty that of the environment variable KUBERNETES, or else the newest.
func Build(version string, names ...string) (Programs, error) {
	if config, err := Existing(); err != nil || config != nil && slices.Equal(names, []string{"kubectl"}) {
		path, missing := exec.LookPath("kubectl") // that of the cluster's owner
		return Programs{"kubectl": path}, errors.Join(err, missing)
	}
	root, err := binaries.Root()
	if err != nil {
		return nil, err
	}
	var out, problems bytes.Buffer
	cmd := exec.Command(filepath.Join(root, "hack/cluster/build"), names...) //nolint:gosec,noctx // the project's own script; it takes as long as it takes
	cmd.Stdout, cmd.Stderr = &out, &problems
	if version != "" {
		cmd.Env = append(os.Environ(), "KUBERNETES="+version)
	}
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("hack/cluster/build: %w\n%s", err, problems.String())
	}
	paths := strings.Fields(out.String())
	if len(paths) != len(names) {
		return nil, fmt.Errorf("hack/cluster/build: %d paths for %d programs", len(paths), len(names))
	}
	programs := Programs{}
	for i, name := range names {
		programs[name] = paths[i]
	}
	return programs, nil
}
