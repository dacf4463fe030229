package class

import (
	"fmt"
	"strings"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/yamlnode"
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
		}
		p.class.Templates = append(p.class.Templates, t)
		p.claim(claim{path: t.Path, mistake: o.mistakeAt(o.fields["path"].line, "path", t.Path, "", "give it another path")})
	}
}
