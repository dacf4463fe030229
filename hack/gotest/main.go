// Command gotest runs `go test` and says how many tests ran, passed, failed and were skipped: nothing is skipped silently, and a
// run without tests is a failure.
//
//	gotest [GO-TEST-ARGUMENT...]
//
// The race detector is on wherever this machine can build with it, unless the arguments hold -race=false. The last line has the form `N passed, N failed, N skipped`.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		os.Exit(1)
	}
}

// errFailed says that the tests failed; what failed is already printed.
var errFailed = errors.New("the tests failed")

func run(args []string, out, problems io.Writer) error {
	command := []string{"test", "-json", "-count=1"}
	env := os.Environ()
	if reason := noRace(args); reason == "" {
		command, env = append(command, "-race"), append(env, "CGO_ENABLED=1")
		say(out, "race detector: on")
	} else {
		say(out, "race detector: OFF (%s)", reason)
	}
	command = append(command, args...)
	say(out, "go %s", strings.Join(command, " "))

	cmd := exec.Command("go", command...) //nolint:gosec,noctx // passing the caller's arguments on is what this is for; go test has its own time limit
	cmd.Env, cmd.Stderr = env, problems
	events, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("read from go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		say(problems, "gotest: start go test: %v", err)
		return errFailed
	}
	counts := newCounter(out)
	readErr := counts.read(events)
	waitErr := cmd.Wait()
	if err := errors.Join(readErr, waitErr); err != nil && counts.failed == 0 {
		say(out, "FAIL  go test: %v", err)
		counts.failed++
	}
	if counts.passed+counts.failed == 0 {
		say(out, "FAIL  no test ran")
		counts.failed++
	}
	say(out, "%d passed, %d failed, %d skipped", counts.passed, counts.failed, counts.skipped)
	if counts.failed > 0 {
		return errFailed
	}
	return nil
}

// noRace says why the race detector is off: it was asked for, or this machine cannot build with it, found by building the runtime
// with it; empty if it is on.
func noRace(args []string) string {
	if slices.Contains(args, "-race=false") {
		return "the caller wants it so"
	}
	cmd := exec.Command("go", "build", "-race", "runtime/race", "runtime/cgo") //nolint:noctx // as long as a build takes
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	text, err := cmd.CombinedOutput()
	if err == nil {
		return ""
	}
	lines := strings.Split(string(bytes.TrimSpace(text)), "\n")
	return lines[len(lines)-1]
}

// say prints one line. Where it cannot be printed there is nobody to tell.
func say(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(w, format+"\n", args...)
}
