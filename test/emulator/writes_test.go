package emulator_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

// The tests of this file hold the emulator's writes to facts from recordings of the real service. docs/emulator.md says
// which.

// send makes a request of a vault with a token and a JSON body. A path without a host is of the vault contoso.
func (w *wire) send(method, path, body string) answer {
	w.t.Helper()
	if !strings.HasPrefix(path, "https://") {
		path = factsHost + path
	}
	if !strings.Contains(path, "api-version=") {
		path += "?api-version=2025-07-01"
	}
	r := w.request(method, path, body)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if w.bearer != "" {
		r.Header.Set("Authorization", "Bearer "+w.bearer)
	}
	return w.do(r)
}

// field returns a string of the answer's body.
func (a answer) field(t *testing.T, name string) string {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal([]byte(a.body), &fields); err != nil {
		t.Fatalf("%s: %v", a.body, err)
	}
	text, ok := fields[name].(string)
	if !ok {
		t.Fatalf("no %s in %s", name, a.body)
	}
	return text
}

const recovery = `"recoveryLevel":"Recoverable+Purgeable","recoverableDays":90`

func TestSetAndUpdateSecrets(t *testing.T) {
	w := newWire(t)
	first := w.send(http.MethodPut, "/secrets/new", `{"attributes":{"enabled":true,"nbf":1893459661},"contentType":"big secret",`+
		`"tags":{"tag":"value"},"value":"v1"}`)
	first.is(t, "set", http.StatusOK, `{"value":"v1","contentType":"big secret","id":"`+factsHost+`/secrets/new/…","attributes":{"enabled":true,`+
		`"nbf":1893459661,"created":…,"updated":…,`+recovery+`},"tags":{"tag":"value"}}`)
	w.get("/secrets/new").is(t, "get", http.StatusOK, first.body)
	_, version, _ := strings.Cut(first.field(t, "id"), "/secrets/new/")
	const unchanged = `"contentType":"big secret","id":"…/secrets/new/…","attributes":{"enabled":…,"nbf":1893459661,"exp":2208992461,…},"tags":`
	w.send(http.MethodPatch, "/secrets/new/"+version, `{"attributes":{"exp":2208992461}}`).is(t, "an update has no value", http.StatusOK,
		`{`+unchanged+`{"tag":"value"}}`)
	w.send(http.MethodPatch, "/secrets/new/", `{"attributes":{"enabled":false},"tags":{"c":"3"}}`).is(t,
		"an update without version is of the current one, and tags replace tags", http.StatusOK, `{`+unchanged+`{"c":"3"}}`)
	w.get("/secrets/new").is(t, "disabled", http.StatusForbidden, `{…"SecretDisabled"…}`)
	w.send(http.MethodPatch, "/secrets/new/", `{"attributes":{"exp":1798761600}}`).is(t, "a disabled one is updated", http.StatusOK,
		`{…"enabled":false,…"exp":1798761600,…}`)
	second := w.send(http.MethodPut, "/secrets/NEW", `{"value":"","attributes":{}}`)
	second.is(t, "an empty value makes a version", http.StatusOK, `{"value":"","id":"…/secrets/new/…","attributes":{…}}`)
	w.get("/secrets/new").is(t, "the new version is current", http.StatusOK, `{"value":"",…}`)
	w.send(http.MethodPatch, "/secrets/new/"+version, `{"attributes":{"enabled":true}}`)
	w.get("/secrets/new/"+version).is(t, "the old one stays", http.StatusOK, `{"value":"v1",…}`)
	w.send(http.MethodPatch, "/secrets/none/", `{}`).is(t, "none", http.StatusNotFound, `{…"A secret with (name/id) none was not found …"}}`)
	w.send(http.MethodPut, "/secrets/web", `{"value":"x"}`).is(t, "a certificate's", http.StatusForbidden, `{"error":{"code":"Forbidden",…}}`)
	w.send(http.MethodPut, "/secrets/old?api-version=7.0", `{"value":"x"}`).is(t, "an old version of the API", http.StatusOK,
		`{"value":"x","id":"…","attributes":{"enabled":true,"created":…,"updated":…,"recoveryLevel":"Recoverable+Purgeable"}}`)
}

func TestDeleteRecoverAndPurge(t *testing.T) {
	for _, tc := range []struct{ kind, noun, title, name, deleted string }{
		{"secrets", "secret", "Secret", "db", `"contentType":"text/plain","id":"…/secrets/db/0…","attributes":{…},"tags":{"team":"shop"}}`},
		{"keys", "key", "Key", "ec", `"key":{"kid":"…","kty":"EC-HSM",…},"attributes":{…},"tags":{"a":"b"}}`},
		{"certificates", "certificate", "Certificate", "web", `"id":"…","kid":"…","sid":"…",…"policy":{…},"pending":{…}}`},
	} {
		t.Run(tc.kind, func(t *testing.T) {
			w := newWire(t)
			path := "/" + tc.kind + "/" + tc.name
			gone := "/deleted" + tc.kind + "/" + tc.name
			missing := `{"error":{"code":"` + tc.title + `NotFound","message":"A ` + tc.noun + ` with (name/id) none was not found …"}}`
			w.send(http.MethodDelete, "/"+tc.kind+"/none", "").is(t, "delete none", http.StatusNotFound, missing)
			w.send(http.MethodPost, "/deleted"+tc.kind+"/none/recover", "").is(t, "recover none", http.StatusNotFound, missing)
			w.send(http.MethodDelete, gone, "").is(t, "purge what is not deleted", http.StatusNotFound,
				`{"error":{"code":"`+tc.title+`NotFound","message":"Deleted `+tc.title+` not found: `+tc.name+`"}}`)
			head := `{"recoveryId":"` + factsHost + gone + `","deletedDate":…,"scheduledPurgeDate":…,`
			deleted := w.send(http.MethodDelete, path, "")
			deleted.is(t, "delete", http.StatusOK, head+tc.deleted)
			w.get(path).is(t, "deleted", http.StatusNotFound, `{…}`)
			w.get(gone).is(t, "get deleted", http.StatusOK, deleted.body)
			recovered := w.send(http.MethodPost, gone+"/recover", "")
			recovered.is(t, "recover", http.StatusOK, "{"+tc.deleted)
			if a := w.get(path); a.status != http.StatusOK {
				t.Errorf("recovered: %+v", a)
			}
			w.send(http.MethodDelete, path, "")
			purged := w.send(http.MethodDelete, gone, "")
			purged.is(t, "purge", http.StatusNoContent, "")
			purged.has(t, "purge", map[string]string{"Content-Type": "", "Content-Length": ""})
			w.get(gone).is(t, "purged", http.StatusNotFound, `{…"A `+tc.noun+` with (name/id) `+tc.name+` was not found …"}}`)
		})
	}
}

func TestNamesOfDeletedObjectsAreTaken(t *testing.T) {
	w := newWire(t)
	w.send(http.MethodDelete, "/secrets/db", "")
	w.send(http.MethodPut, "/secrets/db", `{"value":"x"}`).is(t, "set", http.StatusConflict, `{"error":{"code":"Conflict","message":"Secret db is `+
		`currently in a deleted but recoverable state, and its name cannot be reused; in this state, the secret can only be recovered or `+
		`purged.","innererror":{"code":"ObjectIsDeletedButRecoverable"}}}`)
	w.AdvanceClock(91 * 24 * time.Hour)
	w.bearer = w.tokenOf(factsClient)
	w.send(http.MethodPut, "/secrets/db", `{"value":"x"}`).is(t, "set after the retention", http.StatusOK, `{"value":"x",…}`)
}

func TestACertificateTakesItsSecretAndKeyAlong(t *testing.T) {
	w := newWire(t)
	for _, kind := range []string{"secrets", "keys"} {
		w.send(http.MethodDelete, "/"+kind+"/web", "").is(t, "delete of "+kind, http.StatusForbidden, `{…}`)
		w.send(http.MethodPost, "/"+kind+"/web/backup", "").is(t, "backup of "+kind, http.StatusForbidden, `{…}`)
	}
	backup := w.send(http.MethodPost, "/certificates/web/backup", "")
	value := w.get("/secrets/web").body
	w.send(http.MethodDelete, "/certificates/web", "")
	for _, kind := range []string{"secrets", "keys"} {
		w.get("/"+kind+"/web").is(t, "deleted with it", http.StatusNotFound, `{…}`)
		w.send(http.MethodPost, "/deleted"+kind+"/web/recover", "").is(t, "recover of "+kind, http.StatusForbidden, `{…}`)
	}
	w.send(http.MethodPost, "/certificates/restore", backup.body).is(t, "restore while deleted", http.StatusConflict, `{…}`)
	w.send(http.MethodDelete, "/deletedcertificates/web", "")
	w.get("/deletedsecrets/web").is(t, "purged with it", http.StatusNotFound, `{…}`)
	w.send(http.MethodPost, "/certificates/restore", backup.body).is(t, "restore", http.StatusOK, `{"id":"…/certificates/web/2…",…}`)
	w.get("/secrets/web").is(t, "its secret is restored", http.StatusOK, value)
}

func TestBackupAndRestore(t *testing.T) {
	w := newWire(t)
	missing := w.send(http.MethodPost, "/secrets/none/backup", "")
	missing.is(t, "backup none", http.StatusNotFound, `{…"A secret with (name/id) none was not found …"}}`)
	backup := w.send(http.MethodPost, "/secrets/db/backup", "")
	backup.is(t, "backup", http.StatusOK, `{"value":"…"}`)
	latest, versions := w.get("/secrets/db").body, w.get("/secrets/db/versions").body
	w.send(http.MethodPost, "/secrets/restore", backup.body).is(t, "restore what exists", http.StatusConflict,
		`{"error":{"code":"Conflict","message":"There was a conflict restoring the secret '`+factsHost+`/secrets/db/00000000000000000000000000000000'. `+
			`This can happen if either: a second secret with the same name was created after the first secret was deleted; …"}}`)
	w.send(http.MethodDelete, "/secrets/db", "")
	w.send(http.MethodDelete, "/deletedsecrets/db", "")
	w.send(http.MethodPost, "/secrets/restore", backup.body).is(t, "restore", http.StatusOK,
		`{"contentType":"text/plain","id":"…/secrets/db/00000000000000000000000000000000","attributes":{…},"tags":{"team":"shop"}}`)
	w.get("/secrets/db").is(t, "restored", http.StatusOK, latest)
	w.get("/secrets/db/versions").is(t, "restored versions", http.StatusOK, versions)
	if err := w.Grant("policies", factsClient, "*"); err != nil {
		t.Fatal(err)
	}
	other := "https://policies.vault.azure.net"
	w.send(http.MethodDelete, other+"/secrets/db", "")
	w.send(http.MethodDelete, other+"/deletedsecrets/db", "")
	w.send(http.MethodPost, other+"/secrets/restore", backup.body).is(t, "into another vault", http.StatusOK, `{…"id":"`+other+`/secrets/db/0…",…}`)
	const corrupt = `{"error":{"code":"Malformed backup blob","message":"Backup blob is corrupt."}}`
	for _, body := range []string{`{"value":"bm9uLWV4aXN0aW5n"}`, `{"value":"?"}`, `{}`, strings.Replace(backup.body, backup.body[40:44], "AAAA", 1)} {
		w.send(http.MethodPost, "/secrets//restore", body).is(t, "restore "+body, http.StatusBadRequest, corrupt)
	}
	w.send(http.MethodPost, "/keys/restore", backup.body).is(t, "as another kind", http.StatusBadRequest, corrupt)
}

// TestBackupHidesTheValue uses a value that is too long to be in random bytes by chance.
func TestBackupHidesTheValue(t *testing.T) {
	w := newWire(t)
	const value = "correct horse battery staple"
	w.send(http.MethodPut, "/secrets/phrase", `{"value":"`+value+`"}`).is(t, "set", http.StatusOK, `{…"value":"`+value+`"…}`)
	var backup struct{ Value string }
	if err := json.Unmarshal([]byte(w.send(http.MethodPost, "/secrets/phrase/backup", "").body), &backup); err != nil {
		t.Fatal(err)
	}
	blob, err := base64.RawURLEncoding.DecodeString(backup.Value)
	if err != nil || len(blob) < len(value) {
		t.Fatalf("a backup of %d bytes: %v", len(blob), err)
	}
	if bytes.Contains(blob, []byte(value)) {
		t.Error("a backup shows the value")
	}
}

func TestPurgeProtectionAndRetention(t *testing.T) {
	w := newWire(t)
	for _, tc := range []struct {
		vault, level string
	}{
		{`{name: protected, retentionDays: 90, purgeProtection: true}`, `"recoveryLevel":"Recoverable","recoverableDays":90`},
		{`{name: short, retentionDays: 7}`, `"recoveryLevel":"CustomizedRecoverable+Purgeable","recoverableDays":7`},
		{`{name: both, retentionDays: 7, purgeProtection: true}`, `"recoveryLevel":"CustomizedRecoverable","recoverableDays":7`},
	} {
		seed, err := emulator.ParseSeed([]byte("vaults: [" + tc.vault + "]"))
		if err != nil {
			t.Fatal(err)
		}
		name := seed.Vaults[0].Name
		seed.Vaults[0].Tenant = factsTenant
		if err := w.Apply(seed); err != nil {
			t.Fatal(err)
		}
		if err := w.Grant(name, factsClient, "secrets/*"); err != nil {
			t.Fatal(err)
		}
		host := "https://" + name + ".vault.azure.net"
		w.send(http.MethodPut, host+"/secrets/s", `{"value":"v"}`).is(t, name, http.StatusOK, `{…`+tc.level+`}}`)
		w.send(http.MethodDelete, host+"/secrets/s", "")
		status, form := http.StatusNoContent, ""
		if seed.Vaults[0].PurgeProtection {
			status, form = http.StatusForbidden, `{"error":{"code":"Forbidden","message":"Operation \"purge\" is not allowed because purge protection `+
				`is enabled for this vault. Key Vault service will automatically purge it after the retention period has passed.\r\nVault: `+
				name+`;location=emulator","innererror":{"code":"ForbiddenByPolicy"}}}`
		}
		w.send(http.MethodDelete, host+"/deletedsecrets/s", "").is(t, name, status, form)
	}
	seed := emulator.Seed{Vaults: []emulator.Vault{{Name: "long", RetentionDays: 91}}}
	if err := w.Apply(seed); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("91 days: %v", err)
	}
}

func TestEachWriteNeedsItsPermission(t *testing.T) {
	w := newWire(t)
	for _, tc := range []struct{ method, path, body, permission, action string }{
		{"PUT", "/secrets/db", `{"value":"x"}`, "secrets/set", "secrets/setSecret/action"},
		{"PATCH", "/secrets/db", `{}`, "secrets/set", "secrets/update/action"},
		{"POST", "/secrets/db/backup", "", "secrets/backup", "secrets/backup/action"},
		{"DELETE", "/secrets/db", "", "secrets/delete", "secrets/delete"},
		{"POST", "/deletedsecrets/db/recover", "", "secrets/recover", "secrets/recover/action"},
		{"DELETE", "/deletedsecrets/db", "", "secrets/purge", "secrets/purge/action"},
		{"POST", "/secrets/restore", `{}`, "secrets/restore", "secrets/restore/action"},
		{"POST", "/keys/made/create", `{"kty":"EC"}`, "keys/create", "keys/create/action"},
		{"PUT", "/keys/made", `{}`, "keys/import", "keys/import/action"},
		{"PATCH", "/keys/made", `{}`, "keys/update", "keys/update/action"},
		{"POST", "/keys/made/rotate", "", "keys/rotate", "keys/rotate/action"},
		{"PUT", "/keys/made/rotationpolicy", `{}`, "keys/setrotationpolicy", "keyrotationpolicies/write"},
		{"POST", "/keys/made/sign", `{}`, "keys/sign", "keys/sign/action"},
		{"POST", "/keys/made/verify", `{}`, "keys/verify", "keys/verify/action"},
		{"POST", "/keys/rsa/encrypt", `{}`, "keys/encrypt", "keys/encrypt/action"},
		{"POST", "/keys/rsa/decrypt", `{}`, "keys/decrypt", "keys/decrypt/action"},
		{"POST", "/keys/rsa/wrapkey", `{}`, "keys/wrapKey", "keys/wrap/action"},
		{"POST", "/keys/rsa/unwrapkey", `{}`, "keys/unwrapKey", "keys/unwrap/action"},
		{"POST", "/certificates/made2/create", `{}`, "certificates/create", "certificates/create/action"},
		{"POST", "/certificates/web/pending/merge", `{}`, "certificates/create", "certificates/create/action"},
		{"POST", "/certificates/made2/import", `{}`, "certificates/import", "certificates/import/action"},
		{"PATCH", "/certificates/web", `{}`, "certificates/update", "certificates/update/action"},
		{"PATCH", "/certificates/web/policy", `{}`, "certificates/update", "certificates/update/action"},
		{"PATCH", "/certificates/web/pending", `{}`, "certificates/update", "certificates/update/action"},
		{"DELETE", "/certificates/web/pending", "", "certificates/update", "certificates/update/action"},
		{"PUT", "/certificates/issuers/i", `{"provider":"Test"}`, "certificates/setissuers", "certificatecas/write"},
		{"PATCH", "/certificates/issuers/i", `{}`, "certificates/setissuers", "certificatecas/write"},
		{"DELETE", "/certificates/issuers/i", "", "certificates/deleteissuers", "certificatecas/delete"},
		{"PUT", "/certificates/contacts", `{}`, "certificates/managecontacts", "certificatecontacts/write"},
		{"DELETE", "/certificates/contacts", "", "certificates/managecontacts", "certificatecontacts/write"},
		{"POST", "/keys/made/backup", "", "keys/backup", "keys/backup/action"},
		{"DELETE", "/keys/made", "", "keys/delete", "keys/delete"},
		{"POST", "/deletedkeys/made/recover", "", "keys/recover", "keys/recover/action"},
		{"DELETE", "/deletedkeys/made", "", "keys/purge", "keys/purge/action"},
		{"POST", "/keys/restore", `{}`, "keys/restore", "keys/restore/action"},
	} {
		kind, operation, _ := strings.Cut(tc.permission, "/")
		what := tc.method + " " + tc.path
		if err := w.Grant("contoso", factsClient, "secrets/get", "secrets/list", "keys/get", "certificates/get"); err != nil {
			t.Fatal(err)
		}
		w.send(tc.method, tc.path, tc.body).is(t, what, http.StatusForbidden, `{…Action: 'Microsoft.KeyVault/vaults/`+tc.action+`'…"ForbiddenByRbac"}}}`)
		if err := w.Grant("policies", factsClient); err != nil {
			t.Fatal(err)
		}
		w.send(tc.method, "https://policies.vault.azure.net"+tc.path, tc.body).is(t, what, http.StatusForbidden,
			`{…does not have `+kind+` `+operation+` permission on key vault…"ForbiddenByPolicy"}}}`)
		if err := w.Grant("contoso", factsClient, tc.permission); err != nil {
			t.Fatal(err)
		}
		if a := w.send(tc.method, tc.path, tc.body); a.status == http.StatusForbidden {
			t.Errorf("%s with %s: %+v", what, tc.permission, a)
		}
	}
}

func TestRefusedWrites(t *testing.T) {
	w := newWire(t)
	const invalid = `{"error":{"code":"BadParameter","message":"Property  has invalid value\r\n"}}`
	const bad = `{"error":{"code":"BadParameter","message":"…"}}`
	tags := `{"value":"x","tags":{"a":"b"` + strings.Repeat(`,"a%":"b"`, 15) + `}}`
	for i := range 15 {
		tags = strings.Replace(tags, "%", string(rune('a'+i)), 1)
	}
	for _, tc := range []struct {
		method, path, body string
		status             int
		form               string
	}{
		{"PUT", "/secrets/", `{"value":"x"}`, http.StatusMethodNotAllowed, `{"error":{"code":"MethodNotAllowed","message":"HTTP PUT not allowed"}}`},
		{"POST", "/certificates//create", `{}`, http.StatusMethodNotAllowed, `{"error":{"code":"MethodNotAllowed","message":"HTTP POST not allowed"}}`},
		{"DELETE", "/secrets/db/00000000000000000000000000000000", "", http.StatusMethodNotAllowed, `{…}`},
		{"POST", "/secrets/db/explode", "", http.StatusMethodNotAllowed, `{…}`},
		{"HEAD", "/secrets/db", "", http.StatusMethodNotAllowed, ""},
		{"PUT", "/secrets/bad_name", `{"value":"x"}`, http.StatusBadRequest, `{…"The request URI contains an invalid name: bad_name"}}`},
		{"PUT", "/secrets/" + strings.Repeat("a", 128), `{"value":"x"}`, http.StatusBadRequest, bad},
		{"PUT", "/secrets/..%2f..%2fdb", `{"value":"x"}`, http.StatusNotFound, `{"error":{"code":"NotFound",…}}`},
		{"PUT", "/secrets/a%00b", `{"value":"x"}`, http.StatusBadRequest, bad},
		{"PUT", "/secrets/a", ``, http.StatusBadRequest, invalid},
		{"PUT", "/secrets/a", `{`, http.StatusBadRequest, invalid},
		{"PUT", "/secrets/a", `null`, http.StatusBadRequest, invalid},
		{"PUT", "/secrets/a", `{"value":"x"}{}`, http.StatusBadRequest, invalid},
		{"PUT", "/secrets/a", `{"value":1}`, http.StatusBadRequest, invalid},
		{"PUT", "/secrets/a", `{"value":"x","attributes":{"exp":"soon"}}`, http.StatusBadRequest, invalid},
		{"PUT", "/secrets/a", `{"value":"x","attributes":{"exp":-1}}`, http.StatusBadRequest, invalid},
		{"PUT", "/secrets/a", `{"value":"x","attributes":{"exp":99999999999999}}`, http.StatusBadRequest, invalid},
		{"PUT", "/secrets/a", strings.Repeat("[", 20000), http.StatusBadRequest, invalid},
		{"PUT", "/secrets/a", `{"value":"` + strings.Repeat("x", 25601) + `"}`, http.StatusBadRequest, `{…"Secret is beyond the maximum permitted length of 25600 characters."}}`},
		{"PUT", "/secrets/a", `{"value":"x","contentType":"` + strings.Repeat("x", 256) + `"}`, http.StatusBadRequest, bad},
		{"PUT", "/secrets/a", `{"value":"x","tags":{"` + strings.Repeat("x", 257) + `":"y"}}`, http.StatusBadRequest, bad},
		{"PUT", "/secrets/a", tags, http.StatusBadRequest, bad},
		{"PUT", "/secrets/a", `{"value":"` + strings.Repeat("x", 1<<20) + `"}`, http.StatusRequestEntityTooLarge, bad},
	} {
		what := tc.method + " " + tc.path + " " + tc.body[:min(len(tc.body), 60)]
		w.send(tc.method, tc.path, tc.body).is(t, what, tc.status, tc.form)
	}
	w.get("/secrets/a").is(t, "nothing was set", http.StatusNotFound, `{…}`)
	w.bearer = ""
	w.send(http.MethodPut, "/secrets/a", "").is(t, "without a token", http.StatusUnauthorized, `{…AKV10000…}`)
}

func TestAFaultTakesThePlaceOfAWrite(t *testing.T) {
	w := newWire(t)
	for _, tc := range []struct {
		fault emulator.Fault
		done  bool
	}{
		{emulator.Fault{Kind: emulator.FaultThrottle}, false},
		{emulator.Fault{Kind: emulator.FaultStatus, Status: 500}, false},
		{emulator.Fault{Kind: emulator.FaultHTML}, false},
		{emulator.Fault{Kind: emulator.FaultClaims}, false},
		{emulator.Fault{Kind: emulator.FaultTruncated}, true},
		{emulator.Fault{Kind: emulator.FaultEmpty}, true},
	} {
		tc.fault.Count, tc.fault.Operation = 1, "put secret"
		w.AddFault(tc.fault)
		w.send(http.MethodPut, "/secrets/"+tc.fault.Kind, `{"value":"x"}`)
		if a := w.get("/secrets/" + tc.fault.Kind); (a.status == http.StatusOK) != tc.done {
			t.Errorf("%s: then %d", tc.fault.Kind, a.status)
		}
	}
}

// TestWritesAtTheSameTime finds data races with the race detector, and versions that are lost.
func TestWritesAtTheSameTime(t *testing.T) {
	w := newWire(t)
	var work sync.WaitGroup
	defer work.Wait()
	for range 4 {
		work.Go(func() {
			for range 10 {
				w.send(http.MethodPut, "/secrets/busy", `{"value":"x"}`)
				w.send(http.MethodPatch, "/secrets/db", `{"tags":{"a":"b"}}`)
				w.get("/secrets/db")
				w.send(http.MethodPost, "/keys/ec/rotate", "")
				w.get("/keys/ec/versions")
				w.send(http.MethodPut, "/certificates/issuers/i", `{"provider":"Test"}`)
				w.send(http.MethodPatch, "/certificates/issuers/i", `{"attributes":{"enabled":false}}`)
				w.send(http.MethodPost, "/certificates/web/create", `{}`)
				w.send(http.MethodPatch, "/certificates/web/policy", `{"x509_props":{"validity_months":6}}`)
				w.get("/certificates/web")
			}
		})
	}
	work.Wait()
	for path, want := range map[string]int{"/secrets/busy/versions": 40, "/keys/ec/versions": 41} {
		found := 0
		for link := path + "?maxresults=25"; link != ""; {
			var page struct {
				Value    []any
				NextLink string
			}
			if err := json.Unmarshal([]byte(w.get(link).body), &page); err != nil {
				t.Fatal(err)
			}
			found, link = found+len(page.Value), page.NextLink
		}
		if found != want {
			t.Errorf("%s: %d versions, not %d", path, found, want)
		}
	}
}
