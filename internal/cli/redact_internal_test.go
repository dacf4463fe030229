package cli

import (
	"strings"
	"testing"
)

// What people need to read stays, and what could be a secret goes.
func TestRedaction(t *testing.T) {
	r := newRedactor()
	for _, text := range []string{
		"secret/db-password version 0123456789abcdef0123456789abcdef of https://contoso-shop.vault.azure.net/",
		"there is no service account token for the audience api://AzureADTokenExchange",
		"the secret was not found: create it",
		"pod shop/web-6d8f7c9b5d-x2k4p class shop on aks-nodepool1-12345678-vmss000003",
		"system:serviceaccount:shop:web",
		"2026-11-28T06:02:50Z x-ms-request-id 7d3a",
		"keyvault_csi_oldest_value_age_seconds",
	} {
		if got := r.text(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	for _, text := range []string{
		"password=CANARY", "clientSecret: CANARY", `{"client_secret":"CANARY"}`, "--token CANARY1", "Authorization: Bearer CANARY", "https://me:CANARY@host/",
		"https://x.blob.core.windows.net/?sv=1&sig=CANARY%3D", "-----BEGIN RSA PRIVATE KEY-----\nCANARY\n-----END RSA PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\nCANARY",
		"eyJhbGciOiJub25lIn0.CANARY.CANARY", "AccountKey=CANARY==;EndpointSuffix=x", "password='CANARY CANARY'", `api_key = "CANARY CANARY"`,
	} {
		if got := r.text(text); strings.Contains(got, "CANARY") {
			t.Errorf("%q became %q", text, got)
		}
	}
	const id = "11111111-2222-3333-4444-555555555555"
	if a, b := r.text(id), r.text("tenant "+strings.ToUpper(id)); strings.Contains(a, "1111") || !strings.HasSuffix(b, a) || a == newRedactor().text(id) {
		t.Errorf("ids: %q, %q", a, b)
	}
}
