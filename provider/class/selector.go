package class

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// NamePlaceholder is replaced by the object's name in the objectAlias of a selection.
const NamePlaceholder = "{name}"

const (
	// defaultLimit and mostSelected bound how many objects one selection takes.
	defaultLimit = 200
	mostSelected = 1000
	// maxPattern bounds the text of a pattern for names, in bytes, and maxTags the tags of a selection.
	maxPattern = 256
	maxTags    = 15 // a Key Vault object has no more
)

// Selector takes all objects of a type that match.
type Selector struct {
	// Pattern is the text of name; empty for every name.
	Pattern string
	// Tags must all be there; an empty value means any.
	Tags map[string]string `json:",omitempty"`
	// Limit is how many objects may match.
	Limit int
	// Managed is true where secrets and keys that belong to a certificate are taken too.
	Managed bool

	name *regexp.Regexp
}

// Matches reports whether an object of the name with the tags is selected.
func (s *Selector) Matches(name string, tags map[string]string) bool {
	if !s.Named(name) {
		return false
	}
	for tag, want := range s.Tags {
		if have, ok := tags[tag]; !ok || want != "" && have != want {
			return false
		}
	}
	return true
}

// Named reports whether an object of the name is selected where it has the tags.
func (s *Selector) Named(name string) bool { return s.name == nil || s.name.MatchString(name) }

// String returns the selector for people, in one line.
func (s *Selector) String() string {
	text := "*"
	if s.Pattern != "" {
		text = s.Pattern
	}
	if len(s.Tags) > 0 {
		text += " with " + strconv.Itoa(len(s.Tags)) + " tags"
	}
	return text
}

// Key is equal for selectors that take the same.
func (s *Selector) Key() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%q managed=%t", strings.ToLower(s.Pattern), s.Managed)
	for _, tag := range slices.Sorted(maps.Keys(s.Tags)) {
		fmt.Fprintf(&text, " %q=%q", tag, s.Tags[tag])
	}
	return text.String()
}

// Of returns the object that the selection makes of the one with the name.
func (object *Object) Of(name string) *Object {
	one := *object
	one.Name, one.Selector, one.Listed = name, nil, true
	one.Path = strings.ReplaceAll(object.Path, NamePlaceholder, name)
	return &one
}

// compileName makes a regular expression of a name pattern: a glob, or RE2 between slashes.
func compileName(pattern string) (*regexp.Regexp, error) {
	if inner, ok := strings.CutPrefix(pattern, "/"); ok && len(inner) > 0 && strings.HasSuffix(inner, "/") {
		return regexp.Compile("(?i)" + strings.TrimSuffix(inner, "/")) //nolint:wrapcheck // the caller says what it is about
	}
	glob := regexp.QuoteMeta(pattern)
	glob = strings.ReplaceAll(glob, `\*`, ".*")
	glob = strings.ReplaceAll(glob, `\?`, ".")
	return regexp.Compile("(?i)^(?:" + glob + ")$") //nolint:wrapcheck // the caller says what it is about
}

// selector reads objectSelector, and checks that nothing contradicts it.
func (o *objectParser) selector(object *Object) {
	const name = "objectSelector"
	v, ok := o.fields[name]
	if !ok {
		return
	}
	for _, other := range []string{"objectName", "objectVersion", "objectVersionHistory", "jmesPath"} {
		if o.has(other) {
			o.wrong(other, o.get(other), "and objectSelector are both set", "keep one of them")
		}
	}
	object.Selector = &Selector{Limit: defaultLimit}
	n := o.nested(name, v, InSelector)
	if n == nil {
		return
	}
	o.selectedNames(object.Selector, n)
	if limit, ok := n.integer("limit"); ok {
		if object.Selector.Limit = int(limit); limit < 1 || limit > mostSelected {
			n.wrong("limit", n.get("limit"), "is not between 1 and "+strconv.Itoa(mostSelected), "write how many objects may match")
		}
	}
	n.boolean("managed", &object.Selector.Managed)
	if object.Selector.Managed && object.Kind == Certificate {
		n.wrong("managed", "true", "goes with objectType secret or key only", "remove it")
	}
	if o.get("objectAlias") == "" {
		object.Path = NamePlaceholder
	} else if !strings.Contains(object.Path, NamePlaceholder) {
		o.wrong("objectAlias", object.Path, "gives one path to all objects of a selection",
			"write where the name goes, such as certs/"+NamePlaceholder+".pem")
	}
}

// selectedNames reads the name and the tags of a selection.
func (o *objectParser) selectedNames(s *Selector, n *nestedParser) {
	s.Pattern = n.get("name")
	s.Tags = n.texts("tags", maxTags)
	switch {
	case s.Pattern == "" && len(s.Tags) == 0:
		n.wrong("name", "", "is not set, and neither are tags", `write name: "*" to take every object of the type`)
	case len(s.Pattern) > maxPattern:
		n.wrong("name", s.Pattern, fmt.Sprintf("is %d bytes long", len(s.Pattern)), fmt.Sprintf("write at most %d", maxPattern))
	case s.Pattern != "":
		compiled, err := compileName(s.Pattern)
		if err != nil {
			n.wrong("name", s.Pattern, "is not a pattern: "+shorten(err.Error()), "write a glob like db-*, or RE2 between slashes like /^db-/")
			return
		}
		s.name = compiled
	}
}

// isSet reports whether a node has anything in it.
func isSet(n *yaml.Node) bool {
	return n != nil && (n.Kind != yaml.ScalarNode || n.Value != "" && n.Tag != "!!null")
}
