package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// module makes a Go module of the given files the working directory.
func module(t *testing.T, files map[string]string) {
	t.Helper()
	dir := t.TempDir()
	files["go.mod"] = "module example\n\ngo 1.26\n"
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
}

func runTests(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out, problems strings.Builder
	err := run(args, &out, &problems)
	return out.String() + problems.String(), err
}

func wantLines(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(text, line) {
			t.Errorf("%q is missing in:\n%s", line, text)
		}
	}
}

const header = "package x\n\nimport \"testing\"\n\n"

func TestFailuresAndSkipsAreCountedAndShown(t *testing.T) {
	module(t, map[string]string{
		"good/a_test.go":   header + "func TestA(t *testing.T) { t.Run(\"sub\", func(*testing.T) {}) }\nfunc TestS(t *testing.T) { t.Skip(\"no such device\") }\n",
		"bad/a_test.go":    header + "func TestF(t *testing.T) { t.Run(\"sub\", func(t *testing.T) { t.Error(\"two is not three\") }) }\n",
		"broken/a_test.go": header + "func TestB(t *testing.T) { undefinedThing() }\n",
		"panic/a_test.go":  header + "func TestP(t *testing.T) { panic(\"oh\") }\n",
		"exit/a_test.go": "package x\n\nimport (\n\"os\"\n\"testing\"\n)\n\nfunc TestE(*testing.T) {}\n" +
			"func TestMain(m *testing.M) { m.Run(); println(\"a goroutine is left\"); os.Exit(1) }\n",
		"none/a.go": "package x\n",
	})
	text, err := runTests(t, "./...")
	if !errors.Is(err, errFailed) {
		t.Errorf("got %v", err)
	}
	wantLines(t, text, "SKIP  example/good TestS", "no such device", "FAIL  example/bad TestF/sub", "two is not three",
		"undefined: undefinedThing", "FAIL  example/panic TestP", "oh", "a goroutine is left")
	// Passed: TestA, its subtest and TestE. Failed: TestF, its subtest, broken, TestP and the package exit.
	if !strings.HasSuffix(text, "\n3 passed, 5 failed, 1 skipped\n") {
		t.Errorf("wrong counts:\n%s", text)
	}
}

func TestPassingRun(t *testing.T) {
	module(t, map[string]string{"a_test.go": header + "func TestA(*testing.T) {}\n"})
	text, err := runTests(t, "./...")
	if err != nil || !strings.HasSuffix(text, "\n1 passed, 0 failed, 0 skipped\n") {
		t.Errorf("got %v:\n%s", err, text)
	}
	wantLines(t, text, "race detector: ")
}

func TestRunWithoutTestsFails(t *testing.T) {
	module(t, map[string]string{"a_test.go": header + "func TestA(*testing.T) {}\n", "none/a.go": "package x\n"})
	for _, args := range [][]string{{"-run=TestZ", "."}, {"./none"}, {"./missing"}, {"-no-such-flag"}} {
		text, err := runTests(t, args...)
		if !errors.Is(err, errFailed) || !strings.HasSuffix(text, "\n0 passed, 1 failed, 0 skipped\n") && !strings.Contains(text, "flag provided but not defined") {
			t.Errorf("%q: got %v:\n%s", args, err, text)
		}
	}
}

func TestStreamThatBreaksOffIsAFailure(t *testing.T) {
	t.Parallel()
	streams := map[string]struct{ events, want string }{
		"in a test": {`{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"working\n"}`, "FAIL  p TestA: did not end\nworking\n"},
		"after a test": {`{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
`, "FAIL  p"},
		"with text between": {`go: warning
{"Action":"start","Package":"p"}
`, "go: warning\n"},
	}
	for name, s := range streams {
		var out strings.Builder
		c := newCounter(&out)
		if err := c.read(strings.NewReader(s.events)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c.failed != 1 {
			t.Errorf("%s: %d failures", name, c.failed)
		}
		wantLines(t, out.String(), s.want)
	}
}
