package system

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// principal makes the request one with a nodePublishSecretRef and no token.
func principal(secrets map[string]string) func(*csi.NodePublishVolumeRequest) {
	return func(r *csi.NodePublishVolumeRequest) { r.Secrets = secrets }
}

// newCertificate returns a self-signed certificate and its key.
func newCertificate(t *testing.T) (*x509.Certificate, *rsa.PrivateKey) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

func TestServicePrincipals(t *testing.T) {
	t.Parallel()
	certificate, key := newCertificate(t)
	certificatePEM := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	pfx, err := pkcs12.Legacy.Encode(key, certificate, nil, "pass")
	if err != nil {
		t.Fatal(err)
	}
	n := kubelet.Start(t, kubelet.Seed)
	n.Secret("s", "value")
	if err := n.Emulator.Apply(emulator.Seed{Tenants: []emulator.Tenant{{ID: kubelet.Tenant, Applications: []emulator.Application{
		{ClientID: "sp", ObjectID: "sp-oid", Secrets: []emulator.ClientSecret{
			{Value: "p4ss"}, {Value: "old", Expires: time.Now().Add(-time.Hour)}}, Certificates: []string{certificatePEM}},
	}}}}); err != nil {
		t.Fatal(err)
	}
	if err := n.Emulator.Grant(kubelet.Vault, "sp", "secrets/get"); err != nil {
		t.Fatal(err)
	}
	n.Class("c", map[string]string{"objects": kubelet.Objects("s"), "clientID": "-"})
	for name, tc := range map[string]struct {
		secrets map[string]string
		want    string // of the error; none where empty
	}{
		"secret":             {map[string]string{"clientid": "sp", "clientsecret": "p4ss"}, ""},
		"any letter case":    {map[string]string{"ClientID": "sp\n", "CLIENTSECRET": "p4ss\n"}, ""},
		"certificate PEM":    {map[string]string{"clientid": "sp", "clientcertificate": certificatePEM + keyPEM}, ""},
		"PFX as base64":      {map[string]string{"clientid": "sp", "clientcertificate": base64.StdEncoding.EncodeToString(pfx), "clientcertificatepassword": "pass"}, ""},
		"wrong secret":       {map[string]string{"clientid": "sp", "clientsecret": "wrong-canary"}, "AADSTS7000215"},
		"expired secret":     {map[string]string{"clientid": "sp", "clientsecret": "old"}, "AADSTS7000222"},
		"unknown client":     {map[string]string{"clientid": "nobody", "clientsecret": "p4ss"}, "AADSTS700016"},
		"no client":          {map[string]string{"clientsecret": "p4ss"}, "no clientid"},
		"no secret":          {map[string]string{"clientid": "sp"}, "neither clientsecret nor clientcertificate"},
		"bad certificate":    {map[string]string{"clientid": "sp", "clientcertificate": "canary"}, "clientcertificate"},
		"another's key":      {map[string]string{"clientid": "sp", "clientcertificate": otherCertificate(t)}, "AADSTS700027"},
		"secret and no more": {map[string]string{"clientid": "sp", "clientsecret": "p4ss", "other": "x"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := n.In(t)
			pod := strings.ReplaceAll(strings.ToLower(name), " ", "-")
			err := n.Publish(strings.ReplaceAll(pod, "'", ""), "c", principal(tc.secrets))
			switch {
			case tc.want == "" && err != nil:
				t.Error(err)
			case tc.want != "" && (status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("got %v", err)
			}
			if strings.Contains(fmt.Sprint(err)+n.Log(), "canary") {
				t.Error("a credential was leaked")
			}
		})
	}
}

func otherCertificate(t *testing.T) string {
	t.Helper()
	c, key := newCertificate(t)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}

func TestManagedIdentities(t *testing.T) {
	t.Parallel()
	const resource = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/n"
	n := kubelet.Start(t, kubelet.Seed+`
managedIdentities:
- {clientID: mi-system, objectID: mi-system-oid, system: true}
- {clientID: mi-user, objectID: mi-user-oid, resourceID: `+resource+`}
`)
	n.Secret("s", "value")
	for _, id := range []string{"mi-system", "mi-user"} {
		if err := n.Emulator.Grant(kubelet.Vault, id, "secrets/get"); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		parameters map[string]string
		caller     string
		want       string
	}{
		"system":      {map[string]string{}, "mi-system", ""},
		"client id":   {map[string]string{"userAssignedIdentityID": "mi-user"}, "mi-user", ""},
		"object id":   {map[string]string{"userAssignedIdentityObjectID": "mi-user-oid"}, "mi-user", ""},
		"resource id": {map[string]string{"userAssignedIdentityID": resource}, "mi-user", ""},
		"with client": {map[string]string{"clientID": "x"}, "mi-system", ""}, // decided difference (i)
		"unknown":     {map[string]string{"userAssignedIdentityID": "nobody"}, "", "assign it to the VM"},
	} {
		t.Run(name, func(t *testing.T) {
			n := n.In(t)
			parameters := map[string]string{"objects": kubelet.Objects("s"), "useVMManagedIdentity": "true", "clientID": "-", "tenantID": "-"}
			maps.Copy(parameters, tc.parameters)
			class := "mi-" + strings.ReplaceAll(name, " ", "-")
			n.Class(class, parameters)
			n.Emulator.ResetRequests()
			err := n.Publish(class, class, func(r *csi.NodePublishVolumeRequest) { r.Secrets = nil })
			if tc.want != "" {
				if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range n.Emulator.Requests() {
				if r.Operation == "get secret" && r.Caller != tc.caller {
					t.Errorf("asked as %s", r.Caller)
				}
			}
		})
	}
}

func TestIdentityBinding(t *testing.T) {
	t.Parallel()
	for name, sni := range map[string]bool{"server name given": true, "server name computed": false} {
		t.Run(name, func(t *testing.T) {
			server := emulatortest.Start(t, strings.Replace(kubelet.Seed, `:default:app"}`,
				`:default:app", audience: "api://AKSIdentityBinding"}`, 1))
			proxy, err := server.StartTokenProxy("cluster-1")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := proxy.Close(); err != nil {
					t.Error(err)
				}
			})
			ca := filepath.Join(t.TempDir(), "cluster-ca.pem")
			if err := os.WriteFile(ca, proxy.CAPEM, 0o600); err != nil {
				t.Fatal(err)
			}
			flags := []string{"--token-proxy-url", proxy.URL, "--token-proxy-ca-file", ca}
			if sni {
				flags = append(flags, "--token-proxy-sni", proxy.ServerName)
			}
			n := kubelet.StartWith(t, server, emulatortest.StartIssuer(t, server), flags...)
			n.Secret("s", "value")
			n.Class("c", map[string]string{"objects": kubelet.Objects("s"), "useAzureTokenProxy": "true"})
			err = n.Publish("a", "c")
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range n.Emulator.Requests() {
				if r.Operation == "token" && r.Host != "token-proxy" {
					t.Errorf("the token was asked at %s", r.Host)
				}
			}
		})
	}
}

func TestCustomCloudWithADFS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "stack.json"), []byte(`{"name":"Stack","activeDirectoryEndpoint":"https://adfs.local.example/",
		"keyVaultDNSSuffix":"vault.local.example","galleryEndpoint":"ignored"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	n := kubelet.Start(t, `
vaultSuffixes: [vault.local.example]
authorities: [adfs.local.example]
tenants:
- id: adfs
  applications: [{clientID: sp, objectID: o, secrets: [{value: p}]}]
vaults:
- {name: contoso, suffix: vault.local.example, tenant: adfs, grants: [{clientID: sp, permissions: ["*"]}]}
`, "--cloud-config-dir", dir)
	n.Secret("s", "value")
	class := map[string]string{"objects": kubelet.Objects("s"), "clientID": "-", "tenantID": "adfs", "cloudName": "AzureStackCloud"}
	class["cloudEnvFileName"] = "stack.json"
	n.Class("good", class)
	class["cloudEnvFileName"] = "../../../etc/passwd"
	n.Class("bad", class)
	sp := principal(map[string]string{"clientid": "sp", "clientsecret": "p"})
	var err error
	for _, name := range []string{"good", "bad"} {
		err = n.Publish(name, name, sp)
		if (err == nil) != (name == "good") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !strings.Contains(err.Error(), "--cloud-config-dir") || strings.Contains(err.Error(), "root:") {
		t.Errorf("got %v", err)
	}
}

func TestFederatedCredentialThatIsMissing(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed)
	n.Secret("s", "value")
	n.Class("c", map[string]string{"objects": kubelet.Objects("s")})
	err := n.Publish("a", "c", n.As("default", "stranger"))
	for _, want := range []string{"AADSTS700213", n.Issuer.URL, "system:serviceaccount:default:stranger", "api://AzureADTokenExchange"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

func TestRevokedTokenIsRenewedOnce(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--cache-ttl", "0s")
	n.Secret("s", "value")
	n.Class("c", map[string]string{"objects": kubelet.Objects("s")})
	n.MustPublish("a", "c")
	n.Emulator.RevokeTokens()
	n.Emulator.ResetRequests()
	n.MustPublish("b", "c")
	counts := n.Emulator.Counts()
	if counts["token"] != 1 || counts["get secret"] != 2 {
		t.Errorf("%v: want one new token and one repeated request", counts)
	}
}

// Two service accounts never get each other's values, in any order.
func TestIdentitiesAreIsolated(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed)
	n.Secret("s", "of-app")
	if err := n.Emulator.Apply(emulator.Seed{
		Tenants: []emulator.Tenant{{ID: kubelet.Tenant, Applications: []emulator.Application{{ClientID: "other", ObjectID: "o",
			Federated: []emulator.Federated{{Issuer: n.Issuer.URL, Subject: "system:serviceaccount:default:other"}}}}}},
	}); err != nil {
		t.Fatal(err)
	}
	n.Class("app", map[string]string{"objects": kubelet.Objects("s")})
	n.Class("other", map[string]string{"objects": kubelet.Objects("s"), "clientID": "other"})
	n.MustPublish("warm", "app")
	var work sync.WaitGroup
	for i := range 30 {
		work.Go(func() {
			if err := n.Publish(fmt.Sprintf("app-%d", i), "app"); err != nil {
				t.Error(err)
			}
		})
		work.Go(func() {
			// may not read the vault: it must not get what the first one just fetched
			if err := n.Publish(fmt.Sprintf("other-%d", i), "other", n.As("default", "other")); status.Code(err) != codes.PermissionDenied {
				t.Errorf("got %v", err)
			}
		})
		work.Go(func() {
			// the class of the first with the token of the second: Entra refuses
			if err := n.Publish(fmt.Sprintf("mixed-%d", i), "app", n.As("default", "other")); status.Code(err) != codes.PermissionDenied {
				t.Errorf("got %v", err)
			}
		})
	}
	work.Wait()
}

func TestSovereignClouds(t *testing.T) {
	t.Parallel()
	for name, suffix := range map[string]string{"AzureUSGovernmentCloud": "vault.usgovcloudapi.net", "azurechinacloud": "vault.azure.cn"} {
		t.Run(name, func(t *testing.T) {
			n := kubelet.Start(t, strings.Replace(kubelet.Seed, "- name: contoso", "- name: contoso\n  suffix: "+suffix, 1))
			n.Secret("s", "value of "+suffix)
			n.Class("c", map[string]string{"objects": kubelet.Objects("s"), "cloudName": name})
			n.MustPublish("a", "c")
			if got := n.Read("a", "s"); got != "value of "+suffix {
				t.Errorf("%q", got)
			}
			for _, r := range n.Emulator.Requests() {
				if r.Host == "login.microsoftonline.com" || r.Status == 401 {
					t.Errorf("%+v", r)
				}
			}
		})
	}
}

// Continuous access evaluation: the vault asks for a token with claims, and gets it.
func TestClaimsChallenge(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--cache-ttl", "0s")
	n.Secret("s", "value")
	n.Class("c", map[string]string{"objects": kubelet.Objects("s")})
	n.MustPublish("a", "c")
	n.Emulator.AddFault(emulator.Fault{Kind: emulator.FaultClaims, Host: "contoso.vault.azure.net", Count: 1})
	n.MustPublish("b", "c")
	if got := n.Read("b", "s"); got != "value" {
		t.Errorf("%q", got)
	}
}
