package provider_test

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/identity"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const seed = `
tenants:
- id: tenant
  applications:
  - {clientID: client, objectID: a1, federated: [{issuer: "https://oidc.example.com/cluster/", subject: "system:serviceaccount:default:app"}]}
  - {clientID: nobody, objectID: b2, federated: [{issuer: "https://oidc.example.com/cluster/", subject: "system:serviceaccount:default:app"}]}
vaults:
- name: contoso
  tenant: tenant
  grants: [{clientID: client, permissions: ["*"]}]
  secrets: [{name: one, value: "1"}, {name: two, value: "2"}]
`

// world is a provider whose network is the emulator.
type world struct {
	*provider.Provider
	*emulator.Server
	issuer *emulatortest.Issuer
	// dial may fail in the emulator's place.
	mu   sync.Mutex
	fail func(address string) error
}

func newWorld(t *testing.T, change func(*provider.Options)) *world {
	t.Helper()
	w := &world{Server: emulatortest.Start(t, seed)}
	w.issuer = emulatortest.StartIssuer(t, w.Server)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, w.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	o := provider.Options{CAFile: ca, Dial: w.dial, CacheTTL: time.Minute, FetchTimeout: 20 * time.Second}
	if change != nil {
		change(&o)
	}
	var err error
	if w.Provider, err = provider.New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Provider.Close)
	return w
}

// dial reaches every host through the emulator, as if it were the network.
func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	fail := w.fail
	w.mu.Unlock()
	if fail != nil {
		if err := fail(address); err != nil {
			return nil, err
		}
	}
	return w.Dial(ctx, network, address)
}

func (w *world) failing(f func(string) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = f
}

func noSuchHost(prefix string) func(string) error {
	return func(address string) error {
		if strings.HasPrefix(address, prefix) {
			return &net.DNSError{Err: "no such host", Name: address, IsNotFound: true}
		}
		return nil
	}
}

// request is that of a pod whose class names these secrets.
func (w *world) request(parameters map[string]string, secrets ...string) volume.Request {
	all := map[string]string{"keyvaultName": "contoso", "tenantID": "tenant", "clientID": "client", "objects": "array:\n"}
	for _, s := range secrets {
		all["objects"] += "- |\n  objectName: " + s + "\n  objectType: secret\n"
	}
	maps.Copy(all, parameters)
	return volume.Request{
		Pod:      volume.Pod{Namespace: "default", Name: "pod", ServiceAccount: "app"},
		Provider: "azure", Parameters: all,
		Tokens: map[string]volume.Token{identity.ExchangeAudience: {
			Value: w.issuer.Token("default", "app", identity.ExchangeAudience, time.Hour)}},
	}
}

func (w *world) bind(t *testing.T, r volume.Request) volume.Binding {
	t.Helper()
	b, err := w.Bind(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFetch(t *testing.T) {
	w := newWorld(t, nil)
	b := w.bind(t, w.request(nil, "one", "two"))
	bundle, err := b.Fetch(t.Context(), volume.FetchOptions{Priority: volume.PriorityMount})
	if err != nil {
		t.Fatal(err)
	}
	if len(bundle.Files) != 2 || string(bundle.Files[0].Data) != "1" || string(bundle.Files[1].Data) != "2" || bundle.Files[1].Path != "two" {
		t.Errorf("files: %+v", bundle.Files)
	}
	if o := bundle.Objects[0]; o.ID != "secret/one" || o.Version == "" || o.Vault != "contoso.vault.azure.net" || o.RequestID == "" || o.Cached {
		t.Errorf("object: %+v", o)
	}
	for i, f := range bundle.Files {
		s := bundle.Sources[i]
		if f.Source != s.Key || s.Key.Name != f.Path || s.Version != bundle.Objects[i].Version || s.Date.IsZero() || time.Since(s.Date) > time.Hour {
			t.Errorf("file %s is from %+v, source %d is %+v", f.Path, f.Source, i, s)
		}
	}
	if len(bundle.Sources) != 2 || bundle.Stale || bundle.FetchedAt.IsZero() {
		t.Errorf("bundle: %+v", bundle)
	}
	again, err := b.Fetch(t.Context(), volume.FetchOptions{})
	if err != nil || !again.Objects[0].Cached || again.Sources[0] != bundle.Sources[0] || !again.FetchedAt.Equal(bundle.FetchedAt) {
		t.Errorf("a moment later: %+v, %v", again, err)
	}
}

// Key Vault gives the public part of a key or certificate that is disabled, and upstream's provider writes it.
func TestWhatIsDisabledAndGivenIsMountedWithAWarning(t *testing.T) {
	w := newWorld(t, nil)
	err := errors.Join(
		w.SetKey("contoso", emulator.Key{Name: "k", Type: "EC", Disabled: true}),
		w.SetCertificate("contoso", emulator.Certificate{Name: "c", KeyType: "EC", Disabled: true}),
		w.SetKey("contoso", emulator.Key{Name: "enabled", Type: "EC"}),
	)
	if err != nil {
		t.Fatal(err)
	}
	r := w.request(map[string]string{"objects": "array:\n- |\n  objectName: k\n  objectType: key\n- |\n  objectName: c\n  objectType: cert\n" +
		"- |\n  objectName: enabled\n  objectType: key\n"})
	bundle, err := w.bind(t, r).Fetch(t.Context(), volume.FetchOptions{})
	if err != nil || len(bundle.Files) != 3 {
		t.Fatalf("%+v, %v", bundle, err)
	}
	got := strings.Join(bundle.Warnings, "\n")
	if len(bundle.Warnings) != 2 || !strings.Contains(got, `key "k": it is disabled`) || !strings.Contains(got, `cert "c": it is disabled`) {
		t.Errorf("warnings %q", bundle.Warnings)
	}
	// its secret holds the private key, and is refused
	r = w.request(map[string]string{"objects": "array:\n- |\n  objectName: c\n  objectType: secret\n"})
	if _, err := w.bind(t, r).Fetch(t.Context(), volume.FetchOptions{}); volume.ReasonOf(err) != volume.ReasonDisabled {
		t.Errorf("the private key of a disabled certificate: %v", err)
	}
}

func TestStormIsOneRequestForEachSource(t *testing.T) {
	w := newWorld(t, nil)
	var work sync.WaitGroup
	for range 100 {
		work.Go(func() {
			b, err := w.Bind(t.Context(), w.request(nil, "one", "two"))
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := b.Fetch(t.Context(), volume.FetchOptions{Priority: volume.PriorityMount}); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	got := map[string]int{}
	for _, r := range w.Requests() {
		got[r.Operation+" "+r.Name]++
	}
	if got["get secret one"] != 1 || got["get secret two"] != 1 || got["token client"] != 1 {
		t.Errorf("requests: %v", got)
	}
}

func TestValuesAreNotSharedWithAnotherIdentity(t *testing.T) {
	w := newWorld(t, nil)
	if _, err := w.bind(t, w.request(nil, "one")).Fetch(t.Context(), volume.FetchOptions{}); err != nil {
		t.Fatal(err)
	}
	other := w.bind(t, w.request(map[string]string{"clientID": "nobody"}, "one"))
	if bundle, err := other.Fetch(t.Context(), volume.FetchOptions{}); volume.ReasonOf(err) != volume.ReasonPermission || bundle != nil {
		t.Errorf("got %+v, %v", bundle, err)
	}
}

func TestNamesWithoutAddress(t *testing.T) {
	for name, tc := range map[string]struct {
		host string
		want []string
	}{
		"vault": {"contoso.vault.azure.net", []string{"contoso.vault.azure.net", `secret "one"`, "private DNS zone"}},
		"Entra": {"login.microsoftonline.com", []string{"no address is known for login.microsoftonline.com"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.failing(noSuchHost(tc.host))
			_, err := w.bind(t, w.request(nil, "one")).Fetch(t.Context(), volume.FetchOptions{})
			if volume.ReasonOf(err) != volume.ReasonDNS {
				t.Fatalf("got %v", err)
			}
			for _, text := range tc.want {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q lacks %q", err, text)
				}
			}
		})
	}
}

func TestFetchFailsWholeAndNamesTheWorst(t *testing.T) {
	w := newWorld(t, nil)
	w.AddFault(emulator.Fault{Kind: emulator.FaultStatus, Status: 503, Name: "one"})
	bundle, err := w.bind(t, w.request(nil, "one", "two", "missing")).Fetch(t.Context(), volume.FetchOptions{})
	if bundle != nil || volume.ReasonOf(err) != volume.ReasonNotFound || !strings.HasPrefix(err.Error(), `vault contoso.vault.azure.net: secret "missing"`) ||
		!strings.Contains(err.Error(), `secret "one"`) {
		t.Errorf("got %v, %v", bundle, err)
	}
}

// Whoever does not answer is named: the vault, or the service that gives tokens.
func TestHangEndsWithTheFetch(t *testing.T) {
	for name, tc := range map[string]struct {
		fault emulator.Fault
		want  string
	}{
		"vault":    {emulator.Fault{Kind: emulator.FaultHang, Operation: "get secret"}, `vault contoso.vault.azure.net: secret "one": contoso.vault.azure.net did not answer in time`},
		"Entra ID": {emulator.Fault{Kind: emulator.FaultHang, Host: "login.microsoftonline.com"}, "login.microsoftonline.com did not answer in time"},
	} {
		for kind, priority := range map[string]volume.Priority{"mount": volume.PriorityMount, "refresh": volume.PriorityRefresh} {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, func(o *provider.Options) { o.FetchTimeout = 5 * time.Second })
				w.AddFault(tc.fault)
				_, err := w.bind(t, w.request(nil, "one")).Fetch(t.Context(), volume.FetchOptions{Priority: priority})
				if volume.ReasonOf(err) != volume.ReasonNetwork || !strings.HasPrefix(err.Error(), tc.want) {
					t.Errorf("got %v", err)
				}
				w.DropConnections()
			})
		}
	}
}

func TestBindRefuses(t *testing.T) {
	w := newWorld(t, nil)
	for name, tc := range map[string]struct {
		change func(*volume.Request)
		reason volume.Reason
		want   string
	}{
		"another provider": {func(r *volume.Request) { r.Provider = "vault" }, volume.ReasonInvalidClass, `provider "vault" is not served`},
		"mistakes":         {func(r *volume.Request) { r.Parameters["keyvaultName"] = "no_name" }, volume.ReasonInvalidClass, "no_name"},
		"attributes go over parameters": {func(r *volume.Request) { r.Attributes = map[string]string{"keyvaultName": "no_name"} },
			volume.ReasonInvalidClass, "no_name"},
		"no token": {func(r *volume.Request) { r.Tokens = nil }, volume.ReasonIdentity, "tokenRequests"},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // from the text and from memory
				r := w.request(nil, "one")
				tc.change(&r)
				_, err := w.Bind(t.Context(), r)
				if volume.ReasonOf(err) != tc.reason || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	if n := len(w.Requests()); n != 0 {
		t.Errorf("Bind sent %d requests", n)
	}
}

func TestBindingsOfTheSameAreEqual(t *testing.T) {
	w := newWorld(t, nil)
	one, two := w.bind(t, w.request(nil, "one")), w.bind(t, w.request(nil, "one"))
	if one.Key() != two.Key() || one.ScheduleKey() != two.ScheduleKey() {
		t.Error("the same class and pod make two keys")
	}
	if other := w.bind(t, w.request(nil, "two")); other.Key() == one.Key() || other.ScheduleKey() != one.ScheduleKey() {
		t.Error("another object must make another key and the same schedule key")
	}
	if other := w.bind(t, w.request(map[string]string{"clientID": "nobody"}, "one")); other.Key() == one.Key() {
		t.Error("another identity makes no other key")
	}
}

// accounts answers for the service account default/app.
type accounts struct{ err error }

// Annotations implements provider.Accounts.
func (a accounts) Annotations(_ context.Context, namespace, name string) (map[string]string, error) {
	if namespace != "default" || name != "app" {
		return nil, errors.New("asked for another service account")
	}
	return map[string]string{"azure.workload.identity/client-id": "client", "azure.workload.identity/tenant-id": "tenant"}, a.err
}

func TestServiceAccountNamesTheIdentity(t *testing.T) {
	w := newWorld(t, func(o *provider.Options) { o.Accounts = accounts{} })
	b := w.bind(t, w.request(map[string]string{"clientID": "", "tenantID": ""}, "one"))
	if _, err := b.Fetch(t.Context(), volume.FetchOptions{}); err != nil || !strings.Contains(b.Identity(), "client of tenant tenant") {
		t.Errorf("%s: %v", b.Identity(), err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]provider.Options{
		"default cloud":            {Cloud: "x"},
		"--ca-file":                {CAFile: filepath.Join(t.TempDir(), "none")},
		"holds no PEM certificate": {CAFile: empty},
	} {
		if _, err := provider.New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// A Pod that can start with what is kept does not wait for all tries of each object, and one that comes a moment later asks for nothing. When the
// vault answers somebody again, it is asked again.
func TestOutageCostsAPodThatMayStartStaleOneTry(t *testing.T) {
	w := newWorld(t, func(o *provider.Options) { o.CacheTTL = time.Nanosecond })
	r := w.request(map[string]string{"staleIfError": "1h"}, "one", "two")
	fetch := func(o volume.FetchOptions) *volume.Bundle {
		t.Helper()
		o.NotBefore = time.Now()
		bundle, err := w.bind(t, r).Fetch(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return bundle
	}
	start := volume.FetchOptions{Priority: volume.PriorityMount, AllowStale: true}
	fetch(start)
	w.AddFault(emulator.Fault{Operation: "get", Kind: emulator.FaultStatus, Status: 503, Code: "ServiceUnavailable"})
	for i, most := range []int{2, 0} {
		w.ResetRequests()
		if bundle := fetch(start); !bundle.Stale || bundle.Cause == nil {
			t.Errorf("Pod %d: %+v", i, bundle)
		}
		if got := w.Counts()["get secret"]; got > most {
			t.Errorf("Pod %d: %d requests, want at most %d", i, got, most)
		}
	}
	// Who gives up says nothing of the vault.
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.bind(t, r).Fetch(canceled, volume.FetchOptions{Priority: volume.PriorityRefresh, NotBefore: time.Now()}); err == nil {
		t.Error("a canceled fetch succeeds")
	}
	w.ResetRequests()
	if bundle := fetch(start); !bundle.Stale || w.Counts()["get secret"] != 0 {
		t.Errorf("after a canceled fetch: %+v, %v", bundle, w.Counts())
	}
	w.ClearFaults()
	if bundle := fetch(volume.FetchOptions{Priority: volume.PriorityRefresh}); bundle.Stale {
		t.Error("the refresh is stale")
	}
	if bundle := fetch(start); bundle.Stale {
		t.Error("a Pod starts stale although the vault answers")
	}
}

// What another identity cannot get does not make a Pod start with old values.
func TestOutageOfOneIsNotThatOfOthers(t *testing.T) {
	w := newWorld(t, func(o *provider.Options) { o.CacheTTL = time.Nanosecond })
	victim := w.bind(t, w.request(map[string]string{"staleIfError": "1h"}, "one"))
	start := func() *volume.Bundle {
		t.Helper()
		bundle, err := victim.Fetch(t.Context(), volume.FetchOptions{Priority: volume.PriorityMount, AllowStale: true, NotBefore: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		return bundle
	}
	start()
	w.AddFault(emulator.Fault{Operation: "get", Name: "two", Kind: emulator.FaultStatus, Status: 503, Code: "ServiceUnavailable"})
	other := w.request(map[string]string{"clientID": "nobody"}, "two")
	if _, err := w.bind(t, other).Fetch(t.Context(), volume.FetchOptions{Priority: volume.PriorityRefresh}); !volume.ReasonOf(err).Transient() {
		t.Fatalf("the other one gets %v", err)
	}
	if bundle := start(); bundle.Stale {
		t.Errorf("stale, because of %v", bundle.Cause)
	}
}
