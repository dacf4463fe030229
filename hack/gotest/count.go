package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// event is one line of `go test -json`, as `go doc test2json` describes it.
type event struct {
	Action      string
	Package     string
	ImportPath  string
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

// suite is one package while its tests run.
type suite struct {
	open    map[string]*strings.Builder // output of tests that have not ended
	output  strings.Builder             // output outside of tests
	passed  int
	failed  int
	skipped int
}

// counter reads events, counts tests and subtests, and prints what a person wants to know.
type counter struct {
	out    io.Writer
	suites map[string]*suite
	builds map[string]*strings.Builder // output of builds, by import path

	passed, failed, skipped int
}

func newCounter(out io.Writer) *counter {
	return &counter{out: out, suites: map[string]*suite{}, builds: map[string]*strings.Builder{}}
}

// read counts all events until the end of r. What is not an event is printed as it is.
func (c *counter) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil && e.Action != "" {
				c.add(e)
			} else {
				say(c.out, "%s", strings.TrimSuffix(string(line), "\n"))
			}
		}
		if errors.Is(err, io.EOF) {
			c.close()
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the events of go test: %w", err)
		}
	}
}

func (c *counter) add(e event) {
	switch {
	case e.Action == "build-output":
		if c.builds[e.ImportPath] == nil {
			c.builds[e.ImportPath] = &strings.Builder{}
		}
		_, _ = c.builds[e.ImportPath].WriteString(e.Output)
	case e.Package == "":
	case e.Test == "":
		c.addPackage(e)
	default:
		c.addTest(e)
	}
}

func (c *counter) suite(name string) *suite {
	if c.suites[name] == nil {
		c.suites[name] = &suite{open: map[string]*strings.Builder{}}
	}
	return c.suites[name]
}

func (c *counter) addTest(e event) {
	s := c.suite(e.Package)
	output := s.open[e.Test]
	if output == nil {
		output = &strings.Builder{}
		s.open[e.Test] = output
	}
	switch e.Action {
	case "output":
		if !strings.HasPrefix(e.Output, "=== ") { // progress
			output.WriteString(e.Output)
		}
		return
	case "pass":
		s.passed++
	case "fail":
		s.failed++
		say(c.out, "FAIL  %s %s\n%s", e.Package, e.Test, strings.TrimRight(output.String(), "\n"))
	case "skip":
		s.skipped++
		say(c.out, "SKIP  %s %s\n%s", e.Package, e.Test, strings.TrimRight(output.String(), "\n"))
	default: // run, pause, cont, bench
		return
	}
	delete(s.open, e.Test)
}

func (c *counter) addPackage(e event) {
	s := c.suite(e.Package)
	switch e.Action {
	case "output":
		s.output.WriteString(e.Output)
	case "pass", "fail":
		c.end(e, s)
	case "skip": // a package without tests
		delete(c.suites, e.Package)
	}
}

// end counts a package whose tests have ended. A failed package without a failed test (it did not build, it left goroutines
// behind, it crashed) counts as one failure.
func (c *counter) end(e event, s *suite) {
	delete(c.suites, e.Package)
	for _, name := range slices.Sorted(maps.Keys(s.open)) {
		s.failed++
		say(c.out, "FAIL  %s %s: did not end\n%s", e.Package, name, strings.TrimRight(s.open[name].String(), "\n"))
	}
	verdict := "ok  "
	if e.Action == "fail" {
		verdict = "FAIL"
		if build := c.builds[e.FailedBuild]; build != nil {
			s.output.WriteString(build.String())
		}
		if s.failed == 0 {
			s.failed++
		}
		say(c.out, "%s", strings.TrimRight(s.output.String(), "\n"))
	}
	say(c.out, "%s  %s  %.1fs  %d passed, %d failed, %d skipped", verdict, e.Package, e.Elapsed, s.passed, s.failed, s.skipped)
	c.passed, c.failed, c.skipped = c.passed+s.passed, c.failed+s.failed, c.skipped+s.skipped
}

// close ends the packages whose end never came.
func (c *counter) close() {
	for _, name := range slices.Sorted(maps.Keys(c.suites)) {
		c.end(event{Action: "fail", Package: name}, c.suites[name])
	}
}
