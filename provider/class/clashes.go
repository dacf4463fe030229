package class

import (
	"path"
	"slices"
	"strconv"
)

// Paths returns the files that the class writes at most; a history writes as many as there are versions. All is false where it may
// write others too, whose names the vault decides.
func (c *Class) Paths() (paths []string, all bool) {
	all = true
	for i := range c.Objects {
		o := &c.Objects[i]
		paths = append(paths, o.Paths()...)
		all = all && !o.Open()
	}
	for _, t := range c.Templates {
		paths = append(paths, t.Path)
	}
	if c.MetadataFile != "" {
		paths = append(paths, c.MetadataFile)
	}
	return paths, all
}

// Open reports whether the vault decides the names of the object's files.
func (object *Object) Open() bool {
	return object.Selector != nil || object.Extract != nil && object.Extract.All
}

// Paths returns the files of the object that are known before it is fetched.
func (object *Object) Paths() (paths []string) {
	switch {
	case object.Open():
		return nil
	case object.History > 1:
		for i := range object.History {
			paths = append(paths, path.Join(object.Path, strconv.Itoa(i)))
		}
	case object.Extract == nil || object.Extract.Whole:
		paths = append(paths, object.Path)
	}
	if object.Extract != nil {
		for _, e := range object.Extract.Entries {
			paths = append(paths, e.Path)
		}
	}
	for _, p := range slices.Clone(paths) {
		if object.SplitCertAndKey {
			paths = append(paths, p+".crt", p+".key")
		}
	}
	return paths
}

// claim is one path that an item of the class writes.
type claim struct {
	path string
	// history is how many numbered files the item writes below the path; 0 or 1 means the path is the one file.
	history int
	// mistake names the item and the field that gives the path; its Problem is filled in where the path is taken.
	mistake Mistake
}

// who names the item that claims the path.
func (c *claim) who() string {
	who := c.mistake.Parameter
	if c.mistake.Index >= 0 {
		who += "[" + strconv.Itoa(c.mistake.Index) + "]"
	}
	if c.mistake.Object != "" {
		who += " " + strconv.Quote(c.mistake.Object)
	}
	return who
}

// claim notes a path for clashes, where there is one.
func (p *parser) claim(c claim) {
	if c.path != "" {
		p.claims = append(p.claims, c)
	}
}

// clashes finds items that would write one path, or a path that is another's directory. A history is not expanded: it owns its
// directory, and the numbered files in it. What selections and all fields of a value write is known only when they are fetched.
func (p *parser) clashes() {
	f := clashFinder{
		parser:    p,
		files:     map[string]*claim{},
		histories: map[string]*claim{},
		reported:  map[[2]*claim]bool{},
	}
	for i := range p.claims {
		f.add(&p.claims[i])
	}
	for i := range p.claims {
		f.checkDirectories(&p.claims[i])
	}
}

type clashFinder struct {
	*parser
	// files are those of claims without a history, by path; histories are the others, by directory.
	files, histories map[string]*claim
	reported         map[[2]*claim]bool
}

// add takes a path, and reports it where another item has it already.
func (f *clashFinder) add(c *claim) {
	if c.history > 1 {
		if other, taken := f.histories[c.path]; taken {
			f.report(other, c, path.Join(c.path, "0"))
			return
		}
		f.histories[c.path] = c
		return
	}
	if other, taken := f.files[c.path]; taken {
		f.report(other, c, c.path)
		return
	}
	f.files[c.path] = c
}

// checkDirectories reports items whose file is a directory of this one, and histories that write this one's file.
func (f *clashFinder) checkDirectories(c *claim) {
	for at := c.path; at != "." && at != "/"; at = path.Dir(at) {
		for _, other := range []*claim{f.files[at], f.historyOf(at)} {
			if other != nil && other != c {
				f.report(other, c, at)
			}
		}
	}
}

// historyOf returns the claim whose history may write the file; nil where none does.
func (f *clashFinder) historyOf(file string) *claim {
	c, ok := f.histories[path.Dir(file)]
	if !ok {
		return nil
	}
	base := path.Base(file)
	if n, err := strconv.Atoi(base); err != nil || n < 0 || n >= c.history || strconv.Itoa(n) != base {
		return nil
	}
	return c
}

// report notes a mistake in the later of two items that write one path.
func (f *clashFinder) report(a, b *claim, at string) {
	if a.mistake.Parameter == b.mistake.Parameter && a.mistake.Index > b.mistake.Index {
		a, b = b, a
	}
	if f.reported[[2]*claim{a, b}] {
		return
	}
	f.reported[[2]*claim{a, b}] = true
	m := b.mistake
	m.Problem = "writes " + strconv.Quote(shorten(at)) + ", as " + a.who() + " does"
	f.mistakes = append(f.mistakes, m)
}
