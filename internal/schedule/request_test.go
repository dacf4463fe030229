package schedule

import (
	"strings"
	"testing"
	"time"
)

func TestParseRequest(t *testing.T) {
	for text, want := range map[string]Request{
		"7f3a/5s":                           {ID: "7f3a", Spread: 5 * time.Second},
		"A.b-c_9/0s":                        {ID: "A.b-c_9"},
		"x/0":                               {ID: "x"},
		strings.Repeat("i", 64) + "/1h0m0s": {ID: strings.Repeat("i", 64), Spread: time.Hour},
	} {
		got, err := ParseRequest(text)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		if again, err := ParseRequest(got.String()); err != nil || again != got {
			t.Errorf("%q is %q again: %+v, %v", text, got, again, err)
		}
	}
	for _, text := range []string{
		"", "/", "x", "x/", "/5s", "x/5", "x/-1s", "x/1h1ns", "x/5s/5s", "a b/5s", "ä/5s", strings.Repeat("i", 65) + "/5s", "x/ 5s", "x/5s\n",
		strings.Repeat("9", 1<<18),
	} {
		if got, err := ParseRequest(text); err == nil || len(err.Error()) > 500 || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.80q: %+v, %v", text, got, err)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add("7f3a/5s")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseRequest(text)
		if err != nil {
			return
		}
		if again, err := ParseRequest(got.String()); err != nil || again != got || got.Spread < 0 || got.Spread > MaxSpread {
			t.Errorf("%q: %+v, %+v, %v", text, got, again, err)
		}
	})
}
