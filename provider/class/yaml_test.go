package class

import (
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"testing"
)

const good = "objectName: s\n  objectType: secret\n"

// Odd YAML is read as the Azure provider reads it: it trims each parameter, decodes it with yaml.v3, and trims each field.
func TestOddYAMLIsRead(t *testing.T) {
	for name, tc := range map[string]struct {
		objects string
		want    func(o Object) bool
	}{
		"leading space":            {" array:\n- |\n  " + good, nil},
		"leading lines":            {"\n\n   \n  array:\n- |\n  " + good, nil},
		"leading no-break space":   {"\u00a0array:\n- |\n  " + good, nil},
		"first line indented more": {"    array:\n- |\n  " + good, nil},
		"trailing document end":    {"array:\n- |\n  " + good + "...\n", nil},
		"merge key in the object": {
			"array:\n- |\n  x: &x\n    filePermission: \"0400\"\n    objectName: other\n  <<: *x\n  " + good,
			func(o Object) bool { return o.Mode == 0o400 && o.Name == "s" },
		},
		"merge list in the object": {
			"array:\n- |\n  a: &a {filePermission: \"0400\"}\n  b: &b {filePermission: \"0600\", objectAlias: f}\n  <<: [*a, *b]\n  " + good,
			func(o Object) bool { return o.Mode == 0o400 && o.Path == "f" },
		},
		"merge key outside": {
			"x: &x\n  array:\n  - |\n    objectName: s\n    objectType: secret\n<<: *x\n", nil,
		},
		"alias of an item": {"x: &x |\n  " + good + "array:\n- *x\n", nil},
		"binary item": {
			// base64 of objectName: s, objectType: secret
			"array:\n- !!binary b2JqZWN0TmFtZTogcwpvYmplY3RUeXBlOiBzZWNyZXQK\n", nil,
		},
		"binary field":       {object("objectName: !!binary cw==", "objectType: secret"), nil},
		"null fields":        {object("objectName: s", "objectType: secret", "objectAlias: null", "objectVersion: ~"), nil},
		"hexadecimal number": {object("objectName: s", "objectType: secret", "objectVersionHistory: 0x3"), historyOf(3)},
		"grouped number":     {object("objectName: s", "objectType: secret", "objectVersionHistory: 1_0"), historyOf(10)},
		"float":              {object("objectName: s", "objectType: secret", "objectVersionHistory: 3.0"), historyOf(3)},
		"quoted number":      {object("objectName: s", "objectType: secret", `objectVersionHistory: "3"`), historyOf(3)},
		"negative number":    {object("objectName: s", "objectType: secret", "objectVersionHistory: -1"), historyOf(0)},
		"many leading zeros": {object("objectName: s", "objectType: secret", "filePermission: 00644"), modeOf(0o644)},
		"signed mode":        {object("objectName: s", "objectType: secret", "filePermission: +600"), modeOf(0o600)},
		"history alias ./x": {
			object("objectName: s", "objectType: secret", "objectVersionHistory: 2", "objectAlias: ./x"), pathOf("x"),
		},
		"history alias a/": {
			object("objectName: s", "objectType: secret", "objectVersionHistory: 2", "objectAlias: a/"), pathOf("a"),
		},
		"history alias a//b": {
			object("objectName: s", "objectType: secret", "objectVersionHistory: 2", "objectAlias: a//b"), pathOf("a/b"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := mustParse(t, with(map[string]string{"objects": tc.objects}))
			if len(c.Objects) != 1 || c.Objects[0].Name != "s" || tc.want != nil && !tc.want(c.Objects[0]) {
				t.Errorf("%+v", c.Objects)
			}
		})
	}
}

func historyOf(n int) func(Object) bool      { return func(o Object) bool { return o.History == n } }
func modeOf(m fs.FileMode) func(Object) bool { return func(o Object) bool { return o.Mode == m } }
func pathOf(p string) func(Object) bool      { return func(o Object) bool { return o.Path == p } }

// A volume is never empty without a word: what names no object is a mistake, with the line in the parameter as it was written.
func TestObjectsThatNameNothingAreMistakes(t *testing.T) {
	for name, tc := range map[string]struct {
		objects, want string
		line          int
	}{
		"no array":                   {"objects:\n- x\n", "has no key array", 1},
		"empty array":                {"\n\narray: []\n", "array is empty", 3},
		"null array":                 {"array:\n", "array is empty", 1},
		"comment alone":              {"# nothing\n", "is empty", 1},
		"text after the document":    {"array: []\n...\n}{\n", "has text after the end of its YAML", 0},
		"array below another key":    {"x:\n  array:\n  - a\n", "has no key array", 1},
		"null item":                  {"array:\n-\n", "objectName is not set", 2},
		"empty item":                 {"array:\n- \"\"\n", "objectName is not set", 2},
		"line below trimmed lines":   {"\n\n  array:\n- |\n  objectName: a_b\n  objectType: secret\n", "a_b", 5},
		"duplicate through an alias": {"array: &a\n- x\narray: *a\n", "duplicate", 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, mistakes, _ := Parse(with(map[string]string{"objects": tc.objects}), options(t))
			for _, m := range mistakes {
				if strings.Contains(m.String(), tc.want) && (tc.line == 0 || m.Line == tc.line) {
					return
				}
			}
			t.Errorf("no mistake with %q in line %d: %+v", tc.want, tc.line, mistakes)
		})
	}
}

// largest returns the parameters of a class that is as large as a class may be.
func largest() map[string]string {
	var b strings.Builder
	b.WriteString("array:\n")
	for i := range MaxObjects {
		fmt.Fprintf(&b, "- |\n  objectName: secret-%d\n  objectType: secret\n  objectAlias: dir/%d/%s\n  objectVersionHistory: 500\n"+
			"  filePermission: \"0400\"\n  objectEncoding: utf-8\n", i, i, strings.Repeat("x", 200))
	}
	b.WriteString("# " + strings.Repeat("x", 800<<10-b.Len()) + "\n")
	all := with(map[string]string{"objects": b.String()})
	for i := len(all); i < MaxParameters; i++ {
		all[fmt.Sprintf("unknown-%d", i)] = strings.Repeat("x", 500)
	}
	return all
}

// What parsing costs is bounded, whatever the author of a class writes.
func TestLargestClassIsCheap(t *testing.T) {
	o := options(t)
	for name, parameters := range map[string]map[string]string{
		"legal":                      largest(),
		"one mapping of many keys":   with(map[string]string{"objects": strings.Repeat("a: b\n", 200_000)}),
		"one list of many items":     with(map[string]string{"objects": "array: [" + strings.Repeat("a,", 500_000) + "]"}),
		"an object of many fields":   with(map[string]string{"objects": "array:\n- |\n" + strings.Repeat("  a: b\n", 100_000)}),
		"nested lists":               with(map[string]string{"objects": "array: " + strings.Repeat("[", 100_000)}),
		"many documents":             with(map[string]string{"objects": strings.Repeat("---\na: b\n", 100_000)}),
		"aliases of aliases":         with(map[string]string{"objects": bomb()}),
		"merge keys of merge keys":   with(map[string]string{"objects": "array:\n- |\n  " + strings.ReplaceAll(mergeBomb(), "\n", "\n  ")}),
		"comments":                   with(map[string]string{"objects": strings.Repeat("# x\n", 250_000) + object("objectName: s", "objectType: secret")}),
		"2,000 parameters":           many(2000),
		"a parameter of a megabyte":  with(map[string]string{"clientID": strings.Repeat("x", 1<<20)}),
		"flow mappings in one line":  with(map[string]string{"objects": "array: {" + strings.Repeat("a: b,", 200_000) + "}"}),
		"many anchors":               with(map[string]string{"objects": strings.Repeat("- &a b\n", 140_000)}),
		"a key of nested flow lists": with(map[string]string{"objects": strings.Repeat("[[],", 200_000)}),
	} {
		t.Run(name, func(t *testing.T) {
			const most = 20 << 20
			bytes := allocated(func() { Parse(parameters, o) })
			if bytes > most {
				t.Errorf("parsing allocates %d MiB, want at most %d", bytes>>20, most>>20)
			}
			if _, mistakes, _ := Parse(parameters, o); name == "legal" && len(mistakes) > 0 {
				t.Errorf("mistakes: %v", mistakes[0])
			}
		})
	}
}

func many(n int) map[string]string {
	all := with(nil)
	for i := range n {
		all[fmt.Sprint("p", i)] = "x"
	}
	return all
}

// bomb is YAML whose aliases, expanded, are millions of nodes.
func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	b.WriteString("array: *a9\n")
	return b.String()
}

func mergeBomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 {k0: v}\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&b, "a%d: &a%d {k%d: v, <<: [%s]}\n", i, i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	b.WriteString("<<: *a11\nobjectName: s\nobjectType: secret\n")
	return b.String()
}

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func BenchmarkParseLargest(b *testing.B) {
	parameters, o := largest(), options(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, mistakes, _ := Parse(parameters, o); len(mistakes) > 0 {
			b.Fatal(mistakes[0])
		}
	}
}
