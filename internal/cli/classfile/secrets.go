package classfile

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/secretdata"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/yamlnode"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

// secretObjects checks the Secrets of a class against the files that it mounts, and returns them.
func (c *checker) secretObjects(n *yaml.Node, parsed *class.Class, who string) (all []v1.SecretObject) {
	if n == nil || n.Tag == "!!null" {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		c.secret(n.Line, Error, who, "spec.secretObjects", n.Value, "is not a list", "put a dash before each Secret")
		return nil
	}
	var paths []string // nil where they are not known
	if parsed != nil {
		paths = mounted(parsed)
	}
	names := map[string]bool{}
	for i, object := range n.Content {
		where := fmt.Sprintf("spec.secretObjects[%d]", i)
		object = yamlnode.Resolve(object)
		if object.Kind != yaml.MappingNode {
			c.secret(object.Line, Error, who, where, object.Value, "is not a mapping", "write secretName, type and data")
			continue
		}
		c.unknown(object, who, where, RuleSecretObject, "secretName", "type", "labels", "annotations", "data")
		o := c.secretObject(object, who, where)
		all = append(all, o)
		if names[o.SecretName] {
			c.secret(lineOf(field(object, "secretName"), object), Warning, who, where+".secretName", o.SecretName, fmt.Sprintf("%q is a duplicate", o.SecretName), "merge them")
		}
		names[o.SecretName] = true
		if o.Type == "" {
			c.secret(object.Line, Note, who, where, "", "has no type", "Opaque is used")
		}
		if len(o.Data) == 0 {
			c.secret(object.Line, Note, who, where, "", "has no data", "every mounted file becomes a key")
		}
		c.secretType(object, &o, who, where)
		for _, m := range secretdata.Check(&o, c.withParts(object, &o, paths, who, where)) {
			c.secretMistake(object, &o, m, paths, who, where)
		}
	}
	return all
}

// secret reports a problem of a secretObject.
func (c *checker) secret(line int, s Severity, who, field, value, text, fix string) {
	c.report(problem{line: line, severity: s, rule: RuleSecretObject, class: who, field: field, value: value, text: text, fix: fix})
}

// secretType warns of a type that the driver does not write.
func (c *checker) secretType(object *yaml.Node, o *v1.SecretObject, who, where string) {
	if secretdata.NeverType(o.Type) || secretdata.AllowedType(o.Type, c.rules.SecretTypes) {
		return
	}
	fix := "ask for syncSecret.types in the chart, or write one of " + strings.Join(secretdata.Types(c.rules.SecretTypes), ", ")
	if near := class.Nearest(o.Type, secretdata.Types(c.rules.SecretTypes)); near != "" {
		fix = "did you mean " + near + "? Else " + fix
	}
	c.secret(lineOf(field(object, "type"), object), Warning, who, where+".type", o.Type,
		fmt.Sprintf("%q is not written unless the driver's operator allows it", o.Type), fix)
}

// secretMistake reports what the driver would find.
func (c *checker) secretMistake(object *yaml.Node, o *v1.SecretObject, m secretdata.Mistake, paths []string, who, where string) {
	name, line := where, lineOfMistake(object, m)
	if m.Field != "" {
		name += "." + m.Field
	}
	if m.Entry > 0 {
		name += fmt.Sprintf("[%d].%s", m.Entry-1, m.Part)
	}
	text, fix, _ := strings.Cut(m.Text, ": ")
	value := textOf(field(object, m.Field))
	if m.Entry > 0 {
		value = o.Data[m.Entry-1].Key
		if m.Part == "objectName" {
			value = strings.TrimSpace(o.Data[m.Entry-1].ObjectName)
			if near := class.Nearest(value, paths); near != "" && value != "" {
				fix = "did you mean " + near + "? Else " + fix
			}
		}
	}
	c.secret(line, Warning, who, name, value, text, fix)
}

// withParts adds to the paths the certificate and key files that the data names and that the driver mounts only where its operator, or
// the object, says so, with a warning for each. People have the operator's flag in mind, which is not in the file.
func (c *checker) withParts(n *yaml.Node, o *v1.SecretObject, paths []string, who, where string) []string {
	if paths == nil {
		return nil
	}
	all := paths
	for i, d := range o.Data {
		name := strings.TrimSpace(d.ObjectName)
		base, isCertificate := strings.CutSuffix(name, ".crt")
		base, isKey := strings.CutSuffix(base, ".key")
		if slices.Contains(all, name) || !isCertificate && !isKey || !slices.Contains(paths, base) {
			continue
		}
		all = append(slices.Clone(all), name)
		c.secret(lineOfMistake(n, secretdata.Mistake{Field: "data", Entry: i + 1, Part: "objectName"}), Warning, who, fmt.Sprintf("%s.data[%d]", where, i), name,
			fmt.Sprintf("%q is mounted only where the driver's operator set --write-cert-and-key-in-separate-files (in the chart "+
				"writeCertAndKeyInSeparateFiles)", name),
			"if so, give validate that flag; else write writeCertAndKeyInSeparateFiles: \"true\" in the object")
	}
	return all
}

// secretObject reads one entry; what cannot be read is empty.
func (c *checker) secretObject(n *yaml.Node, who, where string) v1.SecretObject {
	o := v1.SecretObject{
		SecretName:  textOf(field(n, "secretName")),
		Type:        strings.TrimSpace(textOf(field(n, "type"))),
		Labels:      c.texts(field(n, "labels"), who, where+".labels"),
		Annotations: c.texts(field(n, "annotations"), who, where+".annotations"),
	}
	list := field(n, "data")
	if list == nil || list.Tag == "!!null" {
		return o
	}
	if list.Kind != yaml.SequenceNode {
		c.secret(list.Line, Error, who, where+".data", list.Value, "is not a list", "put a dash before each key")
		return o
	}
	for i, entry := range list.Content {
		entry = yamlnode.Resolve(entry)
		if entry.Kind != yaml.MappingNode {
			c.secret(entry.Line, Error, who, fmt.Sprintf("%s.data[%d]", where, i), entry.Value, "is not a mapping", "write objectName and key")
		}
		c.dataFields(entry, who, fmt.Sprintf("%s.data[%d]", where, i))
		o.Data = append(o.Data,
			v1.SecretObjectData{ObjectName: textOf(field(entry, "objectName")), Key: textOf(field(entry, "key"))})
	}
	return o
}

// dataFields warns about unknown fields of an entry of data. Those of the Secret itself are often written there.
func (c *checker) dataFields(entry *yaml.Node, who, where string) {
	for _, pair := range pairsOf(entry) {
		name := pair.Key.Value
		if name == "secretName" || name == "type" || name == "labels" {
			c.secret(pair.Key.Line, Warning, who, where+"."+name, textOf(yamlnode.Resolve(pair.Value)), "is in the wrong place and is ignored",
				"write it beside data")
		}
	}
	c.unknown(entry, who, where, RuleSecretObject, "objectName", "key", "secretName", "type", "labels")
}

// texts reads a map of strings.
func (c *checker) texts(n *yaml.Node, who, where string) map[string]string {
	if n == nil || n.Tag == "!!null" {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		c.secret(n.Line, Error, who, where, n.Value, "is not a mapping", "write NAME: VALUE below it")
		return nil
	}
	values := map[string]string{}
	for _, pair := range pairsOf(n) {
		key, value := pair.Key, yamlnode.Resolve(pair.Value)
		if value.Kind != yaml.ScalarNode || value.Tag != "!!str" && value.Tag != "!!null" {
			c.secret(value.Line, Error, who, where+"."+key.Value, value.Value, "is not text, so the API server rejects it", "put it in quotes")
		}
		values[key.Value] = textOf(value)
	}
	return values
}

// lineOfMistake finds the line of a mistake in the object: that of the field where it is there.
func lineOfMistake(object *yaml.Node, m secretdata.Mistake) int {
	if list := field(object, m.Field); m.Entry > 0 && list != nil && m.Entry <= len(list.Content) {
		entry := yamlnode.Resolve(list.Content[m.Entry-1])
		return lineOf(field(entry, m.Part), entry)
	}
	return lineOf(field(object, m.Field), object)
}

// mounted are the files that the class may mount; nil where the vault decides the names of some.
func mounted(c *class.Class) []string {
	paths, all := c.Paths()
	if !all {
		return nil
	}
	return slices.Clip(append([]string{}, paths...))
}
