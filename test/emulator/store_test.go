package emulator_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

// TestDataDirKeepsEverything has another emulator begin with the directory of one that did not stop in order.
func TestDataDirKeepsEverything(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first := newWireWith(t, emulator.Options{DataDir: dir})
	first.send(http.MethodPut, "/secrets/new", `{"value":"v","contentType":"c","tags":{"a":"b"},"attributes":{"exp":4102444800}}`)
	first.send(http.MethodPut, "/secrets/gone", `{"value":"v"}`)
	first.send(http.MethodDelete, "/secrets/gone", "")
	backup := first.send(http.MethodPost, "/secrets/Alpha/backup", "").field(t, "value")
	first.send(http.MethodDelete, "/secrets/Alpha", "")
	first.send(http.MethodDelete, "/deletedsecrets/Alpha", "")
	first.send(http.MethodPut, "/certificates/contacts", `{"contacts":[{"email":"a@example.com"}]}`)
	first.send(http.MethodPut, "/certificates/issuers/ca", `{"provider":"Test"}`)
	created := first.send(http.MethodPost, "/certificates/made/create", `{"policy":{"issuer":{"name":"Self"},"x509_props":{"subject":"CN=made"},`+
		`"key_props":{"kty":"EC","crv":"P-256"}}}`)
	if created.status != http.StatusAccepted {
		t.Fatalf("create: %d %s", created.status, created.body)
	}
	hidden := first.send(http.MethodPost, "/keys/rsa/encrypt", `{"alg":"RSA-OAEP","value":"c2VjcmV0"}`).field(t, "value")
	paths := []string{
		"/secrets", "/secrets/new", "/secrets/db", "/secrets/db/versions", "/secrets/web", "/keys", "/keys/rsa", "/keys/ec", "/deletedsecrets",
		"/deletedsecrets/gone", "/certificates", "/certificates/web", "/certificates/web/policy", "/certificates/made",
		"/certificates/made/policy", "/certificates/contacts", "/certificates/issuers/ca",
	}
	before := map[string]answer{}
	for _, path := range paths {
		before[path] = first.get(path)
	}

	// The state as a kill leaves it: a new emulator does not see what the old one does when it closes.
	copied := filepath.Join(t.TempDir(), "copied")
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, filepath.Join(dir, "state.json")} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %s: others read it", name, info.Mode())
		}
	}
	half := filepath.Join(copied, "state.json.1.tmp")
	if err := os.WriteFile(half, []byte(`{"half`), 0o600); err != nil {
		t.Fatal(err)
	}
	second := newWireWith(t, emulator.Options{DataDir: copied})
	if _, err := os.Stat(half); err == nil {
		t.Error("what a kill left is still there")
	}
	for _, path := range paths {
		if got := second.get(path); got.status != http.StatusOK || got.body != before[path].body {
			t.Errorf("%s is\n%d %s, was\n%d %s", path, got.status, got.body, before[path].status, before[path].body)
		}
	}
	if got := second.send(http.MethodPost, "/keys/rsa/decrypt", `{"alg":"RSA-OAEP","value":"`+hidden+`"}`).field(t, "value"); got != "c2VjcmV0" {
		t.Errorf("decrypted: %s", got)
	}
	if a := second.get("/secrets/Alpha"); a.status != http.StatusNotFound {
		t.Errorf("what was purged is there again: %d", a.status)
	}
	if a := second.send(http.MethodPost, "/secrets/restore", `{"value":"`+backup+`"}`); a.status != http.StatusOK {
		t.Errorf("restore: %d %s", a.status, a.body)
	}
	if !bytes.Equal(first.CAPEM(), second.CAPEM()) {
		t.Error("the authority is another one")
	}
}

// TestDataDirBesideSeed holds what the seed adds to a directory.
func TestDataDirBesideSeed(t *testing.T) {
	dir := t.TempDir()
	start := func(more string) *emulator.Server {
		return emulatortest.StartWith(t, factsSeed+more, emulator.Options{DataDir: dir})
	}
	s := start("")
	if _, err := s.SetSecret("contoso", emulator.Secret{Name: "db", Value: "v3"}); err != nil {
		t.Fatal(err)
	}
	s.AdvanceClock(48 * time.Hour)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = start("- name: added\n  tenant: " + factsTenant + "\n  secrets: [{name: x, value: y}]\n")
	_, _, body := browse(t, s, http.MethodGet, pageSecret, nil, nil)
	if !strings.Contains(body, "3 versions of the secret db") {
		t.Errorf("the secret is not as it was: %s", body)
	}
	if _, _, body := browse(t, s, http.MethodGet, "/", nil, nil); !strings.Contains(body, "ahead of this machine's by 48h0m0s") {
		t.Errorf("the clock is not as it was: %s", body)
	}
	if status, _, _ := browse(t, s, http.MethodGet, "/page/vaults/added/secrets/x", nil, nil); status != http.StatusOK {
		t.Errorf("a vault that is new in the seed: %d", status)
	}
}

func TestDataDirThatCannotBeUsed(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON": "{", "another format": `{"format":9}`, "a key that is none": `{"format":1,"sealer":"` + strings.Repeat("A", 43) + `=","vaults":[{"host":"v.vault.azure.net",` +
			`"name":"v","objects":[{"kind":"keys","name":"k","versions":[{"id":"1","privateKey":"AAAA"}]}]}]}`,
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "state.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := emulator.New(emulator.Options{DataDir: dir}); err == nil || !strings.HasPrefix(err.Error(), "data directory: ") {
			t.Errorf("%s: %v, %v", name, s, err)
		}
		if left, err := os.ReadFile(file); err != nil || string(left) != text {
			t.Errorf("%s: the file is now %q, %v", name, left, err)
		}
	}

	dir := filepath.Join(t.TempDir(), "data")
	w := newWireWith(t, emulator.Options{DataDir: dir})
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	if a := w.send(http.MethodPut, "/secrets/new", setBody); a.status != http.StatusInternalServerError || !strings.Contains(a.body, "data directory") {
		t.Errorf("a write that is not kept: %d %s", a.status, a.body)
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	if a := w.get("/secrets/new"); a.status != http.StatusOK {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
}
