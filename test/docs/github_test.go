package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
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

// workflow is what the tests read of a file in .github/workflows.
type workflow struct {
	Permissions any
	Jobs        map[string]struct {
		Permissions    map[string]string
		TimeoutMinutes int `json:"timeout-minutes"`
		Strategy       struct {
			Matrix struct {
				Target  []string
				Include []struct{ Target string }
			}
		}
		Steps []struct{ Uses, Run string }
	}
}

// workflows are those of the project by path.
func workflows(t *testing.T) map[string]workflow {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(pages.Root, ".github/workflows/*"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]workflow{}
	for _, path := range paths {
		path = strings.TrimPrefix(path, pages.Root+"/")
		found[path] = readYAML[workflow](t, path)
	}
	if len(found) < 3 {
		t.Fatalf("only %d workflows", len(found))
	}
	return found
}

var (
	makeCommand = regexp.MustCompile(`\bmake ("\$TARGET"|[a-z][a-z0-9-]*)`)
	hackCommand = regexp.MustCompile(`(?:^|[\s"])(hack/[a-z-]+)\b`)
)

// commands are the make targets (make NAME) and scripts (hack/NAME) that a workflow runs.
func (w workflow) commands() []string {
	var found []string
	for _, job := range w.Jobs {
		targets := job.Strategy.Matrix.Target
		for _, include := range job.Strategy.Matrix.Include {
			targets = append(targets, include.Target)
		}
		for _, step := range job.Steps {
			for _, m := range makeCommand.FindAllStringSubmatch(step.Run, -1) {
				if m[1] != `"$TARGET"` {
					found = append(found, "make "+m[1])
					continue
				}
				for _, target := range targets {
					found = append(found, "make "+target)
				}
			}
			for _, m := range hackCommand.FindAllStringSubmatch(step.Run, -1) {
				found = append(found, m[1])
			}
		}
	}
	return found
}

func TestWorkflowsRunWhatExists(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(pages.Root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for path, w := range workflows(t) {
		for _, command := range w.commands() {
			target, isMake := strings.CutPrefix(command, "make ")
			if isMake {
				if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(target) + `:.*## `).Match(makefile) {
					t.Errorf("%s: there is no %s", path, command)
				}
			} else if _, err := os.Stat(filepath.Join(pages.Root, command)); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
}

// What must hold before a change lands is the same on a developer's machine and on GitHub.
func TestTheStepsOfCIAreThoseOfTheWorkflow(t *testing.T) {
	script, err := os.ReadFile(filepath.Join(pages.Root, ".ci/run"))
	if err != nil {
		t.Fatal(err)
	}
	ci := workflows(t)[".github/workflows/ci.yaml"]
	run := ci.commands()
	for _, job := range ci.Jobs {
		for _, step := range job.Steps {
			run = append(run, step.Run)
		}
	}
	steps := regexp.MustCompile(`(?m)^step (?:cold )?(.*)$`).FindAllStringSubmatch(string(script), -1)
	if len(steps) < 15 {
		t.Fatalf("only %d steps", len(steps))
	}
	for _, step := range steps {
		// the oldest Kubernetes is tested by the scheduled workflow, with all tests instead of a few
		if step[1] != "hack/nightly --smoke" && !slices.Contains(run, step[1]) {
			t.Errorf(".ci/run has a step that no job of ci.yaml runs: %s", step[1])
		}
	}
}

// An action that is named by its tag can be changed by whoever can push to its repository.
func TestActionsArePinned(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(pages.Root, ".github/workflows/*"))
	if err != nil {
		t.Fatal(err)
	}
	pinned := regexp.MustCompile(`uses: [\w-]+/([\w./-]+)@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for n, line := range strings.Split(string(text), "\n") {
			if strings.Contains(line, "uses:") && !pinned.MatchString(line) {
				t.Errorf("%s:%d: %s: want a commit and the version as a comment", path, n+1, strings.TrimSpace(line))
			}
		}
	}
}

func TestJobsHaveNoMoreRightsThanTheyName(t *testing.T) {
	writes := map[string][]string{
		"release.yaml/publish":     {"attestations", "contents", "id-token", "packages"},
		"scheduled.yaml/codeql":    {"security-events"},
		"scheduled.yaml/scorecard": {"security-events"},
	}
	for path, w := range workflows(t) {
		if rights, ok := w.Permissions.(map[string]any); !ok || len(rights) != 0 {
			t.Errorf("%s: permissions of all jobs: %v, want {}", path, w.Permissions)
		}
		for name, job := range w.Jobs {
			if job.Permissions == nil || job.TimeoutMinutes == 0 {
				t.Errorf("%s: %s has no permissions or no timeout-minutes", path, name)
			}
			var got []string
			for right, level := range job.Permissions {
				if level == "write" {
					got = append(got, right)
				}
			}
			slices.Sort(got)
			if want := writes[filepath.Base(path)+"/"+name]; !slices.Equal(got, want) {
				t.Errorf("%s: %s may write %v, want %v", path, name, got, want)
			}
		}
	}
}
