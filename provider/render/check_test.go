package render_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/render"
)

func TestParseFindsWhatTemplatesRead(t *testing.T) {
	for text, want := range map[string]struct {
		names []string
		reads string // of a, b, ca/x
	}{
		`plain`:                                               {nil, ""},
		`{{ file "a" }}`:                                      {[]string{"1 a"}, "a"},
		"\n{{ file `a` }}\n{{ json \"b\" }}":                  {[]string{"2 a", "3 b"}, "a b"},
		`{{ "a" | file | quote }}`:                            {[]string{"1 a"}, "a"},
		`{{ (json "b").x.y }}`:                                {[]string{"1 b"}, "b"},
		`{{ jks "a" (file "b") }}`:                            {[]string{"1 a", "1 b"}, "a b"},
		`{{ file "b" | pkcs12 "a" }}`:                         {[]string{"1 b", "1 a"}, "a b"},
		`{{ caBundle "a" "ca/x" }}`:                           {[]string{"1 a", "1 ca/x"}, "a ca/x"},
		`{{ if hasFile "a" }}{{ else if file "b" }}{{ end }}`: {[]string{"1 a", "1 b"}, "a b"},
		`{{ range files "ca/*" }}{{ end }}`:                   {[]string{"1 ca/*?"}, "ca/x"},
		`{{ range files "ca/*" }}{{ caBundle . }}{{ end }}`:   {[]string{"1 ca/*?"}, "a b ca/x"},
		`{{ $p := "a" }}{{ file $p }}`:                        {nil, "a b ca/x"},
		`{{ printf "%s" "a" | file }}`:                        {nil, "a b ca/x"},
		`{{ define "d" }}{{ file "a" }}{{ end }}{{ template "d" (file "b") }}`: {[]string{"1 a", "1 b"}, "a b"},
		`{{ with $x := file "a" }}{{ with file "b" }}{{ end }}{{ end }}`:       {[]string{"1 a", "1 b"}, "a b"},
	} {
		parsed, mistakes := render.Parse("out", text)
		if len(mistakes) > 0 {
			t.Errorf("%s: %v", text, mistakes)
			continue
		}
		var names, reads []string
		for _, r := range parsed.References() {
			name := fmt.Sprintf("%d %s", r.Line, r.Path)
			if r.Pattern {
				name += "?"
			}
			names = append(names, name)
		}
		for _, path := range []string{"a", "b", "ca/x"} {
			if parsed.Reads(path) {
				reads = append(reads, path)
			}
		}
		if diff := cmp.Diff(want.names, names); diff != "" {
			t.Errorf("%s names: %s", text, diff)
		}
		if got := strings.Join(reads, " "); got != want.reads {
			t.Errorf("%s reads %q, want %q", text, got, want.reads)
		}
	}
}

func TestParseMistakes(t *testing.T) {
	for text, want := range map[string][]string{
		"a\nb {{ if }}":                       {"2 is not a template: missing value for if"},
		"{{ file \"a\" ":                      {"1 is not a template: unclosed action"},
		"{{ end }}":                           {"1 is not a template: unexpected {{end}}"},
		"{{ fil \"a\" }}\n{{ env \"HOME\" }}": {"1 calls fil, which is no function", "2 calls env, which templates cannot use: it reads the environment"},
		"{{ now }}{{ list 1 | shuffle }}":     {"1 calls now, which templates cannot use: it depends on the time", "1 calls shuffle, which"},
		"\n\n{{ template \"x\" }}":            {`3 uses the template "x", which it does not define`},
		"{{ file }}":                          {"1 calls file without the path of a file"},
		"{{ files \"[\" }}":                   {`1 has the pattern "[", which is malformed`},
		"{{ _out 1 }}":                        {"1 calls _out, which is no function"},
		"{{ quote genCA }}":                   {"1 calls genCA, which templates cannot use: keys are made in the vault"},
		strings.Repeat("{{ if 1 }}", 100):     {"1 is not a template: unexpected EOF"},
		"{{ " + strings.Repeat("(", 50_000):   {"1 is not a template: "},
		"{{ define \"out\" }}x{{ end }}y":     {"1 is not a template: multiple definition"},
		"{{ $x }}":                            {"1 is not a template: undefined variable"},
		"{{ \"" + strings.Repeat("x", 1000):   {"1 is not a template: unterminated quoted string"},
		"{{ break }}":                         {"1 is not a template: {{break}} outside {{range}}"},
	} {
		_, mistakes := render.Parse("out", text)
		if len(mistakes) != len(want) {
			t.Errorf("%.40s: %v, want %q", text, mistakes, want)
			continue
		}
		for i, m := range mistakes {
			got := fmt.Sprintf("%d %s", m.Line, m.Problem)
			if !strings.HasPrefix(got, want[i]) || m.Fix == "" || len(got) > 200 {
				t.Errorf("%.40s: %q with the fix %q, want %q", text, got, m.Fix, want[i])
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{{ file "a" }}`, `{{ range files "*" }}{{ . | file | b64enc }}{{ end }}`, `{{ define "x" }}{{ end }}{{ template "x" . }}`,
		`{{ jks "a" (file "b") }}`, `{{- with (json "a").b -}}{{ .c }}{{ else }}{{ fail "x" }}{{ end }}`, "{{", "}}", "{{/* c */}}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, mistakes := render.Parse("out", text)
		if (parsed == nil) != (len(mistakes) > 0) {
			t.Fatalf("%v, and mistakes %v", parsed, mistakes)
		}
		for _, m := range mistakes {
			if m.Line < 1 || m.Line > 1+strings.Count(text, "\n") || m.Problem == "" || m.Fix == "" || strings.Contains(m.Problem, "\n") {
				t.Fatalf("%+v", m)
			}
		}
	})
}
