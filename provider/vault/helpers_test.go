package vault_test

import (
	"context"
	"crypto/tls"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/identity"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/neterr"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	host  = "contoso.vault.azure.net"
	scope = "https://vault.azure.net/.default"
	seed  = `
pageSize: 2
shortPages: true
tenants:
- id: tenant
  applications:
  - {clientID: client, objectID: a1, federated: [{issuer: "https://oidc.example.com/cluster/", subject: "system:serviceaccount:default:app"}]}
  - {clientID: nobody, objectID: b2, federated: [{issuer: "https://oidc.example.com/cluster/", subject: "system:serviceaccount:default:app"}]}
- id: other-tenant
vaults:
- name: contoso
  tenant: tenant
  grants: [{clientID: client, permissions: ["*"]}]
- {name: policies, tenant: tenant, policies: true}
- {name: foreign, tenant: other-tenant}
`
)

// world is a client of the vault contoso in front of the emulator.
type world struct {
	*emulator.Server
	identities *identity.Registry
	issuer     *emulatortest.Issuer
	transport  *http.Client
	pool       *vault.Pool
	client     *vault.Client
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Server: emulatortest.Start(t, seed)}
	w.issuer = emulatortest.StartIssuer(t, w.Server)
	transport := &http.Transport{
		Proxy: http.ProxyURL(w.ProxyURL()), OnProxyConnectResponse: neterr.CheckConnect, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{RootCAs: w.CAPool(), MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 64,
	}
	w.transport = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	w.identities = identity.New(identity.Options{Transport: w.transport, Clock: clock.RealClock{}})
	w.pool = vault.New(vault.Options{Transport: w.transport, ApplicationID: "test", Clock: clock.RealClock{}})
	t.Cleanup(func() { w.identities.Close(); transport.CloseIdleConnections() })
	w.client = w.of(t, host, "client")
	return w
}

// of returns a client of another vault or identity.
func (w *world) of(t *testing.T, host, clientID string) *vault.Client {
	t.Helper()
	id, err := w.identities.Resolve(&class.Class{
		TenantID: "tenant", ClientID: clientID, Cloud: cloud.Cloud{Authority: "https://login.microsoftonline.com/"},
	}, identity.Account{}, volume.Request{
		Pod: volume.Pod{Namespace: "default", Name: "pod", ServiceAccount: "app"},
		Tokens: map[string]volume.Token{identity.ExchangeAudience: {
			Value: w.issuer.Token("default", "app", identity.ExchangeAudience, time.Hour)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.pool.Client("https://"+host+"/", scope, id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) secret(t *testing.T, name, value string) string {
	t.Helper()
	version, err := w.SetSecret("contoso", emulator.Secret{Name: name, Value: value})
	if err != nil {
		t.Fatal(err)
	}
	return version
}

// counted is how often the vault was asked.
func (w *world) counted() int {
	n := 0
	for _, r := range w.Requests() {
		if r.Host == host && r.Operation != "connect" {
			n++
		}
	}
	return n
}

// starting is a pod that waits: what may pass is tried again.
func starting(t *testing.T) context.Context { return limiter.WithUrgency(t.Context(), true) } // it cannot fail

// get and versions ask for an object of the vault, and for its list.
func get(ctx context.Context, c *vault.Client, kind class.Kind, name, version string) (*vault.Object, error) {
	a, err := c.Ask(ctx, volume.SourceKey{Kind: string(kind), Name: name, Version: version}, name)
	return a.Object, err
}

func versions(ctx context.Context, c *vault.Client, kind class.Kind, name string) ([]vault.Attributes, error) {
	a, err := c.Ask(ctx, volume.SourceKey{Kind: string(kind), Name: name, List: true}, name)
	return a.Versions, err
}
