package classfile

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// mount is a volumeMount of a container.
type mount struct {
	node               *yaml.Node
	where, name        string
	path               string
	subPath            bool
	container          string
	ours, readOnlyKind bool
}

// containers are all of a Pod, with their places.
func containers(pod *yaml.Node) (all []*yaml.Node, places []string) {
	for _, list := range []string{"initContainers", "containers", "ephemeralContainers"} {
		for i, n := range items(field(pod, list)) {
			all, places = append(all, n), append(places, fmt.Sprintf("%s[%d]", list, i))
		}
	}
	return all, places
}

// mountsOf checks how containers mount the volumes.
func (c *checker) mountsOf(w *workload, volumes []string) {
	for _, claim := range items(field(field(w.object, "spec"), "volumeClaimTemplates")) {
		volumes = append(volumes, nameOf(claim).name)
	}
	used := map[string]bool{}
	all, places := containers(w.pod)
	for i, container := range all {
		where := w.where + "." + places[i]
		for _, pair := range pairsOf(container) {
			if pair.Key.Value != "volumeMounts" && nearest(pair.Key.Value, []string{"volumeMounts"}) != "" {
				c.flag(w, pair.Key.Line, Error, where+"."+pair.Key.Value, "", "is an unknown field, which the API server rejects or drops", "did you mean volumeMounts?")
			}
		}
		var mounts []mount
		for j, n := range items(field(container, "volumeMounts")) {
			m := mount{
				node: n, where: fmt.Sprintf("%s.volumeMounts[%d]", where, j), name: textOf(field(n, "name")), path: textOf(field(n, "mountPath")),
				subPath: textOf(field(n, "subPath")) != "" || textOf(field(n, "subPathExpr")) != "", container: textOf(field(container, "name")),
			}
			m.ours = slices.ContainsFunc(w.volumes, func(v *csiVolume) bool { return v.name == m.name })
			m.readOnlyKind = m.ours || readOnlyVolume(w.pod, m.name)
			used[m.name] = true
			c.mount(w, m, volumes)
			mounts = append(mounts, m)
		}
		c.hidden(w, mounts)
	}
	for _, v := range w.volumes {
		if !used[v.name] {
			c.flag(w, v.node.Line, Warning, strings.TrimSuffix(v.where, ".csi")+".name", v.name, "is mounted by no container, so kubelet does not set it up and no Secret is made of it",
				"add it to volumeMounts of a container")
		}
	}
}

// readOnlyVolume reports whether a volume of the Pod is one in which the runtime cannot make a directory for a mount below it.
func readOnlyVolume(pod *yaml.Node, name string) bool {
	for _, v := range items(field(pod, "volumes")) {
		if textOf(field(v, "name")) != name {
			continue
		}
		for _, kind := range []string{"configMap", "secret", "projected", "downwardAPI", "csi", "image"} {
			if field(v, kind) != nil {
				return true
			}
		}
	}
	return false
}

// mount checks a volumeMount by itself.
func (c *checker) mount(w *workload, m mount, volumes []string) {
	at := func(name string) (*yaml.Node, int) {
		n := field(m.node, name)
		return n, lineOf(n, m.node)
	}
	if _, line := at("name"); m.name == "" || !slices.Contains(volumes, m.name) {
		fix := "write the name of one of the Pod's volumes: " + strings.Join(volumes, ", ")
		if near := nearest(m.name, volumes); near != "" && m.name != "" {
			fix = "did you mean " + near + "?"
		}
		c.flag(w, line, Error, m.where+".name", m.name, "is no volume of the Pod", fix)
		return
	}
	if !m.ours {
		return
	}
	c.unknownIn(w, m.node, m.where, "name", "mountPath", "readOnly", "subPath", "subPathExpr", "mountPropagation", "recursiveReadOnly")
	n, line := at("mountPath")
	switch {
	case m.path == "":
		c.flag(w, line, Error, m.where+".mountPath", "", "is not set", "write the directory in the container where the files go")
	case !isText(n):
		c.flag(w, line, Error, m.where+".mountPath", n.Value, "is not a string", "write an absolute path")
	case strings.Contains(m.path, ":"):
		c.flag(w, line, Error, m.where+".mountPath", m.path, "has a colon, which the API server rejects", "write a path without it")
	case !strings.HasPrefix(m.path, "/") && !strings.HasPrefix(m.path, `C:\`):
		c.flag(w, line, Warning, m.where+".mountPath", m.path, "is not absolute", "write /"+m.path)
	case m.subPath:
	default:
		if what := systemPath(path.Clean(m.path)); what != "" {
			c.flag(w, line, Warning, m.where+".mountPath", m.path, "hides "+what, "mount the volume in a directory of its own, such as /secrets")
		}
	}
	if n, line := at("subPath"); m.subPath {
		value := textOf(n)
		if n == nil {
			n, line = at("subPathExpr")
			value = textOf(n)
		}
		c.flag(w, line, Warning, m.where+".subPath", value, "is never refreshed: the container keeps the file that it started with",
			"mount the whole volume in a directory, without subPath")
	}
}

// systemPath says what a mount at a directory of the image or of Kubernetes hides.
func systemPath(at string) string {
	switch at {
	case "/":
		return "the container's whole file system"
	case "/var/run/secrets", "/run/secrets", "/var/run/secrets/kubernetes.io", "/var/run/secrets/kubernetes.io/serviceaccount":
		return "the service account token of the Pod"
	case "/etc", "/bin", "/sbin", "/lib", "/lib64", "/usr", "/usr/bin", "/usr/lib", "/var", "/var/run", "/run", "/dev", "/proc", "/sys", "/opt", "/home",
		"/root", "/tmp", "/etc/ssl", "/etc/ssl/certs", "/etc/pki":
		return "what the image has in " + at
	}
	return ""
}

// hidden reports volumes of a container that hide each other, where one of them is the driver's.
func (c *checker) hidden(w *workload, mounts []mount) {
	for i, a := range mounts {
		for _, b := range mounts[i+1:] {
			if !a.ours && !b.ours || a.path == "" || b.path == "" {
				continue
			}
			outer, inner := a, b
			if len(path.Clean(a.path)) > len(path.Clean(b.path)) {
				outer, inner = b, a
			}
			c.overlap(w, outer, inner, b)
		}
	}
}

func (c *checker) overlap(w *workload, outer, inner, later mount) {
	from, to := path.Clean(outer.path), path.Clean(inner.path)
	other := func(m mount) string { return fmt.Sprintf("volume %q at line %d", m.name, m.node.Line) }
	line := func(m mount) int { return lineOf(field(m.node, "mountPath"), m.node) }
	switch {
	case from == to:
		first := outer
		if later.node == outer.node {
			first = inner
		}
		c.flag(w, line(later), Error, later.where+".mountPath", later.path, "hides the files of the "+other(first)+", which has the same path: the API server rejects it",
			"give each volume a directory of its own")
	case from != "/" && strings.HasPrefix(to, from+"/"):
		if outer.subPath {
			return
		}
		s, text := Warning, "hides what the "+other(outer)+" has there"
		if outer.readOnlyKind {
			text += ", and is a directory that the container cannot be given where that read-only volume does not have it"
		}
		c.flag(w, line(inner), s, inner.where+".mountPath", inner.path, text, "mount it beside "+from+", not below it")
	}
}
