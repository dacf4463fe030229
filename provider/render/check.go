package render

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
)

// maxShown bounds what a mistake shows of a template, in bytes.
const maxShown = 60

// Mistake is one thing that is wrong with a template's text.
type Mistake struct {
	// Line is the line in the text, from 1.
	Line int
	// Problem says what is wrong, Fix what to write instead.
	Problem, Fix string
}

// Reference is a file that a template names.
type Reference struct {
	Path string
	// Line is the line in the text, from 1.
	Line int
	// Pattern is true where Path is a pattern with wildcards.
	Pattern bool
	// at is the offset in the text.
	at parse.Pos
}

// Template is a template without mistakes of its own. It is immutable.
type Template struct {
	path, text string
	references []Reference
	// all is true where the template makes up a path, so that it may read any file.
	all bool
}

// Parse reads the template of the file at a path. Mistakes come in the order of their lines.
func Parse(path, text string) (*Template, []Mistake) {
	tree := parse.New(path)
	tree.Mode = parse.SkipFuncCheck
	sets := map[string]*parse.Tree{}
	if _, err := tree.Parse(text, "", "", sets); err != nil {
		return nil, []Mistake{syntaxMistake(path, err)}
	}
	r := reader{text: text, defined: sets, t: &Template{path: path, text: text}}
	for _, set := range sets {
		r.node(set.Root)
	}
	if len(r.mistakes) > 0 {
		slices.SortStableFunc(r.mistakes, func(a, b Mistake) int { return a.Line - b.Line })
		return nil, slices.Compact(r.mistakes)
	}
	slices.SortFunc(r.t.references, func(a, b Reference) int { return cmp.Compare(a.at, b.at) })
	return r.t, nil
}

var atLine = regexp.MustCompile(`^(\d+): `)

// syntaxMistake takes the line out of the parser's message. What remains quotes the template only.
func syntaxMistake(path string, err error) Mistake {
	text := strings.TrimPrefix(err.Error(), "template: "+path+":")
	m := Mistake{Line: 1, Fix: "correct the template: it is a Go template, as in Helm"}
	if found := atLine.FindStringSubmatch(text); found != nil {
		m.Line, _ = strconv.Atoi(found[1])
		text = strings.TrimPrefix(text, found[0])
	}
	text = strings.TrimPrefix(text, "template: ")
	m.Problem = "is not a template: " + printable.Cut(printable.OneLine(text), 2*maxShown)
	return m
}

// Path is the file that the template makes.
func (t *Template) Path() string { return t.path }

// References are the files that the template names, in the order of their lines.
func (t *Template) References() []Reference { return t.references }

// Reads reports whether the template may read the file.
func (t *Template) Reads(file string) bool {
	return t.all || slices.ContainsFunc(t.references, func(r Reference) bool {
		if !r.Pattern {
			return r.Path == file
		}
		match, err := path.Match(r.Path, file)
		return match && err == nil
	})
}

// reader walks the nodes of a template.
type reader struct {
	text     string
	defined  map[string]*parse.Tree
	t        *Template
	mistakes []Mistake
}

// line is the line of a node.
func (r *reader) line(n parse.Node) int { return 1 + strings.Count(r.text[:int(n.Position())], "\n") }

func (r *reader) wrong(n parse.Node, problem, fix string) {
	r.mistakes = append(r.mistakes, Mistake{Line: r.line(n), Problem: problem, Fix: fix})
}

// node walks a node and what is in it.
func (r *reader) node(n parse.Node) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return
		}
		for _, child := range n.Nodes {
			r.node(child)
		}
	case *parse.ActionNode:
		r.node(n.Pipe)
	case *parse.IfNode:
		r.branch(&n.BranchNode)
	case *parse.RangeNode:
		r.branch(&n.BranchNode)
	case *parse.WithNode:
		r.branch(&n.BranchNode)
	case *parse.TemplateNode:
		if r.defined[n.Name] == nil {
			r.wrong(n, fmt.Sprintf("uses the template %q, which it does not define", printable.Cut(n.Name, maxShown)), "add {{ define }}")
		}
		r.node(n.Pipe)
	case *parse.PipeNode:
		if n != nil {
			r.pipe(n)
		}
	case *parse.ChainNode:
		r.node(n.Node)
	}
}

func (r *reader) branch(n *parse.BranchNode) {
	r.node(n.Pipe)
	r.node(n.List)
	r.node(n.ElseList)
}

func (r *reader) pipe(n *parse.PipeNode) {
	var before []parse.Node // what the command before gives, where it is one known text
	for i, command := range n.Cmds {
		if name, ok := command.Args[0].(*parse.IdentifierNode); ok {
			r.call(name, slices.Concat(command.Args[1:], before), i > 0 && before == nil)
		}
		for _, argument := range command.Args {
			if name, ok := argument.(*parse.IdentifierNode); ok && argument != command.Args[0] {
				r.call(name, nil, false) // a function without arguments
			}
			r.node(argument)
		}
		before = nil
		if len(command.Args) == 1 && command.Args[0].Type() == parse.NodeString {
			before = command.Args
		}
	}
}

// call notes which files a function reads. Piped is true where it has one more argument, which is not known.
func (r *reader) call(name *parse.IdentifierNode, arguments []parse.Node, piped bool) {
	if !slices.Contains(builtin, name.Ident) && !slices.Contains(own, name.Ident) && !slices.Contains(library, name.Ident) {
		problem, fix := unknownFunction(name.Ident)
		r.wrong(name, problem, fix)
		return
	}
	paths, reads := readsFiles[name.Ident]
	if !reads {
		return
	}
	if paths < 0 {
		paths = len(arguments)
		r.t.all = r.t.all || piped
	}
	if len(arguments) < paths {
		if !piped {
			r.wrong(name, fmt.Sprintf("calls %s without the path of a file", name.Ident), fmt.Sprintf("write {{ %s \"PATH\" }}", name.Ident))
		}
		r.t.all = true
	}
	for _, argument := range arguments[:min(paths, len(arguments))] {
		text, ok := argument.(*parse.StringNode)
		if !ok {
			r.t.all = true
			continue
		}
		r.reference(name.Ident, text)
	}
}

func (r *reader) reference(function string, n *parse.StringNode) {
	found := Reference{Path: n.Text, Line: r.line(n), Pattern: function == FuncFiles, at: n.Pos}
	if found.Pattern {
		if _, err := path.Match(n.Text, ""); err != nil {
			r.wrong(n, fmt.Sprintf("has the pattern %q, which is malformed", printable.Cut(n.Text, maxShown)), `write one like "ca/*"`)
			return
		}
	}
	r.t.references = append(r.t.references, found)
}

// unknownFunction says what is wrong with a function's name.
func unknownFunction(name string) (problem, fix string) {
	shown := printable.Cut(name, maxShown)
	if why := withheld(name); why != "" {
		return fmt.Sprintf("calls %s, which templates cannot use: %s", shown, why), "remove it: docs/parameters.md lists the functions"
	}
	return fmt.Sprintf("calls %s, which is no function", shown), "docs/parameters.md lists the functions"
}
