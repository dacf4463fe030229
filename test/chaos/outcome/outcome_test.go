package outcome

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTableGoesBetweenItsMarkers(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.md")
	const text = "before\n<!-- figures: a -->\nold\n<!-- end -->\nbetween\n<!-- figures: b -->\n<!-- end -->\nafter\n"
	if err := os.WriteFile(page, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var table Table
	var out strings.Builder
	if err := table.Finish(&out, page, "b"); err != nil || out.Len() > 0 {
		t.Errorf("a table without rows: %q, %v", out.String(), err)
	}
	table.Add(Row{Fault: "z", Times: 2, Driver: "d", Files: "f"})
	table.Add(Row{Fault: "y", Times: 1, Driver: "d", Files: "f"})
	if err := table.Finish(&out, page, "b"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(text, "<!-- figures: b -->\n", "<!-- figures: b -->\n\n| fault | times | the driver | the files |\n|---|---|---|---|\n"+
		"| y | 1 | d | f |\n| z | 2 | d | f |\n\n", 1)
	if string(got) != want {
		t.Errorf("%s", got)
	}
	if err := table.Finish(&out, page, "none"); err == nil {
		t.Error("a page without the markers")
	}
}
