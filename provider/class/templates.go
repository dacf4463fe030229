package class

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/yamlnode"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/render"
)

const (
	// MaxTemplates bounds the templates of a class.
	MaxTemplates = 100
	// maxTemplate bounds the text of one, in bytes.
	maxTemplate = 64 << 10
)

const templatesShape = "write a mapping with the key array, whose items are strings with path and template: array: [ | …, | … ]"

// templates reads the parameter templates.
func (p *parser) templates(raw string) {
	const name = "templates"
	if p.text[name] == "" {
		return
	}
	list := p.items(name, raw, templatesShape)
	if len(list) > MaxTemplates {
		p.parameter(name, "", fmt.Sprintf("has %d items", len(list)), fmt.Sprintf("write at most %d", MaxTemplates))
		return
	}
	for _, item := range list {
		o := &itemParser{parser: p, parameter: name, index: item.index, line: item.line}
		if !o.read(item.text, InTemplate, maxTemplate+maxObjectSize) {
			continue
		}
		t := Template{Index: item.index, Path: o.get("path"), Look: o.look()}
		o.title = shorten(t.Path)
		if t.Path == "" {
			o.wrong("path", "", "is not set", "write the file's path")
		} else {
			o.checkPath("path", t.Path)
		}
		if v, ok := o.fields["template"]; ok {
			t.Text = yamlnode.Text(v.node)
			t.Line = o.line + v.line - 1
			if blockScalar(v.node) {
				t.Line++ // the text begins below the indicator
			}
		}
		switch {
		case strings.TrimSpace(t.Text) == "":
			o.wrong("template", "", "is not set", "write the file's text, with {{ file \"PATH\" }} where a value goes")
		case len(t.Text) > maxTemplate:
			o.wrong("template", "", fmt.Sprintf("is %d bytes long", len(t.Text)), fmt.Sprintf("write at most %d", maxTemplate))
		default:
			o.parseTemplate(&t)
		}
		p.class.Templates = append(p.class.Templates, t)
		p.claim(claim{path: t.Path, mistake: o.mistakeAt(o.fields["path"].line, "path", t.Path, "", "give it another path")})
	}
}

// parseTemplate reads the text of a template, and checks that the files that it names are among those of the objects.
func (o *itemParser) parseTemplate(t *Template) {
	wrong := func(line int, problem, fix string) {
		m := o.mistakeAt(1, "template", "", problem, fix)
		m.Line = t.Line + line - 1
		o.mistakes = append(o.mistakes, m)
	}
	parsed, mistakes := render.Parse(t.Path, t.Text)
	for _, m := range mistakes {
		wrong(m.Line, m.Problem, m.Fix)
	}
	if parsed == nil {
		return
	}
	t.Parsed = parsed
	if o.namesInDoubt() {
		return
	}
	known := o.filesOfObjects()
	for _, r := range parsed.References() {
		if slices.ContainsFunc(known, func(have string) bool { return refersTo(r, have) }) || slices.ContainsFunc(o.class.Objects,
			func(object Object) bool { return object.Open() && (r.Pattern || object.mayWrite(r.Path)) }) {
			continue
		}
		fix := "write the path of one of the class's objects: its objectAlias, else its objectName"
		if near := Nearest(r.Path, known); near != "" {
			fix = "did you mean " + near + "?"
		}
		wrong(r.Line, "names the file "+strconv.Quote(shorten(r.Path))+", which no object of the class makes", fix)
	}
}

// namesInDoubt reports whether an object has a mistake because of which its files are not known. What would follow from
// that is not reported.
func (p *parser) namesInDoubt() bool {
	return slices.ContainsFunc(p.mistakes, func(m Mistake) bool {
		field, _, _ := strings.Cut(m.Field, "[")
		return m.Parameter == "objects" &&
			slices.Contains([]string{"", "objectName", "objectAlias", "objectSelector", "jmesPath", "fields"}, strings.Split(field, ".")[0])
	})
}

// filesOfObjects are the files of all objects that are known before they are fetched.
func (p *parser) filesOfObjects() (files []string) {
	for i := range p.class.Objects {
		files = append(files, p.class.Objects[i].Paths()...)
	}
	return files
}

// refersTo reports whether a template's reference is to the file.
func refersTo(r render.Reference, file string) bool {
	if !r.Pattern {
		return r.Path == file
	}
	match, err := path.Match(r.Path, file)
	return match && err == nil
}

// mayWrite reports whether an object whose files the vault names may write the file.
func (object *Object) mayWrite(file string) bool {
	if object.Selector != nil {
		before, after, _ := strings.Cut(object.Path, NamePlaceholder)
		if object.Extract == nil {
			return strings.HasPrefix(file, before) && (strings.HasSuffix(file, after) || strings.Contains(after, NamePlaceholder))
		}
		return strings.HasPrefix(file, before)
	}
	return path.Dir(file) == path.Clean(object.Path)
}
