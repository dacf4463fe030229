package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// process is this program as keyvault-emulator.
type process struct {
	t       *testing.T
	command *exec.Cmd
	address string
	kill    context.CancelFunc

	mu    sync.Mutex
	lines []string // of the log
}

// launch starts keyvault-emulator with the arguments, on a free port, and waits until it listens.
func launch(t *testing.T, args ...string) *process {
	t.Helper()
	return launchProgram(t, os.Args[0], args...)
}

// launchProgram is launch with a program: this one, which may have the race detector, or the built one.
func launchProgram(t *testing.T, program string, args ...string) *process {
	t.Helper()
	ctx, kill := context.WithCancel(t.Context()) // SIGKILL
	args = append([]string{"--listen=127.0.0.1:0", "--log-format=json"}, args...)
	p := &process{t: t, command: exec.CommandContext(ctx, program, args...), kill: kill} //nolint:gosec // the test's own
	p.command.Env = append(os.Environ(), asCommand+"="+strings.Join(args, " "))
	out, err := p.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	log, write := io.Pipe()
	p.command.Stderr = write
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		lines := bufio.NewScanner(log)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			p.mu.Lock()
			p.lines = append(p.lines, lines.Text())
			p.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		kill()
		_ = p.command.Wait()
		_ = write.Close()
		reader.Wait()
		if t.Failed() {
			t.Logf("the log:\n%s", strings.Join(p.lines, "\n"))
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "keyvault-emulator listens on ")
	if err != nil || !ok {
		t.Fatalf("%q: %v", line, err)
	}
	p.address = address
	return p
}

// messages are the lines of the log whose message is the one.
func (p *process) messages(message string) (found []map[string]any) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.lines {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			p.t.Fatalf("%s: %v", line, err)
		}
		if fields["msg"] == message {
			found = append(found, fields)
		}
	}
	return found
}

// waitFor waits for one more line of the log with the message than the test has seen, and returns it.
func (p *process) waitFor(message string, seen int) map[string]any {
	p.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if found := p.messages(message); len(found) > seen {
			return found[seen]
		}
	}
	p.t.Fatalf("the log does not say %q for the %d. time", message, seen+1)
	return nil
}

// ask sends a request to the control API or the page.
func (p *process) ask(method, path, body string) (int, string) {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), method, "http://"+p.address+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	a, err := new(http.Client).Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := io.ReadAll(a.Body)
	_ = a.Body.Close()
	if err != nil {
		p.t.Fatal(err)
	}
	return a.StatusCode, string(text)
}
