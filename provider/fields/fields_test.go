package fields_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/fields"
)

func TestDecode(t *testing.T) {
	number := func(text string) json.Number { return json.Number(text) }
	for name, c := range map[string]struct {
		format fields.Format
		text   string
		want   any
	}{
		"json": {fields.JSON, `{"user":"a","port":5432,"big":12345678901234567890.10,"on":true,"none":null,"list":[1,"x"],"o":{}}`,
			map[string]any{
				"user": "a", "port": number("5432"), "big": number("12345678901234567890.10"), "on": true, "none": nil,
				"list": []any{number("1"), "x"}, "o": map[string]any{},
			}},
		"json of a scalar": {fields.JSON, ` "x" `, "x"},
		"the default":      {"", `[]`, []any{}},
		"yaml": {fields.YAML, "user: a\nport: 0x10\nold: 1_000\nratio: .5\nbig: 18446744073709551615\nendless: .inf\non: true\nyes: yes\n" +
			"when: 2026-01-02\nnone:\nbinary: !!binary aGk=\n1: number\nlist: [1, 'x']\n",
			map[string]any{
				"user": "a", "port": number("16"), "old": number("1000"), "ratio": number("0.5"), "big": number("18446744073709551615"),
				"endless": ".inf", "on": true, "yes": "yes", "when": "2026-01-02", "none": nil, "binary": "hi", "1": "number",
				"list": []any{number("1"), "x"},
			}},
		"yaml with anchors and merge keys": {fields.YAML, "base: &b {host: h, port: 1}\nreal: {<<: *b, port: 2}\ncopy: *b\n",
			map[string]any{
				"base": map[string]any{"host": "h", "port": number("1")},
				"real": map[string]any{"host": "h", "port": number("2")},
				"copy": map[string]any{"host": "h", "port": number("1")},
			}},
		"dotenv": {fields.Dotenv, "\ufeff# comment\n\nA=1\r\nexport B = two words  # why\nC='li#t\\n'\nD=\"a\\tb\\\"\\$X\\q\nsecond\" # end\nE=\nF=a#b\nG.h-i=\" \"",
			map[string]any{"A": "1", "B": "two words", "C": `li#t\n`, "D": "a\tb\"$X\\q\nsecond", "E": "", "F": "a#b", "G.h-i": " "}},
		"properties": {fields.Properties, "# c\n! c\na=1\nb : 2\nc 3\n  long = one, \\\n    two\nk\\ ey\\=x = \\u00fc\\ud83d\\ude00\\n\\z\nempty\nslash = a\\\\\nlast=\\",
			map[string]any{
				"a": "1", "b": "2", "c": "3", "long": "one, two", "k ey=x": "ü😀\nz", "empty": "", "slash": `a\`, "last": "",
			}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := fields.Decode(c.text, c.format)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// planted is in the values of hostile texts; no error may have it.
const planted = "hunter2"

func TestDecodeHostile(t *testing.T) {
	laughs := "a: &a [hunter2,hunter2,hunter2,hunter2,hunter2,hunter2,hunter2,hunter2,hunter2]\n"
	for c := 'b'; c <= 'k'; c++ {
		laughs += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 9), ","))
	}
	for name, c := range map[string]struct {
		format     fields.Format
		text, want string
	}{
		"too large":                 {fields.JSON, `"` + strings.Repeat(planted, 20_000) + `"`, "bytes, of which no fields are read"},
		"not UTF-8":                 {fields.JSON, "\"hunter2\xff\"", "is not UTF-8 text"},
		"unknown format":            {"toml", `hunter2`, `"toml" is not a format`},
		"json: empty":               {fields.JSON, ``, "is not JSON: unexpected end"},
		"json: not":                 {fields.JSON, planted, "is not JSON: syntax error at byte 0"},
		"json: cut":                 {fields.JSON, `{"a":"hunter2"`, "is not JSON"},
		"json: two":                 {fields.JSON, `{} hunter2`, "text after the end of the JSON"},
		"json: deep":                {fields.JSON, strings.Repeat("[", 10_000), "more than 64 levels deep"},
		"json: deep object":         {fields.JSON, strings.Repeat(`{"hunter2":`, 9_000), "more than 64 levels deep"},
		"json: many":                {fields.JSON, "[" + strings.Repeat("1,", 30_000) + "1]", "more than 20000 fields"},
		"json: duplicate":           {fields.JSON, `{"a":"hunter2","a":1}`, `field "a" is a duplicate`},
		"json: escaped duplicate":   {fields.JSON, `{"a":"hunter2","\u0061":1}`, `field "a" is a duplicate`},
		"json: long name":           {fields.JSON, `{"` + strings.Repeat("n", 2000) + `":1}`, "has a name of 2000 bytes"},
		"json: wrong end":           {fields.JSON, `[1}`, "is not JSON"},
		"yaml: empty":               {fields.YAML, "# hunter2", "is empty"},
		"yaml: not":                 {fields.YAML, "x: 1\na: b: hunter2", "is not YAML: syntax error at line 2"},
		"yaml: two documents":       {fields.YAML, "a: 1\n---\nb: 2", "second YAML document"},
		"yaml: laughs":              {fields.YAML, laughs, "more than 20000 fields"},
		"yaml: itself":              {fields.YAML, "a: &a [*a, hunter2]", "more than 64 levels deep"},
		"yaml: deep":                {fields.YAML, strings.Repeat("[", 5_000) + strings.Repeat("]", 5_000), "more than 64 levels deep"},
		"yaml: deeper than parsed":  {fields.YAML, strings.Repeat("[", 100_000), "is not YAML"},
		"yaml: duplicate":           {fields.YAML, "a: 1\na: hunter2", `field "a" is a duplicate`},
		"yaml: key that is a list":  {fields.YAML, "[hunter2]: 1", "key that is a list"},
		"yaml: not base64":          {fields.YAML, "a: !!binary hunter2!", "line 1 has a !!binary value"},
		"yaml: does not fit":        {fields.YAML, "a: !!bool hunter2", "line 1 has a value that does not fit its tag"},
		"dotenv: no =":              {fields.Dotenv, "\nhunter2", "line 2 has no ="},
		"dotenv: name":              {fields.Dotenv, "a b=hunter2", "line 1 has a name"},
		"dotenv: open quote":        {fields.Dotenv, "A=\"hunter2\nB=1", "line 1 has a quote without an end"},
		"dotenv: after the quote":   {fields.Dotenv, "A='x' hunter2", "line 1 has text after the closing quote"},
		"dotenv: duplicate":         {fields.Dotenv, "A=1\nA=hunter2", `field "A" is a duplicate`},
		"properties: unit":          {fields.Properties, "a=1\nb=hunter2\\u12", "line 2 has a \\u without"},
		"properties: half a pair":   {fields.Properties, `b=hunter2\ud83dx`, "line 1 has a \\u without"},
		"properties: duplicate":     {fields.Properties, "a=1\na:hunter2", `field "a" is a duplicate`},
		"properties: duplicate key": {fields.Properties, "=1\n=hunter2", `field "" is a duplicate`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := fields.Decode(c.text, c.format)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			if strings.Contains(err.Error(), planted) {
				t.Errorf("a value is in the error: %v", err)
			}
			if len(err.Error()) > 200 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestPlainPaths(t *testing.T) {
	document, err := fields.Decode(`{"db":{"users":[{"name":"a"},{"name":"b"}],"my-key":"h","n":1.50},"null":null}`, fields.JSON)
	if err != nil {
		t.Fatal(err)
	}
	for expression, want := range map[string]string{
		"db.users[0].name":    "a",
		"db.users[-1].name":   "b",
		"db.users[1]":         `{"name":"b"}`,
		"db.users":            `[{"name":"a"},{"name":"b"}]`,
		`db."my-key"`:         "h",
		"db.n":                "1.50",
		"db | n":              "1.50",
		"@.db.n":              "1.50",
		"db.users[2]":         "",
		"db.users[-3].name":   "",
		"db.users.name":       "",
		"null":                "",
		"db.n.deeper":         "",
		"missing.field[3].of": "",
	} {
		e, err := fields.Compile(expression)
		if err != nil || !e.Plain() {
			t.Errorf("%s: %v, a plain path: %v", expression, err, e != nil && e.Plain())
			continue
		}
		text, err := fields.Text(e.Find(document))
		if want == "" && err != fields.ErrNull { //nolint:errorlint // it is returned as it is
			t.Errorf("%s: %q, %v, want ErrNull", expression, text, err)
		}
		if string(text) != want {
			t.Errorf("%s: %q, want %q", expression, text, want)
		}
	}
	for _, expression := range []string{"db.users[].name", "db.*", "length(db)", "db.users[?name=='a']", "[db, db]", "`1`", "db.users[0:1]", "a || b"} {
		if e, err := fields.Compile(expression); err != nil || e.Plain() {
			t.Errorf("%s: %v, want no plain path", expression, err)
		}
	}
}

func TestCompileMistakes(t *testing.T) {
	for expression, want := range map[string]string{ //nolint:gosec // no credentials
		"":                           "is not set",
		"a.":                         "is not a JMESPath expression",
		"a[":                         "is not a JMESPath expression",
		"'open":                      "is not a JMESPath expression",
		"db-password":                `quote a name that has hyphens, as in '"db-password"'`,
		strings.Repeat("a.", 600):    "has 1200 bytes",
		strings.Repeat("[", 1024):    "is not a JMESPath expression",
		strings.Repeat("!", 1024):    "is not a JMESPath expression",
		strings.Repeat("(", 1024):    "is not a JMESPath expression",
		"a[99999999999999999999]":    "is not a JMESPath expression",
		"foo(":                       "is not a JMESPath expression",
		strings.Repeat("\x00", 10):   "is not a JMESPath expression",
		strings.Repeat("a[?b", 200):  "is not a JMESPath expression",
		strings.Repeat("let $a", 99): "is not a JMESPath expression",
	} {
		if _, err := fields.Compile(expression); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 200 {
			t.Errorf("%.20q: %v, want %q", expression, err, want)
		}
	}
}

func TestText(t *testing.T) {
	for want, value := range map[string]any{
		"plain <text>":           "plain <text>",
		"true":                   true,
		"1.0":                    json.Number("1.0"),
		`{"a":"<&>","b":[1,{}]}`: map[string]any{"b": []any{json.Number("1"), map[string]any{}}, "a": "<&>"},
		"[]":                     []any{},
		"":                       "",
	} {
		if got, err := fields.Text(value); err != nil || string(got) != want {
			t.Errorf("%v: %q, %v, want %q", value, got, err, want)
		}
	}
	// lists that share their elements: 2^40 elements in 40 small lists
	var shared any = planted
	for range 40 {
		shared = []any{shared, shared}
	}
	if _, err := fields.Text(shared); err == nil || strings.Contains(err.Error(), planted) {
		t.Errorf("a result of a terabyte: %v", err)
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"password", "DB_URL", "a.b", "tls-key", "with space", "schlüssel", "ключ", "鍵", "a:b", "…"[:0] + "x", "e\u0301"} {
		if err := fields.CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", ".", "..", "..data", "a/b", "/etc", "../x", "a\x00", "a\n", "\u2025", "\uff0e\uff0e", "a\u2215b", "a\u202eb", "a\u200bb", "x\xff",
		strings.Repeat("n", 256), "😀",
	} {
		if err := fields.CheckName(name); err == nil || !strings.Contains(err.Error(), "cannot be a file") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
