// Package classfile checks files of SecretProviderClasses, and of the workloads that mount them, offline: every mistake with its file and line,
// and the fix.
package classfile

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/nodeidentity"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/yamlnode"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

// Severity is how serious a finding is.
type Severity string

// The severities.
const (
	// Error means that the volume cannot be mounted, or that the API server rejects the object. What the driver mounts is at most a
	// Warning.
	Error Severity = "error"
	// Warning is probably not what the author intended, such as a Secret that cannot be written beside a volume that is mounted.
	Warning Severity = "warning"
	// Note is information. It is no finding that anything must be done about.
	Note Severity = "note"
)

// The rules, as tools that read findings group them.
const (
	RuleYAML         = "yaml"
	RuleKubernetes   = "kubernetes-object"
	RuleUnknownField = "unknown-field"
	RuleDuplicate    = "duplicate"
	RuleParameter    = "parameter"
	RuleObject       = "object"
	RuleSecretObject = "secret-object"
	RuleWorkload     = "workload"
	RuleReference    = "reference"
)

// Finding is one result of a check. File and Line are empty if the class is in a cluster.
type Finding struct {
	File     string   `json:"file,omitempty"`
	Line     int      `json:"line,omitempty"`
	Severity Severity `json:"severity"`
	// Rule is the kind of finding.
	Rule string `json:"rule"`
	// Class is namespace/name; parts that are not known are left out.
	Class string `json:"class,omitempty"`
	// Workload is the kind and the namespace/name of a workload, or of another object that is no class.
	Workload string `json:"workload,omitempty"`
	// Field is the path of the field, and Value its text; empty where the finding is about no single one.
	Field string `json:"field,omitempty"`
	Value string `json:"value,omitempty"`
	// Message says what is wrong and what to write; Fix is its second part.
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"`
}

// Subject is the class or the workload that the finding is about.
func (f Finding) Subject() string { return cmp.Or(f.Class, f.Workload) }

// String formats it as compilers do: file:line: severity: subject: message; for an object in a cluster: subject: severity:
// message.
func (f Finding) String() string {
	if f.File == "" {
		return fmt.Sprintf("%s: %s: %s", f.Subject(), f.Severity, f.Message)
	}
	where := ""
	if who := f.Subject(); who != "" {
		where = who + ": "
	}
	return fmt.Sprintf("%s:%d: %s: %s%s", f.File, f.Line, f.Severity, where, f.Message)
}

// Rules are what the driver's operator chose. The zero value is the chart's default.
type Rules struct {
	// SecretTypes are types of Secrets that are allowed in addition to those that always are.
	SecretTypes []string
	// NodeIdentity says which namespaces may use the node's identity.
	NodeIdentity nodeidentity.Rule
	// DriverName is the name of the CSI driver in Pods; secrets-store.csi.k8s.io where empty.
	DriverName string
	// Annotations is true where ServiceAccounts may name the client and the tenant that a class leaves out.
	Annotations bool
	// Live is true where the objects are all that a cluster has, apart from Secrets, which are not read.
	Live bool
	// Lint looks for what the driver accepts and the services do not, and reads workloads.
	Lint bool
}

// Cluster answers about what a set of files does not have.
type Cluster interface {
	// Class returns a class, or an error of type *volume.Error.
	Class(ctx context.Context, namespace, name string) (*v1.SecretProviderClass, error)
	// Annotations returns those of a ServiceAccount, or an error of type *volume.Error.
	Annotations(ctx context.Context, namespace, name string) (map[string]string, error)
	// Namespace is that of objects that name none.
	Namespace() string
}

// Check returns the findings about the documents of a file, in the order of its lines, and the number of classes in it.
func Check(file string, data []byte, options class.Options, rules Rules) (findings []Finding, classes int) {
	s := NewSet(options, rules)
	s.Add(file, data, true)
	return s.Finish(context.Background(), nil), s.Classes
}

// Set checks the files of a set, and what they say about each other. It is not for concurrent use.
type Set struct {
	// Classes and Workloads are how many were checked.
	Classes, Workloads int

	options  class.Options
	rules    Rules
	findings []Finding

	classes   []*knownClass
	workloads []*workload
	accounts  []*account
	// secrets are Secrets that manifests make, or that controllers make of manifests.
	secrets []objectName
}

// NewSet returns an empty set.
func NewSet(options class.Options, rules Rules) *Set {
	rules.DriverName = cmp.Or(rules.DriverName, volume.DriverName)
	options.Lint = rules.Lint
	return &Set{options: options, rules: rules, findings: []Finding{}}
}

// Add checks a file. Where it is not named by the person, as in a directory, documents that have nothing to do with classes are passed over
// without a word.
func (s *Set) Add(file string, data []byte, named bool) {
	c := &checker{Set: s, file: file, named: named}
	from := len(s.findings)
	c.documents(data)
	slices.SortStableFunc(s.findings[from:], func(a, b Finding) int { return a.Line - b.Line })
}

// Finish checks what the files say about each other, and returns all findings. The cluster is asked for what the set does not have; it may be
// nil.
func (s *Set) Finish(ctx context.Context, cluster Cluster) []Finding {
	if s.rules.Lint {
		s.duplicateClasses()
		s.checkWorkloads(ctx, cluster)
	}
	order := map[string]int{}
	for _, f := range s.findings {
		if _, ok := order[f.File]; !ok {
			order[f.File] = len(order)
		}
	}
	slices.SortStableFunc(s.findings, func(a, b Finding) int { return cmp.Or(order[a.File]-order[b.File], a.Line-b.Line) })
	return slices.CompactFunc(s.findings, func(a, b Finding) bool { return a == b })
}

// checker checks one file.
type checker struct {
	*Set
	file  string
	named bool
}

// problem is what is wrong at a place.
type problem struct {
	line        int
	severity    Severity
	rule        string
	class       string
	workload    string
	field       string
	value       string
	text, fix   string
	quotesValue bool
	// whole is true where the text does not begin with the field.
	whole bool
}

func (c *checker) report(p problem) {
	var b strings.Builder
	if !p.whole {
		b.WriteString(p.field)
	}
	if p.quotesValue && p.value != "" {
		fmt.Fprintf(&b, " %.80q", p.value)
	}
	b.WriteString(" " + p.text)
	if p.fix != "" {
		b.WriteString(": " + p.fix)
	}
	c.findings = append(c.findings, Finding{
		File:     c.file,
		Line:     max(p.line, 1),
		Severity: p.severity,
		Rule:     p.rule,
		Class:    printable.OneLine(p.class),
		Workload: printable.OneLine(p.workload),
		Field:    printable.OneLine(p.field),
		Value:    printable.OneLine(printable.Cut(p.value, 120)),
		Message:  printable.OneLine(b.String()),
		Fix:      printable.OneLine(p.fix),
	})
}

// documents checks the documents of a file.
func (c *checker) documents(data []byte) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := decoder.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			c.notYAML(data, err)
			return
		}
		if len(doc.Content) > 0 && doc.Content[0].Tag != "!!null" { // templates leave empty documents
			c.document(doc.Content[0])
		}
	}
}

// notYAML reports a file that is not YAML. In a directory it counts only if it seems to have a class, and is no template.
func (c *checker) notYAML(data []byte, err error) {
	if !c.named && (!bytes.Contains(data, []byte("SecretProviderClass")) && !bytes.Contains(data, []byte(volume.DriverName)) || bytes.Contains(data, []byte("{{"))) {
		return
	}
	text, fix, line := yamlnode.Locate(string(data), err)
	c.report(problem{line: line, severity: Error, rule: RuleYAML, text: "is not YAML: " + text, fix: fix})
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

// isText reports whether a node is a string to the API server, or missing.
func isText(n *yaml.Node) bool {
	return n == nil || n.Kind == yaml.ScalarNode && (n.Tag == "!!str" || n.Tag == "!!null")
}

const classKind = "SecretProviderClass"

func (c *checker) document(n *yaml.Node) {
	kind, version := textOf(field(n, "kind")), textOf(field(n, "apiVersion"))
	switch {
	case n.Kind != yaml.MappingNode:
		if c.named {
			c.report(problem{line: n.Line, severity: Error, rule: RuleKubernetes,
				text: "the document is not a Kubernetes object", fix: "write apiVersion, kind, metadata and spec"})
		}
	case c.isList(n, kind):
		if items := field(n, "items"); items != nil {
			for _, item := range items.Content {
				c.document(item)
			}
		}
	case kind == classKind:
		c.class(n)
	case kind == "":
		c.withoutKind(n, version)
	case meansClass(kind, version):
		at := field(n, "kind")
		c.report(problem{line: at.Line, severity: Error, rule: RuleKubernetes, field: "kind", value: kind, quotesValue: true,
			text: "is not known", fix: "did you mean " + classKind + "?"})
	case c.rules.Lint && c.workload(n, kind):
	case c.named && !c.rules.Lint:
		c.report(problem{line: lineOf(field(n, "kind"), n), severity: Note, rule: RuleKubernetes, field: "kind", value: kind, whole: true, text: "kind " + kind + " is ignored"})
	}
}

// isList reports whether an object is a list of others.
func (c *checker) isList(n *yaml.Node, kind string) bool {
	return kind == "List" || kind == classKind+"List" || strings.HasSuffix(kind, "List") && c.rules.Lint && field(n, "items") != nil
}

// meansClass reports whether an object was meant to be a class.
func meansClass(kind, version string) bool {
	return strings.EqualFold(kind, classKind) || class.Nearest(kind, []string{classKind}) != "" ||
		strings.HasPrefix(version, "secrets-store.csi.x-k8s.io/") && kind != "SecretProviderClassPodStatus"
}

// withoutKind reports a document without a kind where it seems to be a class, or where the person named the file.
func (c *checker) withoutKind(n *yaml.Node, version string) {
	like := strings.HasPrefix(version, "secrets-store.csi.x-k8s.io/") || field(field(n, "spec"), "parameters") != nil && field(field(n, "spec"), "provider") != nil
	if !c.named && !like {
		return
	}
	for _, pair := range pairsOf(n) {
		if pair.Key.Value != "kind" && class.Nearest(pair.Key.Value, []string{"kind"}) != "" {
			c.report(problem{line: pair.Key.Line, severity: Error, rule: RuleKubernetes, field: pair.Key.Value,
				text: "is an unknown field", fix: "did you mean kind?"})
			return
		}
	}
	c.report(problem{line: n.Line, severity: Error, rule: RuleKubernetes, field: "kind", whole: true, text: "the document has no kind", fix: "write kind: " + classKind})
}

// isName reports whether the text is a Kubernetes object's name (RFC 1123 subdomain).
func isName(text string) bool {
	if text == "" || len(text) > 253 {
		return false
	}
	for i := range len(text) {
		c := text[i]
		alphanumeric := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !alphanumeric && (i == 0 || i == len(text)-1 || c != '-' && c != '.') {
			return false
		}
	}
	return true
}

// knownClass is a class of the set.
type knownClass struct {
	objectName
	file string
	line int
	// served is false for a class of another provider, of which nothing else is known.
	served bool
	// parameters are its texts.
	parameters map[string]string
	// parsed is nil where the class has mistakes.
	parsed *class.Class
	// makes are the Secrets that it makes.
	makes []v1.SecretObject
}

// objectName names an object; the namespace is empty where the file says none.
type objectName struct{ namespace, name string }

func (o objectName) String() string {
	if o.namespace == "" {
		return o.name
	}
	return o.namespace + "/" + o.name
}

// sees reports whether objects of these namespaces may be in one: a namespace that is not written is that of the apply.
func (o objectName) sees(other objectName) bool {
	return o.namespace == "" || other.namespace == "" || o.namespace == other.namespace
}

// nameOf reads the name of an object.
func nameOf(n *yaml.Node) objectName {
	meta := field(n, "metadata")
	return objectName{namespace: textOf(field(meta, "namespace")), name: textOf(field(meta, "name"))}
}

func (c *checker) class(n *yaml.Node) {
	c.Classes++
	meta, spec := field(n, "metadata"), field(n, "spec")
	known := &knownClass{objectName: nameOf(n), file: c.file, line: lineOf(field(meta, "name"), n)}
	c.classes = append(c.classes, known)
	who := known.String()
	c.apiVersion(n, who)
	c.repeated(n, "", who)
	c.unknown(n, who, "", RuleUnknownField, "apiVersion", "kind", "metadata", "spec", "status")
	c.metadata(n, meta, who)
	if spec == nil || spec.Kind != yaml.MappingNode {
		c.report(problem{line: lineOf(spec, n), severity: Error, rule: RuleKubernetes, class: who, field: "spec",
			text: "is not set", fix: "write provider and parameters"})
		return
	}
	if !c.served(field(spec, "provider"), spec, who) {
		return
	}
	known.served = true
	c.unknown(spec, who, "spec", RuleUnknownField, "provider", "parameters", "secretObjects")
	known.parameters, known.parsed = c.parameters(field(spec, "parameters"), spec, who)
	if known.parsed != nil && known.parsed.Mode == class.ManagedIdentity {
		c.nodeIdentity(lineOf(field(field(spec, "parameters"), "useVMManagedIdentity"), spec), known.namespace, who)
	}
	known.makes = c.secretObjects(field(spec, "secretObjects"), known.parsed, who)
}

func (c *checker) apiVersion(n *yaml.Node, who string) {
	at := field(n, "apiVersion")
	p := problem{line: lineOf(at, n), rule: RuleKubernetes, class: who, field: "apiVersion", value: textOf(at), quotesValue: true}
	switch textOf(at) {
	case "secrets-store.csi.x-k8s.io/v1":
		return
	case "secrets-store.csi.x-k8s.io/v1alpha1":
		p.severity, p.text, p.fix = Note, "(v1alpha1) is deprecated", "write secrets-store.csi.x-k8s.io/v1"
	case "":
		p.severity, p.text, p.fix = Error, "is not set", "write secrets-store.csi.x-k8s.io/v1"
	default:
		p.severity, p.text, p.fix = Error, "is not known", "write secrets-store.csi.x-k8s.io/v1"
	}
	c.report(p)
}

func (c *checker) metadata(n, meta *yaml.Node, who string) {
	if c.rules.Lint {
		c.unknown(meta, who, "metadata", RuleUnknownField, "name", "generateName", "namespace", "labels", "annotations", "ownerReferences", "finalizers",
			"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds")
	}
	name := field(meta, "name")
	p := problem{severity: Error, rule: RuleKubernetes, class: who, quotesValue: true}
	switch {
	case !isText(name):
		p.line, p.field, p.value, p.text, p.fix = name.Line, "metadata.name", name.Value, "is not a string", "put it in quotes"
		c.report(p)
	case textOf(name) == "" && textOf(field(meta, "generateName")) == "":
		p.line, p.field, p.text, p.fix = lineOf(name, cmp.Or(meta, n)), "metadata.name", `"" is not a name`, "write lower-case letters, digits, hyphens and dots"
		c.report(p)
	case textOf(name) != "" && !isName(textOf(name)):
		p.line, p.field, p.value = name.Line, "metadata.name", textOf(name)
		p.text, p.fix = "is not a name", "write lower-case letters, digits, hyphens and dots"
		c.report(p)
	}
	c.namespace(field(meta, "namespace"), who)
	for _, name := range []string{"labels", "annotations"} {
		if texts := field(meta, name); texts != nil && c.rules.Lint {
			c.texts(texts, who, "metadata."+name)
		}
	}
}

// namespace checks the name of the namespace.
func (c *checker) namespace(n *yaml.Node, who string) {
	text := textOf(n)
	if n == nil || isText(n) && (text == "" || isName(text) && !strings.Contains(text, ".") && len(text) <= 63) {
		return
	}
	c.report(problem{line: n.Line, severity: Error, rule: RuleKubernetes, class: who, field: "metadata.namespace", value: n.Value, quotesValue: true,
		text: "is not the name of a namespace", fix: "write lower-case letters, digits and hyphens"})
}

// served reports whether the class is one of this project's provider. One of another provider gets a note and is not looked at.
func (c *checker) served(at, spec *yaml.Node, who string) bool {
	provider := textOf(at)
	p := problem{line: lineOf(at, spec), severity: Error, rule: RuleKubernetes, class: who, field: "spec.provider", value: provider, quotesValue: true}
	switch {
	case !isText(at):
		p.value = at.Value
		p.text, p.fix = "is not a string", "write azure"
		c.report(p)
		return true
	case class.Served(provider):
		return true
	case strings.TrimSpace(provider) == "":
		p.text, p.fix = "is not set", "write azure"
		c.report(p)
		return true
	case class.Nearest(strings.TrimSpace(provider), []string{"azure"}) != "", strings.Contains(strings.ToLower(provider), "azure"):
		p.text, p.fix = "is not served by this driver", "did you mean azure?"
		c.report(p)
		return true
	}
	p.severity, p.quotesValue = Note, false
	p.field, p.text = "", fmt.Sprintf("the class is for the provider %.80q, which this driver does not serve: it is not checked", provider)
	c.report(p)
	return false
}

// unknown warns about unknown keys.
func (c *checker) unknown(n *yaml.Node, who, where, rule string, known ...string) {
	if where == "" && !c.rules.Lint {
		return
	}
	for _, pair := range pairsOf(n) {
		key := pair.Key
		if slices.Contains(known, key.Value) {
			continue
		}
		fix := "known are " + strings.Join(known, ", ")
		switch near := nearest(key.Value, known); {
		case near != "":
			fix = "did you mean " + near + "?"
		case where == "spec" && slices.Contains(class.Parameters(), key.Value):
			fix = "write it below spec.parameters"
		}
		c.report(problem{line: key.Line, severity: Warning, rule: rule, class: who, field: join(where, key.Value), value: textOf(yamlnode.Resolve(pair.Value)),
			text: "is an unknown field and is ignored", fix: fix})
	}
}

// nearest returns the known name that a person may have meant; a name in another case is near too.
func nearest(name string, known []string) string {
	if near := class.Nearest(name, known); near != "" {
		return near
	}
	for _, k := range known {
		a, b := strings.ToLower(k), strings.ToLower(name)
		if len(name) >= 4 && strings.Contains(a, b) || len(k) >= 4 && strings.Contains(b, a) {
			return k
		}
	}
	return ""
}

func join(where, name string) string {
	if where == "" {
		return name
	}
	return where + "." + name
}

// repeated reports keys that are twice in one mapping, which the API server's clients reject, or of which one is lost.
func (c *checker) repeated(n *yaml.Node, where, who string) {
	switch n.Kind {
	case yaml.MappingNode:
		lines := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if first, twice := lines[key.Value]; twice && key.Tag != "!!merge" {
				c.report(problem{line: key.Line, severity: Error, rule: RuleDuplicate, class: who, field: join(where, key.Value), value: textOf(n.Content[i+1]),
					text: fmt.Sprintf("is a duplicate of line %d", first), fix: "remove one"})
			} else {
				lines[key.Value] = key.Line
			}
			c.repeated(n.Content[i+1], join(where, key.Value), who)
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			c.repeated(item, fmt.Sprintf("%s[%d]", where, i), who)
		}
	case yaml.DocumentNode, yaml.ScalarNode, yaml.AliasNode:
	}
}

// parameters checks the parameters as the driver does, and returns the class if it is valid.
func (c *checker) parameters(n, spec *yaml.Node, who string) (map[string]string, *class.Class) {
	if n == nil || n.Kind != yaml.MappingNode {
		c.report(problem{line: lineOf(n, spec), severity: Error, rule: RuleParameter, class: who, field: "spec.parameters",
			text: "is not set", fix: "write keyvaultName, tenantID and objects"})
		return nil, nil
	}
	values, nodes, unreadable := c.values(n, who)
	parsed, mistakes, warnings := class.Parse(values, c.options)
	if c.rules.Lint {
		more, doubts := class.Lint(values, c.rules.Annotations)
		mistakes, warnings = append(mistakes, more...), append(warnings, doubts...)
	}
	for _, m := range mistakes {
		if unreadable[m.Parameter] || m.Parameter == "tenantID" && unreadable["tenantId"] {
			continue // it is there, and reported
		}
		c.mistake(m, Error, nodes, n, who)
	}
	for _, m := range warnings {
		if m.Parameter != "secretObjects" {
			c.mistake(m, Warning, nodes, n, who)
		}
	}
	if parsed == nil || len(unreadable) > 0 {
		return values, nil
	}
	for _, o := range parsed.Objects {
		if o.History > 1 {
			c.report(problem{line: lineOf(nodes["objects"], n), severity: Note, rule: RuleObject, class: who,
				text: fmt.Sprintf("objects[%d] %q gives at most %d files; the Secrets Store CSI Driver gives one more", o.Index, o.Name, o.History)})
		}
	}
	return values, parsed
}

// values reads the texts of the parameters, and reports what the API server rejects. What is no text at all is unreadable.
func (c *checker) values(n *yaml.Node, who string) (values map[string]string, nodes map[string]*yaml.Node, unreadable map[string]bool) {
	values, nodes, unreadable = map[string]string{}, map[string]*yaml.Node{}, map[string]bool{}
	for _, pair := range pairsOf(n) {
		key, value := pair.Key, yamlnode.Resolve(pair.Value)
		nodes[key.Value] = value
		p := problem{line: value.Line, severity: Error, rule: RuleParameter, class: who, field: "parameter " + key.Value, value: value.Value}
		switch {
		case key.Value == "secretObjects":
			p.text, p.fix = "is in the wrong place", "write secretObjects below spec, beside parameters"
			p.line = key.Line
			c.report(p)
		case value.Kind != yaml.ScalarNode:
			p.text, p.fix = "is not a string", "write a string"
			if key.Value == "objects" || key.Value == "templates" {
				p.fix = "write | behind " + key.Value + ":, so that what is below it is text"
			}
			if value.Line > key.Line { // the mistake is what is missing behind the key
				p.line = key.Line
			}
			unreadable[key.Value] = true
			c.report(p)
		case value.Tag != "!!str" && value.Tag != "!!null":
			p.text, p.fix = "is not a string, so the API server rejects it", fmt.Sprintf("write %s: %q", key.Value, value.Value)
			c.report(p)
			values[key.Value] = value.Value
		default:
			values[key.Value] = textOf(value)
		}
	}
	return values, nodes, unreadable
}

// mistake reports what the driver's parser found.
func (c *checker) mistake(m class.Mistake, s Severity, nodes map[string]*yaml.Node, parameters *yaml.Node, who string) {
	rule, where := RuleParameter, m.Parameter
	if m.Index >= 0 {
		rule, where = RuleObject, fmt.Sprintf("%s[%d]", m.Parameter, m.Index)
	}
	if strings.Contains(m.Problem, "unknown") {
		rule = RuleUnknownField
	}
	f := Finding{
		File:     c.file,
		Line:     max(c.line(m, nodes, parameters), 1),
		Severity: s,
		Rule:     rule,
		Class:    printable.OneLine(who),
		Field:    printable.OneLine(strings.TrimSuffix(where+"."+m.Field, ".")),
		Value:    printable.OneLine(m.Value),
		Message:  printable.OneLine(m.String()),
		Fix:      printable.OneLine(m.Fix),
	}
	if n := nodes[m.Parameter]; f.Value == "" && m.Index < 0 && n != nil && m.Parameter != "objects" && m.Parameter != "templates" {
		f.Value = printable.OneLine(printable.Cut(textOf(n), 120))
	}
	c.findings = append(c.findings, f)
}

// nodeIdentity checks whether the class may use the node's identity in its namespace, which may not be known.
func (c *checker) nodeIdentity(line int, namespace, who string) {
	const fix = "use workload identity (clientID), or ask the driver's operator"
	rule := c.rules.NodeIdentity
	p := problem{line: line, severity: Error, rule: RuleParameter, class: who, field: "useVMManagedIdentity", value: "true", fix: fix}
	answer := rule.Of(namespace)
	switch {
	case answer == nodeidentity.Allowed:
		return
	case answer == nodeidentity.ByLabels, namespace == "" && rule.Mode == nodeidentity.Namespaces:
		p.severity, p.text = Warning, "is allowed only in "+rule.Describe()
		p.fix = "if this class's namespace is none of them, " + fix
	case rule.Mode == nodeidentity.None:
		p.text = "is not allowed in this cluster"
	default:
		p.text = "is not allowed in the namespace " + namespace
	}
	c.report(p)
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

// duplicateClasses reports classes that are twice in the set. In several directories they may be for several clusters.
func (s *Set) duplicateClasses() {
	first := map[objectName]*knownClass{}
	for _, k := range s.classes {
		other, twice := first[k.objectName]
		if !twice {
			first[k.objectName] = k
			continue
		}
		if k.name == "" {
			continue
		}
		c := checker{Set: s, file: k.file}
		p := problem{line: k.line, severity: Warning, rule: RuleDuplicate, class: k.String(), field: "metadata.name", value: k.name, quotesValue: true,
			text: fmt.Sprintf("is a duplicate: the class is at %s:%d too, and the last one that is applied wins", other.file, other.line),
			fix:  "rename or remove one"}
		if directory(k.file) != directory(other.file) {
			p.severity, p.fix = Note, "apply only one of them to a cluster"
		}
		c.report(p)
	}
}

func directory(file string) string { return file[:strings.LastIndexAny(file, `/\`)+1] }
