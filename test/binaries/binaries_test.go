package binaries

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A program that is missing or old is no reason to build it in a test: the error names the command that does.
func TestFind(t *testing.T) {
	project := t.TempDir()
	write := func(path string, age time.Duration) {
		t.Helper()
		path = filepath.Join(project, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", 4*time.Hour)
	for _, dir := range sources {
		write(filepath.Join(dir, "a.go"), 3*time.Hour)
	}
	write("test/binaries/sub/x", time.Hour)
	t.Chdir(filepath.Join(project, "test/binaries/sub"))
	want := func(when, name, text string) {
		t.Helper()
		found, err := Find(name)
		switch {
		case text == "" && (err != nil || !strings.HasSuffix(found, name)):
			t.Errorf("%s: %q, %v", when, found, err)
		case text != "" && (err == nil || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%s: %q, %v", when, found, err)
		}
	}

	if value, ok := os.LookupEnv(Variable); ok {
		t.Setenv(Variable, value) // restores it
		if err := os.Unsetenv(Variable); err != nil {
			t.Fatal(err)
		}
	}
	want("missing", "keyvault-csi", "run `make test`")
	want("missing tool", "helm", "run `hack/test-programs helm`")
	write(".cache/test/keyvault-csi", 2*time.Hour)
	want("current", "keyvault-csi", "")
	write("driver/a_test.go", time.Hour)
	want("a test is newer", "keyvault-csi", "")
	write("driver/a.go", time.Hour)
	want("a source is newer", "keyvault-csi", "is older than driver/a.go: run `make test`")

	t.Setenv(Variable, filepath.Join(project, ".cache/test"))
	want("handed over by a script", "keyvault-csi", "")
	want("not handed over", "release/keyvault-csi", "is not built: run `make test`")
}
