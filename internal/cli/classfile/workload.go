package classfile

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/yamlnode"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

// workload is an object with a Pod template, or a Pod.
type workload struct {
	objectName
	kind, file string
	// object is the whole object.
	object *yaml.Node
	// pod is the Pod's spec, and where its path in the object.
	pod     *yaml.Node
	where   string
	account *yaml.Node
	volumes []*csiVolume
}

// who names the workload to people.
func (w *workload) who() string { return strings.ToLower(w.kind) + " " + w.String() }

// csiVolume is a volume of the driver.
type csiVolume struct {
	node  *yaml.Node
	where string
	name  string
	// class is the text of secretProviderClass, whose node is nil where it is missing.
	class      string
	classNode  *yaml.Node
	attributes map[string]string
	nodes      map[string]*yaml.Node
	// line is that of the volumeAttributes, or of the csi mapping.
	line int
	// secretRef is true where the volume names a Secret with a service principal.
	secretRef bool
	// known is the class, nil where the set does not have it.
	known *knownClass
	// parsed is the class with the volume's attributes, nil where it is not known or has mistakes.
	parsed *class.Class
}

// account is a ServiceAccount.
type account struct {
	objectName
	file        string
	line        int
	annotations map[string]string
	nodes       map[string]*yaml.Node
	// missing is true where the cluster did not give it.
	missing bool
}

// templates are where workloads have their Pod's spec.
func template(kind string) ([]string, bool) {
	switch kind {
	case "Pod":
		return []string{"spec"}, true
	case "PodTemplate":
		return []string{"template", "spec"}, true
	case "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "Rollout":
		return []string{"spec", "template", "spec"}, true
	case "CronJob":
		return []string{"spec", "jobTemplate", "spec", "template", "spec"}, true
	}
	return nil, false
}

// workload takes an object that has something to do with volumes of classes. It is false for one that has not.
func (c *checker) workload(n *yaml.Node, kind string) bool {
	switch kind {
	case "ServiceAccount":
		c.account(n)
		return true
	case "Secret", "SealedSecret", "ExternalSecret", "VaultStaticSecret", "Certificate", "SecretSync":
		c.madeSecret(n, kind)
		return true
	case "PersistentVolume":
		c.persistentVolume(n)
		return true
	}
	path, ok := template(kind)
	if !ok {
		return false
	}
	w := &workload{objectName: nameOf(n), kind: kind, file: c.file, where: strings.Join(path, "."), object: n, pod: n}
	for _, name := range path {
		if w.pod = field(w.pod, name); w.pod == nil {
			return true
		}
	}
	if w.pod.Kind != yaml.MappingNode {
		return true
	}
	w.account = field(w.pod, "serviceAccountName")
	if w.account == nil {
		w.account = field(w.pod, "serviceAccount")
	}
	c.volumesOf(w)
	if len(w.volumes) == 0 && !c.usesSecrets(w) {
		return true
	}
	if len(w.volumes) > 0 {
		c.Workloads++
		c.repeatedIn(w)
		c.podFields(w)
	}
	c.workloads = append(c.workloads, w)
	return true
}

// repeatedIn reports keys that are twice in the Pod's spec.
func (c *checker) repeatedIn(w *workload) {
	before := len(c.findings)
	c.repeated(w.pod, w.where, "")
	for i := range c.findings[before:] {
		c.findings[before+i].Workload = w.who()
	}
}

// flag reports a problem of a workload.
func (c *checker) flag(w *workload, line int, s Severity, field, value, text, fix string) {
	c.report(problem{line: line, severity: s, rule: RuleWorkload, workload: w.who(), field: field, value: value, quotesValue: true, text: text, fix: fix})
}

// unknownIn warns of unknown keys of a workload.
func (c *checker) unknownIn(w *workload, n *yaml.Node, where string, known ...string) {
	for _, pair := range pairsOf(n) {
		key := pair.Key.Value
		if slices.Contains(known, key) {
			continue
		}
		fix := "known are " + strings.Join(known, ", ")
		if near := nearest(key, known); near != "" {
			fix = "did you mean " + near + "?"
		}
		c.report(problem{line: pair.Key.Line, severity: Error, rule: RuleUnknownField, workload: w.who(), field: where + "." + key,
			value: textOf(yamlnode.Resolve(pair.Value)), text: "is an unknown field, which the API server rejects or drops", fix: fix})
	}
}

// podFields looks for misspelt fields on the way to volumes.
func (c *checker) podFields(w *workload) {
	known := []string{"volumes", "containers", "initContainers", "serviceAccountName", "serviceAccount", "imagePullSecrets"}
	for _, pair := range pairsOf(w.pod) {
		key := pair.Key.Value
		if slices.Contains(known, key) {
			continue
		}
		if near := class.Nearest(key, known); near != "" && !slices.Contains([]string{"ephemeralContainers"}, key) {
			c.report(problem{line: pair.Key.Line, severity: Error, rule: RuleUnknownField, workload: w.who(), field: w.where + "." + key,
				text: "is an unknown field, which the API server rejects or drops", fix: "did you mean " + near + "?"})
		}
	}
}

// items are those of a list; nothing of another node.
func items(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	all := make([]*yaml.Node, 0, len(n.Content))
	for _, item := range n.Content {
		all = append(all, yamlnode.Resolve(item))
	}
	return all
}

// volumesOf reads the volumes of the driver, and checks what can be said without their classes.
func (c *checker) volumesOf(w *workload) {
	names := map[string]int{}
	var listed []string
	for i, v := range items(field(w.pod, "volumes")) {
		name := textOf(field(v, "name"))
		listed = append(listed, name)
		where := fmt.Sprintf("%s.volumes[%d]", w.where, i)
		csi := field(v, "csi")
		if csi == nil {
			for _, pair := range pairsOf(v) { // csi misspelt, or its fields one level too high
				key := pair.Key.Value
				attributes := field(yamlnode.Resolve(pair.Value), "volumeAttributes")
				if attributes != nil && field(attributes, "secretProviderClass") != nil {
					c.flag(w, pair.Key.Line, Error, where+"."+key, "", "is an unknown field, which the API server rejects or drops", "did you mean csi?")
				}
				if key == "volumeAttributes" && field(v, "driver") != nil {
					c.flag(w, pair.Key.Line, Error, where+"."+key, "", "is in the wrong place", "write driver, readOnly and volumeAttributes below csi")
				}
			}
			continue
		}
		if first, twice := names[name]; twice {
			c.flag(w, lineOf(field(v, "name"), v), Error, where+".name", name, fmt.Sprintf("is a duplicate of line %d", first), "rename one of the volumes")
		}
		names[name] = lineOf(field(v, "name"), v)
		if c.isOurs(w, csi, where) {
			w.volumes = append(w.volumes, c.csiVolume(w, csi, name, where+".csi"))
		}
	}
	if len(w.volumes) > 0 {
		c.mountsOf(w, listed)
	}
}

// isOurs reports whether a csi volume is one of the driver, or was meant to be.
func (c *checker) isOurs(w *workload, csi *yaml.Node, where string) bool {
	at := field(csi, "driver")
	driver := textOf(at)
	if driver == c.rules.DriverName {
		return true
	}
	attributes := field(csi, "volumeAttributes")
	near := class.Nearest(driver, []string{c.rules.DriverName}) != ""
	ours := near || driver == "secrets-store.csi.x-k8s.io"
	for _, pair := range pairsOf(attributes) {
		ours = ours || strings.EqualFold(pair.Key.Value, "secretProviderClass")
	}
	switch {
	case !ours:
		return false
	case driver == "":
		c.flag(w, lineOf(at, csi), Error, where+".csi.driver", "", "is not set", "write driver: "+c.rules.DriverName)
	case near || driver == "secrets-store.csi.x-k8s.io":
		c.flag(w, at.Line, Error, where+".csi.driver", driver, "is no driver that is known", "did you mean "+c.rules.DriverName+"?")
	default:
		c.flag(w, at.Line, Warning, where+".csi.driver", driver, "is another driver's name", "write "+c.rules.DriverName+
			", or give validate --driver-name if the driver is installed under this name")
	}
	return true
}

// csiVolume reads a volume of the driver.
func (c *checker) csiVolume(w *workload, n *yaml.Node, name, where string) *csiVolume {
	v := &csiVolume{node: n, where: where, name: name, line: n.Line, attributes: map[string]string{}, nodes: map[string]*yaml.Node{}}
	c.unknownIn(w, n, where, "driver", "readOnly", "volumeAttributes", "nodePublishSecretRef", "fsType")
	c.readOnly(w, n, where)
	c.secretRef(w, v)
	attributes := field(n, "volumeAttributes")
	if attributes == nil || attributes.Kind != yaml.MappingNode {
		c.flag(w, lineOf(attributes, n), Error, where+".volumeAttributes", "", "is not set", "write secretProviderClass: NAME below volumeAttributes")
		return v
	}
	v.line = attributes.Line
	for _, pair := range pairsOf(attributes) {
		key, value := pair.Key, yamlnode.Resolve(pair.Value)
		at := where + ".volumeAttributes." + key.Value
		if !isText(value) {
			c.flag(w, value.Line, Error, at, value.Value, "is not a string, so the API server rejects it", fmt.Sprintf("write %s: %q", key.Value, value.Value))
		}
		text := strings.TrimSpace(textOf(value))
		switch {
		case key.Value == "secretProviderClass":
			c.className(w, v, value, at)
		case slices.Contains(class.Parameters(), key.Value), key.Value == "providerName":
			v.attributes[key.Value], v.nodes[key.Value] = textOf(value), value
		case key.Value == "readOnly", key.Value == "nodePublishSecretRef", key.Value == "driver":
			c.flag(w, key.Line, Error, at, text, "is in the wrong place", "write "+key.Value+" below csi, beside volumeAttributes")
		default:
			c.unknownAttribute(w, v, pair, attributes, at)
		}
	}
	if v.classNode == nil {
		c.flag(w, attributes.Line, Error, where+".volumeAttributes.secretProviderClass", "", "is not set", "write the name of a SecretProviderClass in the Pod's namespace")
	}
	return v
}

// className reads the name of the class.
func (c *checker) className(w *workload, v *csiVolume, value *yaml.Node, at string) {
	text := strings.TrimSpace(textOf(value))
	v.class, v.classNode = text, value
	switch {
	case text == "":
		c.flag(w, value.Line, Error, at, "", "is empty", "write the name of a SecretProviderClass in the Pod's namespace")
	case !isText(value):
		v.class = "" // reported
	case !isName(text):
		c.flag(w, value.Line, Error, at, text, "is not the name of a SecretProviderClass",
			"write the name alone: lower-case letters, digits, hyphens and dots; the class is read in the Pod's namespace")
		v.class = ""
	}
}

// unknownAttribute reports an attribute that means nothing, which is an error where it takes the place of the class's name.
func (c *checker) unknownAttribute(w *workload, v *csiVolume, pair yamlnode.Pair, attributes *yaml.Node, at string) {
	value, severity, fix := yamlnode.Resolve(pair.Value), Warning, "remove it"
	known := append([]string{"secretProviderClass"}, class.Parameters()...)
	if near := nearest(pair.Key.Value, known); near != "" {
		fix = "did you mean " + near + "?"
		if near == "secretProviderClass" && field(attributes, near) == nil {
			v.class, v.classNode, severity = strings.TrimSpace(textOf(value)), value, Error // the one mistake is enough
		}
	}
	c.flag(w, pair.Key.Line, severity, at, strings.TrimSpace(textOf(value)), "is an unknown attribute and is ignored", fix)
}

// readOnly checks what the driver requires.
func (c *checker) readOnly(w *workload, n *yaml.Node, where string) {
	at := field(n, "readOnly")
	switch {
	case at == nil:
		c.flag(w, n.Line, Error, where+".readOnly", "", "is not set", "write readOnly: true: the driver mounts nothing else")
	case at.Tag != "!!bool":
		c.flag(w, at.Line, Error, where+".readOnly", at.Value, "is not a boolean, so the API server rejects it", "write readOnly: true, without quotes")
	case !strings.EqualFold(at.Value, "true"):
		c.flag(w, at.Line, Error, where+".readOnly", at.Value, "is not true", "write readOnly: true: the driver mounts nothing else")
	}
}

// secretRef reads the name of the Secret with a service principal.
func (c *checker) secretRef(w *workload, v *csiVolume) {
	ref := field(v.node, "nodePublishSecretRef")
	if ref == nil {
		return
	}
	v.secretRef = true
	where := v.where + ".nodePublishSecretRef"
	if ref.Kind != yaml.MappingNode {
		c.flag(w, ref.Line, Error, where, ref.Value, "is not a mapping", "write name: SECRET below it")
		return
	}
	c.unknownIn(w, ref, where, "name")
	if name := field(ref, "name"); textOf(name) == "" {
		c.flag(w, lineOf(name, ref), Error, where+".name", "", "is not set", "write the name of the Secret with clientid and clientsecret")
	}
}

// persistentVolume reports that the driver has none.
func (c *checker) persistentVolume(n *yaml.Node) {
	csi := field(field(n, "spec"), "csi")
	if at := field(csi, "driver"); textOf(at) == c.rules.DriverName {
		c.Workloads++
		c.report(problem{line: at.Line, severity: Error, rule: RuleWorkload, workload: "persistentvolume " + nameOf(n).name, field: "spec.csi.driver",
			value: textOf(at), quotesValue: true, text: "has inline volumes only", fix: "write the volume in the Pod (volumes[].csi), without a PersistentVolume"})
	}
}

// account reads a ServiceAccount.
func (c *checker) account(n *yaml.Node) {
	a := &account{objectName: nameOf(n), file: c.file, line: n.Line, annotations: map[string]string{}, nodes: map[string]*yaml.Node{}}
	meta := field(n, "metadata")
	a.line = lineOf(field(meta, "name"), n)
	for _, pair := range pairsOf(field(meta, "annotations")) {
		value := yamlnode.Resolve(pair.Value)
		a.annotations[pair.Key.Value], a.nodes[pair.Key.Value] = textOf(value), pair.Key
	}
	c.accounts = append(c.accounts, a)
}

// madeSecret notes a Secret that a manifest makes.
func (c *checker) madeSecret(n *yaml.Node, kind string) {
	name := nameOf(n)
	spec := field(n, "spec")
	switch kind {
	case "ExternalSecret":
		if target := textOf(field(field(spec, "target"), "name")); target != "" {
			name.name = target
		}
	case "VaultStaticSecret":
		name.name = textOf(field(field(spec, "destination"), "name"))
	case "Certificate":
		name.name = textOf(field(spec, "secretName"))
	}
	c.secrets = append(c.secrets, name)
}
