// Package yamlnode reads YAML nodes as the decoder of go.yaml.in/yaml/v3 would, and keeps their lines: aliases and
// merge keys are followed, within bounds.
package yamlnode

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	// maxDepth bounds how deep aliases are followed.
	maxDepth = 16
	// maxMerges bounds how many mappings the merge keys of one mapping may bring in, merge keys within them included.
	maxMerges = 64
)

// Pair is one key of a mapping and its value.
type Pair struct{ Key, Value *yaml.Node }

// Pairs returns the keys and values of a mapping. Those of merge keys (<<) follow, except where a key before them has
// the name (https://yaml.org/type/merge.html).
func Pairs(mapping *yaml.Node) []Pair {
	merges := maxMerges
	return mergedPairs(mapping, &merges)
}

func mergedPairs(mapping *yaml.Node, merges *int) (all []Pair) {
	var merged []Pair
	own := map[string]bool{}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], mapping.Content[i+1]
		if key.Tag != "!!merge" {
			own[key.Value] = true
			all = append(all, Pair{key, value})
			continue
		}
		sources := []*yaml.Node{Resolve(value)}
		if sources[0].Kind == yaml.SequenceNode {
			sources = sources[0].Content
		}
		for _, source := range sources {
			if source = Resolve(source); source.Kind == yaml.MappingNode && *merges > 0 {
				*merges--
				merged = append(merged, mergedPairs(source, merges)...)
			}
		}
	}
	for _, m := range merged {
		if !own[m.Key.Value] {
			own[m.Key.Value] = true
			all = append(all, m)
		}
	}
	return all
}

// Resolve follows aliases.
func Resolve(n *yaml.Node) *yaml.Node {
	for range maxDepth {
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			break
		}
		n = n.Alias
	}
	return n
}

// Text returns the text of a scalar as it decodes into a string: null is empty, and !!binary is decoded. It is
// empty for what is no scalar.
func Text(n *yaml.Node) (text string) {
	switch {
	case n.Kind != yaml.ScalarNode, n.Tag == "!!null":
		return ""
	case n.Tag == "!!binary":
		if n.Decode(&text) != nil {
			return n.Value
		}
		return text
	}
	return n.Value
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

// Problem returns the parser's message in one line, and the line that it is about, from 1; 0 where it names none. The
// parser has it in the text of its errors alone.
func Problem(err error) (problem string, line int) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if at := yamlLine.FindStringSubmatchIndex(text); at != nil {
		line, _ = strconv.Atoi(text[at[2]:at[3]])
		text = text[:at[0]] + text[at[1]:]
	}
	return strings.ReplaceAll(text, "\n", "; "), line
}

const (
	// maxExact bounds the lines of a document in which Locate looks for the exact line, since it parses once for each line.
	maxExact = 2000
	// maxExactSize bounds the size of that document, in bytes.
	maxExactSize = 128 << 10
)

// Locate returns what is wrong with a text that is not YAML, how to fix it, and the line, from 1. The parser names the line where the
// surrounding mapping begins, or the one after the mistake; Locate returns the first line without which the text before it is YAML. It costs
// a parse for each line, so it is for tools.
func Locate(text string, err error) (problem, fix string, line int) {
	problem, line = Problem(err)
	lines := strings.SplitAfter(text, "\n")
	from, to := documentAround(lines, line)
	if to-from > maxExact || to-from == 0 {
		return problem, fixOf(problem, ""), max(line, 1)
	}
	size := 0
	for _, l := range lines[from:to] {
		size += len(l)
	}
	if size > maxExactSize {
		return problem, fixOf(problem, ""), max(line, 1)
	}
	good := func(end int) bool { return parses(strings.Join(lines[from:end], "")) }
	if at := tabbed(lines[from:to], func(end int) bool { return good(from + end) }); at >= 0 {
		return "has a tab in its indentation", "write spaces", from + at + 1
	}
	exact := to
	for exact > from && !good(exact-1) {
		exact--
	}
	if exact == from {
		exact = max(line, 1)
	}
	if before := exact - 1; strings.Contains(problem, "mapping values are not allowed") {
		if at := withoutColon(lines[from:max(before, from)]); at >= 0 {
			return "has no colon and space after its key", "write KEY: VALUE", from + at + 1
		}
	}
	at := ""
	if exact <= len(lines) && exact > 0 {
		at = lines[exact-1]
	}
	return problem, fixOf(problem, at), exact
}

// tabbed returns the first line whose indentation has a tab that ends the YAML; -1 where there is none.
func tabbed(lines []string, good func(end int) bool) int {
	for i, line := range lines {
		indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
		if strings.Contains(indent, "\t") && strings.TrimSpace(line) != "" && !good(i+1) {
			return i
		}
	}
	return -1
}

// withoutColon returns the last line if it is a key without a colon, which joins the next one, whose colon is then one too many; else -1.
func withoutColon(lines []string) int {
	for i, line := range slices.Backward(lines) {
		above := strings.TrimSpace(line)
		if above == "" || strings.HasPrefix(above, "#") {
			continue
		}
		if !strings.Contains(above, ": ") && !strings.HasSuffix(above, ":") && !strings.HasPrefix(above, "- ") {
			return i
		}
		break
	}
	return -1
}

// documentAround returns the range of lines of the document that has the line, which is counted from 1.
func documentAround(lines []string, line int) (from, to int) {
	to = len(lines)
	for i, l := range lines {
		if !strings.HasPrefix(l, "---") || i == 0 {
			continue
		}
		if i >= line {
			return from, i
		}
		from = i
	}
	return from, to
}

// parses reports whether a text is YAML.
func parses(text string) bool {
	decoder := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	for {
		var doc yaml.Node
		if err := decoder.Decode(&doc); err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}

// fixOf says what to do about a problem in a line.
func fixOf(problem, line string) string {
	switch {
	case strings.Contains(line, "{{"):
		return "it is a template: render it first, and check what comes of it"
	case strings.Contains(problem, "mapping values are not allowed"):
		return "correct the indentation, or put a value that has a colon in quotes"
	case strings.Contains(problem, "cannot start any token"):
		return "put the value in quotes"
	case strings.Contains(problem, "quoted scalar"), strings.Contains(problem, "end of stream"):
		return "close the quote or the bracket that begins here"
	case strings.Contains(problem, "expected ':'"):
		return "write KEY: VALUE"
	case strings.Contains(problem, "expected ',' or"):
		return "close the bracket"
	case strings.Contains(problem, "unknown anchor"):
		return "define the anchor, or put the value in quotes"
	}
	return "correct the indentation: align it with the lines above"
}
