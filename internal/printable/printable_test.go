package printable

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"a\r\nb\tc":                "a b c",
		"  x \u00a0 y ":            "x y",
		"\x1b[31mred\x1b[0m":       "[31mred [0m",
		"\xffbad\xfe":              "bad",
		"right-to-left \u202e end": "right-to-left end",
	} {
		if got := OneLine(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzCut(f *testing.F) {
	f.Add("short", 10)
	f.Add(strings.Repeat("é", 100), 9)
	f.Add("\xff\xff\xff\xff\xff\xff", 4)
	f.Fuzz(func(t *testing.T, in string, limit int) {
		limit = 3 + int(uint(limit)%2000)
		got := Cut(in, limit)
		if len(got) > limit || len(in) <= limit && got != in || len(in) > limit && !strings.HasSuffix(got, more) {
			t.Errorf("%d bytes of %d: %q", len(got), limit, got)
		}
		if utf8.ValidString(in) && !utf8.ValidString(got) {
			t.Errorf("not UTF-8: %q", got)
		}
	})
}
