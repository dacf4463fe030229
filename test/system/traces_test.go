package system

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// collector takes spans by OTLP, over HTTP and gRPC.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer
	mu       sync.Mutex
	requests []*collectorpb.ExportTraceServiceRequest
}

// Export implements the gRPC service.
func (c *collector) Export(_ context.Context, r *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, r)
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

// ServeHTTP implements http.Handler.
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	request := &collectorpb.ExportTraceServiceRequest{}
	if err == nil {
		err = proto.Unmarshal(body, request)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, "not OTLP", http.StatusBadRequest)
		return
	}
	_, _ = c.Export(r.Context(), request)
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (c *collector) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, r := range c.requests {
		b.WriteString(prototext.Format(r))
	}
	return b.String()
}

// spans are those below the first span of the name, itself included.
func (c *collector) spans(root string) (found []*tracepb.Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*tracepb.Span
	for _, r := range c.requests {
		for _, resource := range r.GetResourceSpans() {
			for _, scope := range resource.GetScopeSpans() {
				all = append(all, scope.GetSpans()...)
			}
		}
	}
	first := slices.IndexFunc(all, func(s *tracepb.Span) bool { return s.GetName() == root })
	if first < 0 {
		return nil
	}
	found = append(found, all[first])
	for i := 0; i < len(found); i++ {
		for _, s := range all {
			if string(s.GetParentSpanId()) == string(found[i].GetSpanId()) && string(s.GetTraceId()) == string(found[i].GetTraceId()) {
				found = append(found, s)
			}
		}
	}
	return found
}

func names(spans []*tracepb.Span) (found []string) {
	for _, s := range spans {
		found = append(found, s.GetName())
	}
	return found
}

// collect starts a collector for the protocol and returns its URL.
func collect(t *testing.T, protocol string) (*collector, string) {
	t.Helper()
	c := &collector{}
	if protocol != "grpc" {
		server := httptest.NewServer(c)
		t.Cleanup(server.Close)
		return c, server.URL
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a test
	must(t, err)
	server := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(server, c)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return c, "http://" + listener.Addr().String()
}

func TestTraces(t *testing.T) {
	for _, protocol := range []string{"http/protobuf", "grpc"} {
		t.Run(protocol, func(t *testing.T) {
			c, url := collect(t, protocol)
			t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
			t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
			t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.cluster.name=test")
			n := kubelet.Start(t, kubelet.Seed, "--otlp-endpoint", url, "--rotation-interval", "1s", "--cache-ttl", "0s")
			n.Secret("s", canary)
			n.Class("c", map[string]string{"objects": kubelet.Objects("s")})
			n.Class("broken", map[string]string{"objects": kubelet.Objects("missing")})
			n.MustPublish("a", "c")
			n.Eventually("the spans of a publish", func() bool {
				got := names(c.spans("publish"))
				return !slices.ContainsFunc([]string{"class", "fetch", "token", "Client.GetSecret", "HTTP GET", "HTTP POST", "write"},
					func(want string) bool { return !slices.Contains(got, want) })
			})
			n.Secret("s", canary+"2")
			n.Eventually("the spans of a rotation", func() bool {
				got := names(c.spans("refresh"))
				return slices.Contains(got, "fetch") && slices.Contains(got, "HTTP GET")
			})
			if err := n.Publish("b", "broken"); err == nil {
				t.Fatal("a missing secret was mounted")
			}
			n.Eventually("the spans of a failure", func() bool { return strings.Contains(c.text(), `"NotFound"`) })
			if !strings.Contains(n.Log(), `"trace_id":"`) {
				t.Error("the log has no trace id")
			}
			text := c.text()
			for _, want := range []string{"az.service_request_id", "k8s.cluster.name", "k8s.pod.name", "keyvault-csi"} {
				if !strings.Contains(text, want) {
					t.Errorf("the spans lack %s", want)
				}
			}
			if strings.Contains(text, canary) || strings.Contains(text, "eyJ") {
				t.Error("a secret value or a token is in the spans")
			}
		})
	}
}

// A collector that is away costs nothing but its spans, and one line.
func TestTracesToNobody(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	t.Setenv("OTEL_BSP_EXPORT_TIMEOUT", "200")
	n := kubelet.Start(t, kubelet.Seed, "--otlp-endpoint", "http://"+freePort(t))
	n.Secret("s", canary)
	n.Class("c", map[string]string{"objects": kubelet.Objects("s")})
	n.MustPublish("a", "c")
	n.Eventually("the complaint", func() bool { return strings.Contains(n.Log(), "traces are not delivered") })
	n.MustPublish("b", "c")
}

// TestNoSecretLeaks uses every kind of credential and value at the highest verbosity, through successes and failures,
// and searches all that the driver says: log, audit, metrics, status, traces and errors.
func TestNoSecretLeaks(t *testing.T) {
	c, url := collect(t, "")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
	dir := t.TempDir()
	audited := filepath.Join(dir, "audit.log")
	n := kubelet.Start(t, kubelet.Seed+`
  certificates:
  - {name: tls, subject: a.example.com, chain: 2}
`, "--otlp-endpoint", url, "--audit-log", audited, "--http-addr", kubelet.AnyPort, "--admin-addr", kubelet.AnyPort, "--rotation-interval", "1s", "--cache-ttl", "0s", "--v", "10")
	metrics, admin := n.Address("health and metrics"), n.Address("admin")
	certificate, key := newCertificate(t)
	certificatePEM := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
	keyPEM := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	const clientSecret, wrongSecret = "canary-client-secret-77", "canary-wrong-secret-78"
	must(t, n.Emulator.Apply(emulator.Seed{Tenants: []emulator.Tenant{{ID: kubelet.Tenant, Applications: []emulator.Application{
		{ClientID: "sp", ObjectID: "sp-oid", Secrets: []emulator.ClientSecret{{Value: clientSecret}}, Certificates: []string{certificatePEM}},
	}}}}))
	must(t, n.Emulator.Grant(kubelet.Vault, "sp", "secrets/get"))
	n.Secret("s", canary)
	n.Class("workload", map[string]string{"objects": kubelet.Objects("s", "tls")})
	n.Class("principal", map[string]string{"objects": kubelet.Objects("s"), "clientID": "-"})
	n.MustPublish("workload", "workload")
	n.MustPublish("secret", "principal", principal(map[string]string{"clientid": "sp", "clientsecret": clientSecret}))
	n.MustPublish("certificate", "principal", principal(map[string]string{"clientid": "sp", "clientcertificate": certificatePEM + keyPEM}))
	errs := []string{}
	publish := func(pod string, edit ...func(*csi.NodePublishVolumeRequest)) {
		if err := n.Publish(pod, "principal", edit...); err != nil {
			errs = append(errs, err.Error())
		}
	}
	publish("wrong", principal(map[string]string{"clientid": "sp", "clientsecret": wrongSecret}))
	publish("unreadable", principal(map[string]string{"clientid": "sp", "clientcertificate": keyPEM}))
	for _, kind := range []string{emulator.FaultTruncated, emulator.FaultHTML, emulator.FaultEmpty, emulator.FaultChallenge} {
		n.Emulator.AddFault(emulator.Fault{Kind: kind, Status: http.StatusOK, Operation: "get", Count: 6})
		publish("fault", principal(map[string]string{"clientid": "sp", "clientsecret": clientSecret}))
		n.Emulator.ClearFaults()
	}
	n.Secret("s", canary+"-rotated")
	n.Eventually("a rotation", func() bool { return n.Read("workload", "s") == canary+"-rotated" })
	status, err := run(t, "status", "--admin-addr", admin, "-o", "json")
	must(t, err)
	_, scraped := get(t, "http://"+metrics+"/metrics")
	mounted := n.Read("workload", "tls")
	n.Eventually("spans", func() bool { return len(c.spans("refresh")) > 1 })
	n.Stop(syscall.SIGTERM) // the last lines and spans are out
	lines, err := os.ReadFile(audited)
	must(t, err)
	said := map[string]string{
		"log": n.Log(), "audit": string(lines), "metrics": scraped, "status": status, "traces": c.text(), "errors": strings.Join(errs, "\n"),
	}
	secrets := []string{
		canary, base64.StdEncoding.EncodeToString([]byte(canary)), clientSecret, wrongSecret, "eyJ", "PRIVATE KEY", "client_assertion=",
		strings.Split(keyPEM, "\n")[3],
	}
	for _, block := range blocks(t, mounted) {
		if strings.Contains(block.Type, "KEY") {
			secrets = append(secrets, strings.Split(string(pem.EncodeToMemory(block)), "\n")[3])
		}
	}
	if len(secrets) < 9 || len(errs) < 2 {
		t.Fatalf("%d secrets to search for, %d errors", len(secrets), len(errs))
	}
	for where, text := range said {
		if len(text) < 100 {
			t.Errorf("%s: only %q", where, text)
		}
		for i, secret := range secrets {
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("%s contains secret %d: …%.200q…", where, i, text[max(0, at-100):])
			}
		}
	}
}
