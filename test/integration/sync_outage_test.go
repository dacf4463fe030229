//go:build integration

package integration

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// way stands between a driver and the API server, and may answer requests about Secrets in its place.
type way struct {
	// answers is asked for each request about a Secret; false lets it pass.
	answers atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
	secrets atomic.Int64
	passed  atomic.Int64
}

// set makes the way answer; nil opens it.
func (w *way) set(answer func(http.ResponseWriter, *http.Request) bool) {
	if answer == nil {
		w.answers.Store(nil)
		return
	}
	w.answers.Store(&answer)
}

// through returns a kubeconfig that leads over the way.
func (w *way) through(t *testing.T) func(string) string {
	t.Helper()
	return func(kubeconfig string) string {
		config, err := clientcmd.LoadFromFile(kubeconfig)
		must(t, err)
		direct, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		must(t, err)
		target, err := url.Parse(direct.Host)
		must(t, err)
		if len(direct.CAData) == 0 {
			direct.CAData, err = os.ReadFile(direct.CAFile)
			must(t, err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(direct.CAData) {
			t.Fatal("no authority in the kubeconfig")
		}
		forward := httputil.NewSingleHostReverseProxy(target)
		forward.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
		forward.FlushInterval = -1 // watches
		server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/secrets/") {
				w.secrets.Add(1)
				if answer := w.answers.Load(); answer != nil && (*answer)(rw, r) {
					return
				}
				w.passed.Add(1)
			}
			forward.ServeHTTP(rw, r)
		}))
		t.Cleanup(func() {
			server.CloseClientConnections()
			server.Close()
		})
		for _, cluster := range config.Clusters {
			cluster.Server, cluster.CertificateAuthority = server.URL, ""
			cluster.CertificateAuthorityData = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
		}
		path := filepath.Join(t.TempDir(), "kubeconfig")
		must(t, clientcmd.WriteToFile(*config, path))
		return path
	}
}

// refuse answers a code as the API server would.
func refuse(code int, header ...string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"%s","message":"no","code":%d}`,
			map[int]string{403: "Forbidden", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}[code], code)
		return true
	}
}

func hang(_ http.ResponseWriter, r *http.Request) bool {
	_, _ = io.Copy(io.Discard, r.Body) // else the client's end is not noticed
	<-r.Context().Done()
	return true
}

// A failing API server fails no mount and no rotation, and all is caught up with when it works again.
func TestSecretsAreCaughtUpWith(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"429 for a minute": refuse(429, "Retry-After", "60"), "500": refuse(500), "503": refuse(503), "403": refuse(403), "hang": hang,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, w := newSite(t, controlplane.Shared(t)), &way{}
			n := s.nodeVia(w.through(t), "--rotation-interval", "1s")
			n.Secret("db", canaryValue+"1")
			s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
			w.set(answer)
			pod := s.pod("a")
			s.publish(n, pod, "web")
			if got := n.Read("a", "db"); got != canaryValue+"1" {
				t.Errorf("the file holds %q", got)
			}
			s.reported("a FailedToCreateSecret", "/db is not written")
			n.Secret("db", canaryValue+"2")
			n.Eventually("the rotation of the file", func() bool { return n.Read("a", "db") == canaryValue+"2" })
			w.set(nil)
			s.Eventually("the Secret", func() bool { return s.holds("db", "password", canaryValue+"2") })
			s.Eventually("its owner", func() bool { return strings.Contains(s.owners("db"), "Pod a") })
		})
	}
}

// An API server that asks to wait for a second is waited for: the Secret stands before the mount returns.
func TestThrottledSecretStandsBeforeTheMountReturns(t *testing.T) {
	t.Parallel()
	s, w := newSite(t, controlplane.Shared(t)), &way{}
	n := s.nodeVia(w.through(t))
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	var count atomic.Int64
	throttle := refuse(429, "Retry-After", "1")
	w.set(func(rw http.ResponseWriter, r *http.Request) bool { return count.Add(1)%2 == 1 && throttle(rw, r) })
	s.publish(n, s.pod("a"), "web")
	s.want("db", "password", canaryValue+"1")
}

// Retries end with the volume, and keep nothing after it.
func TestRetriesEndWithTheVolume(t *testing.T) {
	t.Parallel()
	s, w := newSite(t, controlplane.Shared(t)), &way{}
	n := s.nodeVia(w.through(t), "--rotation=false")
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	w.set(refuse(500))
	s.publish(n, s.pod("a"), "web")
	before := w.secrets.Load()
	s.Eventually("a retry", func() bool { return w.secrets.Load() > before })
	n.Unpublish("a")
	w.set(nil)
	time.Sleep(10 * time.Second) // longer than the next retry would take
	if w.passed.Load() > 0 || s.secret("db") != nil {
		t.Errorf("%d requests after the end, Secret %v", w.passed.Load(), s.secret("db"))
	}
}

// A node that is cut off from the vault, or whose writes were held up, turns no Secret back to older values.
func TestNothingIsTurnedBack(t *testing.T) {
	t.Parallel()
	stale := func(r *csi.NodePublishVolumeRequest) { r.VolumeContext["staleIfError"] = "1h" }
	t.Run("cut off from the vault", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, controlplane.Shared(t))
		good, cut := s.node("--rotation-interval", "1s"), s.node("--rotation-interval", "1s")
		for _, n := range s.nodes {
			n.Secret("db", canaryValue+"1")
		}
		s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
		a, b, c := s.pod("a"), s.pod("b"), s.pod("c")
		s.must(good.Publish(a.Name, "web", kubelet.ForPod(a, s.Tokens(a)), stale)) // volumeAttributes are the same on all nodes
		with := func(pod *corev1.Pod) error {
			return cut.Publish(pod.Name, "web", kubelet.ForPod(pod, s.Tokens(pod)), stale)
		}
		s.must(with(b))
		cut.Emulator.AddFault(emulator.Fault{Kind: emulator.FaultStatus, Status: 503, Host: "contoso.vault.azure.net"})
		good.Secret("db", canaryValue+"2")
		s.Eventually("the rotation", func() bool { return s.holds("db", "password", canaryValue+"2") })
		version := s.secret("db").ResourceVersion
		time.Sleep(3 * time.Second) // several polls of the node that is cut off
		if s.secret("db").ResourceVersion != version {
			t.Errorf("it was written: %v", s.secret("db"))
		}
		// a new Pod starts there from last known good values: it becomes an owner, and that is all
		s.must(with(c))
		if got := cut.Read("c", "db"); got != canaryValue+"1" {
			t.Errorf("the file holds %q", got)
		}
		s.want("db", "password", canaryValue+"2")
		if got := s.owners("db"); !strings.Contains(got, "Pod c") {
			t.Errorf("owners %q", got)
		}
		cut.Stop(syscall.SIGKILL)
		cut.Run()
		s.must(with(b))
		time.Sleep(2 * time.Second)
		s.want("db", "password", canaryValue+"2")
	})
	t.Run("held up on the way to the API server", func(t *testing.T) {
		t.Parallel()
		s, w := newSite(t, controlplane.Shared(t)), &way{}
		good, late := s.node("--rotation=false"), s.nodeVia(w.through(t), "--rotation=false")
		late.Secret("db", canaryValue+"1")
		good.Secret("db", canaryValue+"2")
		s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
		a, b := s.pod("a"), s.pod("b")
		w.set(refuse(500))
		s.publish(late, b, "web")
		time.Sleep(1100 * time.Millisecond) // the API server notes the time of writes in whole seconds
		s.publish(good, a, "web")
		s.want("db", "password", canaryValue+"2")
		w.set(nil)
		s.Eventually("the owner that was held up", func() bool { return strings.Contains(s.owners("db"), "Pod b") })
		s.want("db", "password", canaryValue+"2")
	})
}

// A driver that was killed takes its volumes up again, and puts right what happened to their Secrets meanwhile.
func TestSecretsAfterARestart(t *testing.T) {
	t.Parallel()
	s := newSite(t, controlplane.Shared(t))
	n := s.node("--rotation-interval", "1s")
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	a := s.pod("a")
	s.publish(n, a, "web")
	n.Stop(syscall.SIGKILL)
	s.MustKubectl("", "-n", s.namespace, "delete", "secret", "db")
	secrets, pods, list := s.during(func() {
		n.Run()
		s.publish(n, a, "web")
		s.Eventually("the Secret", func() bool { return s.holds("db", "password", canaryValue+"1") })
	})
	t.Logf("after a restart: %d requests about the Secret, %d about the Pod: %v", secrets, pods, list)
	if secrets > 3 || pods > 1 {
		t.Error("at most 3 and 1")
	}
	if got := s.owners("db"); got != "Pod a "+string(a.UID) {
		t.Errorf("owners %q", got)
	}
}

// The API server stops and starts while Pods start and values change.
func TestAPIServerStopsUnderSync(t *testing.T) {
	t.Parallel()
	c := controlplane.Start(t, controlplane.Options{})
	s := newSite(t, c)
	n := s.node("--rotation-interval", "1s")
	n.Secret("db", canaryValue+"1")
	s.class("web", []string{"db"}, secretObject{"secretName": "db", "data": data("db", "password")})
	a, b := s.pod("a"), s.pod("b")
	s.tokens[b.UID] = s.Tokens(b)
	s.publish(n, a, "web")
	s.want("db", "password", canaryValue+"1")
	for round := range 2 {
		c.StopAPIServer()
		value := canaryValue + string(rune('2'+round))
		n.Secret("db", value)
		s.publish(n, b, "web")
		n.Eventually("the rotation of the files", func() bool { return n.Read("a", "db") == value && n.Read("b", "db") == value })
		c.StartAPIServer()
		s.Eventually("the Secret", func() bool { return s.holds("db", "password", value) })
		s.Eventually("the owners", func() bool { return strings.Contains(s.owners("db"), "Pod b") })
	}
}
