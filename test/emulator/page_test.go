package emulator_test

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

const pageSecret = "/page/vaults/contoso.vault.azure.net/secrets/db" //nolint:gosec // a path

// browse asks for a page as a browser does: with the headers given, and following redirects.
func browse(t *testing.T, s *emulator.Server, method, path string, form url.Values, header map[string]string) (int, http.Header, string) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Address()+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, value := range header {
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Set(name, value)
	}
	client := &http.Client{Jar: jar, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

func TestPageShowsWhatThereIs(t *testing.T) {
	s := emulatortest.Start(t, factsSeed)
	s.AddFault(emulator.Fault{Kind: emulator.FaultThrottle, Operation: "get secret", Count: 3})
	for path, wants := range map[string][]string{
		"/": {
			"contoso.vault.azure.net", "access policies", "roles (RBAC)", factsClient, "client secret (1)",
			"system-assigned managed identity", "contoso: *", "fault-1", "throttle", "get secret", `lang="en"`, "Skip to the content",
		},
		"/page/vaults/contoso.vault.azure.net":                  {"Alpha", "beta", "disabled", "(certificate)", "db<span> (secret)"},
		"/page/vaults/contoso":                                  {"contoso.vault.azure.net"},
		pageSecret:                                              {"ffffffffffffffffffffffffffffffff", "text/plain", "team=shop", "2199-01-01T00:00:00Z", "Show the value"},
		"/page/vaults/contoso.vault.azure.net/keys/ec":          {"EC-HSM P-384", "a=b"},
		"/page/vaults/contoso.vault.azure.net/certificates/web": {"11111111111111111111111111111111", "c=d"},
	} {
		status, header, body := browse(t, s, http.MethodGet, path, nil, nil)
		if status != http.StatusOK {
			t.Errorf("%s: status %d", path, status)
		}
		for _, want := range wants {
			if !strings.Contains(body, want) {
				t.Errorf("%s: no %q in\n%s", path, want, body)
			}
		}
		for _, secret := range []string{">v1<", ">v2<", "p4ss"} {
			if strings.Contains(body, secret) {
				t.Errorf("%s shows %q without being asked", path, secret)
			}
		}
		if csp := header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "script-src") {
			t.Errorf("%s: Content-Security-Policy %q", path, csp)
		}
		if strings.Contains(body, "<script") || header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: a script, or Cache-Control %q", path, header.Get("Cache-Control"))
		}
	}
	for _, path := range []string{"/page/vaults/none", "/page/vaults/contoso/secrets/none", "/page/vaults/contoso/nothing/db"} {
		if status, _, body := browse(t, s, http.MethodGet, path, nil, nil); status != http.StatusNotFound || !strings.Contains(body, `role="alert"`) {
			t.Errorf("%s: status %d", path, status)
		}
	}
}

func TestPageForms(t *testing.T) {
	w := newWire(t)
	s := w.Server
	post := func(path string, want int, contains string, fields ...string) string {
		t.Helper()
		form := url.Values{}
		for i := 0; i < len(fields); i += 2 {
			form.Set(fields[i], fields[i+1])
		}
		status, _, body := browse(t, s, http.MethodPost, path, form, nil)
		if status != want || !strings.Contains(body, contains) {
			t.Errorf("%s: status %d, want %d and %q in\n%s", path, status, want, contains, body)
		}
		return body
	}
	value := func(path, want string) {
		t.Helper()
		if got := w.get(path).field(t, "value"); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	vault := "/page/vaults/contoso.vault.azure.net"
	post(pageSecret+"/show", 200, "<pre>v1</pre>", "version", strings.Repeat("f", 32))
	if body := post(pageSecret+"/show", 200, "Show the value", "version", "none"); strings.Contains(body, "<pre>") {
		t.Error("a value is shown of a version that is not there")
	}
	post(vault+"/set", 200, "A new version is set.", "name", "new", "value", "first\r\nline", "contentType", "text/x")
	value("/secrets/new", "first\nline")
	post(vault+"/set", 400, "Nothing was changed", "name", "../up", "value", "x")
	post(vault+"/set", 400, "Nothing was changed", "name", "long", "value", strings.Repeat("x", 25601))
	post(vault+"/set", 400, "Nothing was changed", "name", "longer", "value", strings.Repeat("x", 1<<20))
	post(vault+"/set", 400, "certificate", "name", "web", "value", "x")
	post(pageSecret+"/rotate", 200, "A new version is made.", "value", "v3")
	value("/secrets/db", "v3")
	post(pageSecret+"/rotate", 200, "A new version is made.")
	if got := w.get("/secrets/db").field(t, "value"); got == "v3" || len(got) < 20 {
		t.Errorf("a random value is %q", got)
	}
	key := w.get("/keys/ec").body
	post(vault+"/keys/ec/rotate", 200, "A new version is made.")
	if w.get("/keys/ec").body == key {
		t.Error("the key is the same")
	}
	certificate := w.get("/certificates/web").body
	post(vault+"/certificates/web/rotate", 200, "A new version is made.")
	if w.get("/certificates/web").body == certificate {
		t.Error("the certificate is the same")
	}
	post(vault+"/secrets/Alpha/disable", 200, "The version is disabled.")
	if got := w.get("/secrets/Alpha").status; got != http.StatusForbidden {
		t.Errorf("a disabled secret: %d", got)
	}
	post(vault+"/secrets/Alpha/enable", 200, "The version is enabled.")
	value("/secrets/Alpha", "a")
	post(vault+"/secrets/Alpha/delete", 200, "It is deleted.")
	post(vault+"/secrets/Alpha/rotate", 400, "deleted but recoverable")
	post(vault+"/secrets/Alpha/recover", 200, "It is recovered.")
	value("/secrets/Alpha", "a")
	post("/page/faults", 200, "The fault is injected.", "kind", "status", "status", "503", "operation", "get secret", "count", "1")
	if got := w.get("/secrets/Alpha").status; got != http.StatusServiceUnavailable {
		t.Errorf("with a fault: %d", got)
	}
	post("/page/faults", 400, "status is missing", "kind", "status")
	post("/page/faults", 400, "not a number", "kind", "throttle", "count", "many")
	post("/page/faults", 200, "fault-2", "kind", "throttle")
	post("/page/faults/remove", 200, "The fault is removed.", "id", "fault-2")
	post("/page/faults/remove", 400, "no fault", "id", "fault-2")
	value("/secrets/Alpha", "a")
	post("/page/requests/clear", 200, "The list of requests is empty.")
	post("/page/clock", 400, "Nothing was changed", "advance", "soon")
	post("/page/clock", 200, "by 2h0m0s", "advance", "2h")
	if got := w.get("/secrets/Alpha").status; got != http.StatusUnauthorized {
		t.Errorf("two hours later the token is taken: %d", got)
	}
}

// TestControlRefusesOtherSites holds the control API and the page to requests that are not of other sites.
func TestControlRefusesOtherSites(t *testing.T) {
	s := emulatortest.StartWith(t, factsSeed, emulator.Options{ControlHosts: []string{"emulator.example.com"}})
	own := "http://" + s.Address()
	for name, test := range map[string]struct {
		method, path string
		header       map[string]string
		want         int
	}{
		"no browser":                  {"POST", "/faults", nil, 400}, // no JSON
		"of this site":                {"POST", "/page/requests/clear", map[string]string{"Origin": own, "Sec-Fetch-Site": "same-origin"}, 200},
		"old browser, this site":      {"POST", "/page/requests/clear", map[string]string{"Origin": own}, 200},
		"typed by hand":               {"GET", "/", map[string]string{"Sec-Fetch-Site": "none"}, 200},
		"a link of another site":      {"GET", "/", map[string]string{"Sec-Fetch-Site": "cross-site"}, 200},
		"a form of another site":      {"POST", "/page/requests/clear", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		"of the same host":            {"POST", "/page/requests/clear", map[string]string{"Sec-Fetch-Site": "same-site"}, 403},
		"old browser, another site":   {"POST", "/page/requests/clear", map[string]string{"Origin": "https://evil.example"}, 403},
		"a frame without origin":      {"POST", "/page/requests/clear", map[string]string{"Origin": "null"}, 403},
		"control API, another site":   {"POST", "/tokens/revoke", map[string]string{"Origin": "https://evil.example"}, 403},
		"control API, DELETE":         {"DELETE", "/requests", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		"a value, another site":       {"POST", pageSecret + "/show", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		"DNS rebinding":               {"GET", "/", map[string]string{"Host": "evil.example:8200"}, 403},
		"DNS rebinding, control API":  {"GET", "/requests", map[string]string{"Host": "evil.example"}, 403},
		"rebinding with own name":     {"GET", "/", map[string]string{"Host": "localhost.evil.example"}, 403},
		"localhost":                   {"GET", "/", map[string]string{"Host": "localhost:8200"}, 200},
		"a Service":                   {"GET", "/healthz", map[string]string{"Host": "keyvault-emulator.azure.svc:8200"}, 200},
		"a container":                 {"GET", "/healthz", map[string]string{"Host": "emulator:8200"}, 200},
		"an address of IPv6":          {"GET", "/healthz", map[string]string{"Host": "[::1]:8200"}, 200},
		"its own name":                {"GET", "/healthz", map[string]string{"Host": emulator.ControlHost}, 200},
		"a name of --control-host":    {"GET", "/healthz", map[string]string{"Host": "emulator.example.com:8200"}, 200},
		"a page that is not there":    {"GET", "/index.html", nil, 404},
		"a form where there is none":  {"POST", "/page/none", nil, 404},
		"path tricks":                 {"GET", "/page/vaults/../../etc/passwd", nil, 404},
		"path tricks with an escape":  {"GET", "/page/vaults/%2e%2e%2fcontoso/secrets/db", nil, 404},
		"script in a name is escaped": {"GET", "/page/vaults/%3Cscript%3E", nil, 404},
	} {
		t.Run(name, func(t *testing.T) {
			status, _, body := browse(t, s, test.method, test.path, nil, test.header)
			if status != test.want {
				t.Errorf("status %d, want %d: %s", status, test.want, body)
			}
			if strings.Contains(body, "<script") {
				t.Errorf("a script: %s", body)
			}
		})
	}
}
