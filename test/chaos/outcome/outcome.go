// Package outcome collects what tests that break things have found, prints it as a table, and writes it between the markers
// of a page.
package outcome

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
)

// Row says what came of one fault.
type Row struct {
	// Fault is what was broken, and during what.
	Fault string
	// Times is how often.
	Times int
	// Driver is what the driver did.
	Driver string
	// Files is what readers of the volumes saw.
	Files string
}

// Table collects rows of tests that run at the same time. Its zero value is empty.
type Table struct {
	mu   sync.Mutex
	rows []Row
}

// Add adds a row.
func (t *Table) Add(row Row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = append(t.rows, row)
}

// Markdown is the table, sorted by fault. It is empty where there are no rows.
func (t *Table) Markdown() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.rows) == 0 {
		return ""
	}
	rows := slices.Clone(t.rows)
	slices.SortFunc(rows, func(a, b Row) int { return strings.Compare(a.Fault, b.Fault) })
	var b strings.Builder
	b.WriteString("| fault | times | the driver | the files |\n|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %d | %s | %s |\n", r.Fault, r.Times, r.Driver, r.Files)
	}
	return b.String()
}

// Finish prints the table and, where page is not empty, replaces what is between the page's markers of this name:
//
//	<!-- figures: NAME -->
//	<!-- end -->
func (t *Table) Finish(out io.Writer, page, name string) error {
	table := t.Markdown()
	if table == "" {
		return nil
	}
	if _, err := io.WriteString(out, "\n"+table); err != nil {
		return fmt.Errorf("print the table: %w", err)
	}
	if page == "" {
		return nil
	}
	text, err := os.ReadFile(page)
	if err != nil {
		return fmt.Errorf("read the page: %w", err)
	}
	before, rest, found := bytes.Cut(text, []byte("<!-- figures: "+name+" -->\n"))
	_, after, ended := bytes.Cut(rest, []byte("<!-- end -->"))
	if !found || !ended {
		return errors.New(page + ": no markers for " + name)
	}
	text = slices.Concat(before, []byte("<!-- figures: "+name+" -->\n\n"+table+"\n<!-- end -->"), after)
	if err := os.WriteFile(page, text, 0o644); err != nil { //nolint:gosec // a page that everybody may read
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}
