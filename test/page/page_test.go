//go:build chromium

// Package page opens the emulator's page in a headless Chromium, without JavaScript, with the keyboard, and as a screen
// reader gets it. hack/test-page runs it.
package page

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

const seed = `
tenants:
- id: 11111111-1111-1111-1111-111111111111
  applications:
  - clientID: 22222222-2222-2222-2222-222222222222
    secrets: [{value: p4ssw0rd}]
    federated: [{issuer: "https://oidc.example.com/cluster/", subject: "system:serviceaccount:shop:web"}]
managedIdentities:
- {clientID: 33333333-3333-3333-3333-333333333333, system: true}
vaults:
- name: contoso
  tenant: 11111111-1111-1111-1111-111111111111
  grants: [{clientID: 22222222-2222-2222-2222-222222222222, permissions: [secrets/get, secrets/list]}]
  secrets:
  - {name: db, value: the-old-value, created: 2026-01-01T00:00:00Z}
  - {name: db, value: the-new-value, contentType: text/plain, created: 2026-06-01T00:00:00Z, tags: {team: shop}}
  - {name: off, value: x, disabled: true, created: 2026-01-01T00:00:00Z}
  keys: [{name: signing, type: EC-HSM, curve: P-384, created: 2026-01-01T00:00:00Z}]
  certificates: [{name: shop, subject: shop.example.com, keyType: EC, created: 2026-01-01T00:00:00Z}]
`

func TestPageInChromium(t *testing.T) {
	s := emulatortest.Start(t, seed)
	s.AddFault(emulator.Fault{Kind: emulator.FaultThrottle, Operation: "get secret", RetryAfter: 5, Count: 3})
	own := "http://" + s.Address()
	b := startBrowser(t)
	b.call("Emulation.setScriptExecutionDisabled", map[string]any{"value": true}, nil)

	object := own + "/page/vaults/contoso.vault.azure.net/secrets/db"
	pages := map[string]string{"emulator-overview": own + "/", "emulator-vault": own + "/page/vaults/contoso.vault.azure.net", "emulator-secret": object}
	for name, address := range pages {
		b.open(address)
		if got := b.text("getComputedStyle(document.querySelector('header')).backgroundColor"); got != "rgb(11, 61, 102)" {
			t.Errorf("%s: the style is not applied: the header is %s", name, got)
		}
		if strings.Contains(b.text("document.documentElement.outerHTML"), "the-new-value") {
			t.Errorf("%s shows a value", name)
		}
		checkNames(t, b, name)
		b.press("Tab")
		if got := b.text("document.activeElement.textContent"); got != "Skip to the content" {
			t.Errorf("%s: the first stop of the keyboard is %q", name, got)
		}
		b.press("Enter")
		b.eventually("the skip link", "document.activeElement.id === 'main'")
	}

	// Show a value with the keyboard alone.
	b.open(object)
	reach(t, b, "Show the value of version ")
	b.press("Enter")
	b.eventually("the value", "!!document.querySelector('pre') && document.querySelector('pre').textContent === 'the-new-value'")

	// Rotate it.
	b.open(object)
	reach(t, b, "Make a new version")
	b.press("Enter")
	b.eventually("the new version", "!!document.querySelector('[role=status]') && "+
		"document.querySelector('[role=status]').textContent === 'A new version is made.' && document.querySelectorAll('tbody tr').length === 3")
}

// reach presses Tab until an element with such a name has the focus.
func reach(t *testing.T, b *browser, name string) {
	t.Helper()
	for range 100 {
		b.press("Tab")
		if strings.HasPrefix(b.text("document.activeElement.ariaLabel || document.activeElement.textContent"), name) {
			return
		}
	}
	t.Fatalf("the keyboard does not reach %q", name)
}

// checkNames checks what a screen reader gets: everything that can be used has a name, and tables and headings are there.
func checkNames(t *testing.T, b *browser, page string) {
	t.Helper()
	var tree struct {
		Nodes []struct {
			Ignored    bool
			Role, Name struct{ Value any }
		}
	}
	b.call("Accessibility.getFullAXTree", nil, &tree)
	found := map[string]int{}
	for _, n := range tree.Nodes {
		if n.Ignored {
			continue
		}
		role, name := fmt.Sprint(n.Role.Value), fmt.Sprint(n.Name.Value)
		found[role]++
		switch role {
		case "button", "link", "textbox", "combobox", "spinbutton", "region", "navigation", "table", "heading", "RootWebArea":
			if n.Name.Value == nil || strings.TrimSpace(name) == "" {
				t.Errorf("%s: a %s has no name", page, role)
			}
		}
	}
	for _, role := range []string{"main", "navigation", "table", "columnheader", "rowheader", "heading", "form", "button"} {
		if found[role] == 0 {
			t.Errorf("%s: no %s: %v", page, role, found)
		}
	}
}

// TestOtherSiteInChromium has another site submit a form to the emulator, as it can make any visitor's browser do.
func TestOtherSiteInChromium(t *testing.T) {
	s := emulatortest.Start(t, seed)
	target := "http://" + s.Address() + "/page/vaults/contoso.vault.azure.net/set"
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, `<form method="post" action="%s"><input name="name" value="planted"><input name="value" value="x"></form>`+
			`<script>document.forms[0].submit()</script>`, target)
	}))
	t.Cleanup(evil.Close)
	b := startBrowser(t)
	b.call("Page.navigate", map[string]any{"url": strings.Replace(evil.URL, "127.0.0.1", "localhost", 1) + "/"}, nil)
	b.eventually("the refusal", fmt.Sprintf("location.href === %q && document.body.innerText.includes('of another site')", target))
	if err := s.Disable("contoso", "secrets", "planted", "", true); err == nil {
		t.Error("the secret is set")
	}
}

// TestScreenshots takes the pictures of docs/emulator.md, and writes them to the directory that SCREENSHOTS names, if it names one.
func TestScreenshots(t *testing.T) {
	directory := os.Getenv("SCREENSHOTS")
	if directory == "" {
		directory = t.TempDir()
	}
	s := emulatortest.Start(t, seed)
	s.AddFault(emulator.Fault{Kind: emulator.FaultThrottle, Operation: "get secret", RetryAfter: 5, Count: 3})
	b := startBrowser(t)
	for name, path := range map[string]string{"emulator-overview": "/", "emulator-secret": "/page/vaults/contoso.vault.azure.net/secrets/db"} {
		b.open("http://" + s.Address() + path)
		var picture struct{ Data string }
		b.call("Page.captureScreenshot", map[string]any{"format": "png"}, &picture)
		data, err := base64.StdEncoding.DecodeString(picture.Data)
		if err != nil {
			t.Fatal(err)
		}
		if format := http.DetectContentType(data); format != "image/png" {
			t.Errorf("%s is %s", name, format)
		}
		if err := os.WriteFile(filepath.Join(directory, name+".png"), data, 0o644); err != nil { //nolint:gosec // a picture of the docs
			t.Fatal(err)
		}
	}
}
