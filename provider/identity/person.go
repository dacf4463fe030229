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

	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

// person is the user who runs the process, in place of the class's identity.
type person struct{ entra }

func newPerson(c *class.Class) *person {
	return &person{entra: entra{authority: c.Cloud.Authority, tenant: c.TenantID}}
}

func (*person) name() string { return "person" }

func (*person) String() string { return "you" }

func (p *person) key() string { return keyOf(p.name(), p.authority, p.tenant) }

// service has no quota of its own: which client the SDK's chain asks as is not known before.
func (p *person) service() service { return service{name: p.entra.service().name} }

// credential returns the SDK's chain: environment, workload identity, managed identity, and who is logged in with the
// Azure tools. The class's tenant is the one that the tools are asked for.
func (p *person) credential(options azcore.ClientOptions) (azcore.TokenCredential, error) {
	return azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ // the caller explains
		ClientOptions: p.at(options), TenantID: p.tenant, DisableInstanceDiscovery: true,
	})
}

func (*person) renewable() bool { return true }

func (*person) update(method) {}

func (*person) ready(time.Time) error { return nil }

func (*person) secrets() []string { return nil }

// explain explains why the chain gave no token.
func (*person) explain(f *failure) *volume.Error {
	failed, tried := errors.AsType[*azidentity.AuthenticationFailedError](f.err)
	switch {
	case tried && f.answer.code != "":
		return f.error(
			volume.ReasonIdentity,
			fmt.Sprintf("AADSTS%s: Entra ID refused you: %s: correct the AZURE_ variables, or log in again",
				f.answer.code, f.answer.summary()),
		)
	case tried && failed.RawResponse == nil && f.seen.err != nil:
		return f.network()
	case tried && f.seen.status >= http.StatusInternalServerError:
		return f.error(volume.ReasonUnavailable,
			fmt.Sprintf("%s answered %d to a token request: try again", f.host, f.seen.status))
	}
	// what each credential of the chain says, in a line
	var tries []string
	for line := range strings.SplitSeq(f.err.Error(), "\n") {
		if name, _, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && strings.HasPrefix(line, "\t") &&
			!strings.HasPrefix(line, "\t\t") && !strings.Contains(name, " ") {
			tries = append(tries, printable.Cut(printable.OneLine(line), maxShown))
		}
	}
	message := "no credential of yours gives a token: run `az login`, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and " +
		"AZURE_CLIENT_SECRET"
	if len(tries) > 0 {
		message += " (" + strings.Join(tries, "; ") + ")"
	}
	return f.error(volume.ReasonIdentity, message)
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
			parts = append(parts, p.what+printable.OneLine(p.value))
		}
	}
	return strings.Join(parts, ", ")
}

// CallerOf reads for whom an access token was given. It is for people to read: access tokens are the vault's to
// understand (https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference), so what is not
// understood is empty.
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
