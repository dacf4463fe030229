package fields_test

import (
	"encoding/json"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/fields"
)

// fuzzDecode checks that a decoded value can be written, and reads back as the same value.
func fuzzDecode(f *testing.F, format fields.Format, seeds ...string) {
	f.Helper()
	for _, seed := range seeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		value, err := fields.Decode(text, format)
		if err != nil {
			return
		}
		if _, isText := value.(string); isText || value == nil {
			return
		}
		written, err := fields.Text(value)
		if err != nil {
			return // larger than what it was made of: YAML's aliases
		}
		if !json.Valid(written) {
			t.Fatalf("%q is not JSON", written)
		}
		again, err := fields.Decode(string(written), fields.JSON)
		if err != nil && len(written) <= fields.MaxSize {
			t.Fatalf("%q: %v", written, err)
		}
		if err == nil {
			if second, err := fields.Text(again); err != nil || string(second) != string(written) {
				t.Fatalf("%q becomes %q, %v", written, second, err)
			}
		}
	})
}

func FuzzJSON(f *testing.F) {
	fuzzDecode(f, fields.JSON, `{"a":[1,2.5e3,null,true,"x"],"b":{"c":{}}}`, `{"a":1,"a":2}`, `[[[[`, `"x"`, `1`)
}

func FuzzYAML(f *testing.F) {
	fuzzDecode(f, fields.YAML, "a: &a [1, 0x2, .inf]\nb: {<<: {c: *a}}\n", "a: !!binary aGk=\n? [x]\n: y", "- - - -", "&a [*a]", "!!float 1_0e5")
}

func FuzzDotenv(f *testing.F) {
	fuzzDecode(f, fields.Dotenv, "A=1\nexport B='x\ny' # z\nC=\"\\n\\q\"\n", "A", "A='", "=", "\ufeff")
}

func FuzzProperties(f *testing.F) {
	fuzzDecode(f, fields.Properties, "a=1\nb\\ c : d \\\n  e\n", "\\ud83d\\ude00=\\u00fc", "\\", "#\n!", "a\\\\\\\n=")
}

func FuzzExpression(f *testing.F) {
	for _, seed := range []string{"a.b[0]", `"x y"."z"`, "a[?b=='c'].d | [0]", "sort_by(@, &x)", "let $a = b in $a", "`{}`", "[[[", "a-b", "@", "$"} {
		f.Add(seed)
	}
	document, err := fields.Decode(`{"a":{"b":[1,{"c":"x"}]},"x y":{"z":null}}`, fields.JSON)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := fields.Compile(text)
		if err != nil || !e.Plain() {
			return
		}
		if _, err := fields.Text(e.Find(document)); err != nil && err != fields.ErrNull { //nolint:errorlint // it is returned as it is
			t.Fatal(err)
		}
	})
}
