package push

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/schedule"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
)

const tenant = "11111111-1111-1111-1111-111111111111"

// site is a refresher in front of an API server that is a fake.
type site struct {
	*testing.T
	*refresher

	client  client.WithWatch
	counts  *metrics.Controller
	log     *strings.Builder
	mu      sync.Mutex
	away    error // what the API server answers patches with
	patches int
}

// newClass makes a class of a namespace, from an object list.
func newClass(namespace, name, vault, objects string, more ...string) *v1.SecretProviderClass {
	parameters := map[string]string{"tenantID": tenant, "clientID": tenant}
	if vault != "" {
		parameters["keyvaultName"] = vault
	}
	if objects != "" {
		parameters["objects"] = objects
	}
	for i := 0; i+1 < len(more); i += 2 {
		parameters[more[i]] = more[i+1]
	}
	return &v1.SecretProviderClass{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "u"},
		Spec:       v1.SecretProviderClassSpec{Provider: "azure", Parameters: parameters},
	}
}

func objects(items ...string) string {
	var text strings.Builder
	text.WriteString("array:\n")
	for _, item := range items {
		text.WriteString("  - |\n    " + strings.ReplaceAll(item, "\n", "\n    ") + "\n")
	}
	return text.String()
}

func secret(name string) string { return "objectName: " + name + "\nobjectType: secret" }

// onSite runs a test in a bubble of its own time.
func onSite(t *testing.T, test func(*site), known ...client.Object) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		scheme := runtime.NewScheme()
		if err := v1.AddToScheme(scheme); err != nil {
			t.Fatal(err)
		}
		clouds, err := cloud.NewResolver("AzurePublicCloud", "")
		if err != nil {
			t.Fatal(err)
		}
		counts := metrics.NewController(clock.RealClock{})
		s := &site{T: t, counts: counts, log: &strings.Builder{}}
		p := parser{options: class.Options{Clouds: clouds}, safe: safe.Handler{Log: slog.New(slog.DiscardHandler)}}
		s.client = fake.NewClientBuilder().WithScheme(scheme).WithObjects(known...).
			WithIndex(&v1.SecretProviderClass{}, objectIndex, p.keys).
			WithInterceptorFuncs(interceptor.Funcs{Patch: s.patch}).Build()
		log := slog.New(slog.NewTextHandler(s.log, nil))
		mounted := &nodes{reader: s.client, clock: clock.RealClock{}, log: log, counts: map[string]nodeCount{}}
		budget := newBudget()
		waiting := &asks{
			client: s.client, clock: clock.RealClock{}, safe: safe.Handler{Log: log}, written: counts.RefreshRequested,
			spread: func(ctx context.Context, f found) time.Duration {
				return budget.spread(f.uses.requests, mounted.of(ctx, f.class.Namespace, f.class.Name), time.Now())
			},
		}
		s.refresher = &refresher{
			reader: s.client, parser: p, asks: waiting.begun(), clock: clock.RealClock{}, log: log, metrics: counts,
			hosts: []string{".vault.azure.net"}, refused: map[outcome]refusals{},
		}
		test(s)
		s.asks.wait()
	})
}

func (s *site) patch(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
	s.mu.Lock()
	away := s.away
	s.patches++
	s.mu.Unlock()
	if away != nil {
		return away
	}
	return c.Patch(ctx, o, p, opts...)
}

// request is the class's annotation; the zero value where it has none.
func (s *site) request(namespace, name string) (r schedule.Request) {
	s.Helper()
	var c v1.SecretProviderClass
	if err := s.client.Get(s.Context(), client.ObjectKey{Namespace: namespace, Name: name}, &c); err != nil {
		s.Fatal(err)
	}
	text := c.Annotations[v1.RefreshAnnotation]
	if text == "" {
		return r
	}
	r, err := schedule.ParseRequest(text)
	if err != nil {
		s.Fatal(err)
	}
	return r
}

func (s *site) count(o outcome) int {
	return value(s.T, s.counts, "keyvault_csi_events_total", string(o))
}

// value is that of a counter whose labels are these.
func value(t *testing.T, c prometheus.Collector, name string, labels ...string) int {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var have []string
			for _, label := range m.GetLabel() {
				have = append(have, label.GetValue())
			}
			if family.GetName() == name && slices.Equal(have, labels) {
				return int(m.GetCounter().GetValue())
			}
		}
	}
	return 0
}

// event is the JSON of one event.
func event(host, collection, name, version string) string {
	kind := map[string]string{"secrets": "Secret", "keys": "Key", "certificates": "Certificate"}[collection]
	return fmt.Sprintf(`{"id":"%s-%s","specversion":"1.0","type":"Microsoft.KeyVault.%sNewVersionCreated","time":%q,"data":{"Id":"https://%s/%s/%s/%s"}}`,
		name, version, kind, time.Now().Format(time.RFC3339), host, collection, name, version)
}

func (s *site) send(text string) {
	s.Helper()
	if err := s.deliver(s.Context(), []byte(text)); err != nil {
		s.Fatal(err)
	}
}

// TestWhoUsesAnObject: exactly the classes that use an object are refreshed, and those of which that cannot be said.
func TestWhoUsesAnObject(t *testing.T) {
	const host = "shop.vault.azure.net"
	other := newClass("a", "others-provider", "shop", objects(secret("db")))
	other.Spec.Provider = "vault"
	known := []client.Object{
		newClass("a", "by-name", "shop", objects(secret("DB"))),
		newClass("b", "by-name", "shop", objects(secret("db"), secret("x"))),
		newClass("a", "another-object", "shop", objects(secret("dbx"))),
		newClass("a", "another-vault", "shop2", objects(secret("db"))),
		newClass("a", "a-key", "shop", objects("objectName: db\nobjectType: key")),
		newClass("a", "a-certificate", "shop", objects("objectName: db\nobjectType: cert")),
		newClass("a", "pinned", "shop", objects(secret("db")+"\nobjectVersion: 0123456789abcdef0123456789abcdef")),
		newClass("a", "selected", "shop", objects("objectSelector: {name: d*}\nobjectType: secret")),
		newClass("a", "tagged", "shop", objects("objectSelector: {tags: {a: b}}\nobjectType: secret")),
		newClass("a", "not-selected", "shop", objects("objectSelector: {name: x*}\nobjectType: secret")),
		newClass("a", "fallback", "shop2", objects(secret("db")), "fallbackKeyvaultNames", "shop"),
		newClass("a", "vault-of-the-pod", "", objects(secret("db"))),
		newClass("a", "vault-of-the-pod-2", "", objects(secret("x"))),
		newClass("a", "objects-of-the-pod", "shop", ""),
		newClass("a", "all-of-the-pod", "", ""),
		newClass("a", "mistaken", "shop", objects(secret("db")), "filePermission", "x"),
		other,
	}
	want := " a/by-name b/by-name a/a-key a/a-certificate a/selected a/tagged a/fallback a/vault-of-the-pod a/objects-of-the-pod a/all-of-the-pod "
	onSite(t, func(s *site) {
		s.send(event(host, "secrets", "Db", "1"))
		for _, o := range known {
			name := client.ObjectKeyFromObject(o)
			if got, want := s.request(name.Namespace, name.Name).ID != "", strings.Contains(want, " "+name.String()+" "); got != want {
				t.Errorf("%s: asked to refresh %t, want %t", name, got, want)
			}
		}
		if s.count(refreshed) != 1 {
			t.Errorf("%d events led to refreshes", s.count(refreshed))
		}
	}, known...)
}

// TestOneChangeIsOneRefresh: the three events of a certificate, in both schemas and more than once, are one annotation; a change that
// follows within the second is another one.
func TestOneChangeIsOneRefresh(t *testing.T) {
	const host = "shop.vault.azure.net"
	onSite(t, func(s *site) {
		batch := "[" + event(host, "certificates", "web", "1f") + "," + event(host, "secrets", "web", "1F") + "," + event(host, "keys", "web", "1f") + "]"
		var work sync.WaitGroup
		for range 10 {
			work.Go(func() { s.send(batch) })
		}
		work.Wait()
		first := s.request("a", "web")
		if s.patches > 2 { // those that come while the first is being written ask for a second one with the same value
			t.Errorf("%d patches", s.patches)
		}
		before := s.patches
		s.send(event(host, "secrets", "web", "2f"))
		second := s.request("a", "web")
		s.send(event(host, "secrets", "web", "1f"))
		if second == first || s.request("a", "web") != second || s.patches != before+1 {
			t.Errorf("%v, %v, %v, %d patches", first, second, s.request("a", "web"), s.patches)
		}
		if s.count(duplicate) == 0 {
			t.Error("no duplicate was counted")
		}
	}, newClass("a", "web", "shop", objects("objectName: web\nobjectType: secret")))
}

// TestReplayedForAnHour: one event that comes again and again for an hour is one refresh, and leaves the log alone.
func TestReplayedForAnHour(t *testing.T) {
	onSite(t, func(s *site) {
		good := event("shop.vault.azure.net", "secrets", "db", "1")
		bad := event("shop.vault.azure.cn", "secrets", "db", "1")
		for range 3600 {
			s.send(good)
			s.send(bad)
			s.send(`{"id":"x"}`)
			s.send("no JSON")
			time.Sleep(time.Second)
		}
		if s.patches != 1 || s.count(duplicate) != 3599 || s.count(otherCloud) != 3600 || s.count(malformed) != 7200 {
			t.Errorf("%d patches, %d duplicates, %d of another cloud, %d malformed", s.patches, s.count(duplicate), s.count(otherCloud), s.count(malformed))
		}
		if lines := strings.Count(s.log.String(), "\n"); lines > 130 {
			t.Errorf("%d lines are logged", lines)
		}
	}, newClass("a", "db", "shop", objects(secret("db"))))
}

// TestFlood: 100,000 events of objects that are used, not used, and of unknown vaults are one annotation a second for each class at most.
func TestFlood(t *testing.T) {
	onSite(t, func(s *site) {
		start := time.Now()
		for i := range 20 {
			var texts []string
			for j := range 2500 {
				texts = append(texts,
					event("shop.vault.azure.net", "secrets", "db", fmt.Sprint(i*2500+j)),
					event(fmt.Sprintf("vault-%d-%d.vault.azure.net", i, j%25), "secrets", "db", "1"))
			}
			for part := range slices.Chunk(texts, 2500) { // a delivery has at most 1 MiB
				s.send("[" + strings.Join(part, ",") + "]")
			}
		}
		took := time.Since(start)
		if most := int(took/time.Second) + 2; s.patches > most {
			t.Errorf("%d patches in %s", s.patches, took)
		}
		if s.count(refreshed) != 50_000 || s.count(unknownVault) != 50_000 {
			t.Errorf("%d, %d", s.count(refreshed), s.count(unknownVault))
		}
		if held := len(s.served.young) + len(s.served.former); held > 2*mostRemembered {
			t.Errorf("%d changes are remembered", held)
		}
	}, newClass("a", "db", "shop", objects(secret("db"))))
}

func TestWhatIsNoChange(t *testing.T) {
	onSite(t, func(s *site) {
		s.send(`[{"id":"1","type":"Microsoft.KeyVault.SecretNearExpiry","data":{"Id":"https://shop.vault.azure.net/secrets/db/1"}},
			{"id":"2","eventType":"Microsoft.KeyVault.VaultAccessPolicyChanged","data":{}}]`)
		s.send(event("shop.vault.azure.net", "secrets", "other", "1"))
		if s.patches != 0 || s.count(ignored) != 2 || s.count(unused) != 1 {
			t.Errorf("%d patches, %d ignored, %d unused", s.patches, s.count(ignored), s.count(unused))
		}
	}, newClass("a", "db", "shop", objects(secret("db"))))
}

// TestFailedRefreshIsNotDone: an event whose annotation the API server did not take comes again, and is served then.
func TestFailedRefreshIsNotDone(t *testing.T) {
	onSite(t, func(s *site) {
		text := event("shop.vault.azure.net", "secrets", "db", "1")
		s.away = errors.New("the API server is away")
		for range 5 {
			if err := s.deliver(s.Context(), []byte(text)); err == nil {
				t.Error("the event is taken for served")
			}
		}
		s.mu.Lock()
		s.away = nil
		s.mu.Unlock()
		s.send(text)
		if s.request("a", "db").ID == "" || s.count(failed) != 5 || s.count(refreshed) != 1 {
			t.Errorf("%v, %d failed, %d refreshed", s.request("a", "db"), s.count(failed), s.count(refreshed))
		}
	}, newClass("a", "db", "shop", objects(secret("db"))))
}

// TestSpreadFollowsTheNodes: nodes are counted by the labels of status objects.
func TestSpreadFollowsTheNodes(t *testing.T) {
	known := []client.Object{newClass("shop", "x-shop-db", "shop", objects(secret("db"))), newClass("shop", "few", "shop", objects(secret("few")))}
	for i := range 3000 {
		known = append(known, status("shop", fmt.Sprintf("pod-%d-shop-x-shop-db", i), fmt.Sprintf("node-%d", i%1500)))
	}
	known = append(known, status("shop", "pod-shop-few", "node-1"), status("other", "pod-other-few", "node-2"))
	onSite(t, func(s *site) {
		s.send(event("shop.vault.azure.net", "secrets", "few", "1"))
		if got := s.request("shop", "few").Spread; got != 0 {
			t.Errorf("one node follows within %s", got)
		}
		s.send(event("shop.vault.azure.net", "secrets", "db", "1"))
		if got := s.request("shop", "x-shop-db").Spread; got < 13*time.Second || got > 15*time.Second {
			t.Errorf("1500 nodes follow within %s", got)
		}
	}, known...)
}

func status(namespace, name, node string) client.Object {
	return &v1.SecretProviderClassPodStatus{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, Labels: map[string]string{"internal.secrets-store.csi.k8s.io/node-name": node},
	}}
}

// TestNodesThatAreNotCounted: while status objects cannot be listed, many nodes are assumed, or as many as before; refreshes are asked for all the
// same, and the API server is asked once a minute.
func TestNodesThatAreNotCounted(t *testing.T) {
	onSite(t, func(s *site) {
		lists := 0
		var away error
		reader := interceptor.NewClient(s.client, interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
				lists++
				if away != nil {
					return away
				}
				return c.List(ctx, list, opts...)
			},
		})
		n := &nodes{reader: reader, clock: clock.RealClock{}, log: slog.New(slog.DiscardHandler), counts: map[string]nodeCount{}}
		away = errors.New("forbidden")
		for range 100 {
			if got := n.of(s.Context(), "shop", "db"); got != unknownNodes {
				t.Fatalf("%d nodes", got)
			}
		}
		away = nil
		time.Sleep(countTTL)
		if got := n.of(s.Context(), "shop", "db"); got != 1 || lists != 2 {
			t.Errorf("%d nodes after %d lists", got, lists)
		}
		away = errors.New("timeout")
		time.Sleep(countTTL)
		if got := n.of(s.Context(), "shop", "db"); got != 1 || lists != 3 {
			t.Errorf("%d nodes after %d lists", got, lists)
		}
	}, status("shop", "pod-shop-db", "node-1"))
}

// brokenClouds is a defect.
type brokenClouds struct{}

func (brokenClouds) Lookup(string, string) (cloud.Cloud, error) { panic("a defect") }

// TestADefectLeavesAClassOut: the cache calls the index; a panic there would end the process.
func TestADefectLeavesAClassOut(t *testing.T) {
	counted := 0
	p := parser{options: class.Options{Clouds: brokenClouds{}}, safe: safe.Handler{
		Log: slog.New(slog.DiscardHandler), Count: func(context.Context, string) { counted++ },
	}}
	c := &v1.SecretProviderClass{Spec: v1.SecretProviderClassSpec{Provider: "azure", Parameters: map[string]string{"keyvaultName": "contoso"}}}
	if keys := p.keys(c); len(keys) != 0 || counted != 1 {
		t.Errorf("keys %v, %d panics", keys, counted)
	}
}
