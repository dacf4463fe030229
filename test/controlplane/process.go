package controlplane

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Process is a program that runs until it is stopped; it does not outlive the one that started it.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
}

// StartProcess runs a command whose output is appended to the file logs/NAME.log of dir.
func StartProcess(dir, name string, cmd *exec.Cmd) (*Process, error) {
	p := &Process{name: name, log: filepath.Join(dir, "logs", name+".log"), cmd: cmd, done: make(chan struct{})}
	if err := os.MkdirAll(filepath.Dir(p.log), 0o700); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer func() { _ = out.Close() }() // the process has its own descriptor
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = cmd.Wait() // its log has how it ended
		close(p.done)
	}()
	return p, nil
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// stopped returns an error while a thread still runs that a signal is to stop.
func (p *Process) stopped() error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID()))
	if err != nil {
		return fmt.Errorf("threads of %s: %w", p.name, err)
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		if _, state, _ := strings.Cut(string(text), ") "); !strings.HasPrefix(state, "T") {
			return fmt.Errorf("%s is in state %.1s", thread, state)
		}
	}
	return nil
}

// Stop sends a signal, waits until the process has ended, and kills it after ten seconds. Stop of nil does nothing.
func (p *Process) Stop(sig syscall.Signal) {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
		return
	case <-time.After(10 * time.Second):
	}
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Await polls until ok returns nil, the process ends, or two minutes have passed.
func (p *Process) Await(what string, ok func() error) error {
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %s", p.name, p.Tail())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("waited in vain for %s: %w", what, err), errors.New(p.Tail()))
		}
	}
}

// Tail is the last of the process's log.
func (p *Process) Tail() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return fmt.Sprintf("log of %s, the last of it:\n%s", p.name, strings.Join(lines[max(0, len(lines)-25):], "\n"))
}
