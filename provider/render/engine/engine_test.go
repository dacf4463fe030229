package engine_test

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/render"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/render/engine"
)

// planted is in every value that fails; no failure may have it.
const planted = "hunter2"

// run runs a request in this process and returns what came of each task.
func run(t *testing.T, request render.Request) []render.Progress {
	t.Helper()
	in, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := engine.Run(bytes.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	var done []render.Progress
	for decoder := json.NewDecoder(&out); ; {
		var p render.Progress
		if err := decoder.Decode(&p); err == io.EOF {
			return done
		} else if err != nil {
			t.Fatal(err)
		}
		if p.Done {
			done = append(done, p)
		}
	}
}

// files are those that the templates of the tests read.
func files() map[string][]byte {
	return map[string][]byte{
		"password": []byte(planted),
		"db":       []byte(`{"user":"a","port":5432,"ratio":1.50,"big":12345678901234567890,"tags":["x","y"],"none":null,"o":{"b":2,"a":"1"}}`),
		"config":   []byte("list: [1, two]\n"),
		"ca/one":   []byte("one"),
		"ca/two":   []byte("two"),
		"word":     []byte("changeit"),
	}
}

// template makes a file of one template that may read all files, and "optional", which does not exist.
func template(t *testing.T, text string) render.Progress {
	t.Helper()
	if _, mistakes := render.Parse("out", text); len(mistakes) > 0 {
		t.Fatalf("%s: %v", text, mistakes)
	}
	reads := []string{"optional"}
	for path := range files() {
		reads = append(reads, path)
	}
	return run(t, render.Request{Files: files(), Templates: []render.Task{{Path: "out", Text: text, Reads: reads}}})[0]
}

func TestTemplates(t *testing.T) {
	for text, want := range map[string]string{ //nolint:gosec // no credentials
		`user={{ (json "db").user }};password={{ file "password" }}`:                    "user=a;password=hunter2",
		`{{ with json "db" }}{{ .port }} {{ .ratio }} {{ .big }} {{ .o.a }}{{ end }}`:   "5432 1.50 12345678901234567890 1",
		`{{ add (json "db").port 1 }} {{ gt (json "db").port 80 }}`:                     "5433 true",
		`{{ (json "db").tags | join "," }}`:                                             "x,y",
		`{{ (json "db").o | toJson }} {{ (json "db").o | toYaml | nindent 2 }}`:         "{\"a\":\"1\",\"b\":2} \n  a: \"1\"\n  b: 2",
		`{{ index (fromYaml (file "config")).list 1 }}`:                                 "two",
		`{{ if hasFile "optional" }}{{ file "optional" }}{{ else }}none{{ end }}`:       "none",
		`{{ range files "ca/*" }}{{ . }}={{ file . }};{{ end }}`:                        "ca/one=one;ca/two=two;",
		`{{ keys (json "db").o | join "," }}{{ values (json "db").o | join "," }}`:      "a,b1,2",
		`{{ "{}" | fromJson | empty }} {{ file "password" | b64enc | quote }}`:          `true "aHVudGVyMg=="`,
		`{{ (json "db").none | default "d" }}{{ 1.5 }}{{ true }}`:                       "d1.5true",
		`{{ define "x" }}<{{ . }}>{{ end }}{{ template "x" "y" }}`:                      "<y>",
		`{{ $x := 1 }}{{ $x = 2 }}{{ $x }}`:                                             "2",
		`{{ regexReplaceAll "[a-z]+" "abc1" "x" }} {{ "a.b" | replace "." "/" }}`:       "x1 a/b",
		`{{ trimSuffix "\n" "x\n" }}{{ sha256sum "" | trunc 8 }}`:                       "xe3b0c442",
		`{{ get (json "db") "nothing" | default 1 }} {{ dig "o" "c" "d" (json "db") }}`: "1 d",
		`{{ toYaml (json "db") }}`:                                                      "big: 12345678901234567890\nnone: null\no:\n  a: \"1\"\n  b: 2\nport: 5432\nratio: 1.50\ntags:\n  - x\n  - \"y\"\nuser: a",
		`{{ toJson (json "db").ratio }} {{ toRawJson (dict "a" "<") }}`:                 `1.50 {"a":"<"}`,
		`{{ print nil | len | ne 0 }}`:                                                  "true",
	} {
		if got := template(t, text); got.Failure != nil || string(got.Data) != want {
			t.Errorf("%s: %q, %+v, want %q", text, got.Data, got.Failure, want)
		}
	}
}

func TestTemplateFailures(t *testing.T) {
	for text, want := range map[string]render.Failure{
		"\n{{ file \"optional\" }}":            {Line: 2, Function: "file", Problem: "the file does not exist now, since its object is optional: check it with hasFile"},
		`{{ file (print "no" "ne") }}`:         {Line: 1, Function: "file", Problem: "the class has no such file"},
		`{{ (json "db").passwrd }}`:            {Line: 1, Problem: `there is no field "passwrd": use get or hasKey where it may be missing`},
		`{{ (file "password").x }}`:            {Line: 1, Problem: `there is no field "x": use get or hasKey where it may be missing`},
		`{{ (json "db").none }}`:               {Line: 1, Problem: "the value is null or does not exist: use default"},
		`{{ index (json "db") "nothing" }}`:    {Line: 1, Problem: "the value is null or does not exist: use default"},
		`{{ (json "db").none.x }}`:             {Line: 1, Problem: "a value on the way to a field is null"},
		`{{ (json "db").o }}`:                  {Line: 1, Problem: "the value is a map, which has no text: use toJson, toYaml or join"},
		`{{ (json "db").tags }}`:               {Line: 1, Problem: "the value is a list, which has no text: use toJson, toYaml or join"},
		`{{ json "password" }}`:                {Line: 1, Function: "json", Problem: "the value is not JSON: syntax error at byte 0; contentFormat says which other format it has"},
		`{{ fail (file "password") }}`:         {Line: 1, Function: "fail", Problem: "the template calls fail"},
		`{{ fromYaml "a: b: hunter2" }}`:       {Line: 1, Function: "fromYaml", Problem: "the value is not YAML"},
		`{{ jks "password" (file "word") }}`:   {Line: 1, Function: "jks", Problem: `file "password": the file is neither PEM nor PFX: name an object that is a certificate or a PEM text`},
		`{{ caBundle "password" }}`:            {Line: 1, Function: "caBundle", Problem: `file "password": the file is neither PEM nor PFX: name an object that is a certificate or a PEM text`},
		`{{ jksTrustStore "hunter2" "pw" }}`:   {Line: 1, Function: "jksTrustStore", Problem: "there is no certificate to trust"},
		`{{ b64enc (file "password") 1 }}`:     {Line: 1, Function: "b64enc", Problem: "has a wrong number of arguments"},
		`{{ repeat "hunter2" "x" }}`:           {Line: 1, Problem: "an argument has a wrong type"},
		`{{ lt (file "password") 1 }}`:         {Line: 1, Function: "lt", Problem: "two values of different types are compared"},
		`{{ range file "password" }}{{ end }}`: {Line: 1, Problem: "range is over what is no list"},
		`{{ index (list 1) 7 }}`:               {Line: 1, Function: "index", Problem: "the index is out of range"},
		`{{ div 1 0 }}`:                        {Line: 1, Function: "div", Problem: "fails on its arguments"},
		`{{ regexFind "(" "x" }}`:              {Line: 1, Function: "regexFind", Problem: "fails on its arguments"},
		`{{ mul (dict "a" (file "password")) 2 | index (list (file "password")) }}`: {Line: 1, Function: "index"},
		`{{ call (file "password") }}`:                                              {Line: 1, Function: "call", Problem: "fails on its arguments"},
		`{{ slice (file "password") 9 }}`:                                           {Line: 1, Function: "slice", Problem: "the index is out of range"},
		`{{ urlParse (print "%" (file "password")) }}`:                              {Line: 1, Function: "urlParse", Problem: "fails on its arguments"},
		`{{ range until 200000 }}0123456789{{ end }}`:                               {Problem: "makes more than 1048576 bytes, or does together with what is before it"},
	} {
		got := template(t, text)
		if got.Failure == nil {
			if want.Problem != "" {
				t.Errorf("%s: %q, want %+v", text, got.Data, want)
			}
			continue
		}
		if want.Problem == "" {
			want.Problem = got.Failure.Problem
		}
		if *got.Failure != want {
			t.Errorf("%s:\n%+v, want\n%+v", text, *got.Failure, want)
		}
		if strings.Contains(got.Failure.Problem, planted) {
			t.Errorf("%s: a value is in the failure: %+v", text, *got.Failure)
		}
	}
}

// A template reads no file but those that it was found to read, so that it is run again whenever one of its files
// changes.
func TestTemplateReadsWhatItNames(t *testing.T) {
	got := run(t, render.Request{Files: files(), Templates: []render.Task{{
		Path: "out", Text: `{{ range files "*" }}{{ . }} {{ end }}{{ file "password" }}`, Reads: []string{"word"},
	}}})[0]
	if got.Failure == nil || got.Failure.Problem != "the class has no such file" {
		t.Errorf("%+v", got)
	}
}

// All outputs together are bounded, and the failure of one task is not that of the next.
func TestTasksAreSeparate(t *testing.T) {
	half := `{{ repeat 600000 "x" }}`
	got := run(t, render.Request{
		Extractions: []render.Extraction{
			{Text: `{"a":[{"n":"x"},{"n":"y"}],"p":5432,"s":"hunter2"}`, Format: "json", Expression: "a[?n=='y'] | [0].n"},
			{Text: `a: {b: 1}`, Format: "yaml", Expression: "length(a)"},
			{Text: `{"a":null}`, Format: "json", Expression: "a || b"},
			{Text: `{"a":"hunter2"}`, Format: "json", Expression: "sum(a)"},
			{Text: `{"a":"hunter2"`, Format: "json", Expression: "length(a)"},
			{Text: `{"p":5432,"f":1.50}`, Format: "json", Expression: "[p, f, p > `80`]"},
			{Text: `{}`, Format: "json", Expression: "("},
			{Text: `{"a":[3,1,2]}`, Format: "json", Expression: "sort_by(a, &to_string(@))[0]"},
		},
		Templates: []render.Task{{Path: "one", Text: half}, {Path: "two", Text: half}, {Path: "three", Text: "x"}},
	})
	for i, want := range []string{"y", "1", "", "", "", "[5432,1.50,true]", "", "1", strings.Repeat("x", 600_000), "", "x"} {
		if string(got[i].Data) != want {
			t.Errorf("task %d: %.40q, %+v, want %.40q", i, got[i].Data, got[i].Failure, want)
		}
		if got[i].Failure != nil && strings.Contains(got[i].Failure.Problem, planted) {
			t.Errorf("task %d: a value is in the failure: %+v", i, *got[i].Failure)
		}
	}
	if !got[2].Null || got[2].Failure != nil {
		t.Errorf("no match: %+v", got[2])
	}
	for task, want := range map[int]string{
		3: "cannot be evaluated on the value", 4: "the value is not JSON", 6: "is not a JMESPath expression", 9: "makes more than",
	} {
		if got[task].Failure == nil || !strings.Contains(got[task].Failure.Problem, want) {
			t.Errorf("task %d: %+v, want %q", task, got[task].Failure, want)
		}
	}
}

// What templates may call exists, and what they may not is not there.
func TestFunctions(t *testing.T) {
	for _, name := range render.Functions() {
		if _, mistakes := render.Parse("out", "{{ $x := "+name+" \"a\" \"b\" }}"); len(mistakes) > 0 {
			t.Errorf("%s: %v", name, mistakes)
		}
		// called without arguments, each function is known to text/template: the failure is another
		got := run(t, render.Request{Templates: []render.Task{{Path: "out", Text: "{{ if false }}{{ " + name + " }}{{ end }}x"}}})[0]
		if got.Failure != nil {
			t.Errorf("%s: %+v", name, *got.Failure)
		}
	}
	for _, name := range []string{"env", "expandenv", "getHostByName", "now", "date", "randAlpha", "randInt", "uuidv4", "genCA", "hello"} {
		if _, mistakes := render.Parse("out", "{{ "+name+" }}"); len(mistakes) == 0 {
			t.Errorf("the driver lets %s through", name)
		}
		got := run(t, render.Request{Templates: []render.Task{{Path: "out", Text: "{{ " + name + " }}"}}})[0]
		if got.Failure == nil || got.Failure.Problem != "is not a template" {
			t.Errorf("%s exists: %+v", name, got)
		}
	}
}

func FuzzExpression(f *testing.F) {
	for _, seed := range []string{"a.b[0]", "a[?b=='c'].d", "sort_by(a, &b)", "let $x = a in $x", "[0:1:2]", "to_string(@)", "pad_left('x', `3`)", "a.*", "$"} {
		f.Add(seed, `{"a":[{"b":"c","d":1}]}`)
	}
	f.Fuzz(func(t *testing.T, expression, text string) {
		if len(expression) > 60 || len(text) > 1000 || strings.Contains(expression, "pad_") {
			return // what grows without bound is for the limits of the process
		}
		in, err := json.Marshal(render.Request{Extractions: []render.Extraction{{Text: text, Format: "json", Expression: expression}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := engine.Run(bytes.NewReader(in), io.Discard); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{
		`{{ file "a" | b64enc | quote }}`, `{{ (json "a").x }}`, `{{ index (json "a") "y" | toYaml }}`, `{{ dig "x" "y" 1 (json "a") }}`,
		`{{ range $k, $v := json "a" }}{{ $k }}{{ end }}`, `{{ jks "a" "p" }}`, `{{ split "," "a,b" | values }}`, `{{ ternary 1 2 true }}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 200 || strings.ContainsAny(text, "0123456789") || strings.Contains(text, "template") || strings.Contains(text, "block") {
			return // what has no end is for the limits of the process
		}
		if _, mistakes := render.Parse("out", text); len(mistakes) > 0 {
			return
		}
		in, err := json.Marshal(render.Request{
			Files:     map[string][]byte{"a": []byte(`{"x":"hunter2","y":[1]}`)},
			Templates: []render.Task{{Path: "out", Text: text, Reads: []string{"a"}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := engine.Run(bytes.NewReader(in), &out); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(text, planted) && strings.Contains(out.String(), planted) {
			t.Fatalf("%q: %s", text, out.String())
		}
	})
}
