package push

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"
)

//nolint:gosec // names of a vault's object, and no credentials
const (
	cloudEvent = `{"id":"e1","source":"/subscriptions/s/resourceGroups/g/providers/Microsoft.KeyVault/vaults/shop","specversion":"1.0",
"type":"Microsoft.KeyVault.SecretNewVersionCreated","subject":"Db-Password","time":"2026-01-02T03:04:05.1234567Z","data":{
"Id":"https://Shop.vault.azure.net/secrets/Db-Password/0123456789ABCDEF0123456789abcdef","VaultName":"shop","ObjectType":"Secret",
"ObjectName":"Db-Password","Version":"0123456789ABCDEF0123456789abcdef","NBF":%s,"EXP":%s}}`
	gridEvent = `{"id":"e1","topic":"/subscriptions/s/vaults/shop","subject":"Db-Password","eventType":"Microsoft.KeyVault.SecretNewVersionCreated",
"eventTime":"2026-01-02T03:04:05.1234567Z","data":{"Id":"https://shop.vault.azure.net/secrets/db-password/0123456789abcdef0123456789abcdef",
"vaultName":"shop","objectType":"Secret","objectName":"db-password","version":"0123456789abcdef0123456789abcdef","nbf":%s,"exp":%s},
"dataVersion":"1","metadataVersion":"1"}`
)

func TestParse(t *testing.T) {
	want := Event{
		ID: "e1", Host: "shop.vault.azure.net", Name: "db-password", Version: "0123456789abcdef0123456789abcdef",
		Time: time.Date(2026, 1, 2, 3, 4, 5, 123456700, time.UTC), NewVersion: true,
	}
	for _, schema := range []string{cloudEvent, gridEvent} {
		for _, times := range [][2]any{{`"1767323045"`, `"1767323045"`}, {"1767323045", "1767323045.5"}, {"null", "null"}, {`""`, "true"}} {
			one := fmt.Sprintf(schema, times[0], times[1])
			for text, count := range map[string]int{one: 1, "[" + one + "]": 1, "\ufeff": 0, " [" + one + "," + one + "] ": 2, "[]": 0} {
				events, refused, err := Parse([]byte(text))
				if text == "\ufeff" {
					if err == nil {
						t.Error("a lone byte order mark is an event")
					}
					continue
				}
				if err != nil || len(refused) > 0 || len(events) != count {
					t.Fatalf("%s: %v, %v, %v", text, events, refused, err)
				}
				for _, event := range events {
					if event != want {
						t.Errorf("%s: %+v", text, event)
					}
				}
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const event = `{"id":"e","type":%q,"data":{"Id":%q}}`
	const created = "Microsoft.KeyVault.SecretNewVersionCreated"
	long := strings.Repeat("x", 10_000)
	for name, text := range map[string]string{
		"another type":         fmt.Sprintf(event, "Microsoft.Storage.BlobCreated", "https://v.vault.azure.net/secrets/a/1"),
		"no type":              `{"id":"e"}`,
		"no data":              fmt.Sprintf(`{"type":%q}`, created),
		"data that is text":    fmt.Sprintf(`{"type":%q,"data":"x"}`, created),
		"no URL":               fmt.Sprintf(event, created, "secrets/a/1"),
		"plain http":           fmt.Sprintf(event, created, "http://v.vault.azure.net/secrets/a/1"),
		"a port":               fmt.Sprintf(event, created, "https://v.vault.azure.net:8443/secrets/a/1"),
		"a user":               fmt.Sprintf(event, created, "https://x@v.vault.azure.net/secrets/a/1"),
		"no name":              fmt.Sprintf(event, created, "https://v.vault.azure.net/secrets/"),
		"another collection":   fmt.Sprintf(event, created, "https://v.vault.azure.net/storage/a/1"),
		"a path":               fmt.Sprintf(event, created, "https://v.vault.azure.net/secrets/a/1/2"),
		"a name with a slash":  fmt.Sprintf(event, created, "https://v.vault.azure.net/secrets/a%2fb/1"),
		"a name with a quote":  fmt.Sprintf(event, created, `https://v.vault.azure.net/secrets/a"b/1`),
		"a wildcard":           fmt.Sprintf(event, created, "https://v.vault.azure.net/secrets/*/1"),
		"a host that is one":   fmt.Sprintf(event, created, "https://*/secrets/a/1"),
		"an address":           fmt.Sprintf(event, created, "https://[::1]/secrets/a/1"),
		"a long name":          fmt.Sprintf(event, created, "https://v.vault.azure.net/secrets/"+long),
		"a type that is long":  fmt.Sprintf(event, long, "https://v.vault.azure.net/secrets/a/1"),
		"a host that is long":  fmt.Sprintf(event, created, "https://"+long+".vault.azure.net/secrets/a/1"),
		"a version with signs": fmt.Sprintf(event, created, "https://v.vault.azure.net/secrets/a/<script>"),
	} {
		events, refused, err := Parse([]byte(text))
		if err != nil || len(events) != 0 || len(refused) != 1 || len(refused[0].Error()) > 300 {
			t.Errorf("%s: %v, %v, %v", name, events, refused, err)
		}
	}
	for name, text := range map[string]string{
		"nothing": "", "no JSON": "hello", "a number": "1", "half": `{"id":`, "two": "{} {}", "deep": strings.Repeat("[", 100_000),
		"big": `"` + strings.Repeat("x", mostBytes) + `"`, "many": "[" + strings.Repeat("{},", mostEvents) + "{}]",
		"an array of numbers": "[1]", "an id that is a number": `{"id":1}`,
	} {
		if events, refused, err := Parse([]byte(text)); err == nil {
			t.Errorf("%s: %d, %d", name, len(events), len(refused))
		}
	}
	events, refused, err := Parse([]byte("[" + fmt.Sprintf(event, "x", "y") + "," + fmt.Sprintf(cloudEvent, "1", "2") + "]"))
	if err != nil || len(events) != 1 || len(refused) != 1 {
		t.Errorf("a good event beside a bad one: %v, %v, %v", events, refused, err)
	}
}

// TestOneChangeIsOneKey: a new version of a certificate is three events with one id of the version.
func TestOneChangeIsOneKey(t *testing.T) {
	keys := map[string]bool{}
	for i, collection := range []string{"certificates", "secrets", "keys"} {
		kind := []string{"Certificate", "Secret", "Key"}[i]
		events, _, err := Parse(fmt.Appendf(nil, `{"id":"e%d","type":"Microsoft.KeyVault.%sNewVersionCreated","data":{"Id":"https://v.vault.azure.net/%s/web/1F"}}`,
			i, kind, collection))
		if err != nil || len(events) != 1 {
			t.Fatal(events, err)
		}
		keys[events[0].key()] = true
	}
	if len(keys) != 1 {
		t.Errorf("%v", keys)
	}
	events, _, err := Parse([]byte(`{"id":"e","type":"Microsoft.KeyVault.SecretNearExpiry","data":{"Id":"x"}}`))
	if err != nil || len(events) != 1 || events[0].NewVersion {
		t.Errorf("%v, %v", events, err)
	}
}

func TestDecodeMessage(t *testing.T) {
	for text, want := range map[string]string{
		base64.StdEncoding.EncodeToString([]byte(`{"a":1}`)): `{"a":1}`, "\n{\"a\":1}": `{"a":1}`, "[]": "[]", "": "",
	} {
		if got, err := decodeMessage(text); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if got, err := decodeMessage("not base64!"); err == nil {
		t.Errorf("%q", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(cloudEvent, "1", "null")))
	f.Add([]byte("[" + fmt.Sprintf(gridEvent, `"1"`, "2") + "]"))
	f.Fuzz(func(t *testing.T, body []byte) {
		events, refused, err := Parse(body)
		if err != nil && len(events)+len(refused) > 0 {
			t.Errorf("%v, %v, %v", events, refused, err)
		}
		for _, e := range events {
			if e.NewVersion && (!vaultHost.MatchString(e.Host) || !objectName.MatchString(e.Name) || e.Host != strings.ToLower(e.Host)) || len(e.ID) > 128 {
				t.Errorf("%+v", e)
			}
		}
	})
}

func FuzzDecodeMessage(f *testing.F) {
	f.Add("eyJhIjoxfQ==")
	f.Fuzz(func(_ *testing.T, text string) {
		body, err := decodeMessage(text)
		if err == nil {
			_, _, _ = Parse(body)
		}
	})
}
