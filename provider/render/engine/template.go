package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/render"
)

// outFunction is added to each action that writes a value. No template can name it: the driver refuses unknown functions.
const outFunction = "_out"

// problem is an error whose text holds no value. All other errors may quote one.
type problem string

func (p problem) Error() string { return string(p) }

func problemf(format string, args ...any) error { return problem(fmt.Sprintf(format, args...)) }

// execute makes a file from a template.
func execute(task render.Task, files map[string][]byte, left int) render.Progress {
	e := executor{files: map[string][]byte{}, reads: task.Reads}
	for _, path := range task.Reads {
		if data, ok := files[path]; ok {
			e.files[path] = data
		}
	}
	t, err := template.New(task.Path).Option("missingkey=error").Funcs(e.functions()).Parse(task.Text)
	if err != nil {
		return render.Progress{Failure: &render.Failure{Problem: "is not a template"}} // the driver has parsed it
	}
	for _, one := range t.Templates() {
		written(one.Root)
	}
	out := &limited{limit: left}
	if err := t.Execute(out, nil); err != nil {
		return render.Progress{Failure: failureOf(task.Path, err)}
	}
	return render.Progress{Data: out.Bytes()}
}

// limited fails past a limit.
type limited struct {
	bytes.Buffer

	limit int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > l.limit {
		return 0, problem(tooLarge().Problem)
	}
	return l.Buffer.Write(p) //nolint:wrapcheck // it never fails
}

// written adds outFunction to each action that writes, so that nothing is written as Go prints it: a null would be
// <no value>, a list [a b], bytes their numbers.
func written(list *parse.ListNode) {
	if list == nil {
		return
	}
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			if len(n.Pipe.Decl) == 0 {
				name := parse.NewIdentifier(outFunction).SetTree(nil).SetPos(n.Pos)
				n.Pipe.Cmds = append(n.Pipe.Cmds, &parse.CommandNode{NodeType: parse.NodeCommand, Pos: n.Pos, Args: []parse.Node{name}})
			}
		case *parse.IfNode:
			written(n.List)
			written(n.ElseList)
		case *parse.RangeNode:
			written(n.List)
			written(n.ElseList)
		case *parse.WithNode:
			written(n.List)
			written(n.ElseList)
		}
	}
}

// out is the text of a value that a template writes.
func out(value any) (string, error) {
	switch v := value.(type) {
	case nil:
		return "", problem("the value is null or does not exist: use default")
	case string:
		return v, nil
	case []byte:
		return string(v), nil
	case json.Number:
		return v.String(), nil
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	case error:
		return "", problem("the value is an error")
	}
	switch kind := reflect.ValueOf(value).Kind(); kind { //nolint:exhaustive // the others are plain values
	case reflect.Map, reflect.Slice, reflect.Array, reflect.Struct, reflect.Pointer, reflect.Func, reflect.Chan:
		return "", problemf("the value is a %s, which has no text: use toJson, toYaml or join", kindName(kind))
	}
	return fmt.Sprint(value), nil
}

func kindName(kind reflect.Kind) string {
	switch kind { //nolint:exhaustive // no others are asked for
	case reflect.Map:
		return "map"
	case reflect.Slice, reflect.Array:
		return "list"
	}
	return kind.String()
}

var (
	errorLine     = regexp.MustCompile(`^(\d+)(?::\d+)?: `)
	errorFunction = regexp.MustCompile(`error calling ([A-Za-z0-9]+): `)
	errorArity    = regexp.MustCompile(`wrong number of args for ([A-Za-z0-9]+): `)
	errorField    = regexp.MustCompile(`map has no entry for key "([^"\\]{1,60})"$`)
	errorMissing  = regexp.MustCompile(`can't evaluate field ([A-Za-z0-9_]{1,60}) in type`)
)

// causes are parts of the messages of text/template, and what a failure says in their place.
var causes = [...]struct{ marker, problem string }{
	{"nil pointer evaluating", "a value on the way to a field is null"},
	{"nil data", "a value on the way to a field does not exist"},
	{"exceeded maximum template depth", "calls itself without an end"},
	{"invalid value; expected", "an argument is null"},
	{"wrong type for value", "an argument has a wrong type"},
	{"; found ", "an argument has a wrong type"},
	{"incompatible types", "two values of different types are compared"},
	{"range can't iterate over", "range is over what is no list"},
	{"index out of range", "the index is out of range"},
}

// failureOf says why a template failed: the line, the function, and one of a few texts. The message of text/template
// quotes values.
func failureOf(path string, err error) *render.Failure {
	f := &render.Failure{Problem: "fails on a value"}
	text := strings.TrimPrefix(err.Error(), "template: "+path+":")
	if found := errorLine.FindStringSubmatch(text); found != nil {
		f.Line, _ = strconv.Atoi(found[1])
	}
	if found := errorFunction.FindStringSubmatch(text); found != nil {
		f.Function = found[1]
		f.Problem = "fails on its arguments"
	}
	if own, ok := errors.AsType[problem](err); ok {
		f.Problem = string(own)
		return f
	}
	if found := errorArity.FindStringSubmatch(text); found != nil {
		f.Function, f.Problem = found[1], "has a wrong number of arguments"
		return f
	}
	for _, known := range causes {
		if strings.Contains(text, known.marker) {
			f.Problem = known.problem
			break
		}
	}
	for _, pattern := range []*regexp.Regexp{errorField, errorMissing} {
		if found := pattern.FindStringSubmatch(text); found != nil && f.Function == "" {
			f.Problem = fmt.Sprintf("there is no field %q: use get or hasKey where it may be missing", found[1])
		}
	}
	return f
}

// executor has what the functions of one template read.
type executor struct {
	files map[string][]byte
	reads []string
}

// file returns a file's content.
func (e executor) file(path string) ([]byte, error) {
	if data, ok := e.files[path]; ok {
		return data, nil
	}
	if slices.Contains(e.reads, path) {
		return nil, problem("the file does not exist now, since its object is optional: check it with hasFile")
	}
	return nil, problem("the class has no such file")
}
