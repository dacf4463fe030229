package vault_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
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
}

func (b *bearer) token() azcore.AccessToken {
	payload, _ := json.Marshal(map[string]any{"tid": b.tenant, "n": b.n})
	return azcore.AccessToken{Token: "e30." + base64.RawURLEncoding.EncodeToString(payload) + ".c2ln", ExpiresOn: time.Now().Add(time.Hour)}
}

func (b *bearer) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
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
	_, err := c.Get(t.Context(), class.Secret, "s", "")
	return err //nolint:wrapcheck // a test looks at it
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

// A list names its next page itself: the token must not follow it to another host.
func TestTheTokenDoesNotLeaveForAnotherHost(t *testing.T) {
	v := &vaults{answer: map[string]func(string) (int, string, string){
		host: func(string) (int, string, string) {
			return http.StatusOK, "", `{"value":[],"nextLink":"https://evil.example.com/secrets/s/versions?api-version=7.6"}`
		},
		"evil.example.com": granted("evil.example.com"),
	}}
	client := v.client(t, host, vault.New(vault.Options{Transport: v, Clock: clock.RealClock{}}), &bearer{})
	_, err := client.Versions(t.Context(), class.Secret, "s")
	if volume.ReasonOf(err) != volume.ReasonUnavailable || !strings.Contains(err.Error(), "another host") || v.asked("evil.example.com") != 0 {
		t.Errorf("got %v", err)
	}
}
