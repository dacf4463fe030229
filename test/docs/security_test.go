package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/docs/pages"
)

var (
	testName   = regexp.MustCompile("`(Test[A-Za-z0-9]+)`")
	testDefine = regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9]+)\(`)
)

// existingTests are the names of all tests of the project.
func existingTests(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	root := os.DirFS(pages.Root)
	err := fs.WalkDir(root, ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != "." && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := fs.ReadFile(root, path)
		for _, m := range testDefine.FindAllSubmatch(text, -1) {
			found[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestEachThreatHasItsTests fails where a row of the table of threats names no test, and where a page names a test that does not
// exist.
func TestEachThreatHasItsTests(t *testing.T) {
	existing := existingTests(t)
	for _, page := range []string{"docs/security.md", "docs/reliability.md"} {
		for _, m := range testName.FindAllStringSubmatch(pages.All(t)[filepath.Join(pages.Root, page)], -1) {
			if !existing[m[1]] {
				t.Errorf("%s names %s, which does not exist", page, m[1])
			}
		}
	}
	_, table, _ := strings.Cut(pages.All(t)[filepath.Join(pages.Root, "docs/security.md")], "## Threats")
	rows := 0
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| who | wants") {
			continue
		}
		rows++
		cells := strings.Split(strings.TrimSuffix(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 5 || !testName.MatchString(cells[4]) {
			t.Errorf("this threat names no test: %s", line)
		}
	}
	if rows < 15 {
		t.Errorf("only %d threats", rows)
	}
}

// Kubelet gives no swap to Pods of critical priority, so what the driver holds in memory does not reach a disk.
func TestCriticalPodsGetNoSwap(t *testing.T) {
	found, err := filepath.Glob(filepath.Join(pages.Root, "deploy/manifests/*.yaml"))
	if err != nil || len(found) == 0 {
		t.Fatalf("%d manifests: %v", len(found), err)
	}
	for _, name := range found {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "\n      priorityClassName: system-node-critical\n") {
			t.Errorf("%s: the driver's Pods are not of the priority system-node-critical", name)
		}
	}
}
