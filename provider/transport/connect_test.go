package transport_test

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/transport"
)

// dialed is a server, and a transport to it that counts its connections.
func dialed(t *testing.T, http2 bool, dial func(ctx context.Context, network, address string) (net.Conn, error)) (
	url string, shared *transport.Shared, connections *atomic.Int32,
) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "answer") }))
	server.EnableHTTP2 = http2
	server.StartTLS()
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, authority, 0o600); err != nil {
		t.Fatal(err)
	}
	connections = &atomic.Int32{}
	rt, err := transport.New(transport.Options{CAFile: ca, IdlePerHost: 128, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		connections.Add(1)
		return dial(ctx, network, address)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rt.CloseIdleConnections)
	return server.URL, transport.NewShared(rt), connections
}

// ask sends requests at once and returns how many were answered.
func ask(t *testing.T, shared *transport.Shared, url string, count int) int {
	t.Helper()
	var work sync.WaitGroup
	var answered atomic.Int32
	for range count {
		work.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := shared.RoundTrip(req)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			answered.Add(1)
		})
	}
	work.Wait()
	return int(answered.Load())
}

func TestRequestsAtOnceShareOneConnection(t *testing.T) {
	url, shared, connections := dialed(t, true, (&net.Dialer{}).DialContext)
	for range 3 {
		if got := ask(t, shared, url, 50); got != 50 {
			t.Errorf("%d of 50 requests were answered", got)
		}
	}
	if got := connections.Load(); got != 1 {
		t.Errorf("%d connections, want 1", got)
	}
}

func TestHTTP1HasAConnectionForEachRequest(t *testing.T) {
	url, shared, connections := dialed(t, false, (&net.Dialer{}).DialContext)
	if got := ask(t, shared, url, 50); got != 50 {
		t.Errorf("%d of 50 requests were answered", got)
	}
	if got := connections.Load(); got < 2 {
		t.Errorf("%d connections", got)
	}
}

// The first connection fails: those that waited for it open their own.
func TestFailedConnectionHoldsNobodyUp(t *testing.T) {
	var failed atomic.Bool
	url, shared, _ := dialed(t, true, func(ctx context.Context, network, address string) (net.Conn, error) {
		if failed.CompareAndSwap(false, true) {
			return nil, errors.New("no way")
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	})
	if got := ask(t, shared, url, 50); got != 49 {
		t.Errorf("%d of 50 requests were answered, want 49", got)
	}
}

// The first connection hangs: the others do not wait for its end.
func TestHangingConnectionHoldsNobodyUp(t *testing.T) {
	var hangs atomic.Bool
	ended := make(chan struct{})
	url, shared, _ := dialed(t, true, func(ctx context.Context, network, address string) (net.Conn, error) {
		if hangs.CompareAndSwap(false, true) {
			<-ended
			return nil, errors.New("no answer")
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	})
	var first sync.WaitGroup
	first.Go(func() { ask(t, shared, url, 1) })
	for !hangs.Load() {
		if t.Context().Err() != nil {
			return
		}
	}
	if got := ask(t, shared, url, 10); got != 10 {
		t.Errorf("%d of 10 requests were answered", got)
	}
	close(ended)
	first.Wait()
}
