package class

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/fields"
)

// maxEntries bounds the fields that one object makes files of by jmesPath.
const maxEntries = 100

// extract reads which fields of the value become files.
func (o *objectParser) extract(object *Object) {
	all, content, exclude := o.get("fields"), o.get("contentFormat"), o.boolean("excludeObjectName")
	items := o.list("jmesPath", maxEntries)
	if !o.has("jmesPath") && all == "" {
		o.nothingToExtract()
		return
	}
	o.whichFields(all, exclude)
	o.extractFits(object)
	x := &Extract{Content: JSON, All: all != "", Whole: all == "" && !exclude}
	if content != "" {
		x.Content = ContentFormat(strings.ToLower(content))
		if !slices.Contains(fields.Formats(), x.Content) {
			o.wrong("contentFormat", content, "is not a format", "write json, yaml, dotenv or properties")
		}
	}
	for i, item := range items {
		if entry, ok := o.entry(object, i, item); ok {
			x.Entries = append(x.Entries, entry)
		}
	}
	object.Extract = x
}

// nothingToExtract reports fields that go with jmesPath or fields, which the object has not.
func (o *objectParser) nothingToExtract() {
	for _, field := range []string{"contentFormat", "excludeObjectName"} {
		if o.has(field) && o.get(field) != "false" {
			o.wrong(field, o.get(field), "goes with jmesPath or fields only", "remove it, or add jmesPath")
		}
	}
}

// whichFields checks that the object says one thing about which fields become files.
func (o *objectParser) whichFields(all string, exclude bool) {
	switch {
	case o.has("jmesPath") && all != "":
		o.wrong("fields", all, "and jmesPath are both set", "keep one of them")
	case all != "" && all != "all":
		o.wrong("fields", all, "is not all", "write all, or use jmesPath for single fields")
	case all != "" && exclude:
		o.wrong("excludeObjectName", "true", "goes with jmesPath only: with fields the whole value is not written", "remove it")
	}
}

// extractFits checks that the object has fields.
func (o *objectParser) extractFits(object *Object) {
	by := "fields"
	if o.has("jmesPath") {
		by = "jmesPath"
	}
	switch {
	case object.Kind != Secret && object.Kind != "":
		o.wrong(by, "", "goes with objectType secret only", "remove it")
	case object.History > 1:
		o.wrong(by, "", "and objectVersionHistory are both set", "keep one of them")
	case object.Format != PEM || object.Encoding != UTF8:
		o.wrong(by, "", "reads the secret's text as it is", "remove objectFormat and objectEncoding")
	case o.boolean("writeCertAndKeyInSeparateFiles") || object.ConvertPFX:
		o.wrong(by, "", "does not go with certificates", "remove writeCertAndKeyInSeparateFiles and convertPFX")
	}
}

// entry reads one item of jmesPath.
func (o *objectParser) entry(object *Object, index int, item value) (entry Entry, ok bool) {
	n := o.nested(fmt.Sprintf("jmesPath[%d]", index), item, InField)
	if n == nil {
		return entry, false
	}
	entry = Entry{Expression: n.get("path"), Path: n.get("objectAlias"), Mode: object.Mode, Line: o.line + n.line - 1}
	var err error
	if entry.Compiled, err = fields.Compile(entry.Expression); err != nil {
		n.wrong("path", entry.Expression, err.Error(), "write a JMESPath expression such as database.password")
	}
	if entry.Path == "" {
		n.wrong("objectAlias", "", "is not set", "write the file's path")
	} else if problem := pathProblem(entry.Path); problem != "" {
		n.wrong("objectAlias", entry.Path, problem, pathFix)
	}
	if text := n.get("filePermission"); text != "" {
		mode, problem, fix := fileMode(text)
		if entry.Mode = mode; problem != "" {
			n.wrong("filePermission", text, problem, fix)
		}
	}
	n.boolean("optional", &entry.Optional)
	return entry, true
}
