package vault

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// biggestClaims bounds the claims of a challenge, in bytes.
const biggestClaims = 8 << 10

// Challenge is what a vault says in its WWW-Authenticate header
// (https://learn.microsoft.com/azure/key-vault/general/authentication-requests-and-responses). Nothing in it decides
// where a token is asked for or sent: it comes from the server.
type Challenge struct {
	// Tenant is the directory that the vault trusts; empty where the challenge does not name one.
	Tenant string
	// Claims is the JSON of the claims that a token must have (continuous access evaluation); empty where none are
	// asked for.
	Claims string

	// resource is what the vault wants tokens for.
	resource string
}

var challengeParameter = regexp.MustCompile(`(\w+)="([^"]*)"`)

// ParseChallenge reads the header of a 401. What is not understood is empty.
func ParseChallenge(header http.Header) Challenge {
	parameters := map[string]string{}
	for _, line := range header.Values("WWW-Authenticate") {
		for _, m := range challengeParameter.FindAllStringSubmatch(line, -1) {
			if name := strings.ToLower(m[1]); parameters[name] == "" {
				parameters[name] = m[2]
			}
		}
	}
	authority := parameters["authorization"]
	if authority == "" {
		authority = parameters["authorization_uri"]
	}
	c := Challenge{Tenant: tenantOf(authority), resource: parameters["resource"]}
	if parameters["scope"] != "" {
		c.resource = parameters["scope"]
	}
	if parameters["error"] == "insufficient_claims" && len(parameters["claims"]) <= biggestClaims {
		var object map[string]json.RawMessage
		if claims, err := base64.StdEncoding.DecodeString(parameters["claims"]); err == nil &&
			json.Unmarshal(claims, &object) == nil {
			c.Claims = string(claims)
		}
	}
	return c
}

// tenantPattern is what may name a tenant: an id, or a domain.
var tenantPattern = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.-]{0,127}$`)

// tenantOf is the first element of an authority's path.
func tenantOf(authority string) string {
	u, err := url.Parse(strings.TrimSuffix(authority, ","))
	if err != nil || u.Host == "" {
		return ""
	}
	tenant, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if !tenantPattern.MatchString(tenant) {
		return ""
	}
	return tenant
}

// isTenantID returns whether a tenant is named by its id, so that it can be compared with the tid of a token. The other
// names are domains and the words that Entra ID and AD FS have in the place of a tenant.
func isTenantID(tenant string) bool {
	switch strings.ToLower(tenant) {
	case "", "common", "organizations", "consumers", "adfs":
		return false
	}
	return !strings.Contains(tenant, ".")
}

// scope is the OAuth scope that the vault wants tokens for, empty where it must not get one: a vault gets tokens only
// for a domain that it is part of.
func (c Challenge) scope(host string) string {
	u, err := url.Parse(strings.TrimSuffix(c.resource, "/.default"))
	if err != nil || u.Scheme != "https" || !strings.Contains(u.Host, ".") ||
		!strings.HasSuffix(strings.ToLower(host), "."+strings.ToLower(u.Host)) {
		return ""
	}
	return "https://" + strings.ToLower(u.Host) + "/.default"
}

// OtherTenant returns whether a vault trusts another tenant than the one that a token is from. It is false where the
// two cannot be compared.
func (c Challenge) OtherTenant(token string) bool {
	return isTenantID(c.Tenant) && isTenantID(token) && !strings.EqualFold(c.Tenant, token)
}
