package canary

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
)

// TestCanaryIsFoundInEveryForm proves that the search can fail, and that it does not print what it found.
func TestCanaryIsFoundInEveryForm(t *testing.T) {
	for _, value := range []string{"canary-3f9a7c", "s3cret"} {
		quoted, err := json.Marshal("password: " + value)
		if err != nil {
			t.Fatal(err)
		}
		texts := map[string]string{
			"as it is": "before " + value + " after", "JSON": string(quoted), "hexadecimal": hex.EncodeToString([]byte(value)),
			"upper case": strings.ToUpper(hex.EncodeToString([]byte("xx" + value))),
		}
		for lead := range 6 {
			text := []byte(strings.Repeat("x", lead) + value + "yz")
			texts["base64, "+string(rune('0'+lead))] = base64.StdEncoding.EncodeToString(text)
			texts["base64 for URLs, "+string(rune('0'+lead))] = base64.RawURLEncoding.EncodeToString(text)
		}
		for form, text := range texts {
			found := Find("a line\n" + text)
			if found == "" {
				t.Errorf("%s of %s is not found: %s", form, value, text)
			}
			if strings.Contains(found, value) {
				t.Errorf("%s: the value is printed: %s", form, found)
			}
		}
	}
	for _, text := range []string{"", "a canary release", "secret", "Y2FuYXJ"} {
		if found := Find(text); found != "" {
			t.Errorf("%q: %s", text, found)
		}
	}
}
