package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The tables and plots of the documentation are those of the figures beside them.
func TestThePageIsThatOfItsFigures(t *testing.T) {
	const docs = "../../docs"
	read := func(path string) string {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	dir := t.TempDir()
	copied := filepath.Join(dir, "page.md")
	page := read(filepath.Join(docs, "benchmarks.md"))
	if err := os.WriteFile(copied, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(filepath.Join(docs, "images/figures.json"), dir, copied); err != nil {
		t.Fatal(err)
	}
	if read(copied) != page {
		t.Error("docs/benchmarks.md has other tables than docs/images/figures.json")
	}
	for _, name := range []string{"publish.svg", "requests.svg"} {
		if read(filepath.Join(dir, name)) != read(filepath.Join(docs, "images", name)) {
			t.Errorf("docs/images/%s is of other figures than docs/images/figures.json", name)
		}
	}
}

// What is not complete is refused: a table would have the driver's figures beside those of something else.
func TestFiguresThatAreNotComplete(t *testing.T) {
	const one = `{"program": "plain", "milliseconds": {"median": 1}, "lastMilliseconds": {"median": 1}}`
	for name, text := range map[string]string{
		"no JSON":       `x`,
		"no storms":     `{"publish": [` + one + `]}`,
		"no driver":     `{"publish": [` + one + `], "storms": [` + one + `], "life": [` + one + `], "hour": [{"program": "plain", "vaultRequests": 1}]}`,
		"no hour":       `{"publish": [` + one + `], "storms": [` + one + `], "life": [` + one + `]}`,
		"no life":       `{"publish": [` + one + `], "storms": [` + one + `]}`,
		"twice the one": `{"publish": [` + one + `,` + one + `], "storms": [` + one + `], "life": [` + one + `], "hour": [{}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "figures.json")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := run(path, t.TempDir(), ""); err == nil || !strings.Contains(err.Error(), path) && name != "no JSON" {
				t.Errorf("%v", err)
			}
		})
	}
}
