// Package binaries finds the programs that tests run. Tests never build them: hack/test-programs does, before any test,
// so that no test's time limit covers a compiler. `make test` does so by itself; before `go test`, run `make
// test-programs`.
package binaries

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Variable is the environment variable that names the directory of the programs. Scripts that have just built them set
// it; then nothing is checked. Without it the programs are those that `make test-programs` has built in the project's
// directory, and a test fails where they are older than the sources.
const Variable = "KEYVAULT_CSI_TEST_PROGRAMS"

// Driver is the path of keyvault-csi, built with the race detector where hack/test uses it.
func Driver(t testing.TB) string {
	t.Helper()
	return path(t, "keyvault-csi")
}

// Release is the path of keyvault-csi as it is shipped: without cgo and without the race detector.
func Release(t testing.TB) string {
	t.Helper()
	return path(t, "release/keyvault-csi")
}

// Emulator is the path of keyvault-emulator.
func Emulator(t testing.TB) string {
	t.Helper()
	return path(t, "keyvault-emulator")
}

// Render is the path of keyvault-render, which is beside each of the drivers too.
func Render(t testing.TB) string {
	t.Helper()
	return path(t, "keyvault-render")
}

// Controller is the path of keyvault-controller.
func Controller(t testing.TB) string {
	t.Helper()
	return path(t, "keyvault-controller")
}

// Helm is the path of the Helm that hack/tools/go.mod names.
func Helm(t testing.TB) string {
	t.Helper()
	return path(t, "helm")
}

// GitOps is the directory with the CustomResourceDefinitions of Argo CD and of Flux.
func GitOps(t testing.TB) string {
	t.Helper()
	return path(t, "gitops")
}

// Strict is the path of the program that decodes manifests as the API types of a version of Kubernetes have them: 1.32 or 1.35.
func Strict(t testing.TB, version string) string {
	t.Helper()
	return path(t, "strict-"+version)
}

// ClientGo is the path of the program of test/clients that uses Microsoft's Go clients.
func ClientGo(t testing.TB) string {
	t.Helper()
	return path(t, "client-go")
}

// Plain is the path of the program that asks as the Azure provider does, which `make bench` compares the driver with.
func Plain(t testing.TB) string {
	t.Helper()
	return path(t, "plain")
}

// Environment is an environment of nothing but the variables, each NAME=VALUE, for a program that must not see that of the test. A program that counts
// what it runs gets where to write it (hack/coverage).
func Environment(variables ...string) []string {
	all := append([]string{}, variables...) // not nil, which is the environment of the test
	if dir, ok := os.LookupEnv("GOCOVERDIR"); ok {
		all = append(all, "GOCOVERDIR="+dir)
	}
	return all
}

func path(t testing.TB, name string) string {
	t.Helper()
	found, err := Find(name)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Root is the project's directory: the one at or above the working directory that has go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the project: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find the project: no go.mod above the working directory")
		}
		dir = parent
	}
}

// Find is the path of a program that hack/test-programs has built. The error says what to run.
func Find(name string) (string, error) {
	group := "product"
	switch name {
	case "helm", "gitops":
		group = name
	case "strict-1.32", "strict-1.35":
		group = "strict"
	case "cluster", "pause", "https":
		group = "cluster"
	case "client-go":
		group = "clients"
	case "plain":
		group = "bench"
	}
	advice := "run `make test`, or `make test-programs` before `go test`"
	if group != "product" {
		advice = "run `hack/test-programs " + group + "`, or the make target of these tests"
	}
	dir, handed := os.LookupEnv(Variable)
	root, err := Root()
	if err != nil {
		return "", err
	}
	if !handed {
		dir = filepath.Join(root, ".cache/test")
	}
	found := filepath.Join(dir, name)
	info, err := os.Stat(found)
	if err != nil {
		return "", fmt.Errorf("the program %s, which tests run, is not built: %s", found, advice)
	}
	if handed || group != "product" {
		return found, nil
	}
	source, changed, err := newest(root)
	if err != nil {
		return "", err
	}
	if changed.After(info.ModTime()) {
		return "", fmt.Errorf("the program %s, which tests run, is older than %s: %s", found, source, advice)
	}
	return found, nil
}

// sources are the directories that the programs are compiled from.
var sources = []string{"cmd", "driver", "internal", "provider", "tmpfs", "test/emulator"}

// newest is the source of the programs that was changed last, and when.
func newest(root string) (name string, changed time.Time, err error) {
	look := func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") && filepath.Base(path) != "go.mod" ||
			strings.HasSuffix(path, "_test.go") {
			return err
		}
		info, err := d.Info()
		if err == nil && info.ModTime().After(changed) {
			name, changed = strings.TrimPrefix(path, root+"/"), info.ModTime()
		}
		return err
	}
	for _, dir := range append([]string{"go.mod"}, sources...) {
		if err := filepath.WalkDir(filepath.Join(root, dir), look); err != nil {
			return "", time.Time{}, fmt.Errorf("find what the programs are compiled from: %w", err)
		}
	}
	return name, changed, nil
}
