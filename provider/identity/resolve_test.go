package identity

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
)

func TestResolveRefuses(t *testing.T) {
	r, clk := registry(t, &wire{})
	later := clk.Now().Add(time.Hour)
	tokens := func(audience string, value string) volume.Request {
		req := fromPod(later)
		req.Tokens = map[string]volume.Token{audience: {Value: value}}
		return req
	}
	for name, tc := range map[string]struct {
		class *class.Class
		req   volume.Request
		want  string
	}{
		"nothing at all":          {public(class.Class{}), volume.Request{}, "no service account token for the audience api://AzureADTokenExchange"},
		"no client":               {public(class.Class{TenantID: "tenant"}), fromPod(later), "set clientID in the class"},
		"no tenant":               {public(class.Class{ClientID: "client"}), fromPod(later), "set tenantID in the class"},
		"token of another":        {workload(), tokens(ExchangeAudience, tokenOf("system:serviceaccount:default:other", later).Value), `that of "system:serviceaccount:default:other"`},
		"token of another, alike": {workload(), tokens(ExchangeAudience, tokenOf(appSubject+" ", later).Value), "not the pod's"},
		"no JWT":                  {workload(), tokens(ExchangeAudience, "canary"), "it is not a JWT"},
		"no base64":               {workload(), tokens(ExchangeAudience, "canary.!.canary"), "not base64url"},
		"no JSON":                 {workload(), tokens(ExchangeAudience, "canary.Y2FuYXJ5.canary"), "not JSON"},
		"no subject":              {workload(), tokens(ExchangeAudience, unsigned(map[string]any{"iss": "x"})), "no issuer or subject"},
		"binding without token": {public(class.Class{Mode: class.TokenProxy, TenantID: "tenant", ClientID: "client"}), fromPod(later),
			"no service account token for the audience api://AKSIdentityBinding"},
		"binding with nothing": {public(class.Class{Mode: class.TokenProxy}), volume.Request{}, "no client id is known"},
		"principal without tenant": {public(class.Class{}), volume.Request{Secrets: volume.Secrets{"clientid": "c", "clientsecret": "canary"}},
			"set tenantID in the class"},
		"principal without client": {public(class.Class{TenantID: "tenant"}), volume.Request{Secrets: volume.Secrets{"clientsecret": "canary"}}, "no clientid"},
		"principal without credential": {public(class.Class{TenantID: "tenant"}), volume.Request{Secrets: volume.Secrets{"clientid": "c"}},
			"neither clientsecret nor clientcertificate"},
		"principal with both": {public(class.Class{TenantID: "tenant"}), volume.Request{Secrets: volume.Secrets{
			"clientid": "c", "clientsecret": "canary", "clientcertificate": "canary"}}, "remove one"},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := r.Resolve(tc.class, Account{}, tc.req)
			e, ok := errors.AsType[*volume.Error](err)
			if !ok || id != nil || !strings.Contains(e.Message, tc.want) {
				t.Fatalf("got %v, %v", id, err)
			}
			if strings.ContainsAny(e.Message, "\n\r") || strings.Contains(e.Message, "canary") {
				t.Errorf("message: %q", e.Message)
			}
		})
	}
}

func TestServiceAccountSuppliesWhatTheClassLeavesOut(t *testing.T) {
	r, clk := registry(t, &wire{})
	id, err := r.Resolve(public(class.Class{}), Account{ClientID: "client", TenantID: "tenant"}, fromPod(clk.Now().Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	if same := resolve(t, r, workload(), fromPod(clk.Now().Add(time.Hour))); same != id {
		t.Errorf("%s is not %s", id, same)
	}
	c := public(class.Class{ClientID: "mine", TenantID: "mine"})
	if other, _ := r.Resolve(c, Account{ClientID: "client", TenantID: "tenant"}, fromPod(clk.Now().Add(time.Hour))); other == id {
		t.Error("the service account overrides the class")
	}
}

// Two requests have one identity only if Entra ID cannot tell them apart.
func TestEachIdentityIsItsOwn(t *testing.T) {
	r, clk := registry(t, &wire{})
	later := clk.Now().Add(time.Hour)
	with := func(change func(*class.Class, *volume.Request)) string {
		c, req := workload(), fromPod(later)
		change(c, &req)
		id := resolve(t, r, c, req)
		if id.Key() == "" {
			t.Error("an identity without key")
		}
		return id.Key()
	}
	principal := func(key, value string) func(*class.Class, *volume.Request) {
		return func(c *class.Class, req *volume.Request) {
			c.ClientID, req.Tokens = "", nil
			req.Secrets = volume.Secrets{"clientid": "client", key: value}
		}
	}
	managed := func(set func(*class.Class)) func(*class.Class, *volume.Request) {
		return func(c *class.Class, _ *volume.Request) {
			c.Mode = class.ManagedIdentity
			set(c)
		}
	}
	seen := map[string]string{}
	for name, change := range map[string]func(*class.Class, *volume.Request){
		"base":   func(*class.Class, *volume.Request) {},
		"tenant": func(c *class.Class, _ *volume.Request) { c.TenantID = "other" },
		"client": func(c *class.Class, _ *volume.Request) { c.ClientID = "other" },
		"authority": func(c *class.Class, _ *volume.Request) {
			c.Cloud = cloud.Cloud{Authority: "https://login.microsoftonline.us/"}
		},
		"moved bytes": func(c *class.Class, _ *volume.Request) {
			c.TenantID, c.ClientID = `tenant" "client`, ""
			c.ClientID = "x"
		},
		"service account": func(_ *class.Class, req *volume.Request) {
			req.Pod.ServiceAccount = "other"
			req.Tokens[ExchangeAudience] = tokenOf("system:serviceaccount:default:other", later)
		},
		"namespace": func(_ *class.Class, req *volume.Request) {
			req.Pod.Namespace = "other"
			req.Tokens[ExchangeAudience] = tokenOf("system:serviceaccount:other:app", later)
		},
		"issuer": func(_ *class.Class, req *volume.Request) {
			req.Tokens[ExchangeAudience] = volume.Token{Value: unsigned(map[string]any{"iss": "https://other/", "sub": appSubject})}
		},
		"binding": func(c *class.Class, req *volume.Request) {
			c.Mode = class.TokenProxy
			req.Tokens[BindingAudience] = tokenOf(appSubject, later)
		},
		"secret":             principal("clientsecret", "one"),
		"another secret":     principal("clientsecret", "two"),
		"certificate":        principal("clientcertificate", "one"),
		"system-assigned":    managed(func(*class.Class) {}),
		"by client id":       managed(func(c *class.Class) { c.ManagedClientID = "one" }),
		"by another id":      managed(func(c *class.Class) { c.ManagedClientID = "two" }),
		"by object id":       managed(func(c *class.Class) { c.ManagedObjectID = "one" }),
		"by resource id":     managed(func(c *class.Class) { c.ManagedResourceID = "one" }),
		"by client id, none": managed(func(c *class.Class) { c.ManagedClientID = "system" }),
	} {
		key := with(change)
		if other, ok := seen[key]; ok {
			t.Errorf("%q and %q are one identity", name, other)
		}
		seen[key] = name
		if again := with(change); again != key {
			t.Errorf("%q is not the same twice", name)
		}
	}
	if with(managed(func(c *class.Class) { c.ManagedClientID = "ONE" })) != with(managed(func(c *class.Class) { c.ManagedClientID = "one" })) {
		t.Error("the letter case of an id makes another identity")
	}
	longer := with(func(_ *class.Class, req *volume.Request) {
		req.Tokens[ExchangeAudience] = tokenOf(appSubject, later.Add(time.Hour))
	})
	if seen[longer] != "base" {
		t.Error("a newer token makes another identity")
	}
}

func TestCredentialsNeverPrint(t *testing.T) {
	r, _ := registry(t, &wire{})
	token := unsigned(map[string]any{"iss": "https://oidc.example.com/", "sub": appSubject, "exp": time.Now().Add(time.Hour).Unix()})
	req := fromPod(time.Now())
	req.Tokens[ExchangeAudience] = volume.Token{Value: token}
	secret := resolve(t, r, public(class.Class{TenantID: "tenant"}), volume.Request{Secrets: volume.Secrets{
		"clientid": "client", "clientsecret": "canary-secret"}})
	certificate := resolve(t, r, public(class.Class{TenantID: "tenant"}), volume.Request{Secrets: volume.Secrets{
		"clientid": "client", "clientcertificate": "canary-certificate", "clientcertificatepassword": "canary-password"}})
	pod := resolve(t, r, workload(), req)
	for _, id := range []*Identity{secret, certificate, pod} {
		var out bytes.Buffer
		slog.New(slog.NewTextHandler(&out, nil)).Info("identity", "identity", id)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("identity", "identity", id)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			_, _ = fmt.Fprintf(&out, verb+"\n", id)
			_, _ = fmt.Fprintf(&out, verb+"\n", struct{ ID *Identity }{id})
		}
		out.WriteString(id.Key())
		if text := out.String(); strings.Contains(text, "canary") || strings.Contains(text, token) || !strings.Contains(text, "client") {
			t.Errorf("printed:\n%s", text)
		}
	}
}

func FuzzParseClaims(f *testing.F) {
	f.Add(unsigned(map[string]any{"iss": "i", "sub": "s", "exp": 1}))
	f.Add(unsigned(map[string]any{"iss": "i", "sub": "s", "exp": 1e300}))
	f.Add(unsigned(map[string]any{"iss": 1, "sub": "s"}))
	f.Add("a.b.c")
	f.Add("...")
	f.Fuzz(func(t *testing.T, token string) {
		c, err := parseClaims(token)
		if err == nil && (c.Issuer == "" || c.Subject == "") {
			t.Errorf("%q is accepted without issuer or subject", token)
		}
		end := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		if at := c.expiry(volume.Token{Expires: end}); at.After(end) {
			t.Errorf("%q ends after kubelet says it does: %s", token, at)
		}
	})
}
