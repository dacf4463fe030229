package secretdata

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
)

// Mistake is one thing that is wrong with a secretObject.
type Mistake struct {
	// Field is where: secretName, type, labels, annotations, data, data[1].key; empty for the object as a whole.
	Field string
	// Text says what is wrong and what to write.
	Text string
}

// String is the mistake in one line.
func (m Mistake) String() string { return strings.TrimSpace(m.Field + " " + m.Text) }

// needs are the keys without which the API server refuses a Secret of a type. For basic-auth one of them is enough.
var needs = map[corev1.SecretType][]string{
	corev1.SecretTypeTLS:              {corev1.TLSCertKey, corev1.TLSPrivateKeyKey},
	corev1.SecretTypeDockerConfigJson: {corev1.DockerConfigJsonKey},
	corev1.SecretTypeDockercfg:        {corev1.DockerConfigKey},
	corev1.SecretTypeSSHAuth:          {corev1.SSHAuthPrivateKey},
	corev1.SecretTypeBasicAuth:        {corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey},
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
	c.labels(o)
	c.annotations(o)
	keys, mistakes := keysOf(o, paths)
	c.mistakes = append(c.mistakes, mistakes...)
	if len(mistakes) == 0 && (len(o.Data) > 0 || paths != nil) {
		c.kind(typeOf(o), keys)
	}
	return c.mistakes
}

type checker struct{ mistakes []Mistake }

func (c *checker) say(field, format string, args ...any) {
	c.mistakes = append(c.mistakes, Mistake{Field: field, Text: fmt.Sprintf(format, args...)})
}

func (c *checker) labels(o *v1.SecretObject) {
	for _, key := range slices.Sorted(maps.Keys(o.Labels)) {
		switch {
		case len(validation.IsQualifiedName(key)) > 0:
			c.say("labels", "%.80q is not a label's key: write letters, digits, hyphens, underscores and dots, with a DNS name and a slash before it or not", key)
		case len(validation.IsValidLabelValue(o.Labels[key])) > 0:
			c.say("labels", "%s has %.80q, which is not a label's value: write at most 63 letters, digits, hyphens, underscores and dots", key, o.Labels[key])
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
			c.say("annotations", "%.80q is not an annotation's key: write letters, digits, hyphens, underscores and dots, with a DNS name and a slash before it or not", key)
		}
	}
	if size > maxAnnotations {
		c.say("annotations", "have %d bytes together: at most %d", size, maxAnnotations)
	}
	if typeOf(o) == corev1.SecretTypeServiceAccountToken && o.Annotations[corev1.ServiceAccountNameKey] == "" {
		c.say("annotations", "lack %s, which a Secret of the type %s needs: write the ServiceAccount's name", corev1.ServiceAccountNameKey,
			corev1.SecretTypeServiceAccountToken)
	}
}

// kind checks the keys that the type needs.
func (c *checker) kind(kind corev1.SecretType, keys map[string]string) {
	var missing []string
	for _, key := range needs[kind] {
		if _, ok := keys[key]; !ok {
			missing = append(missing, key)
		}
	}
	if len(missing) == 0 || kind == corev1.SecretTypeBasicAuth && len(missing) < len(needs[kind]) {
		return
	}
	c.say("data", "has no key %s, which a Secret of the type %s needs: add it", strings.Join(missing, " and no key "), kind)
}

// keysOf maps each key of the Secret to the file that fills it.
func keysOf(o *v1.SecretObject, paths []string) (keys map[string]string, mistakes []Mistake) {
	if len(o.Data) == 0 {
		return allKeys(typeOf(o), paths)
	}
	c := checker{}
	keys = make(map[string]string, len(o.Data))
	for i, d := range o.Data {
		path, key := strings.TrimSpace(d.ObjectName), strings.TrimSpace(d.Key)
		at := fmt.Sprintf("data[%d]", i)
		switch _, twice := keys[key]; {
		case len(validation.IsConfigMapKey(key)) > 0:
			c.say(at+".key", "%.80q is not a key: write letters, digits, hyphens, underscores and dots", key)
		case twice:
			c.say(at+".key", "%q stands in the Secret twice: remove one", key)
		}
		if path == "" || paths != nil && !slices.Contains(paths, path) {
			c.say(at+".objectName", "%.80q is not mounted by the class: write the alias of an object, or its name where it has none%s",
				path, offer(paths))
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
func allKeys(kind corev1.SecretType, paths []string) (keys map[string]string, mistakes []Mistake) {
	c := checker{}
	keys = make(map[string]string, len(paths))
	for _, path := range paths {
		key := KeyOf(path)
		switch other, twice := keys[key]; {
		case len(validation.IsConfigMapKey(key)) > 0:
			c.say("data", "is left out and the file %.80q cannot be a key: write data", path)
		case twice:
			c.say("data", "is left out and the files %.80q and %.80q would both be the key %s: write data", other, path, key)
		}
		keys[key] = path
	}
	if len(paths) == 1 && kind != corev1.SecretTypeBasicAuth && len(needs[kind]) > 0 {
		keys = map[string]string{}
		for _, key := range needs[kind] {
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

func typeOf(o *v1.SecretObject) corev1.SecretType {
	if kind := strings.TrimSpace(o.Type); kind != "" {
		return corev1.SecretType(kind)
	}
	return corev1.SecretTypeOpaque
}
