// Package classfile checks files of SecretProviderClasses offline: every mistake with its file and line, and the fix.
package classfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/nodeidentity"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/yamlnode"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

// Severity is how serious a finding is.
type Severity string

// The severities.
const (
	// Error means that the volume cannot be mounted, or that the API server rejects the class. What the driver mounts is at most a
	// Warning.
	Error Severity = "error"
	// Warning is probably not what the author intended, such as a Secret that cannot be written beside a volume that is mounted.
	Warning Severity = "warning"
	// Note is information.
	Note Severity = "note"
)

// Finding is one result of a check. File and Line are empty if the class is in a cluster.
type Finding struct {
	File     string   `json:"file,omitempty"`
	Line     int      `json:"line,omitempty"`
	Severity Severity `json:"severity"`
	// Class is namespace/name; parts that are not known are left out.
	Class string `json:"class,omitempty"`
	// Message says what is wrong and what to write.
	Message string `json:"message"`
}

// String formats it as compilers do: file:line: severity: class: message; for a class in a cluster: class: severity:
// message.
func (f Finding) String() string {
	if f.File == "" {
		return fmt.Sprintf("%s: %s: %s", f.Class, f.Severity, f.Message)
	}
	where := ""
	if f.Class != "" {
		where = f.Class + ": "
	}
	return fmt.Sprintf("%s:%d: %s: %s%s", f.File, f.Line, f.Severity, where, f.Message)
}

// Rules are what the driver's operator chose. The zero value is the chart's default.
type Rules struct {
	// SecretTypes are types of Secrets that are allowed in addition to those that always are.
	SecretTypes []string
	// NodeIdentity says which namespaces may use the node's identity.
	NodeIdentity nodeidentity.Rule
}

// Check returns the findings about the documents of a file, in the order of its lines, and the number of classes in it.
func Check(file string, data []byte, options class.Options, rules Rules) (findings []Finding, classes int) {
	c := &checker{file: file, options: options, rules: rules}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := decoder.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			text, line := yamlnode.Problem(err)
			c.say(line, Error, "", "is not YAML: "+text)
			break
		}
		if len(doc.Content) > 0 && doc.Content[0].Tag != "!!null" { // templates leave empty documents
			c.document(doc.Content[0])
		}
	}
	slices.SortStableFunc(c.findings, func(a, b Finding) int { return a.Line - b.Line })
	return c.findings, c.classes
}

type checker struct {
	file     string
	options  class.Options
	rules    Rules
	findings []Finding
	classes  int
}

func (c *checker) say(line int, s Severity, class, message string) {
	c.findings = append(
		c.findings,
		Finding{
			File:     c.file,
			Line:     max(line, 1),
			Severity: s,
			Class:    printable.OneLine(class),
			Message:  printable.OneLine(message),
		},
	)
}

// field returns the value of a mapping's key, aliases and merge keys followed; nil where there is none.
func field(n *yaml.Node, key string) *yaml.Node {
	for _, pair := range pairsOf(n) {
		if pair.Key.Value == key {
			return yamlnode.Resolve(pair.Value)
		}
	}
	return nil
}

// pairsOf returns the keys and values of a mapping, and nothing of another node.
func pairsOf(n *yaml.Node) []yamlnode.Pair {
	if n == nil {
		return nil
	}
	if n = yamlnode.Resolve(n); n.Kind != yaml.MappingNode {
		return nil
	}
	return yamlnode.Pairs(n)
}

func textOf(n *yaml.Node) string {
	if n == nil {
		return ""
	}
	return yamlnode.Text(n)
}

// lineOf is the node's line, or the fallback's if it is missing.
func lineOf(n, fallback *yaml.Node) int {
	if n != nil {
		return n.Line
	}
	return fallback.Line
}

func (c *checker) document(n *yaml.Node) {
	kind := textOf(field(n, "kind"))
	switch {
	case n.Kind != yaml.MappingNode:
		c.say(n.Line, Error, "", "the document is not a Kubernetes object: write apiVersion, kind, metadata and spec")
	case kind == "List" || kind == "SecretProviderClassList":
		if items := field(n, "items"); items != nil {
			for _, item := range items.Content {
				c.document(item)
			}
		}
	case kind == "SecretProviderClass":
		c.class(n)
	case kind == "":
		c.say(n.Line, Error, "", "the document has no kind: write kind: SecretProviderClass")
	default:
		c.say(lineOf(field(n, "kind"), n), Note, "", "kind "+kind+" is ignored")
	}
}

// dnsName is a Kubernetes object's name (RFC 1123 subdomain).
var dnsName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)

func (c *checker) class(n *yaml.Node) {
	c.classes++
	meta, spec := field(n, "metadata"), field(n, "spec")
	name, namespace := textOf(field(meta, "name")), textOf(field(meta, "namespace"))
	who := name
	if namespace != "" {
		who = namespace + "/" + name
	}
	say := func(at *yaml.Node, s Severity, message string) { c.say(lineOf(at, n), s, who, message) }
	switch version := textOf(field(n, "apiVersion")); version {
	case "secrets-store.csi.x-k8s.io/v1":
	case "secrets-store.csi.x-k8s.io/v1alpha1":
		say(field(n, "apiVersion"), Note, "apiVersion v1alpha1 is deprecated: write secrets-store.csi.x-k8s.io/v1")
	default:
		say(field(n, "apiVersion"), Error,
			fmt.Sprintf("apiVersion %q is not known: write secrets-store.csi.x-k8s.io/v1", version))
	}
	if !dnsName.MatchString(name) {
		say(field(meta, "name"), Error,
			fmt.Sprintf("metadata.name %q is not a name: write lower-case letters, digits, hyphens and dots", name))
	}
	if spec == nil || spec.Kind != yaml.MappingNode {
		say(spec, Error, "spec is not set: write provider and parameters")
		return
	}
	if !c.served(textOf(field(spec, "provider")), lineOf(field(spec, "provider"), spec), who) {
		return
	}
	c.unknown(spec, who, "spec", "provider", "parameters", "secretObjects")
	parsed := c.parameters(field(spec, "parameters"), spec, who)
	if parsed != nil && parsed.Mode == class.ManagedIdentity {
		c.nodeIdentity(lineOf(field(field(spec, "parameters"), "useVMManagedIdentity"), spec), namespace, who)
	}
	c.secretObjects(field(spec, "secretObjects"), parsed, who)
}

// served reports whether the class is one of this project's provider. One of another provider gets a note and is not looked at.
func (c *checker) served(provider string, line int, who string) bool {
	switch {
	case class.Served(provider):
		return true
	case strings.TrimSpace(provider) == "":
		c.say(line, Error, who, "spec.provider is not set: write azure")
		return true
	case class.Nearest(strings.TrimSpace(provider), []string{"azure"}) != "":
		c.say(line, Error, who, fmt.Sprintf("spec.provider %q is not served by this driver: did you mean azure?", provider))
		return true
	}
	c.say(line, Note, who, fmt.Sprintf("the class is for the provider %q, which this driver does not serve: it is not checked", provider))
	return false
}

// unknown warns about unknown keys.
func (c *checker) unknown(n *yaml.Node, who, where string, known ...string) {
	for _, pair := range pairsOf(n) {
		if key := pair.Key; !slices.Contains(known, key.Value) {
			c.say(
				key.Line,
				Warning,
				who,
				fmt.Sprintf("%s.%s is an unknown field and is ignored: known are %s", where, key.Value,
					strings.Join(known, ", ")),
			)
		}
	}
}

// parameters checks the parameters as the driver does, and returns the class if it is valid.
func (c *checker) parameters(n, spec *yaml.Node, who string) *class.Class {
	if n == nil || n.Kind != yaml.MappingNode {
		c.say(lineOf(n, spec), Error, who, "spec.parameters is not set: write keyvaultName, tenantID and objects")
		return nil
	}
	values, nodes := map[string]string{}, map[string]*yaml.Node{}
	for _, pair := range pairsOf(n) {
		key, value := pair.Key, yamlnode.Resolve(pair.Value)
		if _, twice := nodes[key.Value]; twice {
			c.say(key.Line, Error, who, "parameter "+key.Value+" is a duplicate: remove one")
		}
		nodes[key.Value] = value
		switch {
		case value.Kind != yaml.ScalarNode:
			c.say(value.Line, Error, who,
				"parameter "+key.Value+" is not a string: write a string; objects is a block after |")
		case value.Tag != "!!str" && value.Tag != "!!null":
			c.say(
				value.Line,
				Error,
				who,
				fmt.Sprintf("parameter %s is not a string, so the API server rejects it: write %s: %q",
					key.Value, key.Value, value.Value),
			)
			values[key.Value] = value.Value
		default:
			values[key.Value] = textOf(value)
		}
	}
	parsed, mistakes, warnings := class.Parse(values, c.options)
	for _, m := range mistakes {
		c.say(c.line(m, nodes, n), Error, who, m.String())
	}
	for _, m := range warnings {
		c.say(c.line(m, nodes, n), Warning, who, m.String())
	}
	if parsed == nil {
		return nil
	}
	for _, o := range parsed.Objects {
		if o.History > 1 {
			c.say(
				lineOf(nodes["objects"], n),
				Note,
				who,
				fmt.Sprintf("objects[%d] %q gives at most %d files; the Secrets Store CSI Driver gives "+
					"one more", o.Index, o.Name, o.History),
			)
		}
	}
	return parsed
}

// nodeIdentity checks whether the class may use the node's identity in its namespace, which may not be known.
func (c *checker) nodeIdentity(line int, namespace, who string) {
	const fix = "use workload identity (clientID), or ask the driver's operator"
	rule := c.rules.NodeIdentity
	answer := rule.Of(namespace)
	switch {
	case answer == nodeidentity.Allowed:
	case answer == nodeidentity.ByLabels, namespace == "" && rule.Mode == nodeidentity.Namespaces:
		c.say(line, Warning, who, "useVMManagedIdentity is allowed only in "+rule.Describe()+
			": if this class's namespace is none of them, "+fix)
	case rule.Mode == nodeidentity.None:
		c.say(line, Error, who, "useVMManagedIdentity is not allowed in this cluster: "+fix)
	default:
		c.say(line, Error, who, "useVMManagedIdentity is not allowed in the namespace "+namespace+": "+fix)
	}
}

// line is the line of a mistake in the file. The lines of a block follow that of its indicator.
func (c *checker) line(m class.Mistake, nodes map[string]*yaml.Node, parameters *yaml.Node) int {
	n, ok := nodes[m.Parameter]
	switch {
	case !ok:
		return parameters.Line
	case m.Line > 0 && n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return n.Line + m.Line
	}
	return n.Line
}
