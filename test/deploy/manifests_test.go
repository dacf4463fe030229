//go:build integration

package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	k8syaml "sigs.k8s.io/yaml"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
)

// strict decodes a file as the API types of a version have it.
func strict(t *testing.T, version, file string) (problems string, err error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binaries.Strict(t, version), file).CombinedOutput() //nolint:gosec // a tool of the project
	return string(out), err
}

// The manifests for each range of versions have no field that the oldest of them does not know.
func TestManifestsAreOfTheirVersions(t *testing.T) {
	found, err := filepath.Glob(filepath.Join(root, "deploy/manifests/*"))
	if err != nil || len(found) != 5 {
		t.Errorf("%d manifests: %v", len(found), err)
	}
	for name, tc := range map[string]struct {
		versions []string
		sync     bool
	}{
		"kubernetes-1.32-to-1.34.yaml":             {[]string{"1.32", "1.35"}, false},
		"kubernetes-1.32-to-1.34-secret-sync.yaml": {[]string{"1.32", "1.35"}, true},
		"kubernetes-1.35.yaml":                     {[]string{"1.35"}, false},
		"kubernetes-1.35-secret-sync.yaml":         {[]string{"1.35"}, true},
		"kind.yaml":                                {[]string{"1.32", "1.35"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(root, "deploy/manifests", name)
			for _, version := range tc.versions {
				if problems, err := strict(t, version, file); err != nil {
					t.Errorf("as Kubernetes %s decodes it: %s", version, problems)
				}
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, part := range []string{"- --sync-secrets\n", "resources: [secrets]\n"} {
				if strings.Contains(string(text), part) != tc.sync {
					t.Errorf("%q: %t", part, !tc.sync)
				}
			}
		})
	}
	if problems, err := strict(t, "1.32", filepath.Join(root, "deploy/manifests/kubernetes-1.35.yaml")); err == nil ||
		!strings.Contains(problems, `unknown field "spec.serviceAccountTokenInSecrets"`) {
		t.Errorf("the manifests from 1.35 on, as 1.32 decodes them: %v %s", err, problems)
	}
}

// With every option, each object is still one of the oldest version.
func TestEveryOptionIsOfTheOldestVersion(t *testing.T) {
	args := append([]string{"template", "keyvault-csi", "deploy/chart", "--kube-version", "1.32.0"}, everything...)
	out, problems, err := helm(t, append(args, "--set", "podMonitor.enabled=false,serviceMonitor.enabled=false")...) // not Kubernetes' own
	if err != nil {
		t.Fatal(problems)
	}
	file := filepath.Join(t.TempDir(), "everything.yaml")
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	if problems, err := strict(t, "1.32", file); err != nil {
		t.Error(problems)
	}
}

// The names of the images that the chart has by default are in a domain that is reserved (RFC 2606): no registry, and so nobody else,
// can serve an image under them to a cluster whose operator forgot to set one.
func TestDefaultImagesAreNobodysElse(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(root, "deploy/chart/values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var values struct {
		Linux    struct{ Image struct{ Repository string } }
		Emulator struct{ Image struct{ Repository string } }
	}
	if err := k8syaml.Unmarshal(data, &values); err != nil {
		t.Fatal(err)
	}
	for _, repository := range []string{values.Linux.Image.Repository, values.Emulator.Image.Repository} {
		registry, _, _ := strings.Cut(repository, "/")
		if !strings.HasSuffix(registry, ".invalid") {
			t.Errorf("%s can be the image of somebody else", repository)
		}
	}
}
