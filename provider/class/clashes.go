package class

import (
	"path"
	"strconv"
)

// Paths returns the files that the object writes at most; a certificate-backed secret may write more. A history writes as many as there
// are versions.
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

// clashes finds objects that would write one path, or a path that is another's directory. A history is not expanded: it owns its
// directory, and the numbered files in it.
func (p *parser) clashes() {
	f := clashFinder{
		parser:    p,
		files:     map[string]*Object{},
		histories: map[string]*Object{},
		reported:  map[[2]int]bool{},
	}
	for i := range p.class.Objects {
		if o := &p.class.Objects[i]; o.Path != "" {
			f.add(o)
		}
	}
	for i := range p.class.Objects {
		if o := &p.class.Objects[i]; o.Path != "" {
			f.checkDirectories(o)
		}
	}
}

type clashFinder struct {
	*parser
	// files are those of objects without a history, by path; histories are the others, by directory.
	files, histories map[string]*Object
	reported         map[[2]int]bool
}

// add takes an object's path, and reports the object that has it already.
func (f *clashFinder) add(o *Object) {
	if o.History > 1 {
		if other, taken := f.histories[o.Path]; taken {
			f.report(other, o, path.Join(o.Path, "0"))
			return
		}
		f.histories[o.Path] = o
		return
	}
	if other, taken := f.files[o.Path]; taken {
		f.report(other, o, o.Path)
		return
	}
	f.files[o.Path] = o
}

// checkDirectories reports objects whose file is a directory of this one, and histories that write this one's file.
func (f *clashFinder) checkDirectories(o *Object) {
	at := o.Path
	if o.History <= 1 {
		if other := f.historyOf(at); other != nil {
			f.report(other, o, at)
		}
		at = path.Dir(at)
	}
	for ; at != "." && at != "/"; at = path.Dir(at) {
		for _, other := range []*Object{f.files[at], f.historyOf(at)} {
			if other != nil && other != o {
				f.report(other, o, at)
			}
		}
	}
}

// historyOf returns the object whose history may write the file; nil where none does.
func (f *clashFinder) historyOf(file string) *Object {
	o, ok := f.histories[path.Dir(file)]
	if !ok {
		return nil
	}
	base := path.Base(file)
	if n, err := strconv.Atoi(base); err != nil || n < 0 || n >= o.History || strconv.Itoa(n) != base {
		return nil
	}
	return o
}

func (f *clashFinder) report(a, b *Object, at string) {
	if a.Index > b.Index {
		a, b = b, a
	}
	if f.reported[[2]int{a.Index, b.Index}] {
		return
	}
	f.reported[[2]int{a.Index, b.Index}] = true
	f.mistakes = append(f.mistakes, Mistake{
		Parameter: "objects",
		Index:     b.Index,
		Object:    b.Name,
		Field:     "objectAlias",
		Value:     shorten(b.Path),
		Problem:   "writes " + strconv.Quote(shorten(at)) + ", as objects[" + strconv.Itoa(a.Index) + "] " + strconv.Quote(a.Name) + " does",
		Fix:       "give one of them another objectAlias",
	})
}
