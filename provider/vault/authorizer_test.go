package vault_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
)

const (
	ownTenant     = "11111111-1111-1111-1111-111111111111"
	foreignTenant = "99999999-9999-9999-9999-999999999999"
)

// bearer is a credential whose tokens are numbered.
type bearer struct {
	tenant string
	fixed  bool // its tokens cannot be renewed before their end

	mu     sync.Mutex
	n      int
	claims []string
	scopes []string
}

func (b *bearer) token() azcore.AccessToken {
	payload, _ := json.Marshal(map[string]any{"tid": b.tenant, "n": b.n})
	return azcore.AccessToken{Token: "e30." + base64.RawURLEncoding.EncodeToString(payload) + ".c2ln", ExpiresOn: time.Now().Add(time.Hour)}
}

func (b *bearer) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.scopes = append(b.scopes, o.Scopes[0])
	if o.Claims != "" {
		b.claims = append(b.claims, o.Claims)
		b.n++
	}
	return b.token(), nil
}

func (b *bearer) Renew(_ context.Context, _ policy.TokenRequestOptions, refused string) (azcore.AccessToken, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.fixed && b.token().Token == refused {
		b.n++
	}
	return b.token(), nil
}

func (b *bearer) renewed() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

func (*bearer) Key() string    { return "bearer" }
func (*bearer) String() string { return "the bearer" }

// vaults answers for vaults: each as its function says, with the token that it got.
type vaults struct {
	answer map[string]func(token string) (status int, header, body string)

	mu   sync.Mutex
	seen []string // hosts that were asked
}

func (v *vaults) Do(r *http.Request) (*http.Response, error) {
	v.mu.Lock()
	v.seen = append(v.seen, r.URL.Host)
	v.mu.Unlock()
	status, challenge, body := v.answer[r.URL.Host](strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	resp := &http.Response{
		StatusCode: status, Status: http.StatusText(status), Request: r, Body: io.NopCloser(strings.NewReader(body)),
		Header: http.Header{"Content-Type": {"application/json"}},
	}
	if challenge != "" {
		resp.Header.Set("WWW-Authenticate", challenge)
	}
	return resp, nil
}

func (v *vaults) asked(host string) (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, h := range v.seen {
		if h == host {
			n++
		}
	}
	return n
}

func challengeOf(tenant string) string {
	return `Bearer authorization="https://login.microsoftonline.com/` + tenant + `", resource="https://vault.azure.net"`
}

func refusingWith(challenge string) func(string) (int, string, string) {
	return func(string) (int, string, string) {
		return http.StatusUnauthorized, challenge, `{"error":{"code":"Unauthorized","message":"AKV10032: Invalid issuer."}}`
	}
}

func granted(host string) func(string) (int, string, string) {
	return func(string) (int, string, string) {
		return http.StatusOK, "", `{"id":"https://` + host + `/secrets/s/0123456789abcdef0123456789abcdef","value":"v","attributes":{"enabled":true}}`
	}
}

func (v *vaults) client(t *testing.T, host string, pool *vault.Pool, b *bearer) *vault.Client {
	t.Helper()
	c, err := pool.Client("https://"+host+"/", scope, b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func getSecret(t *testing.T, c *vault.Client) error {
	t.Helper()
	_, err := get(t.Context(), c, class.Secret, "s", "")
	return err
}

// A vault that refuses a token must not take it away from other vaults.
func TestARefusalCountsForItsVaultAlone(t *testing.T) {
	for name, tc := range map[string]struct {
		challenge string
		fixed     bool
		reason    volume.Reason
		asked     int // how often the refusing vault is asked by three requests
		renewed   int
		want      string
	}{
		"another tenant":       {challengeOf(foreignTenant), false, volume.ReasonInvalidClass, 3, 0, "belongs to tenant " + foreignTenant},
		"of letter case only":  {challengeOf(strings.ToUpper(ownTenant)), false, volume.ReasonIdentity, 2, 1, "refused a fresh token of the bearer"},
		"the own tenant":       {challengeOf(ownTenant), false, volume.ReasonIdentity, 2, 1, "refused a fresh token of the bearer"},
		"managed identity":     {challengeOf(ownTenant), true, volume.ReasonIdentity, 1, 0, "refused a fresh token of the bearer"},
		"a domain":             {challengeOf("contoso.onmicrosoft.com"), true, volume.ReasonIdentity, 1, 0, "refused"},
		"AD FS":                {challengeOf("adfs"), true, volume.ReasonIdentity, 1, 0, "refused"},
		"no tenant":            {`Bearer authorization="https://login.microsoftonline.com", resource="https://vault.azure.net"`, true, volume.ReasonIdentity, 1, 0, "refused"},
		"no resource":          {`Bearer authorization="https://login.microsoftonline.com/` + ownTenant + `"`, true, volume.ReasonIdentity, 1, 0, "refused"},
		"nothing":              {"", true, volume.ReasonIdentity, 1, 0, "refused"},
		"rubbish":              {"Bearer =,\"\"=", true, volume.ReasonIdentity, 1, 0, "refused"},
		"another scheme":       {"Negotiate", true, volume.ReasonIdentity, 1, 0, "refused"},
		"claims of no meaning": {challengeOf(ownTenant) + `, error="insufficient_claims", claims="bm90IEpTT04="`, true, volume.ReasonIdentity, 1, 0, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const bad, good = "bad.vault.azure.net", "good.vault.azure.net"
				v := &vaults{answer: map[string]func(string) (int, string, string){bad: refusingWith(tc.challenge), good: granted(good)}}
				b := &bearer{tenant: ownTenant, fixed: tc.fixed}
				pool := vault.New(vault.Options{Transport: v, Clock: clock.RealClock{}})
				refused, serving := v.client(t, bad, pool, b), v.client(t, good, pool, b)
				for range 3 {
					err := getSecret(t, refused)
					if volume.ReasonOf(err) != tc.reason || !strings.Contains(err.Error(), `vault bad.vault.azure.net: secret "s": the vault`) ||
						!strings.Contains(err.Error(), tc.want) {
						t.Fatalf("got %v (%s)", err, volume.ReasonOf(err))
					}
					if err := getSecret(t, serving); err != nil {
						t.Fatalf("the other vault: %v", err)
					}
				}
				if n := v.asked(bad); n != tc.asked || b.renewed() != tc.renewed {
					t.Errorf("the vault was asked %d times, and %d tokens were asked for", n, b.renewed())
				}
			})
		})
	}
}

// The vault may be corrected while the token is still valid.
func TestARefusalIsForgottenSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &vaults{answer: map[string]func(string) (int, string, string){host: refusingWith(challengeOf(ownTenant))}}
		b := &bearer{tenant: ownTenant, fixed: true}
		client := v.client(t, host, vault.New(vault.Options{Transport: v, Clock: clock.RealClock{}}), b)
		if err := getSecret(t, client); volume.ReasonOf(err) != volume.ReasonIdentity {
			t.Fatal(err)
		}
		v.answer[host] = granted(host)
		if err := getSecret(t, client); volume.ReasonOf(err) != volume.ReasonIdentity {
			t.Errorf("a moment later: %v", err)
		}
		time.Sleep(time.Minute)
		if err := getSecret(t, client); err != nil {
			t.Errorf("a minute later: %v", err)
		}
	})
}

func TestARefusedTokenIsCuredByANewerOne(t *testing.T) {
	for name, challenge := range map[string]string{
		"renewed": challengeOf(ownTenant),
		"claims": challengeOf(ownTenant) + `, error="insufficient_claims", claims="` +
			base64.StdEncoding.EncodeToString([]byte(`{"access_token":{}}`)) + `"`,
	} {
		t.Run(name, func(t *testing.T) {
			b := &bearer{tenant: ownTenant}
			first := b.token().Token
			v := &vaults{answer: map[string]func(string) (int, string, string){host: func(token string) (int, string, string) {
				if token == first {
					return refusingWith(challenge)(token)
				}
				return granted(host)(token)
			}}}
			client := v.client(t, host, vault.New(vault.Options{Transport: v, Clock: clock.RealClock{}}), b)
			for range 2 {
				if err := getSecret(t, client); err != nil {
					t.Fatal(err)
				}
			}
			if n := v.asked(host); n != 3 || b.renewed() != 1 {
				t.Errorf("%d requests, %d new tokens", n, b.renewed())
			}
			if name == "claims" && fmt.Sprint(b.claims) != `[{"access_token":{}}]` {
				t.Errorf("claims %q", b.claims)
			}
		})
	}
}

// A token that was asked for because the vault refused the one before is renewed too when the vault refuses it later: the clock of the
// node may have been stepped back since, and the token ends earlier than it seems.
func TestATokenThatServedIsRenewedAgain(t *testing.T) {
	b := &bearer{tenant: ownTenant}
	ended := map[string]bool{b.token().Token: true}
	v := &vaults{answer: map[string]func(string) (int, string, string){host: func(token string) (int, string, string) {
		if ended[token] {
			return refusingWith(challengeOf(ownTenant))(token)
		}
		return granted(host)(token)
	}}}
	client := v.client(t, host, vault.New(vault.Options{Transport: v, Clock: clock.RealClock{}}), b)
	for i := range 3 {
		for range 2 { // with a newer token, and with this one again
			if err := getSecret(t, client); err != nil {
				t.Fatal(err)
			}
		}
		if b.renewed() != i+1 {
			t.Errorf("%d new tokens", b.renewed())
		}
		ended[b.token().Token] = true
	}
}

// A vault that is not one of the cloud's own says what its tokens are for. It gets tokens only for a domain that it is
// part of.
func TestTheVaultsOwnScopeIsLearned(t *testing.T) {
	for resource, want := range map[string]string{
		"https://corp.example":               "https://corp.example/.default",
		"https://CORP.example/.default":      "https://corp.example/.default",
		"https://vault.azure.net":            scope,
		"https://management.azure.com":       scope,
		"https://example":                    scope,
		"https://orp.example":                scope,
		"http://corp.example":                scope,
		"https://kv.corp.example":            scope,
		"https://corp.example@evil.example/": scope,
	} {
		t.Run(resource, func(t *testing.T) {
			const own = "kv.corp.example"
			b := &bearer{tenant: ownTenant, fixed: true}
			v := &vaults{answer: map[string]func(string) (int, string, string){
				own: refusingWith(`Bearer authorization="https://login.microsoftonline.com/` + ownTenant + `", resource="` + resource + `"`),
			}}
			client := v.client(t, own, vault.New(vault.Options{Transport: v, Clock: clock.RealClock{}}), b)
			if err := getSecret(t, client); volume.ReasonOf(err) != volume.ReasonIdentity {
				t.Fatal(err)
			}
			if got := b.scopes[len(b.scopes)-1]; got != want || v.asked(own) != len(b.scopes) {
				t.Errorf("tokens for %q", b.scopes)
			}
		})
	}
}

// Key Vault names the port in the links to the next pages of lists.
func TestTheNextPageIsOfTheSameVault(t *testing.T) {
	const last = `{"value":[{"id":"https://` + host + `/secrets/s/0123456789abcdef0123456789abcdef","attributes":{"enabled":true}}],"nextLink":null}`
	for name, tc := range map[string]struct {
		vault, next string
		ok          bool
	}{
		"with the port":         {host, "https://" + host + ":443", true},
		"without":               {host, "https://" + host, true},
		"in another case":       {host, "https://CONTOSO.vault.azure.net:443", true},
		"another port":          {host, "https://" + host + ":8443", false},
		"plain HTTP":            {host, "http://" + host + ":443", false},
		"a vault's own port":    {host + ":8443", "https://" + host + ":8443", true},
		"not the vault's port":  {host + ":8443", "https://" + host, false},
		"a host that ends so":   {host, "https://evil" + host + ":443", false},
		"a host that begins so": {host, "https://" + host + ".example.com:443", false},
	} {
		t.Run(name, func(t *testing.T) {
			v := &vaults{answer: map[string]func(string) (int, string, string){}}
			u, err := url.Parse(tc.next)
			if err != nil {
				t.Fatal(err)
			}
			v.answer[u.Host] = func(string) (int, string, string) { return http.StatusOK, "", last }
			first := true
			v.answer[tc.vault] = func(string) (int, string, string) {
				if !first {
					return http.StatusOK, "", last
				}
				first = false
				return http.StatusOK, "", `{"value":[],"nextLink":"` + tc.next + `/secrets/s/versions?api-version=7.6&$skiptoken=x"}`
			}
			client := v.client(t, tc.vault, vault.New(vault.Options{Transport: v, Clock: clock.RealClock{}}), &bearer{})
			all, err := versions(t.Context(), client, class.Secret, "s")
			switch {
			case tc.ok && (err != nil || len(all) != 1):
				t.Errorf("got %+v, %v", all, err)
			case !tc.ok && (volume.ReasonOf(err) != volume.ReasonUnavailable || len(v.seen) != 1):
				t.Errorf("got %v after %q", err, v.seen)
			}
		})
	}
}

// A list names its next page itself: the token must not follow it to another host.
func TestTheTokenDoesNotLeaveForAnotherHost(t *testing.T) {
	v := &vaults{answer: map[string]func(string) (int, string, string){
		host: func(string) (int, string, string) {
			return http.StatusOK, "", `{"value":[],"nextLink":"https://evil.example.com/secrets/s/versions?api-version=7.6"}`
		},
		"evil.example.com": granted("evil.example.com"),
	}}
	client := v.client(t, host, vault.New(vault.Options{Transport: v, Clock: clock.RealClock{}}), &bearer{})
	_, err := versions(t.Context(), client, class.Secret, "s")
	if volume.ReasonOf(err) != volume.ReasonUnavailable || !strings.Contains(err.Error(), "another host") || v.asked("evil.example.com") != 0 {
		t.Errorf("got %v", err)
	}
}

// What a vault, or whoever sits before it, answers must be for the object that was asked for.
func TestAnswersForAnotherObjectAreRefused(t *testing.T) {
	const version, other = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
	for name, tc := range map[string]struct {
		id    string
		asked string
		ok    bool
	}{
		"its own":          {"https://" + host + "/secrets/s/" + version, "", true},
		"the version":      {"https://" + host + "/secrets/s/" + version, version, true},
		"of other case":    {"https://CONTOSO.vault.azure.net/secrets/S/" + version, "", true},
		"with the port":    {"https://" + host + ":443/secrets/s/" + version, "", true},
		"another vault":    {"https://evil.vault.azure.net/secrets/s/" + version, "", false},
		"another kind":     {"https://" + host + "/keys/s/" + version, "", false},
		"another name":     {"https://" + host + "/secrets/t/" + version, "", false},
		"another version":  {"https://" + host + "/secrets/s/" + other, version, false},
		"no version":       {"https://" + host + "/secrets/s", "", false},
		"too long":         {"https://" + host + "/secrets/s/" + version + "/more", "", false},
		"text as version":  {"https://" + host + "/secrets/s/a%0Ab", "", false},
		"not a URL":        {"%", "", false},
		"none":             {"", "", false},
		"a version of 1 M": {"https://" + host + "/secrets/s/" + strings.Repeat("a", 1<<20), "", false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, list := range []bool{false, true} {
				if list && (tc.asked != "" || name == "none") {
					continue // a list has no version, and entries without an id are passed over
				}
				body := `{"id":"` + tc.id + `","value":"v","attributes":{"enabled":true}}`
				if list {
					body = `{"value":[` + body + `]}`
				}
				v := &vaults{answer: map[string]func(string) (int, string, string){host: func(string) (int, string, string) { return http.StatusOK, "", body }}}
				client := v.client(t, host, vault.New(vault.Options{Transport: v, Clock: clock.RealClock{}}), &bearer{})
				a, err := client.Ask(t.Context(), volume.SourceKey{Kind: "secret", Name: "s", Version: tc.asked, List: list}, "s")
				if (err == nil) != tc.ok {
					t.Fatalf("list %t: got %+v, %v", list, a, err)
				}
				if !tc.ok && (volume.ReasonOf(err) != volume.ReasonUnavailable || !strings.Contains(err.Error(), "check proxies") || len(err.Error()) > 300) {
					t.Errorf("list %t: error %v", list, err)
				}
			}
		})
	}
}
