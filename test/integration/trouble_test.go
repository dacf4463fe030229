//go:build integration

package integration

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// between stands between the driver and the API server: it may hold requests, answer them itself, or cut connections.
type between struct {
	*httptest.Server

	mu   sync.Mutex
	rule func(w http.ResponseWriter, r *http.Request) (answered bool)
	seen []string
}

// stand starts it in front of the API server that a kubeconfig names, and returns a kubeconfig for it.
func stand(t *testing.T, kubeconfig string) (*between, string) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	must(t, err)
	transport, err := rest.TransportFor(&rest.Config{Host: config.Host, TLSClientConfig: rest.TLSClientConfig{CAFile: config.CAFile, CAData: config.CAData}})
	must(t, err)
	to, err := url.Parse(config.Host)
	must(t, err)
	b := &between{}
	proxy := &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1,
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	b.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		rule := b.rule
		b.seen = append(b.seen, r.Method+" "+r.URL.Path)
		b.mu.Unlock()
		if rule == nil || !rule(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		b.set(nil)
		b.CloseClientConnections()
		b.Close()
	})
	raw, err := clientcmd.LoadFromFile(kubeconfig)
	must(t, err)
	for _, cluster := range raw.Clusters {
		cluster.Server, cluster.CertificateAuthority = b.URL, "" // credentials go over TLS alone
		cluster.CertificateAuthorityData = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Certificate().Raw})
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, clientcmd.WriteToFile(*raw, path))
	return b, path
}

func (b *between) set(rule func(http.ResponseWriter, *http.Request) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rule = rule
}

// count is how many requests begin with a method and hold a word.
func (b *between) count(method, word string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, request := range b.seen {
		if strings.HasPrefix(request, method+" ") && strings.Contains(request, word) {
			n++
		}
	}
	return n
}

// hold makes requests of a method to a resource wait until the returned function is called.
func (b *between) hold(method, resource string) (release func()) {
	gate := make(chan struct{})
	b.set(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == method && strings.Contains(r.URL.Path, resource) && r.URL.Query().Get("watch") == "" {
			select {
			case <-gate:
			case <-r.Context().Done():
			}
		}
		return false
	})
	return sync.OnceFunc(func() { close(gate) })
}

// startBehind runs the driver behind what stands between.
func startBehind(t *testing.T, s site) (*between, *kubelet.Node) {
	t.Helper()
	b, kubeconfig := stand(t, s.kubeconfig("node-1"))
	n := kubelet.StartInCluster(t, seedFor(s.shop), kubeconfig, s.TokenIssuer())
	n.Secret("db", "s3cret")
	n.Secret("more", "m0re")
	return b, n
}

// TestSlowAPIServer: a mount waits neither for its status object nor for its events, only for a class that is not known.
func TestSlowAPIServer(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	s.class("web", "keyvaultName:", "tenentID: x\n    keyvaultName:") // tells an event
	b, n := startBehind(t, s)
	for _, slow := range []struct{ method, resource string }{{http.MethodPatch, "/secretproviderclasspodstatuses/"}, {http.MethodPost, "/events"}} {
		name := "cart" + strings.ToLower(slow.method)
		release := b.hold(slow.method, slow.resource)
		pod := s.pod(name)
		must(t, s.publish(n, pod, "web"))
		if got := n.Read(string(pod.UID), "db"); got != "s3cret" {
			t.Errorf("%q", got)
		}
		n.Eventually("the slow request", func() bool { return b.count(slow.method, slow.resource) > 0 })
		must(t, s.publish(n, pod, "web"))
		if out := s.get("events", "--field-selector", "reason=SecretProviderClassWarning,involvedObject.name="+name, "-o", "name"); slow.method == http.MethodPost && out != "" {
			t.Errorf("the event got through: %s", out)
		}
		release()
		s.await("true", "secretproviderclasspodstatus", name+"-"+s.shop+"-web", "-o", "jsonpath={.status.mounted}")
		s.Eventually("the event", func() bool { return s.events(name, "SecretProviderClassWarning") != "" })
	}
	release := b.hold(http.MethodGet, "/secretproviderclasses/unknown")
	ctx, cancel := context.WithCancel(t.Context())
	pod := s.pod("hasty")
	request := n.Request("hasty", "unknown", kubelet.ForPod(pod, s.Tokens(pod)))
	ended := make(chan error, 1)
	go func() { _, err := n.NodePublishVolume(ctx, request); ended <- err }()
	n.Eventually("the slow read", func() bool { return b.count(http.MethodGet, "/secretproviderclasses/unknown") > 0 })
	cancel() // kubelet gives up; another call shares the read that is under way
	if err := <-ended; status.Code(err) != codes.Canceled {
		t.Errorf("a call that was given up: %v", err)
	}
	go func() { _, err := n.NodePublishVolume(t.Context(), request); ended <- err }()
	release()
	if err := <-ended; status.Code(err) != codes.NotFound {
		t.Errorf("after the slow read: %v", err)
	}
}

// TestAPIServerThatRefuses: what is refused for now is tried again.
func TestAPIServerThatRefuses(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	s.class("web")
	b, n := startBehind(t, s)
	for _, code := range []int{http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusConflict} {
		left := 2
		b.set(func(w http.ResponseWriter, r *http.Request) bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			if r.Method != http.MethodPatch || left == 0 {
				return false
			}
			left--
			if code == http.StatusTooManyRequests {
				w.Header().Set("Retry-After", "1")
			}
			http.Error(w, "no", code)
			return true
		})
		name := "cart-" + http.StatusText(code)[:3]
		name = strings.ToLower(strings.TrimSpace(name))
		must(t, s.publish(n, s.pod(name), "web"))
		s.await("true", "secretproviderclasspodstatus", name+"-"+s.shop+"-web", "-o", "jsonpath={.status.mounted}")
	}
}

// TestWatchThatDrops: connections that break in the middle cost no edit.
func TestWatchThatDrops(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	s.class("web")
	b, n := startBehind(t, s)
	pod := s.pod("cart")
	uid := string(pod.UID)
	must(t, s.publish(n, pod, "web"))
	for i := range 3 {
		watches := b.count(http.MethodGet, "/secretproviderclasses")
		b.set(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }) // and no way back for now
		b.CloseClientConnections()
		n.Eventually("a new watch to be tried", func() bool { return b.count(http.MethodGet, "/secretproviderclasses") > watches })
		if i%2 == 0 {
			s.class("web", "objects: |\n      array:\n", "objects: |\n      array:\n"+anotherObject)
		} else {
			s.class("web")
		}
		must(t, s.publish(n, pod, "web"))
		b.set(nil)
		n.Eventually("the edit", func() bool { return there(n, uid, "more") == (i%2 == 0) })
	}
	if _, err := os.Stat(n.Target(uid)); err != nil {
		t.Error(err)
	}
}
