package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/keyvault-csi/keyvault-csi-driver/test/docs/pages"
)

// readYAML reads a file of the project.
func readYAML[T any](t *testing.T, path string) T {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(pages.Root, path))
	if err != nil {
		t.Fatal(err)
	}
	var value T
	if err := yaml.Unmarshal(data, &value); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return value
}

// directoriesWith are those that have a file of this name, as Dependabot names them.
func directoriesWith(t *testing.T, name string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(pages.Root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(pages.Root, path)
		if err != nil {
			return err
		}
		if entry.IsDir() && below != "." && (slices.Contains([]string{".git", ".cache", "bin"}, below) || entry.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if entry.Name() == name {
			found = append(found, filepath.Clean("/"+filepath.Dir(below)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// A module or lock file that Dependabot does not know would never be updated.
func TestDependenciesOfEveryDirectoryAreUpdated(t *testing.T) {
	config := readYAML[struct {
		Updates []struct {
			Ecosystem   string `json:"package-ecosystem"`
			Directory   string
			Directories []string
		}
	}](t, ".github/dependabot.yaml")
	named := map[string][]string{}
	for _, u := range config.Updates {
		named[u.Ecosystem] = append(named[u.Ecosystem], u.Directories...)
		if u.Directory != "" {
			named[u.Ecosystem] = append(named[u.Ecosystem], u.Directory)
		}
	}
	for ecosystem, file := range map[string]string{"gomod": "go.mod", "npm": "package-lock.json", "docker": "Dockerfile"} {
		want, got := directoriesWith(t, file), named[ecosystem]
		slices.Sort(want)
		slices.Sort(got)
		if len(want) == 0 || !slices.Equal(want, got) {
			t.Errorf("%s:\n%s\nare named, but %s is in\n%s", ecosystem, strings.Join(got, " "), file, strings.Join(want, " "))
		}
	}
}
