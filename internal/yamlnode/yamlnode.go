// Package yamlnode reads YAML nodes as the decoder of go.yaml.in/yaml/v3 would, and keeps their lines: aliases and
// merge keys are followed, within bounds.
package yamlnode

import (
	"regexp"
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
