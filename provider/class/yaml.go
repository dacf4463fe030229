package class

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/yamlnode"
)

// maxIndicators bounds the characters of the objects parameter that can begin a YAML node, which bounds what parsing it costs:
// 1,000 objects of maxFields fields do not reach it, because each object is text to the outer document.
const maxIndicators = 50_000

// item is the text of one object and the line of the parameter on which it begins.
type item struct {
	text string
	line int
	// index is the position in the array, from 0.
	index int
}

// objectsShape is how to write the objects parameter.
const objectsShape = "write a mapping with the key array, whose items are strings: array: [ | …, | … ]"

// readItems reads a parameter that holds a YAML mapping whose key array holds strings. The text is trimmed first, as the Azure provider
// does it, and lines are counted in the text before that. A warning or a mistake has no Parameter yet. An item that is no string does not
// hide the others.
func readItems(raw, shape string, exact bool) (items []item, warnings, mistakes []Mistake) {
	text := strings.TrimSpace(raw)
	trimmed, _, _ := strings.Cut(raw, text)
	above := strings.Count(trimmed, "\n")
	top, warning, mistake := readDocument(text, shape, exact)
	if warning != nil {
		warnings = append(warnings, *warning)
	}
	if mistake != nil {
		mistakes = append(mistakes, *mistake)
	} else {
		items, mistakes = itemsOf(top, shape)
	}
	for i := range items {
		items[i].line += above
	}
	for _, list := range [][]Mistake{warnings, mistakes} {
		for i := range list {
			list[i].Line += above
		}
	}
	return items, warnings, mistakes
}

func mistakeAt(line int, problem, fix string) *Mistake {
	return &Mistake{Index: -1, Problem: problem, Fix: fix, Line: line}
}

// readDocument reads the first YAML document of the text.
func readDocument(text, shape string, exact bool) (top *yaml.Node, warning, mistake *Mistake) {
	if n := indicators(text); n > maxIndicators {
		return nil, nil, mistakeAt(1, fmt.Sprintf("has %d YAML indicators", n), fmt.Sprintf("split the class: at most %d", maxIndicators))
	}
	decoder := yaml.NewDecoder(strings.NewReader(text))
	var doc, next yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil, mistakeAt(1, "is empty", shape)
	} else if err != nil {
		problem, fix, line := yamlProblem(text, err, exact)
		return nil, nil, mistakeAt(line, "is not YAML: "+problem, cmp.Or(fix, shape))
	}
	switch err := decoder.Decode(&next); {
	case errors.Is(err, io.EOF):
	case err != nil:
		problem, _, line := yamlProblem(text, err, exact)
		return nil, nil, mistakeAt(line, "has text after the end of its YAML: "+problem, "correct the indentation: "+shape)
	default:
		warning = mistakeAt(next.Line, "has a second YAML document, which is ignored", "remove the line --- and what follows it")
	}
	return yamlnode.Resolve(doc.Content[0]), warning, nil
}

// itemsOf returns the strings of the key array.
func itemsOf(top *yaml.Node, shape string) (items []item, mistakes []Mistake) {
	array, mistake := arrayOf(top, shape)
	if mistake != nil {
		return nil, []Mistake{*mistake}
	}
	items = make([]item, 0, len(array.Content))
	for i, node := range array.Content {
		node = yamlnode.Resolve(node)
		if node.Kind != yaml.ScalarNode {
			m := mistakeAt(node.Line, "is a mapping instead of a string", "put a | after the item's dash, so that the object below it is a string")
			m.Index = i
			mistakes = append(mistakes, *m)
			continue
		}
		line := node.Line
		if blockScalar(node) {
			line++ // the text begins below the indicator
		}
		items = append(items, item{text: yamlnode.Text(node), line: line, index: i})
	}
	return items, mistakes
}

func blockScalar(n *yaml.Node) bool { return n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 }

// arrayOf returns the list of the key array, which is not empty.
func arrayOf(top *yaml.Node, shape string) (array *yaml.Node, mistake *Mistake) {
	if top.Kind != yaml.MappingNode {
		return nil, mistakeAt(top.Line, "is not a mapping", shape)
	}
	for _, pair := range yamlnode.Pairs(top) {
		switch {
		case pair.Key.Value != "array":
		case array != nil:
			return nil, mistakeAt(pair.Key.Line, "has a duplicate key array", "merge them")
		default:
			array = yamlnode.Resolve(pair.Value)
		}
	}
	if array == nil {
		return nil, mistakeAt(top.Line, "has no key array", shape)
	}
	empty := len(array.Content) == 0 && (array.Kind == yaml.SequenceNode || strings.TrimSpace(yamlnode.Text(array)) == "")
	switch {
	case empty && array.Kind != yaml.MappingNode:
		return nil, mistakeAt(array.Line, "has no item: array is empty", "add items below array")
	case array.Kind != yaml.SequenceNode:
		return nil, mistakeAt(array.Line, "has an array that is no list", shape)
	case len(array.Content) > MaxObjects:
		return nil, mistakeAt(array.Line, fmt.Sprintf("has %d items", len(array.Content)),
			fmt.Sprintf("split the class: at most %d", MaxObjects))
	}
	return array, nil
}

// indicators counts the characters outside of block scalars that can begin a node. Block scalars are recognized by their indentation: a
// line that is deeper than the one with the indicator.
func indicators(text string) (n int) {
	block := -1 // the indentation of the line whose block scalar is being skipped
	for line := range strings.Lines(text) {
		content := strings.TrimLeft(line, " ")
		indent := len(line) - len(content)
		if strings.TrimSpace(content) == "" {
			continue
		}
		if block >= 0 && indent > block {
			continue
		}
		block = -1
		n++
		for _, c := range content {
			switch c {
			case ',', '[', '{', ':', '?', '-', '#':
				n++
			}
		}
		if end := strings.TrimRight(content, " \t\r\n0123456789+-"); strings.HasSuffix(end, "|") || strings.HasSuffix(end, ">") {
			block = indent
		}
	}
	return n
}

// value is a field's value. It is not scalar where it is a list or a mapping.
type value struct {
	text   string
	line   int
	scalar bool
	node   *yaml.Node
}

// integer reads the value as YAML does: 5, 0x3, 1_0, 3.0, and a quoted one.
func (v value) integer() (n int32, err error) {
	if err := v.node.Decode(&n); err == nil {
		return n, nil
	}
	parsed, err := strconv.ParseInt(v.text, 10, 32)
	return int32(parsed), err //nolint:wrapcheck // the caller says what the value should be
}

type field struct {
	name  string
	value value
}

// fieldMistake is a mistake in one field, or in the object where the field is empty.
type fieldMistake struct {
	field, problem, fix string
	line                int
}

// readFields reads the YAML mapping of one object, its merge keys resolved. A null or empty text is an object without fields.
func readFields(text string, exact bool) (fields []field, mistakes []fieldMistake) {
	const fix = "write a mapping: objectName: NAME, objectType: secret"
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		problem, better, line := yamlProblem(text, err, exact)
		return nil, []fieldMistake{{problem: "is not YAML: " + problem, fix: cmp.Or(better, fix), line: max(line, 1)}}
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	top := yamlnode.Resolve(doc.Content[0])
	if top.Kind == yaml.ScalarNode && strings.TrimSpace(yamlnode.Text(top)) == "" {
		return nil, nil
	}
	if top.Kind != yaml.MappingNode {
		return nil, []fieldMistake{{problem: "is not a mapping", fix: fix, line: top.Line}}
	}
	seen := map[string]bool{}
	for _, pair := range yamlnode.Pairs(top) {
		name := pair.Key.Value
		if seen[name] {
			mistakes = append(mistakes, fieldMistake{field: name, problem: "is a duplicate in the object", fix: "remove one", line: pair.Key.Line})
			continue
		}
		if seen[name] = true; len(seen) > maxFields {
			return nil, []fieldMistake{{problem: "has too many fields", fix: fmt.Sprintf("write at most %d", maxFields), line: top.Line}}
		}
		node := yamlnode.Resolve(pair.Value)
		fields = append(fields, field{name: name, value: valueOf(node)})
	}
	return fields, mistakes
}

// yamlProblem returns the YAML parser's message, cut to a readable length, and its line. With exact it looks for the line itself, and for the
// fix.
func yamlProblem(text string, err error, exact bool) (problem, fix string, line int) {
	if exact {
		problem, fix, line = yamlnode.Locate(text, err)
	} else {
		problem, line = yamlnode.Problem(err)
	}
	return shorten(problem), fix, line
}
