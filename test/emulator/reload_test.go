package emulator_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

// reload applies the seed of these tests with one text for another, which it must have.
func (w *wire) reload(pairs ...string) (emulator.SeedChanges, error) {
	w.t.Helper()
	text := factsSeed
	for pair := range slices.Chunk(pairs, 2) {
		if !strings.Contains(text, pair[0]) {
			w.t.Fatalf("the seed has no %q", pair[0])
		}
		text = strings.Replace(text, pair[0], pair[1], 1)
	}
	seed, err := emulator.ParseSeed([]byte(text))
	if err != nil {
		w.t.Fatal(err)
	}
	return w.Reload(seed)
}

// versions is how many versions an object has.
func (w *wire) versions(path string) int {
	w.t.Helper()
	return strings.Count(w.get(path+"/versions").body, `"id":`)
}

// TestReload changes one thing of the seed in each case, and looks for it through the service's API. Everything was changed through the API
// before: what the seed does not change stays.
func TestReload(t *testing.T) {
	const (
		db     = "  - name: db\n    value: v2\n    version: 00000000000000000000000000000000\n    contentType: text/plain\n"
		alpha  = "  - {name: Alpha, value: a, created: 2026-01-01T00:00:00Z}\n"
		ec     = "  - {name: ec, type: EC-HSM, curve: P-384, tags: {a: b}, created: 2026-01-01T00:00:00Z}\n"
		web1   = "  - {name: web, keyType: EC, version: 11111111111111111111111111111111, tags: {c: d}, created: 2026-01-01T00:00:00Z}\n"
		web2   = "  - {name: web, keyType: EC, version: 22222222222222222222222222222222, tags: {c: d}, created: 2026-01-02T00:00:00Z}\n"
		second = "- name: policies\n"
		grant  = "policies: true\n  grants: [{clientID: " + factsClient + `, permissions: ["secrets/get"]}]`
	)
	type check struct {
		path   string
		status int
		body   string // a part of it
	}
	for name, tc := range map[string]struct {
		pairs []string
		want  emulator.SeedChanges
		look  []check
	}{
		"nothing": {nil, emulator.SeedChanges{}, []check{{"/secrets/db", 200, `"api"`}}},
		"a value": {
			[]string{"value: a,", "value: b,"},
			emulator.SeedChanges{Versions: 1},
			[]check{{"/secrets/Alpha", 200, `"b"`}, {"/secrets/db", 200, `"api"`}},
		},
		"one more entry": {
			[]string{alpha, alpha + "  - {name: ALPHA, value: b, disabled: true}\n"},
			emulator.SeedChanges{Versions: 1},
			[]check{{"/secrets/Alpha", 403, "disabled"}},
		},
		"an entry less": {
			[]string{db, "", "    tags: {team: shop}\n    created: 2026-01-02T00:00:00Z\n    notBefore: 2026-01-01T00:00:00Z\n    expires: 2199-01-01T00:00:00Z\n", ""},
			emulator.SeedChanges{Versions: 1},
			[]check{{"/secrets/db", 200, `"v1"`}, {"/secrets/db/ffffffffffffffffffffffffffffffff", 200, `"v1"`}, {"/secrets/db/00000000000000000000000000000000", 200, `"v2"`}},
		},
		"the value of a version": {
			[]string{"value: v2", "value: v3"},
			emulator.SeedChanges{Versions: 1},
			[]check{{"/secrets/db/00000000000000000000000000000000", 200, `"v3"`}, {"/secrets/db", 200, `"v3"`}},
		},
		"a secret more": {
			[]string{alpha, alpha + "  - {name: more, value: m}\n"},
			emulator.SeedChanges{Versions: 1},
			[]check{{"/secrets/more", 200, `"m"`}},
		},
		"a secret less": {
			[]string{alpha, ""},
			emulator.SeedChanges{Deleted: 1},
			[]check{{"/secrets/Alpha", 404, "SecretNotFound"}, {"/deletedsecrets/Alpha", 200, "recoveryId"}},
		},
		"a value of what the API deleted": {
			[]string{"name: beta, value: b, disabled: true", "name: beta, value: c"},
			emulator.SeedChanges{Versions: 1},
			[]check{{"/secrets/beta", 200, `"c"`}},
		},
		"a key": {
			[]string{"curve: P-384", "curve: P-256"},
			emulator.SeedChanges{Versions: 1},
			[]check{{"/keys/ec", 200, `"crv":"P-256"`}},
		},
		"a key less": {[]string{ec, ""}, emulator.SeedChanges{Deleted: 1}, []check{{"/deletedkeys/ec", 200, "recoveryId"}}},
		"a certificate less": {
			[]string{web1, "", web2, ""},
			emulator.SeedChanges{Deleted: 1},
			[]check{{"/certificates/web", 404, ""}, {"/secrets/web", 404, ""}, {"/deletedkeys/web", 200, ""}},
		},
		"a version of a certificate": {
			[]string{"22222222222222222222222222222222, tags: {c: d}", "22222222222222222222222222222222, tags: {c: e}"},
			emulator.SeedChanges{Versions: 1},
			[]check{{"/certificates/web/22222222222222222222222222222222", 200, `"c":"e"`}, {"/secrets/web/22222222222222222222222222222222", 200, ""}},
		},
		"a vault more": {
			[]string{second, "- {name: third, tenant: " + factsTenant + ", grants: [{clientID: " + factsClient + `, permissions: ["*"]}], secrets: [{name: x, value: y}]}` + "\n" + second},
			emulator.SeedChanges{Vaults: 1, Versions: 1},
			[]check{{"https://third.vault.azure.net/secrets/x", 200, `"y"`}},
		},
		"a vault's settings": {
			[]string{"policies: true", "policies: true\n  network: firewall"},
			emulator.SeedChanges{Vaults: 1},
			[]check{{"https://policies.vault.azure.net/secrets/db", 403, "ForbiddenByFirewall"}},
		},
		"a grant": {
			[]string{grant, strings.Replace(grant, "secrets/get", "keys/get", 1)},
			emulator.SeedChanges{Vaults: 1},
			[]check{{"https://policies.vault.azure.net/secrets/db", 403, "ForbiddenByPolicy"}},
		},
		"a grant less": {
			[]string{grant, "policies: true"},
			emulator.SeedChanges{Vaults: 1},
			[]check{{"https://policies.vault.azure.net/secrets/db", 403, "ForbiddenByPolicy"}},
		},
		"a fault": {
			[]string{"vaults:\n", "faults: [{kind: status, status: 418, name: Alpha}]\nvaults:\n"},
			emulator.SeedChanges{Others: 1},
			[]check{{"/secrets/Alpha", 418, ""}, {"/secrets/off", 503, ""}},
		},
		"settings": {
			[]string{"tenants:\n", "pageSize: 1\nlatency: 1ns\nvaultSuffixes: [vault.example]\nauthorities: [login.example]\ntenants:\n"},
			emulator.SeedChanges{Others: 4},
			[]check{{"/secrets?api-version=7.6&maxresults=25", 200, `"nextLink":"https`}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t)
			w.send(http.MethodPut, "/secrets/db", `{"value":"api"}`)
			w.send(http.MethodPut, "/secrets/mine", `{"value":"api"}`)
			w.send(http.MethodDelete, "/secrets/beta", "")
			w.AddFault(emulator.Fault{Kind: emulator.FaultFailover, Name: "off"})
			w.AddFault(emulator.Fault{Kind: emulator.FaultStatus, Status: 503, Name: "off"})
			if err := w.Grant("policies", "stranger", "secrets/get"); err != nil {
				t.Fatal(err)
			}
			got, err := w.reload(tc.pairs...)
			if err != nil || got != tc.want {
				t.Fatalf("%+v, want %+v: %v", got, tc.want, err)
			}
			for _, c := range append(tc.look, check{"/secrets/mine", 200, `"api"`}) {
				if a := w.send(http.MethodGet, c.path, ""); a.status != c.status || !strings.Contains(a.body, c.body) {
					t.Errorf("%s: %d %s, want %d %s", c.path, a.status, a.body, c.status, c.body)
				}
			}
			if name != "a value of what the API deleted" {
				if a := w.get("/secrets/beta"); a.status != http.StatusNotFound {
					t.Errorf("what the API deleted: %d", a.status)
				}
			}
			// and back: what was deleted is there again, and what was added is not
			if _, err := w.reload(); err != nil {
				t.Fatal(err)
			}
			for path, status := range map[string]int{
				"/secrets/Alpha": 200, "/keys/ec": 200, "/certificates/web": 200, "/secrets/web": 200, "/keys/web": 200, "/secrets/more": 404,
				"https://policies.vault.azure.net/secrets/db": 200, "/secrets/mine": 200,
			} {
				if a := w.send(http.MethodGet, path, ""); a.status != status {
					t.Errorf("%s: %d %s, want %d", path, a.status, a.body, status)
				}
			}
			stranger := w.tokenOf("stranger")
			w.bearer = stranger
			if a := w.send(http.MethodGet, "https://policies.vault.azure.net/secrets/db", ""); a.status != http.StatusOK {
				t.Errorf("a grant of the control API: %d %s", a.status, a.body)
			}
		})
	}
}

// TestReloadOfIdentities changes who gets tokens.
func TestReloadOfIdentities(t *testing.T) {
	const stranger = "  - {clientID: stranger, objectID: b2, secrets: [{value: p4ss}]}\n"
	w := newWire(t)
	sign := func(client, secret string) int {
		return w.post("https://login.microsoftonline.com/"+factsTenant+"/oauth2/v2.0/token", credentials(client, secret)).status
	}
	if _, err := w.reload(stranger, ""); err != nil {
		t.Fatal(err)
	}
	if status := sign("stranger", "p4ss"); status != http.StatusBadRequest {
		t.Errorf("an application that is gone: %d", status)
	}
	if _, err := w.reload("b2, secrets: [{value: p4ss}]", "b2, secrets: [{value: other}]"); err != nil {
		t.Fatal(err)
	}
	if old, now := sign("stranger", "p4ss"), sign("stranger", "other"); old != http.StatusUnauthorized || now != http.StatusOK {
		t.Errorf("another client secret: %d, %d", old, now)
	}
	if changes, err := w.reload(", system: true", ""); err != nil || changes.Others != 2 {
		t.Errorf("%+v, %v", changes, err)
	}
	// without the tenant
	seed, err := emulator.ParseSeed([]byte("vaults: []"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Reload(seed); err != nil {
		t.Fatal(err)
	}
	if status := sign(factsClient, "p4ss"); status != http.StatusBadRequest {
		t.Errorf("a tenant that is gone: %d", status)
	}
	if _, err := w.reload(); err != nil || sign(factsClient, "p4ss") != http.StatusOK {
		t.Errorf("a tenant that is there again: %v", err)
	}
}

// TestReloadThatIsRefused changes something that is right beside what is wrong: neither is done.
func TestReloadThatIsRefused(t *testing.T) {
	w := newWire(t)
	for want, pairs := range map[string][]string{
		`seed: vaults[policies].network: unknown network "closed": firewall, private, or empty`: {"policies: true", "policies: true\n  network: closed"},
		"seed: vaults[policies].retentionDays: 5 days are not between 7 and 90":                 {"policies: true", "policies: true\n  retentionDays: 5"},
		`seed: vaults[contoso].grants[` + factsClient + `].permissions: unknown permission "all": such as`: {
			`permissions: ["*"]`, `permissions: [all]`,
		},
		`seed: vaults[contoso].keys[ec]: curve "P-1" is not known: one of P-256`:                   {"P-384", "P-1"},
		`seed: vaults[contoso].keys[off]: key type "DSA" is not known: one of RSA`:                 {"off, type: EC", "off, type: DSA"},
		`seed: vaults[contoso].certificates[web]: key type "DSA" is not known`:                     {"web, keyType: EC", "web, keyType: DSA"},
		`seed: vaults[contoso].keys[off]: 1000000 bits are not between 0 and 4096`:                 {"off, type: EC", "off, bits: 1000000"},
		`seed: vaults[contoso].certificates[web]: a chain of -1 issuers is not between 0 and 10`:   {"web, keyType: EC", "web, chain: -1"},
		`seed: vaults[contoso].certificates[web]: a chain of 11 issuers is not between 0 and 10`:   {"web, keyType: EC", "web, chain: 11"},
		`seed: vaults[contoso].secrets[a b].name: a name has up to 127 letters, digits and hyphen`: {"name: Alpha", "name: a b"},
		`seed: vaults[a.b].name: a vault's name has letters, digits and hyphens`:                   {"name: policies", "name: a.b"},
		`seed: faults: fault: unknown kind "none": one of challenge`:                               {"vaults:\n", "faults: [{kind: none}]\nvaults:\n"},
		`seed: latency: -1 is negative: write 0 or more`:                                           {"vaults:\n", "latency: -1ns\nvaults:\n"},
		`seed: vaultSuffixes: a host is empty: remove it`:                                          {"vaults:\n", "vaultSuffixes: ['']\nvaults:\n"},
		`seed: issuers[https://i].file: open /none/file`:                                           {"vaults:\n", "issuers: [{issuer: 'https://i', file: /none/file}]\nvaults:\n"},
		`seed: issuers[https://i]: no public key: give publicKey`:                                  {"vaults:\n", "issuers: [{issuer: 'https://i'}]\nvaults:\n"},
		`seed: tenants[` + factsTenant + `].applications: clientID is empty`:                       {"clientID: stranger,", ""},
		`seed: tenants: id is empty: write the tenant's id, or adfs`:                               {"- id: " + factsTenant, "- id: ''"},
		`.applications[stranger].certificates: `:                                                   {"objectID: b2", "objectID: b2, certificates: [none]"},
	} {
		changes, err := w.reload(append(pairs, "value: v}", "value: changed}")...)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") || changes != (emulator.SeedChanges{}) {
			t.Errorf("%s: %v, %+v", want, err, changes)
		}
	}
	if a := w.send(http.MethodGet, "https://policies.vault.azure.net/secrets/db", ""); !strings.Contains(a.body, `"v"`) {
		t.Errorf("%s", a.body)
	}

	if _, err := w.reload("policies: true", "purgeProtection: true"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.reload(); err == nil || !strings.Contains(err.Error(), "purgeProtection: it cannot be switched off") {
		t.Errorf("purge protection: %v", err)
	}

	_, err := w.reload("name: Alpha", "name: a b", "name: beta", "name: b b", "type: RSA", "type: 1", "type: EC-HSM", "type: 2", "off, type: EC", "off, type: 3",
		"web, keyType: EC", "web, keyType: 4")
	if err == nil || !strings.HasSuffix(err.Error(), "; and 2 more") {
		t.Errorf("many mistakes: %v", err)
	}
}

// TestReloadKeepsKeys: a key whose entry did not change is the same key, and a reload is kept in the data directory.
func TestReloadKeepsKeys(t *testing.T) {
	dir := t.TempDir()
	w := newWireWith(t, emulator.Options{DataDir: dir})
	before := w.get("/keys/rsa").body
	if changes, err := w.reload("value: a,", "value: b,"); err != nil || changes.Versions != 1 {
		t.Fatal(changes, err)
	}
	if after := w.get("/keys/rsa").body; after != before {
		t.Errorf("%s\nwas %s", after, before)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	second := newWireWith(t, emulator.Options{DataDir: dir}) // with the seed as it was at first, which is not taken again
	if a := second.get("/secrets/Alpha"); !strings.Contains(a.body, `"b"`) || second.versions("/secrets/Alpha") != 2 {
		t.Errorf("after a start: %s", a.body)
	}
	if changes, err := second.reload(); err != nil || changes != (emulator.SeedChanges{}) {
		t.Errorf("the same seed: %+v, %v", changes, err)
	}
}

// TestSeedsThatAreNone are texts that ParseSeed refuses in one line.
func TestSeedsThatAreNone(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "seed: it is empty",
		"# nothing\n":                    "seed: it is empty",
		"vaults: []\n---\nvaults: []\n":  "seed: more than one document",
		"vault: []":                      "seed: line 1: field vault not found",
		"vaults: {":                      "seed: yaml: ",
		"latency: soon":                  "seed: ",
		"a: &a [x, x]\nvaults: [*a, *b]": "seed: yaml: ",
	} {
		if _, err := emulator.ParseSeed([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
