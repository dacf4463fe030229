package fields

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/jmespath-community/go-jmespath/pkg/parsing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
)

// maxExpression bounds an expression, in bytes, and with it how deep its parser recurses.
const maxExpression = 1024

// Expression is a JMESPath expression. It is immutable.
type Expression struct {
	text string
	// path are the steps of a plain path; nil for any other expression.
	path []step
}

// step is one of a plain path: a field, or an element of a list where the name is empty and isIndex is set.
type step struct {
	field   string
	index   int
	isIndex bool
}

// hyphenated is what a person writes for the name of a field, and JMESPath reads as a subtraction.
var hyphenated = regexp.MustCompile(`^[A-Za-z0-9_]+(-[A-Za-z0-9_]+)+$`)

// Compile reads an expression. An error says what is wrong with it.
func Compile(text string) (e *Expression, err error) {
	switch {
	case text == "":
		return nil, errors.New("is not set")
	case len(text) > maxExpression:
		return nil, fmt.Errorf("has %d bytes: at most %d", len(text), maxExpression)
	case hyphenated.MatchString(text):
		return nil, fmt.Errorf("is a subtraction to JMESPath: quote a name that has hyphens, as in '%q'", text)
	}
	defer func() {
		if recover() != nil { // of the library, whose value may quote anything
			e, err = nil, errors.New("is not a JMESPath expression")
		}
	}()
	node, err := parsing.NewParser().Parse(text)
	if err != nil {
		return nil, fmt.Errorf("is not a JMESPath expression: %s", printable.Cut(err.Error(), 2*maxShown))
	}
	e = &Expression{text: text}
	if path, ok := plain(node); ok {
		e.path = path
	}
	return e, nil
}

// plain returns the steps of an expression that has fields and indexes only.
func plain(node parsing.ASTNode) ([]step, bool) {
	switch node.NodeType {
	case parsing.ASTField:
		name, ok := node.Value.(string)
		return []step{{field: name}}, ok
	case parsing.ASTIndex:
		index, ok := node.Value.(int)
		return []step{{index: index, isIndex: true}}, ok
	case parsing.ASTIdentity, parsing.ASTCurrentNode:
		return []step{}, true
	case parsing.ASTSubexpression, parsing.ASTIndexExpression, parsing.ASTPipe:
		steps := []step{}
		for _, child := range node.Children {
			more, ok := plain(child)
			if !ok {
				return nil, false
			}
			steps = append(steps, more...)
		}
		return steps, true
	default:
		return nil, false
	}
}

// String is the expression's text.
func (e *Expression) String() string { return e.text }

// Plain reports whether the expression is a plain path, which Find evaluates.
func (e *Expression) Plain() bool { return e.path != nil }

// Find returns what a plain path leads to in a document that Decode made; nil where it leads nowhere.
func (e *Expression) Find(document any) any {
	for _, s := range e.path {
		document = s.from(document)
	}
	return document
}

func (s step) from(value any) any {
	if !s.isIndex {
		object, _ := value.(map[string]any)
		return object[s.field]
	}
	list, _ := value.([]any)
	index := s.index
	if index < 0 {
		index += len(list)
	}
	if index < 0 || index >= len(list) {
		return nil
	}
	return list[index]
}
