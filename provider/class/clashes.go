package class

import (
	"path"
	"strconv"
)

// Paths returns the files that the object writes for certain; a certificate-backed secret may write more.
func (object *Object) Paths() []string {
	if object.History <= 1 {
		return []string{object.Path}
	}
	paths := make([]string, 0, object.History)
	for i := range object.History {
		paths = append(paths, path.Join(object.Path, strconv.Itoa(i)))
	}
	return paths
}

// clashes finds objects that would write one path, or a path that is another's directory.
func (p *parser) clashes() {
	owner := map[string]*Object{}
	said := map[[2]int]bool{}
	clash := func(a, b *Object, at string) {
		if said[[2]int{a.Index, b.Index}] {
			return
		}
		said[[2]int{a.Index, b.Index}] = true
		p.mistakes = append(p.mistakes, Mistake{
			Parameter: "objects", Index: b.Index, Object: b.Name, Field: "objectAlias", Value: shorten(b.Path),
			Problem: "writes " + strconv.Quote(shorten(at)) + ", as objects[" + strconv.Itoa(a.Index) + "] " + strconv.Quote(a.Name) + " does",
			Fix:     "give one of them another objectAlias",
		})
	}
	for i := range p.class.Objects {
		o := &p.class.Objects[i]
		if o.Path == "" {
			continue
		}
		for _, file := range o.Paths() {
			if other, taken := owner[file]; taken {
				clash(other, o, file)
				continue
			}
			owner[file] = o
		}
	}
	for i := range p.class.Objects {
		o := &p.class.Objects[i]
		for _, file := range o.Paths() {
			for dir := path.Dir(file); dir != "." && dir != "/"; dir = path.Dir(dir) {
				if other, taken := owner[dir]; taken && other != o {
					clash(other, o, dir)
				}
			}
		}
	}
}
