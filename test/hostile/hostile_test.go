package hostile_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
	"github.com/keyvault-csi/keyvault-csi-driver/test/hostile"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

func TestMain(m *testing.M) { os.Exit(kubelet.Main(m)) }

const (
	foreignTenant = "99999999-9999-9999-9999-999999999999"
	canary        = "canary-of-a-value-4711"
	version       = "0123456789abcdef0123456789abcdef"
)

// seed has a vault that is attacked, beside the one of kubelet.Seed, and the node's identity, which may read both.
const seed = kubelet.Seed + `- name: attacked
  tenant: 11111111-1111-1111-1111-111111111111
  grants: [{clientID: 22222222-2222-2222-2222-222222222222, permissions: ["*"]}]
managedIdentities:
- {clientID: 22222222-2222-2222-2222-222222222222, objectID: 22222222-0000-0000-0000-000000000000, system: true}
`

// node is a node whose services can be made hostile.
type node struct {
	*kubelet.Node
	*hostile.Server
	healthy int // Pods of the healthy vault
}

func start(t *testing.T) *node {
	t.Helper()
	s := hostile.Start(t, seed)
	n := &node{Server: s, Node: kubelet.StartWith(t, s.Server, emulatortest.StartIssuer(t, s.Server), "--cache-ttl", "0s")}
	n.Secret("healthy", "fine")
	if _, err := s.SetSecret("attacked", emulator.Secret{Name: "s", Value: canary}); err != nil {
		t.Fatal(err)
	}
	for name, vault := range map[string]string{"healthy": kubelet.Vault, "attacked": "attacked"} {
		object := map[string]string{"healthy": "healthy", "attacked": "s"}[name]
		n.Class(name, map[string]string{"keyvaultName": vault, "objects": kubelet.Objects(object)})
		n.Class(name+"-node", map[string]string{"keyvaultName": vault, "objects": kubelet.Objects(object),
			"useVMManagedIdentity": "true", "clientID": "-", "tenantID": "-"})
	}
	return n
}

// survives checks that the driver lives and serves what is not attacked.
func (n *node) survives(class string) {
	n.Helper()
	n.healthy++
	pod := "healthy-" + strconv.Itoa(n.healthy)
	n.MustPublish(pod, class)
	if got := n.Read(pod, "healthy"); got != "fine" {
		n.Errorf("%s reads %q", pod, got)
	}
	n.Unpublish(pod)
	if strings.Contains(n.Log(), `"msg":"panic`) {
		n.Error("a panic was logged")
	}
}

// attacked publishes a Pod of the attacked vault for at most as long as a test waits.
func (n *node) attacked(class string, limit time.Duration) error {
	n.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	_, err := n.NodePublishVolume(ctx, n.Request("attacked", class))
	if err == nil {
		n.Unpublish("attacked")
	}
	return err
}

func challenge(authority, rest string) string {
	return `Bearer authorization="` + authority + `", resource="https://vault.azure.net"` + rest
}

// One class that names a wrong vault must not take its identity away from the other Pods of the node.
func TestAVaultThatRefusesDisablesNoIdentity(t *testing.T) {
	t.Parallel()
	claims := func(text string) string {
		return `, error="insufficient_claims", claims="` + base64.StdEncoding.EncodeToString([]byte(text)) + `"`
	}
	for name, tc := range map[string]struct {
		header string
		code   codes.Code
		want   string
	}{
		"another tenant":         {challenge("https://login.microsoftonline.com/"+foreignTenant, ""), codes.InvalidArgument, "belongs to tenant " + foreignTenant},
		"another authority":      {challenge("https://login.evil.example/"+foreignTenant, ""), codes.InvalidArgument, "belongs to tenant " + foreignTenant},
		"another authority only": {challenge("https://login.evil.example/"+kubelet.Tenant, ""), codes.PermissionDenied, "refused"},
		"no tenant":              {challenge("https://login.microsoftonline.com", ""), codes.PermissionDenied, "refused"},
		"an empty tenant":        {challenge("https://login.microsoftonline.com/", ""), codes.PermissionDenied, "refused"},
		"its own tenant":         {challenge("https://login.microsoftonline.com/"+kubelet.Tenant, ""), codes.PermissionDenied, "refused"},
		"no challenge":           {"", codes.PermissionDenied, "refused"},
		"rubbish":                {`Bearer ,,,="" = "`, codes.PermissionDenied, "refused"},
		"authorization of none":  {`Bearer authorization="", resource=""`, codes.PermissionDenied, "refused"},
		"not a URL":              {challenge("https://%zz/x", ""), codes.PermissionDenied, "refused"},
		"another resource":       {`Bearer authorization="https://login.microsoftonline.com/` + kubelet.Tenant + `", resource="https://management.azure.com"`, codes.PermissionDenied, "refused"},
		"long":                   {challenge("https://login.microsoftonline.com/"+strings.Repeat("a", 32<<10), ""), codes.PermissionDenied, "refused"},
		"claims":                 {challenge("https://login.microsoftonline.com/"+kubelet.Tenant, claims(`{"access_token":{}}`)), codes.PermissionDenied, "refused"},
		"claims of no sense":     {challenge("https://login.microsoftonline.com/"+kubelet.Tenant, claims(`[1`)), codes.PermissionDenied, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := start(t)
			for _, suffix := range []string{"", "-node"} {
				n.Calm()
				n.survives("healthy" + suffix)
				n.Attack(hostile.VaultHost, hostile.Challenge(tc.header))
				n.Emulator.ResetRequests()
				for range 3 {
					err := n.attacked("attacked"+suffix, time.Minute)
					if status.Code(err) != tc.code || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), hostile.VaultHost) ||
						!strings.Contains(err.Error(), "class attacked"+suffix) || len(err.Error()) > 1000 {
						t.Errorf("got %v", err)
					}
					n.survives("healthy" + suffix)
				}
				counts := n.Emulator.Counts()
				if counts["token"] > 1 || counts["metadata token"] > 1 {
					t.Errorf("%v: the refusals cost tokens", counts)
				}
			}
		})
	}
}

// peak is the most memory that the driver has used, in MiB.
func (n *node) peak() int {
	n.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.PID()))
	if err != nil {
		n.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		n.Fatal("no VmHWM")
	}
	kib, err := strconv.Atoi(string(m[1]))
	if err != nil {
		n.Fatal(err)
	}
	return kib >> 10
}

// Whoever answers too much, or something else than what was asked for, harms nothing but the volume that needs the answer.
func TestAnswersOfNoUse(t *testing.T) {
	t.Parallel()
	own := "https://" + hostile.VaultHost + "/secrets/s/" + version
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		vault  string // a pattern of what the error says where the vault answers so; empty: not tried
		others string // and where Entra ID or the metadata service does
	}{
		"endless":               {hostile.Endless(http.StatusOK), "bigger than 1 MiB", "bigger than 1 MiB"},
		"endless error":         {hostile.Endless(http.StatusForbidden), "bigger than 1 MiB", "bigger than 1 MiB"},
		"bomb":                  {hostile.Bomb(http.StatusOK), "bigger than 1 MiB", "bigger than 1 MiB"},
		"big header":            {hostile.BigHeader, hostile.VaultHost, "broke off|cannot be reached"},
		"truncated":             {hostile.Truncated, "broke off", "broke off|cannot be reached"},
		"a portal":              {hostile.HTML(http.StatusOK), "not one of Key Vault's", "check proxies"},
		"a portal's 403":        {hostile.HTML(http.StatusForbidden), "status 403", "answered 403"},
		"redirect":              {hostile.Redirect("https://evil.example.com/x", http.StatusTemporaryRedirect), "status 307", "check proxies"},
		"redirect for ever":     {hostile.Redirect("/again", http.StatusFound), "status 302", "check proxies"},
		"JSON of another shape": {hostile.Answer(http.StatusOK, `[[[[]]]]`), "not one of Key Vault's", "check proxies"},
		"deep JSON":             {hostile.Answer(http.StatusOK, strings.Repeat("[", 100000)), "not one of Key Vault's", "check proxies"},
		"null":                  {hostile.Answer(http.StatusOK, `null`), "not one of Key Vault's", "check proxies"},
		"another vault":         {hostile.Secret("https://contoso.vault.azure.net/secrets/s/"+version, canary), "for another object", ""},
		"another name":          {hostile.Secret("https://"+hostile.VaultHost+"/secrets/t/"+version, canary), "for another object", ""},
		"another kind":          {hostile.Secret("https://"+hostile.VaultHost+"/keys/s/"+version, canary), "for another object", ""},
		"no version":            {hostile.Secret("https://"+hostile.VaultHost+"/secrets/s", canary), "for another object", ""},
		"no value":              {hostile.Answer(http.StatusOK, `{"id":"`+own+`"}`), "not one of Key Vault's", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := start(t)
			n.survives("healthy")
			for _, attack := range []struct{ host, class, want string }{
				{hostile.VaultHost, "attacked", tc.vault}, {hostile.MetadataHost, "attacked-node", tc.others}, {hostile.EntraHost, "attacked", tc.others},
			} {
				if attack.want == "" {
					continue
				}
				if attack.host == hostile.EntraHost { // a class of its own identity: that of the others has its token
					if err := n.Emulator.Apply(emulator.Seed{Tenants: []emulator.Tenant{{ID: kubelet.Tenant, Applications: []emulator.Application{{
						ClientID: "fresh", ObjectID: "fresh", Federated: []emulator.Federated{{Issuer: n.Issuer.URL, Subject: "system:serviceaccount:default:app"}},
					}}}}}); err != nil {
						t.Fatal(err)
					}
					n.Class("fresh", map[string]string{"keyvaultName": "attacked", "clientID": "fresh", "objects": kubelet.Objects("s")})
					attack.class = "fresh"
				}
				n.Attack(attack.host, tc.answer)
				err := n.attacked(attack.class, time.Minute)
				if err == nil || !regexp.MustCompile(attack.want).MatchString(err.Error()) || len(err.Error()) > 1000 {
					t.Errorf("%s: got %v", attack.host, err)
				}
				if n.Asked(attack.host) == 0 {
					t.Errorf("%s was not asked", attack.host)
				}
				n.survives("healthy")
				n.Calm()
			}
			for _, r := range n.Emulator.Requests() {
				if strings.HasPrefix(r.Host, "evil") {
					t.Errorf("followed to %+v", r)
				}
			}
			if mib := n.peak(); mib > 200 {
				t.Errorf("the driver used %d MiB", mib)
			}
		})
	}
}

// A vault that quotes a value must not get it into what people read.
func TestWordsOfAVaultAreNotPrinted(t *testing.T) {
	t.Parallel()
	n := start(t)
	for _, code := range []int{400, 401, 403, 404, 405, 409, 410, 418, 429, 500, 503} {
		n.Attack(hostile.VaultHost, hostile.Refusal(code, canary))
		err := n.attacked("attacked", time.Second)
		if err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%d: got %v", code, err)
		}
	}
	n.survives("healthy")
	if strings.Contains(n.Log(), canary) {
		t.Error("the value is in the log")
	}
}

// A list names its next page itself: a token must not follow it to another host.
func TestAListDoesNotLeadTheTokenAway(t *testing.T) {
	t.Parallel()
	n := start(t)
	n.Class("history", map[string]string{"keyvaultName": "attacked",
		"objects": "array:\n- |\n  objectName: s\n  objectType: secret\n  objectVersionHistory: 3\n"})
	for name, next := range map[string]string{
		"another host":  "https://evil.example.com/secrets/s/versions?api-version=7.6",
		"another vault": "https://contoso.vault.azure.net/secrets/s/versions?api-version=7.6",
		"plain HTTP":    "http://" + hostile.VaultHost + "/secrets/s/versions?api-version=7.6",
		"no URL":        "%%",
		"itself":        "https://" + hostile.VaultHost + "/secrets/s/versions?api-version=7.6",
	} {
		n.Emulator.ResetRequests()
		n.Attack(hostile.VaultHost, hostile.Answer(http.StatusOK, `{"value":[],"nextLink":"`+next+`"}`))
		if err := n.attacked("history", time.Minute); err == nil {
			t.Errorf("%s: no error", name)
		}
		if asked := n.Asked(hostile.VaultHost); asked > 1500 {
			t.Errorf("%s: %d requests", name, asked)
		}
		for _, r := range n.Emulator.Requests() {
			if r.Host != hostile.EntraHost && r.Operation != "token" && r.Operation != "discovery" {
				t.Errorf("%s: followed to %+v", name, r)
			}
		}
		n.survives("healthy")
	}
}

// Who does not answer is named, and delays nobody else.
func TestServicesThatDoNotAnswer(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		host, class, want string
		answer            http.HandlerFunc
	}{
		"a slow vault":               {hostile.VaultHost, "attacked", "vault " + hostile.VaultHost, hostile.Slow},
		"a vault that hangs":         {hostile.VaultHost, "attacked", "vault " + hostile.VaultHost, hostile.Hang},
		"Entra ID hangs":             {hostile.EntraHost, "attacked", "class attacked: " + hostile.EntraHost + " did not answer in time", hostile.Hang},
		"the metadata service hangs": {hostile.MetadataHost, "attacked-node", "class attacked-node: the instance metadata service", hostile.Hang},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := start(t)
			if tc.host == hostile.VaultHost {
				n.survives("healthy") // the token is there
			}
			n.Attack(tc.host, tc.answer)
			attacked := make(chan error, 1)
			go func() { attacked <- n.attacked(tc.class, 5*time.Minute) }()
			if tc.host != hostile.EntraHost {
				n.survives("healthy")
			}
			err := <-attacked
			if code := status.Code(err); code != codes.Unavailable || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v", err)
			}
			n.Calm()
			n.survives("healthy")
		})
	}
}

// A discovery document says where the SDK sends service account tokens: they must not follow it to another host.
func TestDiscoveryDoesNotLeadCredentialsAway(t *testing.T) {
	t.Parallel()
	n := start(t)
	base := "https://" + hostile.EntraHost + "/" + kubelet.Tenant + "/"
	n.Attack(hostile.EntraHost, hostile.Answer(http.StatusOK, `{"issuer":"`+base+`v2.0","authorization_endpoint":"`+base+
		`oauth2/v2.0/authorize","token_endpoint":"https://evil.example.com/oauth2/v2.0/token"}`))
	if err := n.attacked("attacked", time.Minute); err == nil || !strings.Contains(err.Error(), "names another host for token requests") {
		t.Errorf("got %v", err)
	}
	for _, r := range n.Emulator.Requests() {
		t.Errorf("followed to %+v", r)
	}
	n.survives("healthy-node")
}
