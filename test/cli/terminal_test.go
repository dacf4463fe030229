package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// openTerminal returns both ends of a pseudo-terminal (pts(4)).
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// onTerminal runs the binary on a terminal and returns its screen.
func (d *session) onTerminal(more map[string]string, args ...string) (shown string, exit int) {
	d.Helper()
	master, slave := openTerminal(d.T)
	defer func() { _ = master.Close() }()
	c := d.command(more, args...)
	c.Stdin, c.Stdout, c.Stderr = slave, slave, slave
	if err := c.Start(); err != nil {
		d.Fatal(err)
	}
	_ = slave.Close()
	text, err := io.ReadAll(master)
	if err != nil && !errors.Is(err, syscall.EIO) { // EIO is how a terminal's end reads
		d.Error(err)
	}
	err = c.Wait()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		d.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "\r\n", "\n"), c.ProcessState.ExitCode()
}

const escape = "\x1b["

func TestColoursAndProgressOnATerminal(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	class := d.class("shop", nil, "db", "off", "old")
	shown, exit := d.onTerminal(map[string]string{"TERM": "xterm"}, "check", "-f", class)
	for _, text := range []string{
		"\r" + escape + "Kchecking default/shop …", " requests, ", escape + "31mdisabled" + escape + "0m", escape + "32mok" + escape + "0m",
		escape + "33mexpired" + escape + "0m",
	} {
		if !strings.Contains(shown, text) {
			t.Errorf("no %q on the terminal:\n%q", text, shown)
		}
	}
	// the progress is gone when the result comes
	if before, _, ok := strings.Cut(shown, escape+"1mdefault/shop"); !ok || !strings.HasSuffix(before, "\r"+escape+"K") || exit != 1 {
		t.Errorf("exit %d: %q", exit, shown)
	}
	if strings.Contains(shown, "canary") {
		t.Error("a secret is on the terminal")
	}
	shown, exit = d.onTerminal(map[string]string{"TERM": "xterm"}, "preview", "-f", d.class("good", map[string]string{"objects": all}))
	if exit != 0 || !strings.Contains(shown, "fetching default/good …") || !strings.Contains(shown, escape+"34mkeys/"+escape+"0m") ||
		strings.Contains(shown, "canary") {
		t.Errorf("exit %d: %q", exit, shown)
	}
}

func TestNoColours(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	class := d.class("shop", nil, "db", "off")
	for name, env := range map[string]map[string]string{
		"NO_COLOR": {"TERM": "xterm", "NO_COLOR": "1"}, "dumb terminal": {"TERM": "dumb"},
	} {
		shown, _ := d.onTerminal(env, "check", "-f", class)
		if strings.Contains(shown, escape+"3") || !strings.Contains(shown, "disabled") {
			t.Errorf("%s: %q", name, shown)
		}
	}
	// an empty NO_COLOR is none
	if shown, _ := d.onTerminal(map[string]string{"TERM": "xterm", "NO_COLOR": ""}, "check", "-f", class); !strings.Contains(shown, escape+"31m") {
		t.Errorf("%q", shown)
	}
	if r := d.run(map[string]string{"TERM": "xterm"}, "check", "-f", class); strings.Contains(r.stdout+r.stderr, "\x1b") || r.stderr != "" {
		t.Errorf("piped: %s", r)
	}
}
