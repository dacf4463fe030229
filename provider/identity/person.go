package identity

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/neterr"
)

// person is the mode of somebody who looks at a class by hand.
const person = "person"

// asPerson makes the identity that of whoever runs the process, in place of the class's.
func (i *Identity) asPerson(c *class.Class) {
	i.mode, i.client = person, ""
	i.tenant = c.TenantID
	i.key = keyOf(i.mode, i.authority, i.tenant)
}

// newPerson returns the SDK's chain: environment, workload identity, managed identity, and who is logged in with the
// Azure tools. The class's tenant is the one that the tools are asked for.
func newPerson(options azcore.ClientOptions, tenant string) (azcore.TokenCredential, error) {
	return azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ //nolint:wrapcheck // the caller explains
		ClientOptions: options, TenantID: tenant, DisableInstanceDiscovery: true,
	})
}

// explainPerson explains why the chain gave no token.
func (i *Identity) explainPerson(err error, seen *recorder, host string) error {
	failed, tried := errors.AsType[*azidentity.AuthenticationFailedError](err)
	switch answer := parseAnswer(seen.body); {
	case tried && answer.code != "":
		return &volume.Error{Reason: volume.ReasonIdentity, Cause: err, RequestID: seen.header.Get("X-Ms-Request-Id"), Message: fmt.Sprintf(
			"AADSTS%s: Entra ID refused %s: %s: correct the AZURE_ variables, or log in again", answer.code, i, answer.summary())}
	case tried && failed.RawResponse == nil && seen.err != nil:
		return neterr.Classify(seen.err, host)
	case tried && seen.status >= http.StatusInternalServerError:
		return &volume.Error{Reason: volume.ReasonUnavailable, Cause: err, Message: fmt.Sprintf("%s answered %d to a token request: try again",
			host, seen.status)}
	}
	// what each credential of the chain says, in a line
	var tries []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if name, _, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && strings.HasPrefix(line, "\t") &&
			!strings.HasPrefix(line, "\t\t") && !strings.Contains(name, " ") {
			tries = append(tries, shorten(oneLine(line)))
		}
	}
	message := "no credential of yours gives a token: run `az login`, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
	if len(tries) > 0 {
		message += " (" + strings.Join(tries, "; ") + ")"
	}
	return &volume.Error{Reason: volume.ReasonIdentity, Cause: err, Message: message}
}

// Caller is for whom a token was given.
type Caller struct {
	// Tenant is the directory that gave it, ClientID the application's or identity's id, ObjectID what role assignments
	// name. Each is empty where the token does not say.
	Tenant, ClientID, ObjectID string
	// Name is a person's sign-in name; empty for others.
	Name string
	// Expires is the token's end.
	Expires time.Time
}

// String names the caller as role assignments and sign-in logs do.
func (c Caller) String() string {
	var parts []string
	for _, p := range []struct{ what, value string }{
		{"", c.Name}, {"client id ", c.ClientID}, {"object id ", c.ObjectID}, {"tenant ", c.Tenant},
	} {
		if p.value != "" {
			parts = append(parts, p.what+oneLine(p.value))
		}
	}
	return strings.Join(parts, ", ")
}

// CallerOf reads for whom an access token was given. It is for people to read: access tokens are the vault's to understand
// (https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference), so what is not understood is empty.
func CallerOf(token azcore.AccessToken) Caller {
	c := Caller{Expires: token.ExpiresOn}
	parts := strings.Split(token.Token, ".")
	if len(parts) != 3 {
		return c
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return c
	}
	var claims struct {
		Tenant   string `json:"tid"`
		AppID    string `json:"appid"`
		ObjectID string `json:"oid"`
		UPN      string `json:"upn"`
		Unique   string `json:"unique_name"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return c
	}
	c.Tenant, c.ClientID, c.ObjectID, c.Name = claims.Tenant, claims.AppID, claims.ObjectID, claims.UPN
	if c.Name == "" {
		c.Name = claims.Unique
	}
	return c
}
