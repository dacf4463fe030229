package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"
)

// The formats of --output.
const (
	textOutput  = "text"
	tableOutput = "table"
	jsonOutput  = "json"
	yamlOutput  = "yaml"
)

// checkOutput refuses a format that is not among the known ones.
func checkOutput(format string, known ...string) error {
	if slices.Contains(known, format) {
		return nil
	}
	last := len(known) - 1
	return fmt.Errorf("--output %q is not known: use %s or %s", format, strings.Join(known[:last], ", "), known[last])
}

// printValue writes a value for programs, as JSON or YAML.
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

// cell is a text and its look.
type cell struct {
	text  string
	style style
	right bool
}

// paper is where people read. It knows whether there are colours.
type paper struct {
	w       io.Writer
	colours bool
	err     error
}

// newPaper has colours where w is a terminal, unless the environment says no (https://no-color.org).
func newPaper(w io.Writer) *paper {
	return &paper{w: w, colours: isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// isTerminal tells whether somebody looks on as the text appears.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// paint gives the text its look.
func (p *paper) paint(text string, s style) string {
	if !p.colours || s == plain || text == "" {
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

// headings makes a table's first row.
func headings(names ...string) []cell {
	row := make([]cell, 0, len(names))
	for _, n := range names {
		row = append(row, cell{text: n, style: faint})
	}
	return row
}
