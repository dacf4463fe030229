package controlplane

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Root is the directory of the project's go.mod, which holds hack/ and deploy/.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the project: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "hack/cluster/build")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find the project: no hack/cluster/build above the working directory")
		}
		dir = parent
	}
}

// Programs are the paths of built programs, by name.
type Programs map[string]string

// Build builds the programs with hack/cluster/build, which keeps what it has built before.
func Build(names ...string) (Programs, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	var out, problems bytes.Buffer
	cmd := exec.Command(filepath.Join(root, "hack/cluster/build"), names...) //nolint:gosec,noctx // the project's own script; it takes as long as it takes
	cmd.Stdout, cmd.Stderr = &out, &problems
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
