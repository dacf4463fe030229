package secretdata

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
)

// Mistake is one thing that is wrong with a secretObject.
type Mistake struct {
	// Field is where: secretName, type, labels, annotations or data; empty for the object as a whole.
	Field string
	// Entry is the entry of data, counted from one, and Part its field; zero and empty where the mistake is about no
	// single entry.
	Entry int
	Part  string
	// Text says what is wrong and what to write.
	Text string
}

// String is the mistake in one line.
func (m Mistake) String() string {
	where := m.Field
	if m.Entry > 0 {
		where = fmt.Sprintf("%s[%d].%s", m.Field, m.Entry-1, m.Part)
	}
	return strings.TrimSpace(where + " " + m.Text)
}

// needs are the keys without which the API server refuses a Secret of a type. For basic-auth one of them is enough.
func needs() map[string][]string {
	return map[string][]string{
		TypeTLS:              {keyTLSCertificate, keyTLSKey},
		TypeDockerConfigJSON: {keyDockerJSON},
		TypeDockercfg:        {keyDockercfg},
		TypeSSHAuth:          {keySSH},
		TypeBasicAuth:        {keyUsername, keyPassword},
	}
}

// maxAnnotations is what the API server takes of all annotations together, in bytes.
const maxAnnotations = 256 << 10

// Check returns everything that is wrong with the object. Paths are the files that the class mounts; nil where they are
// not known.
func Check(o *v1.SecretObject, paths []string) []Mistake {
	c := checker{}
	if len(validation.IsDNS1123Subdomain(o.SecretName)) > 0 {
		c.say("secretName", "%q is not a name: write lower-case letters, digits, hyphens and dots", o.SecretName)
	}
	if NeverType(o.Type) {
		c.say(
			"type",
			"%s gives access to the cluster itself: no such Secret is ever written: write another type",
			TypeOf(o),
		)
	}
	c.labels(o)
	c.annotations(o)
	keys, mistakes := keysOf(o, paths)
	c.mistakes = append(c.mistakes, mistakes...)
	if len(mistakes) == 0 && (len(o.Data) > 0 || paths != nil) {
		c.kind(TypeOf(o), keys)
	}
	return c.mistakes
}

// alwaysAllowed are the types that hold no credential of the cluster itself and that the API server knows.
func alwaysAllowed() []string {
	return []string{
		TypeOpaque, TypeTLS, TypeBasicAuth, TypeSSHAuth,
		TypeDockercfg, TypeDockerConfigJSON,
	}
}

// NeverType says whether Secrets of the type are never written: to create one is to get rights in the cluster.
func NeverType(kind string) bool {
	switch strings.TrimSpace(kind) {
	case TypeServiceAccountToken, TypeBootstrapToken, TypeHelmRelease:
		return true
	}
	return false
}

// AllowedType says whether Secrets of the type may be written, given the types that the operator added.
func AllowedType(kind string, added []string) bool {
	kind = strings.TrimSpace(kind)
	return kind == "" || !NeverType(kind) && (slices.Contains(alwaysAllowed(), kind) || slices.Contains(added, kind))
}

// Types are those that may be written, given those that the operator added.
func Types(added []string) []string { return append(alwaysAllowed(), added...) }

type checker struct{ mistakes []Mistake }

func (c *checker) say(field, format string, args ...any) {
	c.mistakes = append(c.mistakes, Mistake{Field: field, Text: fmt.Sprintf(format, args...)})
}

// entry is say about a field of an entry of data.
func (c *checker) entry(index int, part, format string, args ...any) {
	c.mistakes = append(
		c.mistakes,
		Mistake{Field: "data", Entry: index + 1, Part: part, Text: fmt.Sprintf(format, args...)},
	)
}

func (c *checker) labels(o *v1.SecretObject) {
	for _, key := range slices.Sorted(maps.Keys(o.Labels)) {
		switch {
		case len(validation.IsQualifiedName(key)) > 0:
			c.say(
				"labels",
				"%.80q is not a label's key: write letters, digits, hyphens, underscores and dots, with a DNS name and a slash before it or not",
				key,
			)
		case len(validation.IsValidLabelValue(o.Labels[key])) > 0:
			c.say(
				"labels",
				"%s has %.80q, which is not a label's value: write at most 63 letters, digits, hyphens, underscores and dots",
				key,
				o.Labels[key],
			)
		case key == ManagedLabel && o.Labels[key] != Managed:
			c.say("labels", "%s is the driver's own: leave it out", key)
		}
	}
}

func (c *checker) annotations(o *v1.SecretObject) {
	size := 0
	for _, key := range slices.Sorted(maps.Keys(o.Annotations)) {
		size += len(key) + len(o.Annotations[key])
		if len(validation.IsQualifiedName(strings.ToLower(key))) > 0 {
			c.say(
				"annotations",
				"%.80q is not an annotation's key: write letters, digits, hyphens, underscores and dots, with a DNS name and a slash before it or not",
				key,
			)
		}
	}
	if size > maxAnnotations {
		c.say("annotations", "have %d bytes together: at most %d", size, maxAnnotations)
	}
}

// kind checks the keys that the type needs.
func (c *checker) kind(kind string, keys map[string]string) {
	var missing []string
	for _, key := range needs()[kind] {
		if _, ok := keys[key]; !ok {
			missing = append(missing, key)
		}
	}
	if len(missing) == 0 || kind == TypeBasicAuth && len(missing) < len(needs()[kind]) {
		return
	}
	c.say(
		"data",
		"has no key %s, which a Secret of the type %s needs: add it",
		strings.Join(missing, " and no key "),
		kind,
	)
}

// keysOf maps each key of the Secret to the file that fills it.
func keysOf(o *v1.SecretObject, paths []string) (keys map[string]string, mistakes []Mistake) {
	if len(o.Data) == 0 {
		return allKeys(TypeOf(o), paths)
	}
	c := checker{}
	keys = make(map[string]string, len(o.Data))
	for i, d := range o.Data {
		path, key := strings.TrimSpace(d.ObjectName), strings.TrimSpace(d.Key)
		switch _, twice := keys[key]; {
		case len(validation.IsConfigMapKey(key)) > 0:
			c.entry(i, "key", "%.80q is not a key: write letters, digits, hyphens, underscores and dots", key)
		case twice:
			c.entry(i, "key", "%q is a duplicate: remove one", key)
		}
		if path == "" || paths != nil && !slices.Contains(paths, path) {
			c.entry(
				i,
				"objectName",
				"%.80q is not mounted by the class: write the alias of an object, or its name where it has none%s",
				path,
				offer(paths),
			)
		}
		keys[key] = path
	}
	return keys, c.mistakes
}

// offer names some of the files, quoted: what a class asks for may not have been judged yet, and a mistake is one line.
func offer(paths []string) string {
	const most = 10
	if len(paths) == 0 {
		return ""
	}
	var names []string
	for _, path := range paths[:min(len(paths), most)] {
		names = append(names, fmt.Sprintf("%.80q", path))
	}
	if len(paths) > most {
		names = append(names, "…")
	}
	return ": " + strings.Join(names, ", ")
}

// allKeys makes a key of each file. The only file of a class fills what the type needs.
func allKeys(kind string, paths []string) (keys map[string]string, mistakes []Mistake) {
	c := checker{}
	keys = make(map[string]string, len(paths))
	for _, path := range paths {
		key := KeyOf(path)
		switch other, twice := keys[key]; {
		case len(validation.IsConfigMapKey(key)) > 0:
			c.say("data", "is left out and the file %.80q cannot be a key: write data", path)
		case twice:
			c.say(
				"data",
				"is left out and the files %.80q and %.80q would both be the key %s: write data",
				other,
				path,
				key,
			)
		}
		keys[key] = path
	}
	if len(paths) == 1 && kind != TypeBasicAuth && len(needs()[kind]) > 0 {
		keys = map[string]string{}
		for _, key := range needs()[kind] {
			keys[key] = paths[0]
		}
		return keys, nil
	}
	return keys, c.mistakes
}

// KeyOf is the key of a file where data is left out: slashes become dots, and what else a key cannot hold underscores.
func KeyOf(path string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '/':
			return '.'
		case r == '-' || r == '.' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, path)
}

// TypeOf is the object's type; Opaque where it has none.
func TypeOf(o *v1.SecretObject) string {
	if kind := strings.TrimSpace(o.Type); kind != "" {
		return kind
	}
	return TypeOpaque
}
