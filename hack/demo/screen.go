package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// screen is where the demo is shown: in color on a terminal, unless NO_COLOR is set (https://no-color.org).
type screen struct {
	out   *os.File
	color bool
	step  *int
}

func newScreen(out *os.File, env func(string) string) screen {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return screen{out: out, color: err == nil && env("NO_COLOR") == "" && env("TERM") != "dumb", step: new(int)}
}

// The attributes of a terminal (ECMA-48, SGR).
const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
	cyan  = "36"
)

func (s screen) line(attribute, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if s.color && attribute != "" {
		text = "\x1b[" + attribute + "m" + text + "\x1b[0m"
	}
	_, _ = fmt.Fprintln(s.out, text)
}

func (s screen) title(text string) { s.line(bold, "%s", text) }

func (s screen) heading(text string) {
	*s.step++
	s.line(bold+";"+cyan, "\n%d. %s", *s.step, text)
}

func (s screen) say(format string, args ...any)  { s.line("", "   "+format, args...) }
func (s screen) good(format string, args ...any) { s.line(green, "   "+format, args...) }
func (s screen) bad(format string, args ...any)  { s.line(red, "   "+format, args...) }
func (s screen) aside(format string, args ...any) {
	s.line(dim, "   [as the provider: "+format+"]", args...)
}
func (s screen) quote(text string)   { s.line(dim, "   | %s", text) }
func (s screen) command(text string) { s.line(bold, "   $ %s", text) }
