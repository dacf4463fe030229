package classfile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/secretdata"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

// The annotations of Azure Workload Identity.
const (
	clientAnnotation = "azure.workload.identity/client-id"
	tenantAnnotation = "azure.workload.identity/tenant-id"
)

// usesSecrets reports whether a Pod names a Secret anywhere that a class may make.
func (c *checker) usesSecrets(w *workload) bool { return len(secretRefs(w)) > 0 }

// checkWorkloads checks what workloads say about classes and ServiceAccounts.
func (s *Set) checkWorkloads(ctx context.Context, cluster Cluster) {
	for _, w := range s.workloads {
		c := &checker{Set: s, file: w.file}
		for _, v := range w.volumes {
			c.classOf(ctx, cluster, w, v)
			if v.known != nil {
				c.attributes(ctx, cluster, w, v)
			}
		}
		c.secretRefs(w)
	}
}

// classOf finds the class of a volume.
func (c *checker) classOf(ctx context.Context, cluster Cluster, w *workload, v *csiVolume) {
	if v.class == "" {
		return
	}
	name := objectName{w.namespace, v.class}
	var elsewhere *knownClass
	var near []string
	for _, k := range c.classes {
		switch {
		case k.name == v.class && k.sees(name):
			v.known = k
			return
		case k.name == v.class:
			elsewhere = k
		case k.sees(name):
			near = append(near, k.name)
		}
	}
	p := problem{line: v.classNode.Line, severity: Warning, rule: RuleReference, workload: w.who(), field: v.where + ".volumeAttributes.secretProviderClass",
		value: v.class, quotesValue: true}
	switch {
	case c.rules.Live:
		p.severity = Error
	case cluster != nil:
		found, err := c.liveClass(ctx, cluster, name)
		if found != nil {
			v.known = found
			return
		}
		if e, ok := errors.AsType[*volume.Error](err); !ok || e.Reason != volume.ReasonClassNotFound {
			p.text, p.fix = "could not be looked up: "+err.Error(), ""
			c.report(p)
			return
		}
		p.severity = Error
	}
	c.explainUnknown(&p, cluster != nil || c.rules.Live, w, elsewhere, near)
	c.report(p)
}

// explainUnknown says what to do about a class that is not there.
func (c *checker) explainUnknown(p *problem, live bool, w *workload, elsewhere *knownClass, near []string) {
	where := "the files"
	if live {
		where = "the files and the cluster"
	}
	if c.rules.Live {
		where = "the cluster"
	}
	switch {
	case elsewhere != nil && c.rules.Live:
		p.text = fmt.Sprintf("is a class of the namespace %s, and the Pod is in %s", elsewhere.namespace, w.namespace)
		p.fix = "write the class in the Pod's namespace: it is read there alone"
	case elsewhere != nil:
		p.text = fmt.Sprintf("is a class of the namespace %s (%s:%d), and the Pod is in %s", elsewhere.namespace, elsewhere.file, elsewhere.line, w.namespace)
		p.fix = "write the class in the Pod's namespace: it is read there alone"
	case class.Nearest(p.value, near) != "":
		p.text, p.fix = "is no class of "+where, "did you mean "+class.Nearest(p.value, near)+"?"
	case len(near) > 0:
		slices.Sort(near)
		p.text, p.fix = "is no class of "+where, "add the class, or write one of "+strings.Join(slices.Compact(near), ", ")
	default:
		p.text, p.fix = "is no class of "+where, "add the class's file with -f, or check with --live against a cluster"
		if live {
			p.fix = "create the class in the Pod's namespace"
		}
	}
}

// liveClass reads a class of the cluster, once.
func (c *checker) liveClass(ctx context.Context, cluster Cluster, name objectName) (*knownClass, error) {
	if name.namespace == "" {
		name.namespace = cluster.Namespace()
	}
	found, err := cluster.Class(ctx, name.namespace, name.name)
	if err != nil {
		return nil, err //nolint:wrapcheck // says all
	}
	known := &knownClass{objectName: name, file: "the cluster", served: class.Served(found.Spec.Provider), parameters: found.Spec.Parameters,
		makes: found.Spec.SecretObjects}
	known.parsed, _, _ = class.Parse(found.Spec.Parameters, c.options)
	c.classes = append(c.classes, known)
	return known, nil
}

// attributes checks the class as the Pod's attributes change it, and who asks for it.
func (c *checker) attributes(ctx context.Context, cluster Cluster, w *workload, v *csiVolume) {
	if !v.known.served {
		c.report(problem{line: v.classNode.Line, severity: Warning, rule: RuleReference, workload: w.who(), field: v.where + ".volumeAttributes.secretProviderClass",
			value: v.class, quotesValue: true, text: "is a class of another provider, which this driver does not serve", fix: "name a class with provider: azure"})
		return
	}
	merged := class.Merge(v.known.parameters, v.attributes)
	parsed, mistakes, _ := class.Parse(merged, c.options)
	more, doubts := class.Lint(merged, true)
	for _, m := range append(append(mistakes, more...), doubts...) {
		at, ok := v.nodes[m.Parameter]
		if !ok || v.known.parsed == nil && m.Parameter == "" {
			continue // the class's own mistakes are reported there
		}
		s := Error
		if slices.ContainsFunc(doubts, func(d class.Mistake) bool { return d == m }) {
			s = Warning
		}
		line := at.Line
		if m.Line > 0 && at.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
			line += m.Line
		}
		value := m.Value
		if value == "" && m.Index < 0 {
			value = textOf(at)
		}
		c.report(problem{line: line, severity: s, rule: RuleWorkload, workload: w.who(), field: v.where + ".volumeAttributes." + m.Parameter, value: value,
			text: strings.TrimPrefix(strings.TrimSuffix(m.String(), ": "+m.Fix), m.Parameter+" "), fix: m.Fix})
	}
	if parsed == nil {
		return
	}
	v.parsed = parsed
	c.identity(ctx, cluster, w, v)
	c.readable(w, v)
}

// identity checks who asks the vault, where the class leaves it to the ServiceAccount.
func (c *checker) identity(ctx context.Context, cluster Cluster, w *workload, v *csiVolume) {
	if v.parsed.Mode == class.ManagedIdentity || v.secretRef || v.parsed.ClientID != "" {
		return
	}
	name := objectName{w.namespace, "default"}
	at, line := w.where+".serviceAccountName", w.pod.Line
	if text := textOf(w.account); text != "" {
		name.name, line = text, w.account.Line
	}
	annotations, nodes, found := c.annotations(ctx, cluster, name)
	p := problem{line: line, severity: Error, rule: RuleReference, workload: w.who(), field: at, value: name.name, quotesValue: true}
	client := annotations[clientAnnotation]
	misspelt := ""
	for key := range annotations {
		if class.Nearest(key, []string{clientAnnotation}) != "" {
			misspelt = key
		}
	}
	switch {
	case client == "" && misspelt != "":
		p.text, p.fix = fmt.Sprintf("has the annotation %q, which means nothing", misspelt), "did you mean "+clientAnnotation+"?"
		if n := nodes[misspelt]; n != nil {
			p.text += fmt.Sprintf(" (line %d of the ServiceAccount)", n.Line)
		}
	case client != "" && !c.rules.Annotations:
		p.severity = Warning
		p.text = "has the annotation " + clientAnnotation + ", which counts only where the driver's operator set --service-account-annotations"
		p.fix = "give validate that flag, or write clientID in the class " + v.class
	case client != "":
		return
	case found:
		p.text = fmt.Sprintf("is a service account without the annotation %s, and the class %s has no clientID", clientAnnotation, v.class)
		p.fix = "write clientID in the class, or the annotation, with the driver's --service-account-annotations; or name a Secret in nodePublishSecretRef"
	default:
		p.severity = Warning
		p.text = fmt.Sprintf("is a service account that must name the identity, since the class %s has no clientID", v.class)
		p.fix = "write clientID in the class, or annotate the service account with " + clientAnnotation +
			", with the driver's --service-account-annotations; or name a Secret in nodePublishSecretRef"
	}
	c.report(p)
}

// annotations are those of a ServiceAccount of the set, or of the cluster.
func (c *checker) annotations(ctx context.Context, cluster Cluster, name objectName) (all map[string]string, nodes map[string]*yaml.Node, found bool) {
	for _, a := range c.accounts {
		if a.name == name.name && a.sees(name) {
			return a.annotations, a.nodes, !a.missing
		}
	}
	if cluster == nil {
		return nil, nil, false
	}
	if name.namespace == "" {
		name.namespace = cluster.Namespace()
	}
	all, err := cluster.Annotations(ctx, name.namespace, name.name)
	c.accounts = append(c.accounts, &account{objectName: name, annotations: all, missing: err != nil}) // it is asked for once
	return all, nil, err == nil
}

// readable warns where the Pod's user cannot read the files.
func (c *checker) readable(w *workload, v *csiVolume) {
	security := field(w.pod, "securityContext")
	user := field(security, "runAsUser")
	if user == nil || textOf(user) == "0" || field(security, "fsGroup") != nil {
		return
	}
	for i := range v.parsed.Objects {
		o := &v.parsed.Objects[i]
		if o.Mode&0o004 != 0 || o.Owner != nil || o.Group != nil {
			continue
		}
		c.flag(w, user.Line, Warning, w.where+".securityContext.runAsUser", textOf(user),
			fmt.Sprintf("may not read the file %q of the class %s, whose mode is %#o and whose owner is root", o.Path, v.class, o.Mode.Perm()),
			"set fsGroup in the Pod's securityContext and a mode that the group may read (0440), or fileOwner in the class")
		return
	}
}

// secretRef is a place in a Pod that names a Secret.
type secretRef struct {
	node     *yaml.Node
	where    string
	name     string
	key      *yaml.Node
	what     string
	optional bool
	pull     bool
}

// secretRefs are all places in a Pod that name a Secret.
func secretRefs(w *workload) (all []secretRef) {
	add := func(n *yaml.Node, where, name, what string, key *yaml.Node, pull bool, holder *yaml.Node) {
		if at := field(n, name); textOf(at) != "" {
			all = append(all, secretRef{node: at, where: where + "." + name, name: textOf(at), key: key, what: what, pull: pull,
				optional: strings.EqualFold(textOf(field(holder, "optional")), "true")})
		}
	}
	list, places := containers(w.pod)
	for i, container := range list {
		for j, env := range items(field(container, "env")) {
			ref := field(field(env, "valueFrom"), "secretKeyRef")
			add(ref, fmt.Sprintf("%s.%s.env[%d].valueFrom.secretKeyRef", w.where, places[i], j), "name", "the environment variable "+textOf(field(env, "name")), field(ref, "key"), false, ref)
		}
		for j, from := range items(field(container, "envFrom")) {
			ref := field(from, "secretRef")
			add(ref, fmt.Sprintf("%s.%s.envFrom[%d].secretRef", w.where, places[i], j), "name", "environment variables", nil, false, ref)
		}
	}
	for i, ref := range items(field(w.pod, "imagePullSecrets")) {
		add(ref, fmt.Sprintf("%s.imagePullSecrets[%d]", w.where, i), "name", "pulling images", nil, true, nil)
	}
	for i, v := range items(field(w.pod, "volumes")) {
		secret := field(v, "secret")
		add(secret, fmt.Sprintf("%s.volumes[%d].secret", w.where, i), "secretName", "the volume "+textOf(field(v, "name")), nil, false, secret)
		for j, source := range items(field(field(v, "projected"), "sources")) {
			ref := field(source, "secret")
			add(ref, fmt.Sprintf("%s.volumes[%d].projected.sources[%d].secret", w.where, i, j), "name", "the volume "+textOf(field(v, "name")), nil, false, ref)
		}
	}
	return all
}

// makers are the Secrets that classes make, as one Pod sees them.
type makers struct {
	// mine are those of the Pod's own classes, others those of all classes of the set.
	mine, others []string
	// class makes the Secret that is looked for, and is none of the Pod's own; empty where there is none.
	class string
	// made is true where a class of the Pod makes it, unresolved where not all its classes are known.
	made, unresolved bool
}

// makersOf finds who makes a Secret, and checks how the Pod uses one of its own.
func (c *checker) makersOf(w *workload, ref secretRef) (m makers) {
	for _, v := range w.volumes {
		if v.known == nil {
			m.unresolved = true // what its class makes is not known
			continue
		}
		for i := range v.known.makes {
			o := &v.known.makes[i]
			m.mine = append(m.mine, o.SecretName)
			if o.SecretName == ref.name {
				m.made = true
				c.madeBy(w, v, o.Type, secretKeys(v, i), ref)
			}
		}
	}
	for _, k := range c.classes {
		for i := range k.makes {
			if !k.sees(w.objectName) {
				continue
			}
			m.others = append(m.others, k.makes[i].SecretName)
			if k.makes[i].SecretName == ref.name {
				m.class = k.name
			}
		}
	}
	return m
}

// secretRefs checks that the Secrets that a Pod needs are made by its classes.
func (c *checker) secretRefs(w *workload) {
	for _, ref := range secretRefs(w) {
		if slices.ContainsFunc(c.secrets, func(o objectName) bool { return o.name == ref.name && o.sees(w.objectName) }) {
			continue
		}
		p := problem{line: ref.node.Line, severity: Warning, rule: RuleReference, workload: w.who(), field: ref.where, value: ref.name, quotesValue: true}
		m := c.makersOf(w, ref)
		near := cmp.Or(class.Nearest(ref.name, m.mine), class.Nearest(ref.name, m.others))
		switch {
		case m.made, ref.optional && m.class == "", m.unresolved && m.class != "":
			continue
		case m.class != "":
			p.text = fmt.Sprintf("is made by the class %s, which this Pod does not mount: it exists only while another Pod mounts it", m.class)
			p.fix = "add a csi volume with secretProviderClass: " + m.class + ", and mount it"
		case c.rules.Live:
			continue // it may exist without a class
		case near != "":
			p.text, p.fix = "is a Secret that no class makes", "did you mean "+near+"?"
		case len(w.volumes) == 0, m.unresolved:
			continue // it may have nothing to do with classes
		default:
			p.text = "is a Secret that no class and no manifest of the set makes, and " + ref.what + " needs it"
			p.fix = fmt.Sprintf("add it to secretObjects of the class %s, or add its manifest to the set", w.volumes[0].class)
		}
		c.report(p)
	}
}

// secretKeys are the keys of a Secret that a volume makes; nil where they are not known.
func secretKeys(v *csiVolume, index int) []string {
	o := &v.known.makes[index]
	keys := map[string]bool{}
	for _, d := range o.Data {
		keys[strings.TrimSpace(d.Key)] = true
	}
	if len(o.Data) == 0 {
		if v.parsed == nil || o.Type != "" && o.Type != secretdata.TypeOpaque {
			return nil
		}
		paths, all := v.parsed.Paths()
		if !all {
			return nil
		}
		for _, path := range paths {
			keys[secretdata.KeyOf(path)] = true
		}
	}
	return slices.Sorted(maps.Keys(keys))
}

// madeBy checks how a Pod uses a Secret that one of its classes makes.
func (c *checker) madeBy(w *workload, v *csiVolume, kind string, keys []string, ref secretRef) {
	if key := textOf(ref.key); ref.key != nil && keys != nil && !slices.Contains(keys, key) {
		fix := "write one of " + strings.Join(keys, ", ")
		if near := nearest(key, keys); near != "" {
			fix = "did you mean " + near + "?"
		}
		c.report(problem{line: ref.key.Line, severity: Warning, rule: RuleReference, workload: w.who(), field: strings.TrimSuffix(ref.where, ".name") + ".key", value: key,
			quotesValue: true, text: fmt.Sprintf("is no key of the Secret %s that the class %s makes", ref.name, v.class), fix: fix})
	}
	if ref.pull && kind != secretdata.TypeDockerConfigJSON && kind != secretdata.TypeDockercfg {
		c.report(problem{line: ref.node.Line, severity: Warning, rule: RuleReference, workload: w.who(), field: ref.where, value: ref.name, quotesValue: true,
			text: fmt.Sprintf("is made by the class %s with the type %q, which is not for pulling images", v.class, cmp.Or(kind, secretdata.TypeOpaque)),
			fix:  "write type: kubernetes.io/dockerconfigjson in the class"})
	}
}
