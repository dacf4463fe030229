package class

import (
	"slices"
	"strings"
	"testing"
)

// secret is an object of the type secret with the lines.
func secret(lines ...string) string {
	return object(append([]string{"objectType: secret"}, lines...)...)
}

func TestSelectorMatches(t *testing.T) {
	for _, tc := range []struct {
		selector []string
		name     string
		tags     map[string]string
		want     bool
	}{
		{[]string{"name: db-*"}, "db-password", nil, true},
		{[]string{"name: db-*"}, "DB-password", nil, true},
		{[]string{"name: db-*"}, "my-db-password", nil, false},
		{[]string{"name: db-?"}, "db-1", nil, true},
		{[]string{"name: db-?"}, "db-12", nil, false},
		{[]string{"name: a.b"}, "axb", nil, false},
		{[]string{"name: /^db-/"}, "db-password", nil, true},
		{[]string{"name: /db|web/"}, "my-web-1", nil, true},
		{[]string{"name: /^db$/"}, "db-1", nil, false},
		{[]string{`name: "*"`, "tags: {team: shop}"}, "a", map[string]string{"team": "shop", "x": "y"}, true},
		{[]string{"tags: {team: shop}"}, "a", map[string]string{"team": "other"}, false},
		{[]string{"tags: {team: shop, env: prod}"}, "a", map[string]string{"team": "shop"}, false},
		{[]string{`tags: {team: ""}`}, "a", map[string]string{"team": "any"}, true},
		{[]string{`tags: {team: ~}`}, "a", map[string]string{}, false},
	} {
		lines := []string{"objectSelector:"}
		for _, line := range tc.selector {
			lines = append(lines, "  "+line)
		}
		c := mustParse(t, with(map[string]string{"objects": secret(lines...)}))
		if got := c.Objects[0].Selector.Matches(tc.name, tc.tags); got != tc.want {
			t.Errorf("%v, %s %v: %t", tc.selector, tc.name, tc.tags, got)
		}
	}
}

func TestSelectionNamesItsFiles(t *testing.T) {
	c := mustParse(t, with(map[string]string{"objects": secret("objectSelector: {name: db-*, limit: 20, managed: true}",
		"objectAlias: certs/{name}.pem", "optional: true")}))
	o := &c.Objects[0]
	if o.Selector.Limit != 20 || !o.Selector.Managed || !o.Optional || !o.Open() {
		t.Errorf("%+v", o)
	}
	if one := o.Of("db-1"); one.Path != "certs/db-1.pem" || one.Name != "db-1" || one.Selector != nil || one.Open() {
		t.Errorf("%+v", one)
	}
	if c := mustParse(t, with(map[string]string{"objects": secret("objectSelector: {name: x}")})); c.Objects[0].Path != "{name}" || c.Objects[0].Selector.Limit != 200 {
		t.Errorf("%+v", c.Objects[0])
	}
}

func TestExtract(t *testing.T) {
	c := mustParse(t, with(map[string]string{"objects": secret("objectName: db", "filePermission: 0400", "contentFormat: YAML",
		"jmesPath:", "- {path: user.name, objectAlias: db-user, filePermission: 0440}", "- path: password", "  objectAlias: dir/password", "  optional: true")}))
	x := c.Objects[0].Extract
	if x == nil || x.Content != YAML || x.All || !x.Whole || len(x.Entries) != 2 {
		t.Fatalf("%+v", x)
	}
	want := []Entry{
		{Expression: "user.name", Path: "db-user", Mode: 0o440, Line: 8},
		{Expression: "password", Path: "dir/password", Mode: 0o400, Optional: true, Line: 9},
	}
	for i := range x.Entries {
		if !x.Entries[i].Compiled.Plain() {
			t.Errorf("%s is no plain path", x.Entries[i].Expression)
		}
		x.Entries[i].Compiled = nil
	}
	if !slices.Equal(x.Entries, want) {
		t.Errorf("got  %+v\nwant %+v", x.Entries, want)
	}
	if paths, all := c.Paths(); !all || !slices.Equal(paths, []string{"db", "db-user", "dir/password"}) {
		t.Errorf("%v %t", paths, all)
	}
	c = mustParse(t, with(map[string]string{"objects": secret("objectName: db", "excludeObjectName: true", "jmesPath: [{path: a, objectAlias: a}]")}))
	if paths, _ := c.Paths(); !slices.Equal(paths, []string{"a"}) {
		t.Errorf("%v", paths)
	}
	c = mustParse(t, with(map[string]string{"objects": secret("objectName: db", "fields: all")}))
	if _, all := c.Paths(); all || !c.Objects[0].Extract.All || c.Objects[0].Extract.Whole {
		t.Errorf("%+v", c.Objects[0].Extract)
	}
}

func TestTemplates(t *testing.T) {
	c := mustParse(t, with(map[string]string{"objects": secret("objectName: db"), "filePermission": "0440", "fileOwner": "1000", "templates": "array:\n- |\n  path: app.conf\n  fileGroup: 7\n  template: |\n    a\n    b {{ file \"db\" }}\n- |\n  path: b\n  filePermission: 0400\n  template: x\n"}))
	if len(c.Templates) != 2 {
		t.Fatalf("%+v", c.Templates)
	}
	a, b := c.Templates[0], c.Templates[1]
	if a.Path != "app.conf" || a.Mode != 0o440 || *a.Owner != 1000 || *a.Group != 7 || !a.GroupWins || a.Line != 6 || a.Text != "a\nb {{ file \"db\" }}\n" {
		t.Errorf("%+v", a)
	}
	if b.Mode != 0o400 || b.Index != 1 || b.Line != 11 || b.Group != nil || b.GroupWins {
		t.Errorf("%+v", b)
	}
}

func TestFilesAndFallbacks(t *testing.T) {
	c := mustParse(t, with(map[string]string{
		"filePermission": "0400", "fileOwner": "1000", "fileGroup": "2000", "metadataFile": "meta.json",
		"fallbackKeyvaultNames": "kv2, kv3", "changeDetection": "list",
		"objects": secret("objectName: a") + secret("objectName: b", "fileGroup: 0", "filePermission: 0644", "fallbackKeyvaultNames: kv4")[len("array:\n"):] +
			secret("objectName: c", "keyvaultName: other", "objectVersion: latestEnabled", "objectFormat: CA")[len("array:\n"):],
	}))
	a, b, third := c.Objects[0], c.Objects[1], c.Objects[2]
	if a.Mode != 0o400 || *a.Owner != 1000 || *a.Group != 2000 || a.GroupWins || c.MetadataFile != "meta.json" || !c.Lists {
		t.Errorf("%+v", a)
	}
	if b.Mode != 0o644 || *b.Group != 0 || !b.GroupWins || *b.Owner != 1000 {
		t.Errorf("%+v", b)
	}
	if !slices.Equal(a.Fallbacks, []string{"https://kv2.vault.azure.net/", "https://kv3.vault.azure.net/"}) ||
		!slices.Equal(b.Fallbacks, []string{"https://kv4.vault.azure.net/"}) || third.Fallbacks != nil {
		t.Errorf("%v %v %v", a.Fallbacks, b.Fallbacks, third.Fallbacks)
	}
	if !third.LatestEnabled || third.Version != "" || third.Format != CA {
		t.Errorf("%+v", third)
	}
}

func TestMistakesOfFeatures(t *testing.T) {
	for name, tc := range map[string]struct {
		parameters map[string]string
		want       []string // each in some mistake
	}{
		"name and selector":      {map[string]string{"objects": secret("objectName: a", "objectSelector: {name: b}")}, []string{`objectName "a" and objectSelector are both set`}},
		"selector is text":       {map[string]string{"objects": secret("objectSelector: db-*")}, []string{"objectSelector is not a mapping"}},
		"empty selector":         {map[string]string{"objects": secret("objectSelector: {limit: 5}")}, []string{"objectSelector.name is not set, and neither are tags"}},
		"selector's expression":  {map[string]string{"objects": secret("objectSelector: {name: '/(/'}")}, []string{`objectSelector.name "/(/" is not a pattern`}},
		"selector's limit":       {map[string]string{"objects": secret("objectSelector: {name: a, limit: 1001}")}, []string{`objectSelector.limit "1001" is not between 1 and 1000`}},
		"selector's limit, text": {map[string]string{"objects": secret("objectSelector: {name: a, limit: many}")}, []string{`objectSelector.limit "many" is not a whole number`}},
		"selector's tags":        {map[string]string{"objects": secret("objectSelector: {tags: [a]}")}, []string{"objectSelector.tags is not a mapping"}},
		"a tag is a list":        {map[string]string{"objects": secret("objectSelector: {tags: {a: [b]}}")}, []string{"objectSelector.tags.a is not plain text"}},
		"selector, one path":     {map[string]string{"objects": secret("objectSelector: {name: a}", "objectAlias: a.pem")}, []string{"gives one path to all objects", "{name}"}},
		"selector and version":   {map[string]string{"objects": secret("objectSelector: {name: a}", "objectVersion: 0123")}, []string{`objectVersion "0123" and objectSelector are both set`}},
		"managed certificates":   {map[string]string{"objects": object("objectType: cert", "objectSelector: {name: a, managed: true}")}, []string{"objectSelector.managed"}},
		"jmesPath of a key":      {map[string]string{"objects": object("objectType: key", "objectName: a", "jmesPath: [{path: a, objectAlias: b}]")}, []string{"jmesPath goes with objectType secret only"}},
		"jmesPath is text":       {map[string]string{"objects": secret("objectName: a", "jmesPath: a.b")}, []string{`jmesPath "a.b" is not a list`}},
		"jmesPath's item":        {map[string]string{"objects": secret("objectName: a", "jmesPath: [a]")}, []string{"jmesPath[0] is not a mapping"}},
		"jmesPath, no alias":     {map[string]string{"objects": secret("objectName: a", "jmesPath: [{path: a}]")}, []string{"jmesPath[0].objectAlias is not set"}},
		"jmesPath, bad alias":    {map[string]string{"objects": secret("objectName: a", "jmesPath: [{path: a, objectAlias: ../x}]")}, []string{`jmesPath[0].objectAlias "../x" cannot be a file`}},
		"jmesPath twice a path":  {map[string]string{"objects": secret("objectName: a", "jmesPath: [{path: a, objectAlias: x}, {path: b, objectAlias: x}]")}, []string{"jmesPath[1].objectAlias", `writes "x", as objects[0] "a" does`}},
		"jmesPath and fields":    {map[string]string{"objects": secret("objectName: a", "fields: all", "jmesPath: [{path: a, objectAlias: b}]")}, []string{"and jmesPath are both set"}},
		"some fields":            {map[string]string{"objects": secret("objectName: a", "fields: user")}, []string{`fields "user" is not all`}},
		"jmesPath and history":   {map[string]string{"objects": secret("objectName: a", "objectVersionHistory: 3", "fields: all")}, []string{"objectVersionHistory are both set"}},
		"jmesPath and encoding":  {map[string]string{"objects": secret("objectName: a", "objectEncoding: hex", "fields: all")}, []string{"remove objectFormat and objectEncoding"}},
		"contentFormat":          {map[string]string{"objects": secret("objectName: a", "fields: all", "contentFormat: toml")}, []string{`contentFormat "toml" is not a format`}},
		"contentFormat alone":    {map[string]string{"objects": secret("objectName: a", "contentFormat: json")}, []string{"goes with jmesPath or fields only"}},
		"template, no path":      {map[string]string{"templates": "array:\n- 'template: x'\n"}, []string{"templates[0] path is not set"}},
		"template, no text":      {map[string]string{"templates": "array:\n- 'path: x'\n"}, []string{`templates[0] "x" template is not set`}},
		"template, bad path":     {map[string]string{"templates": "array:\n- '{path: /x, template: a}'\n"}, []string{`templates[0] "/x" path "/x" cannot be a file`}},
		"template on a file":     {map[string]string{"templates": "array:\n- '{path: s, template: a}'\n"}, []string{`writes "s", as objects[0] "s" does`}},
		"templates are a list":   {map[string]string{"templates": "- a"}, []string{"templates is not a mapping"}},
		"metadata on a file":     {map[string]string{"metadataFile": "s"}, []string{`writes "s", as metadataFile does`}},
		"metadata above":         {map[string]string{"metadataFile": "../x"}, []string{`metadataFile "../x" cannot be a file`}},
		"owner":                  {map[string]string{"fileOwner": "root"}, []string{`fileOwner "root" is not the id of a user or group`}},
		"group":                  {map[string]string{"objects": secret("objectName: s", "fileGroup: -1")}, []string{`fileGroup "-1" is not the id`}},
		"class's mode":           {map[string]string{"filePermission": "999"}, []string{`filePermission "999" is not a file mode`}},
		"way to detect":          {map[string]string{"changeDetection": "push"}, []string{`changeDetection "push"`, "get or list"}},
		"fallback's name":        {map[string]string{"fallbackKeyvaultNames": "kv2,k"}, []string{`has "k", which is not a vault name`}},
		"fallback twice":         {map[string]string{"fallbackKeyvaultNames": "kv2,kv2"}, []string{"names kv2 twice"}},
		"fallback is the vault":  {map[string]string{"fallbackKeyvaultNames": "kv1"}, []string{"names the class's own vault"}},
		"too many fallbacks":     {map[string]string{"fallbackKeyvaultNames": "kv2,kv3,kv4,kv5,kv6,kv7"}, []string{"names 6 vaults"}},
		"optional":               {map[string]string{"objects": secret("objectName: a", "optional: perhaps")}, []string{`optional "perhaps" is not a boolean`}},
		"ca of a cert":           {map[string]string{"objects": object("objectType: cert", "objectName: a", "objectFormat: ca")}, []string{"objectType secret only"}},
		"ca in parts":            {map[string]string{"objects": secret("objectName: a", "objectFormat: ca", "writeCertAndKeyInSeparateFiles: true")}, []string{"remove one of them"}},
		"history of enabled":     {map[string]string{"objects": secret("objectName: a", "objectVersion: latestEnabled", "objectVersionHistory: 2")}, []string{"enabled versions only"}},
		"two bad items":          {map[string]string{"objects": "array:\n- objectName: s\n- |\n  objectName: a_b\n  objectType: secret\n- [x]\n"}, []string{"objects[0] is a mapping", "objects[1]", "objects[2] is a mapping"}},
		"bad field, bad type":    {map[string]string{"objects": secret("objectName: [a]", "filePermission: 9")}, []string{"objectName is not plain text", "filePermission"}},
	} {
		t.Run(name, func(t *testing.T) {
			parameters := with(tc.parameters)
			if parameters["objects"] == "" {
				parameters["objects"] = secret("objectName: s")
			}
			_, mistakes, _ := Parse(parameters, options(t))
			line := ""
			for _, m := range mistakes {
				line += m.String() + "\n"
			}
			for _, want := range tc.want {
				if !strings.Contains(line, want) {
					t.Errorf("%q is not in:\n%s", want, line)
				}
			}
		})
	}
}

// TestLinesOfDuplicates: each of several clashes has the line of its own path.
func TestLinesOfDuplicates(t *testing.T) {
	_, mistakes, _ := Parse(with(map[string]string{"objects": "array:\n- |\n  objectName: a\n  objectType: secret\n- |\n  objectName: a\n  objectType: secret\n- |\n  objectName: b\n  objectType: key\n  objectAlias: a\n"}), options(t))
	var lines []int
	for _, m := range mistakes {
		lines = append(lines, m.Line)
	}
	if !slices.Equal(lines, []int{6, 11}) {
		t.Errorf("%v: %v", lines, mistakes)
	}
}

func TestReferenceIsWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Reference() {
		key := string(f.Place) + "." + f.Name
		if seen[key] || f.Type == "" || f.Since == "" || f.Meaning == "" || (f.Place == InParameters) != (f.Section != "") {
			t.Errorf("%+v", f)
		}
		seen[key] = true
	}
	if len(seen) < 50 {
		t.Errorf("%d fields", len(seen))
	}
}

// FuzzFeatures: selections, fields and templates parse without a panic, and what is no class is one line.
func FuzzFeatures(f *testing.F) {
	f.Add("objectSelector: {name: db-*, tags: {a: b}, limit: 5}\nobjectType: secret", "path: x\ntemplate: '{{ file \"a\" }}'", "kv2,kv3")
	f.Add("objectSelector: &a [*a]\nobjectType: key", "- x", ",")
	f.Add("objectName: a\nobjectType: secret\njmesPath: [{path: a, objectAlias: ..}, &b [*b], {<<: *b}]", "template: {}", "kv1")
	f.Add("objectName: a\nobjectType: secret\nfields: all\ncontentFormat: dotenv\nobjectAlias: '{name}'", "", "")
	f.Add("objectSelector: {name: '/(a|b)*{1000}/'}\nobjectType: cert\nobjectAlias: \"{name}/\\u0000\"", "path: '{{'\ntemplate: '{{'", "é")
	o := options(f)
	f.Fuzz(func(t *testing.T, object, template, fallbacks string) {
		quoted := func(text string) string {
			return "array:\n- |\n  " + strings.ReplaceAll(text, "\n", "\n  ") + "\n"
		}
		c, mistakes, _ := Parse(with(map[string]string{
			"objects": quoted(object), "templates": quoted(template), "fallbackKeyvaultNames": fallbacks,
		}), o)
		if (c == nil) == (len(mistakes) == 0) {
			t.Fatal("neither a class nor a mistake, or both")
		}
		if c == nil {
			if line := Error(mistakes).Error(); strings.ContainsAny(line, "\n\r") {
				t.Fatalf("not one line: %q", line)
			}
			return
		}
		for i := range c.Objects {
			if s := c.Objects[i].Selector; s != nil && c.Objects[i].Of("name").Path == "" {
				t.Errorf("a selection without a path: %+v", c.Objects[i])
			}
		}
	})
}
