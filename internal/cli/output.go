package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
	"sigs.k8s.io/yaml"
)

// The formats of --output.
const (
	textOutput  = "text"
	tableOutput = "table"
	jsonOutput  = "json"
	yamlOutput  = "yaml"
	wideOutput  = "wide"
)

// formats are those of all commands that print tables.
func formats() []string { return []string{tableOutput, wideOutput, jsonOutput, yamlOutput} }

// isTable reports whether a format is for people.
func isTable(format string) bool {
	return format == tableOutput || format == wideOutput || format == textOutput
}

// count is a number with its noun, in the plural where it is not 1: 1 class, 2 classes.
func count(n int, noun string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(noun, "s"):
		noun += "es"
	default:
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// checkOutput rejects a format that is not among the known ones.
func checkOutput(format string, known ...string) error {
	if slices.Contains(known, format) {
		return nil
	}
	last := len(known) - 1
	return fmt.Errorf("--output %q is not known: use %s or %s", format, strings.Join(known[:last], ", "), known[last])
}

// printValue prints a value as JSON or YAML.
func printValue(w io.Writer, format string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err == nil && format == yamlOutput {
		text, err = yaml.JSONToYAML(text)
	}
	if err != nil {
		return fmt.Errorf("output: %w", err)
	}
	if _, err := fmt.Fprintln(w, strings.TrimSuffix(string(text), "\n")); err != nil {
		return fmt.Errorf("output: %w", err)
	}
	return nil
}

// style is how a cell looks on a terminal, as an SGR parameter (ECMA-48, 8.3.117).
type style string

// The styles in use.
const (
	plain  style = ""
	bold   style = "1"
	faint  style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	blue   style = "34"
)

// cell is a text and its style.
type cell struct {
	text  string
	style style
	right bool
}

// paper prints text for people, with colors if the output is a terminal. It keeps the first error.
type paper struct {
	w      io.Writer
	colors bool
	err    error
}

// newPaper uses colors if w is a terminal, unless the environment disables them (https://no-color.org).
func newPaper(w io.Writer) *paper {
	return &paper{w: w, colors: isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// isTerminal reports whether w is a terminal that understands escape sequences. Of the consoles of Windows these are Windows Terminal and
// those of Unix shells; others show the sequences as text.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok || runtime.GOOS == "windows" && os.Getenv("WT_SESSION") == "" && os.Getenv("TERM") == "" {
		return false
	}
	return term.IsTerminal(int(f.Fd()))
}

// paint returns the text in a style.
func (p *paper) paint(text string, s style) string {
	if !p.colors || s == plain || text == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// line writes a line; the first error is kept.
func (p *paper) line(parts ...string) {
	if p.err == nil {
		_, p.err = fmt.Fprintln(p.w, strings.Join(parts, ""))
	}
}

// table writes rows in aligned columns.
func (p *paper) table(rows [][]cell) { p.tableWithNotes(rows, make([][]string, len(rows))) }

// tableWithNotes is table with lines of text below each row.
func (p *paper) tableWithNotes(rows [][]cell, notes [][]string) {
	var widths []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for n, row := range rows {
		var b strings.Builder
		for i, c := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text))
			switch {
			case c.right:
				b.WriteString(pad + p.paint(c.text, c.style))
			case i == len(row)-1:
				b.WriteString(p.paint(c.text, c.style))
			default:
				b.WriteString(p.paint(c.text, c.style) + pad)
			}
			if i < len(row)-1 {
				b.WriteString("  ")
			}
		}
		p.line(strings.TrimRight(b.String(), " "))
		for _, note := range notes[n] {
			p.line("    ", note)
		}
	}
}

// headings returns the first row of a table.
func headings(names ...string) []cell {
	row := make([]cell, 0, len(names))
	for _, n := range names {
		row = append(row, cell{text: n, style: faint})
	}
	return row
}
