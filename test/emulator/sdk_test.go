package emulator_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azcertificates"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
	"go.uber.org/goleak"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	tenant = "11111111-1111-1111-1111-111111111111"
	client = "22222222-2222-2222-2222-222222222222"
	vault  = "https://contoso.vault.azure.net"
	seed   = `
pageSize: 2
tenants:
- id: ` + tenant + `
  applications:
  - clientID: ` + client + `
    objectID: oid
    secrets: [{value: p4ss}, {value: old, expires: 2020-01-01T00:00:00Z}]
    federated: [{issuer: "https://oidc.example.com/cluster/", subject: "system:serviceaccount:default:app"}]
  - {clientID: stranger, objectID: stranger-oid, secrets: [{value: p4ss}]}
managedIdentities:
- {clientID: ` + client + `, objectID: mi-oid, resourceID: /subscriptions/s/x, system: true}
vaults:
- name: contoso
  tenant: ` + tenant + `
  grants: [{clientID: ` + client + `, permissions: ["*"]}]
  secrets:
  - {name: s, value: v0}
  - {name: s, value: v1}
  - {name: s, value: v2}
  - {name: s, value: v3}
  - {name: s, value: v4, tags: {a: b}}
  - {name: off, value: x, disabled: true}
  keys: [{name: k, type: EC, curve: P-384}]
  certificates: [{name: c, chain: 1}]
`
)

// options are those of an unmodified client that goes through the proxy.
func options(t *testing.T, s *emulator.Server) azcore.ClientOptions {
	t.Helper()
	transport := &http.Transport{
		Proxy: http.ProxyURL(s.ProxyURL()), TLSClientConfig: &tls.Config{RootCAs: s.CAPool()}, ForceAttemptHTTP2: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return azcore.ClientOptions{Transport: &http.Client{Transport: transport}, Retry: policy.RetryOptions{MaxRetries: -1}}
}

func secretCredential(t *testing.T, o azcore.ClientOptions, id, secret string) azcore.TokenCredential {
	t.Helper()
	c, err := azidentity.NewClientSecretCredential(tenant, id, secret, &azidentity.ClientSecretCredentialOptions{ClientOptions: o})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSecretsClient(t *testing.T) {
	s := emulatortest.Start(t, seed)
	o := options(t, s)
	c, err := azsecrets.NewClient(vault, secretCredential(t, o, client, "p4ss"), &azsecrets.ClientOptions{ClientOptions: o})
	must(t, err)
	got, err := c.GetSecret(t.Context(), "S", "", nil) // names count in any letter case
	must(t, err)
	if *got.Value != "v4" || *got.Tags["a"] != "b" || !*got.Attributes.Enabled {
		t.Errorf("%+v", got)
	}
	again, err := c.GetSecret(t.Context(), "s", got.ID.Version(), nil)
	must(t, err)
	if *again.Value != "v4" {
		t.Errorf("%+v", again)
	}
	versions := 0
	for pager := c.NewListSecretPropertiesVersionsPager("s", nil); pager.More(); {
		page, err := pager.NextPage(t.Context())
		must(t, err)
		versions += len(page.Value)
	}
	if versions != 5 {
		t.Errorf("%d versions", versions)
	}
	names := 0
	for pager := c.NewListSecretPropertiesPager(nil); pager.More(); {
		page, err := pager.NextPage(t.Context())
		must(t, err)
		names += len(page.Value)
	}
	if names != 3 { // s, off, and the certificate's secret
		t.Errorf("%d secrets", names)
	}
	for name, want := range map[string]string{"absent": "SecretNotFound", "off": "Forbidden", "bad_name": "BadParameter"} {
		_, err := c.GetSecret(t.Context(), name, "", nil)
		if e, ok := errors.AsType[*azcore.ResponseError](err); !ok || e.ErrorCode != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	// the SDK's first request has no token, gets the challenge, and follows it
	if first := firstOf(s, "get secret"); first.Status != http.StatusUnauthorized {
		t.Errorf("first request: %+v", first)
	}
}

func firstOf(s *emulator.Server, operation string) emulator.Request {
	for _, r := range s.Requests() {
		if r.Operation == operation {
			return r
		}
	}
	return emulator.Request{}
}

func TestKeysAndCertificatesClients(t *testing.T) {
	s := emulatortest.Start(t, seed)
	o := options(t, s)
	credential := secretCredential(t, o, client, "p4ss")
	keys, err := azkeys.NewClient(vault, credential, &azkeys.ClientOptions{ClientOptions: o})
	must(t, err)
	key, err := keys.GetKey(t.Context(), "k", "", nil)
	must(t, err)
	if *key.Key.Kty != azkeys.KeyTypeEC || *key.Key.Crv != azkeys.CurveNameP384 || len(key.Key.X) != 48 || len(key.Key.D) > 0 {
		t.Errorf("%+v", key.Key)
	}
	certificates, err := azcertificates.NewClient(vault, credential, &azcertificates.ClientOptions{ClientOptions: o})
	must(t, err)
	certificate, err := certificates.GetCertificate(t.Context(), "c", "", nil)
	must(t, err)
	if len(certificate.CER) == 0 || certificate.SID.Version() != certificate.ID.Version() || certificate.KID.Version() != certificate.ID.Version() {
		t.Errorf("%+v", certificate)
	}
	if _, err := keys.GetKey(t.Context(), "c", certificate.ID.Version(), nil); err != nil {
		t.Errorf("the certificate's key: %v", err)
	}
}

func TestCredentials(t *testing.T) {
	s := emulatortest.Start(t, seed)
	issuer := emulatortest.StartIssuer(t, s)
	strange, err := emulatortest.NewIssuer(issuer.URL)
	must(t, err)
	o := options(t, s)
	assertion := func(token string) azcore.TokenCredential {
		c, err := azidentity.NewClientAssertionCredential(tenant, client, func(context.Context) (string, error) { return token, nil },
			&azidentity.ClientAssertionCredentialOptions{ClientOptions: o})
		must(t, err)
		return c
	}
	managed := func(id azidentity.ManagedIDKind) azcore.TokenCredential {
		c, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ClientOptions: o, ID: id})
		must(t, err)
		return c
	}
	const audience = "api://AzureADTokenExchange"
	for name, tc := range map[string]struct {
		credential azcore.TokenCredential
		want       string // in the error; none where empty
	}{
		"assertion":          {assertion(issuer.Token("default", "app", audience, time.Hour)), ""},
		"another subject":    {assertion(issuer.Token("default", "other", audience, time.Hour)), "AADSTS700213"},
		"another audience":   {assertion(issuer.Token("default", "app", "x", time.Hour)), "AADSTS700212"},
		"ended":              {assertion(issuer.Token("default", "app", audience, -time.Hour)), "AADSTS700024"},
		"forged signature":   {assertion(strange.Token("default", "app", audience, time.Hour)), "AADSTS7000272"},
		"no token at all":    {assertion("x"), "AADSTS50027"},
		"secret":             {secretCredential(t, o, client, "p4ss"), ""},
		"wrong secret":       {secretCredential(t, o, client, "x"), "AADSTS7000215"},
		"ended secret":       {secretCredential(t, o, client, "old"), "AADSTS7000222"},
		"unknown client":     {secretCredential(t, o, "nobody", "x"), "AADSTS700016"},
		"system-assigned":    {managed(nil), ""},
		"by client id":       {managed(azidentity.ClientID(client)), ""},
		"by object id":       {managed(azidentity.ObjectID("mi-oid")), ""},
		"by resource id":     {managed(azidentity.ResourceID("/subscriptions/s/X")), ""},
		"unknown identity":   {managed(azidentity.ClientID("nobody")), "Identity not found"},
		"without permission": {secretCredential(t, o, "stranger", "p4ss"), "ForbiddenByRbac"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := azsecrets.NewClient(vault, tc.credential, &azsecrets.ClientOptions{ClientOptions: o})
			must(t, err)
			_, err = c.GetSecret(t.Context(), "s", "", nil)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestOtherHostsAreRefused(t *testing.T) {
	s := emulatortest.Start(t, seed)
	o := options(t, s)
	for url, want := range map[string]string{
		"https://example.com/": "Forbidden", "https://nowhere.vault.azure.net/": "Bad Gateway", "https://vault.azure.net.example.com/": "Forbidden",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		must(t, err)
		resp, err := o.Transport.Do(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

var curl = regexp.MustCompile(`(?m)^    curl( -X (\w+))?( -d '([^']*)')? http://127\.0\.0\.1:8200(/\S*)`)

// Every curl line of the documentation works on its seed.
func TestDocumentation(t *testing.T) {
	page, err := os.ReadFile("../../docs/emulator.md")
	must(t, err)
	_, rest, _ := strings.Cut(string(page), "```yaml\n")
	documented, _, _ := strings.Cut(rest, "```")
	s := emulatortest.Start(t, documented)
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	commands := curl.FindAllStringSubmatch(string(page), -1)
	if len(commands) < 15 {
		t.Fatalf("only %d commands", len(commands))
	}
	for _, m := range commands {
		method, body, path := m[2], m[4], m[5]
		if method == "" {
			method = http.MethodGet
			if body != "" {
				method = http.MethodPost
			}
		}
		req, err := http.NewRequestWithContext(t.Context(), method, s.ProxyURL().String()+path, strings.NewReader(body))
		must(t, err)
		resp, err := plain.Do(req)
		must(t, err)
		answer, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		valid := json.Valid(answer)
		if path == "/ca.pem" {
			valid = bytes.Equal(answer, s.CAPEM())
		}
		if err != nil || !valid || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s %v", m[0], resp.StatusCode, answer, err)
		}
	}
}

func TestRarerReads(t *testing.T) {
	s := emulatortest.Start(t, seed)
	o := options(t, s)
	credential := secretCredential(t, o, client, "p4ss")
	secrets, err := azsecrets.NewClient(vault, credential, &azsecrets.ClientOptions{ClientOptions: o})
	must(t, err)
	certificates, err := azcertificates.NewClient(vault, credential, &azcertificates.ClientOptions{ClientOptions: o})
	must(t, err)
	policy, err := certificates.GetCertificatePolicy(t.Context(), "c", nil)
	must(t, err)
	if *policy.SecretProperties.ContentType != "application/x-pkcs12" {
		t.Errorf("%+v", policy)
	}
	out := azsecrets.ContentTypePEM
	converted, err := secrets.GetSecret(t.Context(), "c", "", &azsecrets.GetSecretOptions{OutContentType: &out})
	must(t, err)
	if _, err := tls.X509KeyPair([]byte(*converted.Value), []byte(*converted.Value)); err != nil {
		t.Errorf("the vault's own PEM: %v", err)
	}
	if _, err := secrets.GetDeletedSecret(t.Context(), "s", nil); err == nil {
		t.Error("an existing secret is shown as deleted")
	}
	must(t, s.Delete("contoso", "secrets", "s", true))
	if _, err := secrets.GetSecret(t.Context(), "s", "", nil); err == nil {
		t.Error("a deleted secret is given")
	}
	deleted, err := secrets.GetDeletedSecret(t.Context(), "s", nil)
	must(t, err)
	if deleted.RecoveryID == nil || deleted.Value != nil {
		t.Errorf("%+v", deleted)
	}
	must(t, s.Delete("contoso", "secrets", "s", false))
	if _, err := secrets.GetSecret(t.Context(), "s", "", nil); err != nil {
		t.Errorf("recovered: %v", err)
	}
	// a token that ended by the emulator's clock is refused, and a new one is asked for
	s.AdvanceClock(2 * time.Hour)
	s.ResetRequests()
	if _, err := secrets.GetSecret(t.Context(), "s", "", nil); err == nil || s.Counts()["get secret"] < 1 {
		t.Errorf("an ended token is taken: %v", err)
	}
}
