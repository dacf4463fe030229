package render

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Program is the name of the program that a Runner starts.
const Program = "keyvault-render"

const (
	// wallLimit bounds how long the program runs. It is longer than the processor time that it may use, because a busy
	// node gives it little of that.
	wallLimit = 10 * time.Second
	// atOnce bounds the processes of a Runner, and with them the memory.
	atOnce = 2
	// maxInput bounds what the templates of one request read together, in bytes: the program has the memory for it.
	maxInput = 8 << 20
	// maxAnswer bounds the answer: the output in base64, and a line for each task's begin and end.
	maxAnswer = MaxOutput/3*4 + 1<<20
	// maxStderr bounds what is read of the last words of a Go program.
	maxStderr = 4 << 10
)

// ErrTooLarge is the error of a request that the program has no memory for.
var ErrTooLarge = errors.New("templates read too much")

// Runner starts the program. It is safe for concurrent use.
type Runner struct {
	program string
	places  chan struct{}
}

// NewRunner returns a runner of the program at a path; where that is empty, of the one beside the executable of this
// process.
func NewRunner(program string) *Runner {
	return &Runner{program: program, places: make(chan struct{}, atOnce)}
}

// Result is what came of one task.
type Result struct {
	Data []byte
	// Null is true where an expression matches nothing.
	Null bool
	// Failure is why there is no data; nil where there is.
	Failure *Failure
}

// Run runs the tasks of a request and returns their results in the order of the tasks. Where the program does not
// survive a task, that task has the failure, and those after it have no result. An error is that of the program or of
// ctx, not of a task.
func (r *Runner) Run(ctx context.Context, request Request) ([]Result, error) {
	if size := request.size(); size > maxInput {
		return nil, fmt.Errorf("%w: %d bytes together, at most %d", ErrTooLarge, size, maxInput)
	}
	select {
	case r.places <- struct{}{}:
		defer func() { <-r.places }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for other templates of the node: %w", context.Cause(ctx))
	}
	input, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("request for %s: %w", Program, err)
	}
	program, err := r.path()
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, wallLimit)
	defer cancel()
	out, words := &bounded{limit: maxAnswer}, &bounded{limit: maxStderr}
	c := exec.CommandContext(limited, program) //nolint:gosec // a program of this project
	c.Env, c.Dir = []string{}, "/"
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(input), out, words
	c.WaitDelay = time.Second
	err = c.Run()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("templates: %w", context.Cause(ctx))
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return nil, missing(program)
	case err != nil && c.ProcessState == nil:
		return nil, fmt.Errorf("start %s: %w", Program, err)
	}
	return results(len(request.Extractions)+len(request.Templates), out.kept, func() string {
		return cause(c.ProcessState, string(words.kept), out.full, limited.Err() != nil)
	})
}

// path is where the program is.
func (r *Runner) path() (string, error) {
	if r.program != "" {
		return r.program, nil
	}
	executable, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find %s: %w", Program, err)
	}
	return filepath.Join(filepath.Dir(executable), Program), nil
}

func missing(program string) error {
	if runtime.GOOS != "linux" { // what confines the program is there alone
		return errors.New("templates are made, and jmesPath expressions evaluated, on Linux alone: run this on Linux")
	}
	return fmt.Errorf("the program %s cannot be run, which makes templates and evaluates jmesPath: install it there, as the image has it", program)
}

// results reads the program's answer. What it did not survive fails with why.
func results(tasks int, answer []byte, why func() string) ([]Result, error) {
	all := make([]Result, tasks)
	running, done := -1, 0
	for line := range bytes.Lines(answer) {
		var p Progress
		if json.Unmarshal(line, &p) != nil {
			break // cut off
		}
		if p.Task < 0 || p.Task >= tasks {
			return nil, fmt.Errorf("%s answered for a task that it was not given", Program)
		}
		if !p.Done {
			running = p.Task
			continue
		}
		running, done = -1, done+1
		all[p.Task] = Result{Data: p.Data, Null: p.Null, Failure: p.Failure}
	}
	switch {
	case done == tasks:
		return all, nil
	case running < 0:
		return nil, fmt.Errorf("%s ended early: it %s", Program, why())
	}
	all[running].Failure = &Failure{Problem: why()}
	return all, nil
}

// cause says why the program ended without its whole answer. Of its last words only what Go itself writes is
// recognised; they are not shown, because a panic may quote a value.
func cause(state *os.ProcessState, words string, full, late bool) string {
	status, _ := state.Sys().(syscall.WaitStatus)
	used := state.UserTime() + state.SystemTime()
	switch {
	case full:
		return fmt.Sprintf("makes more than %d bytes", MaxOutput)
	case late:
		return fmt.Sprintf("does not end within %s", wallLimit)
	case strings.Contains(words, "stack overflow"), strings.Contains(words, "goroutine stack exceeds"):
		return "calls itself without an end"
	case strings.Contains(words, "out of memory"), strings.Contains(words, "cannot allocate memory"),
		strings.Contains(words, "failed to create new OS thread"), strings.HasPrefix(words, "SIGSEGV"): // Go's runtime without memory
		return fmt.Sprintf("needs more than %d MiB of memory", MemoryLimit>>20)
	case status.Signal() == syscall.SIGKILL && used >= ProcessorSeconds*time.Second/2: // the two are not counted in the same way
		return fmt.Sprintf("does not end within %d second of processor time", ProcessorSeconds)
	case status.Signaled():
		return fmt.Sprintf("was ended by the signal %q", status.Signal())
	}
	return fmt.Sprintf("ended with the exit status %d", status.ExitStatus())
}

// bounded keeps what is written up to a limit, and fails past it, which ends the program that writes.
type bounded struct {
	kept  []byte
	limit int
	full  bool
}

func (b *bounded) Write(p []byte) (int, error) {
	fits := min(len(p), b.limit-len(b.kept))
	b.kept = append(b.kept, p[:fits]...)
	if fits < len(p) {
		b.full = true
		return fits, errors.New("too much")
	}
	return len(p), nil
}
