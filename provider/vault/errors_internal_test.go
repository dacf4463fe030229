package vault

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

// someone is a credential that only has a name.
type someone struct{}

func (someone) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{}, nil
}
func (someone) Key() string    { return "key" }
func (someone) String() string { return "someone" }
func (someone) Renew(context.Context, policy.TokenRequestOptions, string) (azcore.AccessToken, error) {
	return azcore.AccessToken{}, nil
}

// Of any answer of a service or a proxy, a person reads one line of bounded length.
func FuzzRefusal(f *testing.F) {
	f.Add(403, []byte(`{"error":{"code":"Forbidden","message":"Caller: appid=1-2;oid=3-4;iss=x","innererror":{"code":"ForbiddenByRbac"}}}`))
	f.Add(403, []byte(`{"Error":{"Code":"Forbidden","InnerError":{"code":"SecretDisabled"}}}`))
	f.Add(404, []byte(`{"error":{"code":"SecretNotFound","message":"A secret with (name/id) n was not found"}}`))
	f.Add(400, []byte("{\"error\":{\"code\":\"Bad\\nParameter\",\"message\":\"\\u001b[31m\\u2028é\"}}"))
	f.Add(429, []byte(`<html>`))
	f.Add(500, []byte(`{"error":null}`))
	f.Add(407, []byte{0xff})
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		c := &Client{options: Options{Clock: clock.RealClock{}}, host: "kv.vault.azure.net", credential: someone{}, authorizer: &authorizer{}}
		e := c.refused(&http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body))}, status,
			description{kind: class.Secret, name: "s", operation: "get"})
		if e.Reason == "" || len(e.Message) > 1000 || !strings.HasPrefix(e.Message, `vault kv.vault.azure.net: secret "s": `) ||
			strings.ContainsFunc(e.Message, unicode.IsControl) || !utf8.ValidString(e.Message) {
			t.Errorf("%d %q gives %s %q", status, body, e.Reason, e.Message)
		}
	})
}

// The data actions of built-in roles
// (https://learn.microsoft.com/azure/role-based-access-control/built-in-roles/security).
var dataActions = map[string][]string{ // a constant
	"Key Vault Reader":       {"Microsoft.KeyVault/vaults/*/read", "Microsoft.KeyVault/vaults/secrets/readMetadata/action"},
	"Key Vault Secrets User": {"Microsoft.KeyVault/vaults/secrets/getSecret/action", "Microsoft.KeyVault/vaults/secrets/readMetadata/action"},
}

// A role that is recommended permits the operation, and nothing that changes or uses a key, or reads a secret that was
// not asked for.
func TestRolesPermitTheOperationAndNoMore(t *testing.T) {
	for _, tc := range []struct {
		kind      class.Kind
		operation string
		action    string
		secrets   bool
	}{
		{class.Secret, "get", "secrets/getSecret/action", true},
		{class.Secret, "list", "secrets/readMetadata/action", true},
		{class.Key, "get", "keys/read", false},
		{class.Key, "list", "keys/read", false},
		{class.Certificate, "get", "certificates/read", false},
		{class.Certificate, "list", "certificates/read", false},
	} {
		name, permission := role(description{kind: tc.kind, name: "n", operation: tc.operation})
		permits := func(action string) bool {
			return slices.ContainsFunc(dataActions[name], func(pattern string) bool {
				ok, err := path.Match(strings.ReplaceAll(pattern, "/", "|"), strings.ReplaceAll("Microsoft.KeyVault/vaults/"+action, "/", "|"))
				return ok && err == nil
			})
		}
		if !permits(tc.action) {
			t.Errorf("%s %s: %s does not permit %s", tc.operation, tc.kind, name, tc.action)
		}
		for _, more := range []string{"keys/sign/action", "keys/decrypt/action", "keys/delete", "secrets/delete", "certificates/import/action"} {
			if permits(more) {
				t.Errorf("%s %s: %s permits %s", tc.operation, tc.kind, name, more)
			}
		}
		if !tc.secrets && permits("secrets/getSecret/action") {
			t.Errorf("%s %s: %s reads secrets", tc.operation, tc.kind, name)
		}
		if !strings.HasSuffix(permission, " "+tc.operation) {
			t.Errorf("%s %s: permission %q", tc.operation, tc.kind, permission)
		}
	}
}
