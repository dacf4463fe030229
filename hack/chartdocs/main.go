// Command chartdocs prints a chart's README: its README.in.md, with a table of the values in place of the line VALUES. What a value
// means is its comment in values.yaml; a value without one is an error.
//
//	chartdocs CHART-DIRECTORY
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "chartdocs:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("one argument: the chart's directory")
	}
	values, err := os.ReadFile(filepath.Join(args[0], "values.yaml")) //nolint:gosec // the caller's choice
	if err != nil {
		return err
	}
	page, err := os.ReadFile(filepath.Join(args[0], "README.in.md")) //nolint:gosec // the caller's choice
	if err != nil {
		return err
	}
	rows, err := describe(values)
	if err != nil {
		return err
	}
	table := "| value | default | meaning |\n|---|---|---|\n" + strings.Join(rows, "\n")
	before, after, ok := bytes.Cut(page, []byte("\nVALUES\n"))
	if !ok {
		return errors.New("README.in.md has no line VALUES")
	}
	_, err = fmt.Fprintf(out, "<!-- generated from README.in.md and values.yaml by `make generate` -->\n%s\n%s\n%s", before, table, after)
	return err
}

// describe returns a row of the table for each value.
func describe(values []byte) ([]string, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(values, &document); err != nil {
		return nil, fmt.Errorf("values.yaml: %w", err)
	}
	d := &describer{}
	d.mapping("", document.Content[0])
	return d.rows, errors.Join(d.wrong...)
}

type describer struct {
	rows  []string
	wrong []error
}

// mapping describes the keys of a mapping. A mapping that has no comment of its own is not a value but a group of them.
func (d *describer) mapping(prefix string, node *yaml.Node) {
	for i := 0; i < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		path := prefix + key.Value
		comment := meaning(key.HeadComment)
		switch {
		case comment != "":
			d.rows = append(d.rows, fmt.Sprintf("| `%s` | %s | %s |", path, standard(value), strings.ReplaceAll(comment, "|", `\|`)))
		case value.Kind == yaml.MappingNode && len(value.Content) > 0:
			d.mapping(path+".", value)
		default:
			d.wrong = append(d.wrong, fmt.Errorf("values.yaml:%d: %s has no comment that says what it means", key.Line, path))
		}
	}
}

// meaning is a comment's last paragraph, as one line: what stands before an empty line is about what follows in general.
func meaning(comment string) string {
	paragraphs := strings.Split(comment, "\n\n")
	var words []string
	for line := range strings.SplitSeq(paragraphs[len(paragraphs)-1], "\n") {
		words = append(words, strings.Fields(strings.TrimPrefix(line, "#"))...)
	}
	return strings.Join(words, " ")
}

// standard is a value as the table shows it.
func standard(node *yaml.Node) string {
	var value any
	if err := node.Decode(&value); err != nil {
		return ""
	}
	if value == "" {
		return ""
	}
	text, err := json.Marshal(value)
	if err != nil {
		return ""
	}
	return "`" + strings.Trim(string(text), `"`) + "`"
}
