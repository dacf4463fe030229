package fields

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/yamlnode"
)

// decodeYAML reads one YAML document. Aliases are followed within the budget, so that a short text cannot become a large
// value.
func decodeYAML(text string) (any, error) {
	decoder := yaml.NewDecoder(strings.NewReader(text))
	var doc, next yaml.Node
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("the value is empty")
	case err != nil:
		return nil, notYAML(err)
	}
	if err := decoder.Decode(&next); err == nil {
		return nil, fmt.Errorf("the value has a second YAML document at line %d: one is read", next.Line)
	} else if !errors.Is(err, io.EOF) {
		return nil, notYAML(err)
	}
	d := yamlDecoder{newBudget()}
	return d.value(doc.Content[0], 1)
}

// notYAML is the error of text that is not YAML. The parser's own message may quote the text.
func notYAML(err error) error {
	if _, line := yamlnode.Problem(err); line > 0 {
		return fmt.Errorf("the value is not YAML: syntax error at line %d", line)
	}
	return errors.New("the value is not YAML")
}

type yamlDecoder struct{ *budget }

func (d yamlDecoder) value(n *yaml.Node, depth int) (any, error) {
	if err := d.take(depth); err != nil {
		return nil, err
	}
	switch n.Kind {
	case yaml.AliasNode:
		return d.value(n.Alias, depth+1)
	case yaml.MappingNode:
		return d.object(n, depth)
	case yaml.SequenceNode:
		list := []any{}
		for _, element := range n.Content {
			value, err := d.value(element, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		return list, nil
	case yaml.ScalarNode:
		return scalar(n)
	case yaml.DocumentNode:
	}
	return nil, fmt.Errorf("the value is not YAML: syntax error at line %d", n.Line)
}

func (d yamlDecoder) object(n *yaml.Node, depth int) (any, error) {
	object := map[string]any{}
	for _, pair := range yamlnode.Pairs(n) {
		key := yamlnode.Resolve(pair.Key)
		if key.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("line %d has a key that is a list or an object", key.Line)
		}
		value, err := d.value(pair.Value, depth+1)
		if err != nil {
			return nil, err
		}
		if err := put(object, key.Value, value); err != nil {
			return nil, err
		}
	}
	return object, nil
}

// scalar is the JSON value of a scalar. What JSON has no value for, such as a time or an infinite number, is its text.
func scalar(n *yaml.Node) (any, error) {
	switch n.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool":
		var value bool
		if n.Decode(&value) != nil {
			return nil, fmt.Errorf("line %d has a value that does not fit its tag", n.Line)
		}
		return value, nil
	case "!!int", "!!float":
		return number(n.Value, n), nil
	case "!!binary":
		var text string
		if n.Decode(&text) != nil {
			return nil, fmt.Errorf("line %d has a !!binary value that is not base64", n.Line)
		}
		return text, nil
	}
	return n.Value, nil
}

// number is a number as it is written where JSON can write it so, else (0x10, 1_000, .5) with the same value.
func number(text string, n *yaml.Node) any {
	if isJSONNumber(text) {
		return json.Number(text)
	}
	var integer int64
	if n.Decode(&integer) == nil && n.ShortTag() == "!!int" {
		return json.Number(strconv.FormatInt(integer, 10))
	}
	var unsigned uint64
	if n.Decode(&unsigned) == nil && n.ShortTag() == "!!int" {
		return json.Number(strconv.FormatUint(unsigned, 10))
	}
	var float float64
	if n.Decode(&float) == nil && !math.IsInf(float, 0) && !math.IsNaN(float) {
		return json.Number(strconv.FormatFloat(float, 'g', -1, 64))
	}
	return text
}

// isJSONNumber reports whether JSON can write a number with this text.
func isJSONNumber(text string) bool {
	if text == "" || strings.Trim(text, "0123456789+-.eE") != "" {
		return false
	}
	return json.Valid([]byte(text))
}
