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

// secretObjects checks the Secrets of a class against the files that it mounts.
func (c *checker) secretObjects(n *yaml.Node, parsed *class.Class, who string) {
	if n == nil || n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.SequenceNode {
		c.say(n.Line, Error, who, "spec.secretObjects is not a list: put a dash before each Secret")
		return
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
			c.say(object.Line, Error, who, where+" is not a mapping: write secretName, type and data")
			continue
		}
		c.unknown(object, who, where, "secretName", "type", "labels", "annotations", "data")
		o := c.secretObject(object, who, where)
		if names[o.SecretName] {
			c.say(object.Line, Warning, who,
				fmt.Sprintf("%s.secretName %q is a duplicate: merge them", where, o.SecretName))
		}
		names[o.SecretName] = true
		if o.Type == "" {
			c.say(object.Line, Note, who, where+" has no type: Opaque is used")
		}
		if len(o.Data) == 0 {
			c.say(object.Line, Note, who, where+" has no data: every mounted file becomes a key")
		}
		if !secretdata.NeverType(o.Type) && !secretdata.AllowedType(o.Type, c.rules.SecretTypes) {
			c.say(
				lineOf(field(object, "type"), object),
				Warning,
				who,
				fmt.Sprintf("%s.type %q is not written unless the driver's operator allows it: "+
					"ask for syncSecret.types in the chart, or write one of %s", where, o.Type, strings.Join(secretdata.Types(c.rules.SecretTypes), ", ")),
			)
		}
		for _, m := range secretdata.Check(&o, c.withParts(object, &o, paths, who, where)) {
			text := where + " " + m.Text
			if m.Field != "" {
				text = where + "." + m.String()
			}
			c.say(lineOfMistake(object, m), Warning, who, text)
		}
	}
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
		c.say(lineOfMistake(n, secretdata.Mistake{Field: "data", Entry: i + 1}), Warning, who,
			fmt.Sprintf("%s.data[%d] %q is mounted only where the driver's operator set --write-cert-and-key-in-separate-files (in the chart "+
				"writeCertAndKeyInSeparateFiles): if so, give validate that flag; else write writeCertAndKeyInSeparateFiles: \"true\" in the object",
				where, i, name))
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
		c.say(list.Line, Error, who, where+".data is not a list: put a dash before each key")
		return o
	}
	for i, entry := range list.Content {
		c.unknown(entry, who, fmt.Sprintf("%s.data[%d]", where, i), "objectName", "key")
		o.Data = append(o.Data,
			v1.SecretObjectData{ObjectName: textOf(field(entry, "objectName")), Key: textOf(field(entry, "key"))})
	}
	return o
}

// texts reads a map of strings.
func (c *checker) texts(n *yaml.Node, who, where string) map[string]string {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	values := map[string]string{}
	for _, pair := range pairsOf(n) {
		key, value := pair.Key, yamlnode.Resolve(pair.Value)
		if value.Kind != yaml.ScalarNode || value.Tag != "!!str" && value.Tag != "!!null" {
			c.say(value.Line, Error, who,
				fmt.Sprintf("%s.%s is not text, so the API server rejects it: put it in quotes", where, key.Value))
		}
		values[key.Value] = textOf(value)
	}
	return values
}

// lineOfMistake finds the line of a mistake in the object.
func lineOfMistake(object *yaml.Node, m secretdata.Mistake) int {
	if list := field(object, m.Field); m.Entry > 0 && list != nil && m.Entry <= len(list.Content) {
		return list.Content[m.Entry-1].Line
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
