package class

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/yamlnode"
)

// nestedParser reads a mapping inside an item, such as an object's objectSelector. Its mistakes name the item's field and the key.
type nestedParser struct {
	*itemParser
	// where is the place of the mapping in its item, such as objectSelector or jmesPath[2].
	where  string
	fields map[string]value
	line   int // of the mapping, in the item's text
}

// nested reads a mapping; nil where it is none, which is reported.
func (o *itemParser) nested(where string, v value, place Place) *nestedParser {
	n := &nestedParser{itemParser: o, where: where, fields: map[string]value{}, line: v.line}
	if v.node == nil || v.node.Kind != yaml.MappingNode {
		o.wrongAt(v.line, where, "", "is not a mapping", "write "+strings.Join(o.known(place), ", ")+" below it")
		return nil
	}
	n.line = v.node.Line
	known := o.known(place)
	for _, pair := range yamlnode.Pairs(v.node) {
		name := pair.Key.Value
		if _, twice := n.fields[name]; twice {
			o.wrongAt(pair.Key.Line, where+"."+shorten(name), "", "is a duplicate", "remove one")
			continue
		}
		if !slices.Contains(known, name) {
			o.warnings = append(o.warnings, o.mistakeAt(pair.Key.Line, where+"."+shorten(name), "", "is an unknown field and is ignored",
				suggestion(name, known)))
			continue
		}
		n.fields[name] = valueOf(yamlnode.Resolve(pair.Value))
	}
	return n
}

func valueOf(node *yaml.Node) value {
	return value{
		text:   strings.TrimSpace(yamlnode.Text(node)),
		line:   node.Line,
		scalar: node.Kind == yaml.ScalarNode,
		node:   node,
	}
}

// suggestion says what to do about an unknown name.
func suggestion(name string, known []string) string {
	if near := cmp.Or(Nearest(name, known), containing(name, known)); near != "" {
		return "did you mean " + near + "?"
	}
	return "remove it"
}

// containing returns the only known name that has the name in it, as objectAlias has alias.
func containing(name string, known []string) (found string) {
	if len(name) < 4 {
		return ""
	}
	for _, k := range known {
		if !strings.Contains(strings.ToLower(k), strings.ToLower(name)) {
			continue
		}
		if found != "" {
			return ""
		}
		found = k
	}
	return found
}

func (n *nestedParser) lineOf(name string) int {
	if v, ok := n.fields[name]; ok {
		return v.line
	}
	return n.line
}

// wrong notes a mistake in a key of the mapping.
func (n *nestedParser) wrong(name, value, problem, fix string) {
	n.wrongAt(n.lineOf(name), n.where+"."+name, value, problem, fix)
}

// get returns the text of a key. What is no scalar is reported, once, and is empty.
func (n *nestedParser) get(name string) string {
	v, ok := n.fields[name]
	if !ok || v.scalar {
		return v.text
	}
	n.wrong(name, "", "is not plain text", "write a single value")
	delete(n.fields, name)
	return ""
}

// integer returns the whole number of a key; ok is false where it is not set, or is none, which is reported.
func (n *nestedParser) integer(name string) (number int32, ok bool) {
	text := n.get(name)
	if text == "" {
		return 0, false
	}
	number, err := n.fields[name].integer()
	if err != nil {
		n.wrong(name, text, "is not a whole number", "write one such as 100")
		return 0, false
	}
	return number, true
}

// boolean reads the boolean of a key.
func (n *nestedParser) boolean(name string, to *bool) {
	text := n.get(name)
	if text == "" {
		return
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		n.wrong(name, text, "is not a boolean", "write true or false")
	}
	*to = value
}

// texts reads a mapping of texts.
func (n *nestedParser) texts(name string, most int) map[string]string {
	v, ok := n.fields[name]
	if !ok || !isSet(v.node) {
		return nil
	}
	if v.node.Kind != yaml.MappingNode {
		n.wrong(name, v.text, "is not a mapping", "write NAME: VALUE below it")
		return nil
	}
	pairs := yamlnode.Pairs(v.node)
	if len(pairs) > most {
		n.wrong(name, "", fmt.Sprintf("has %d entries", len(pairs)), fmt.Sprintf("write at most %d", most))
		return nil
	}
	texts := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		value := valueOf(yamlnode.Resolve(pair.Value))
		if !value.scalar || pair.Key.Value == "" {
			n.wrongAt(pair.Key.Line, n.where+"."+name+"."+shorten(pair.Key.Value), "", "is not plain text", "write a single value")
			continue
		}
		texts[pair.Key.Value] = value.text
	}
	return texts
}

// list returns the items of a field that holds a list.
func (o *itemParser) list(name string, most int) []value {
	v, ok := o.fields[name]
	if !ok || !isSet(v.node) {
		return nil
	}
	if v.node.Kind != yaml.SequenceNode || len(v.node.Content) == 0 {
		o.wrong(name, v.text, "is not a list with items", "write items with a dash below it")
		return nil
	}
	if n := len(v.node.Content); n > most {
		o.wrong(name, "", fmt.Sprintf("has %d items", n), fmt.Sprintf("write at most %d", most))
		return nil
	}
	items := make([]value, 0, len(v.node.Content))
	for _, node := range v.node.Content {
		item := valueOf(yamlnode.Resolve(node))
		item.line = node.Line
		items = append(items, item)
	}
	return items
}
