package classfile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

// secretKey is a key of a Secret's data.
var secretKey = regexp.MustCompile(`^[-._a-zA-Z0-9]{1,253}$`)

// secretObjects checks the Secrets that a class asks for against what it mounts.
func (c *checker) secretObjects(n *yaml.Node, parsed *class.Class, who string) {
	if n == nil || n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.SequenceNode {
		c.say(n.Line, Error, who, "spec.secretObjects is not a list: put a dash before each Secret")
		return
	}
	names := map[string]bool{}
	for i, object := range n.Content {
		where := fmt.Sprintf("spec.secretObjects[%d]", i)
		if object.Kind != yaml.MappingNode {
			c.say(object.Line, Error, who, where+" is not a mapping: write secretName, type and data")
			continue
		}
		c.unknown(object, who, where, "secretName", "type", "labels", "annotations", "data")
		name := text(field(object, "secretName"))
		switch {
		case !dnsName.MatchString(name):
			c.say(lineOf(field(object, "secretName"), object), Error, who, fmt.Sprintf("%s.secretName %q is not a name: write lower-case letters, "+
				"digits, hyphens and dots", where, name))
		case names[name]:
			c.say(object.Line, Error, who, fmt.Sprintf("%s.secretName %q stands in the class twice: merge them", where, name))
		}
		names[name] = true
		kind := text(field(object, "type"))
		if kind == "" {
			c.say(object.Line, Note, who, where+" has no type: Opaque is taken")
		}
		c.secretData(field(object, "data"), object, parsed, who, where, kind)
	}
}

func (c *checker) secretData(n, object *yaml.Node, parsed *class.Class, who, where, kind string) {
	if n == nil || n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		c.say(object.Line, Note, who, where+" has no data: every mounted file becomes a key")
		return
	}
	keys := map[string]bool{}
	for i, entry := range n.Content {
		at := fmt.Sprintf("%s.data[%d]", where, i)
		c.unknown(entry, who, at, "objectName", "key")
		name, key := strings.TrimSpace(text(field(entry, "objectName"))), strings.TrimSpace(text(field(entry, "key")))
		switch {
		case !secretKey.MatchString(key):
			c.say(entry.Line, Error, who, fmt.Sprintf("%s.key %q is not a key: write letters, digits, hyphens, underscores and dots", at, key))
		case keys[key]:
			c.say(entry.Line, Error, who, fmt.Sprintf("%s.key %q stands in the Secret twice: remove one", at, key))
		case kind == "kubernetes.io/tls" && !slices.Contains([]string{"tls.crt", "tls.key", "ca.crt"}, key):
			c.say(entry.Line, Error, who, fmt.Sprintf("%s.key %q does not belong into a TLS Secret: write tls.crt, tls.key or ca.crt", at, key))
		}
		keys[key] = true
		if parsed != nil && !slices.Contains(mounted(parsed), name) {
			c.say(entry.Line, Error, who, fmt.Sprintf("%s.objectName %q is not mounted by the class: write the alias of an object, or its name "+
				"where it has none: %s", at, name, strings.Join(mounted(parsed), ", ")))
		}
	}
	if kind == "kubernetes.io/tls" && (!keys["tls.crt"] || !keys["tls.key"]) {
		c.say(object.Line, Error, who, where+" is a TLS Secret without tls.crt or tls.key: add both")
	}
}

// mounted are the files that the class may mount.
func mounted(c *class.Class) []string {
	var paths []string
	for i := range c.Objects {
		for _, p := range c.Objects[i].Paths() {
			paths = append(paths, p)
			if c.Objects[i].SplitCertAndKey {
				paths = append(paths, p+".crt", p+".key")
			}
		}
	}
	return paths
}
