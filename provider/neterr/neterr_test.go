package neterr

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const host = "contoso.vault.azure.net"

// get sends a request with a real transport and returns the error.
func get(t *testing.T, transport *http.Transport, url string) error {
	t.Helper()
	t.Cleanup(transport.CloseIdleConnections)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	if err == nil {
		t.Fatal("the request succeeded")
	}
	return err
}

// serve answers each connection with what is written to it after its first bytes.
func serve(t *testing.T, answer func(net.Conn)) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4096))
			answer(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

func viaProxy(address string) *http.Transport {
	return &http.Transport{
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: address}), OnProxyConnectResponse: CheckConnect,
	}
}

func dialing(err error) *http.Transport {
	return &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, err }}
}

// unused returns an address that nobody listens at.
func unused(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func TestClassify(t *testing.T) {
	answering := func(text string) string {
		return serve(t, func(c net.Conn) { _, _ = io.WriteString(c, text) })
	}
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(secure.Close)
	secure.Config.ErrorLog = nil
	trusted := x509.NewCertPool()
	trusted.AddCert(secure.Certificate())
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(slow.Close)
	const target = "https://" + host + "/secrets/s/?api-version=7.6"
	for name, tc := range map[string]struct {
		err    error
		reason volume.Reason
		want   string // in the message
	}{
		"no such name": {get(t, dialing(&net.DNSError{Err: "no such host", Name: host, IsNotFound: true}), target),
			volume.ReasonDNS, "no address is known for " + host},
		"DNS server down": {get(t, dialing(&net.DNSError{Err: "i/o timeout", Name: host, IsTimeout: true}), target),
			volume.ReasonDNS, "the DNS server did not answer for " + host},
		"refused":  {get(t, &http.Transport{}, "https://"+unused(t)+"/"), volume.ReasonNetwork, "refused the connection"},
		"no route": {get(t, dialing(&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}), target), volume.ReasonNetwork, "no route"},
		"reset":    {get(t, &http.Transport{}, "http://"+serve(t, reset)+"/"), volume.ReasonNetwork, "broke off"},
		"closed":   {get(t, &http.Transport{}, "http://"+answering("")+"/"), volume.ReasonNetwork, "broke off"},
		"cut body": {get(t, &http.Transport{}, "http://"+answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")+"/"), volume.ReasonNetwork, "broke off"},
		"no answer": {get(t, &http.Transport{ResponseHeaderTimeout: 50 * time.Millisecond}, slow.URL), volume.ReasonNetwork,
			"did not answer in time"},
		"deadline": {fmt.Errorf("send: %w", context.DeadlineExceeded), volume.ReasonNetwork, "did not answer in time"},
		"authority not known": {get(t, &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}, secure.URL),
			volume.ReasonNetwork, "not trusted (unknown authority)"},
		"another's certificate": {get(t, &http.Transport{TLSClientConfig: &tls.Config{
			RootCAs: trusted, ServerName: host, MinVersion: tls.VersionTLS12}}, secure.URL), volume.ReasonNetwork, "another host"},
		"certificate too old": {get(t, &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12,
			Time: func() time.Time { return secure.Certificate().NotAfter.Add(time.Hour) }}}, secure.URL), volume.ReasonNetwork, "the node's clock"},
		"not TLS": {get(t, &http.Transport{}, "https://"+answering("HTTP/1.1 400 Bad Request\r\n\r\n")+"/"), volume.ReasonNetwork, "no request reached"},
		"proxy 403": {get(t, viaProxy(answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")), target),
			volume.ReasonProxy, "(403 Forbidden): allow the host"},
		"proxy 403 in its own words": {get(t, viaProxy(answering("HTTP/1.0 403 Filtered by policy canary\r\n\r\n")), target),
			volume.ReasonProxy, "(403 Forbidden): allow the host"},
		"proxy 407": {get(t, viaProxy(answering("HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")), target),
			volume.ReasonProxy, "put user and password into HTTPS_PROXY"},
		"proxy 502":          {get(t, viaProxy(answering("HTTP/1.1 502 Bad Gateway\r\n\r\n")), target), volume.ReasonProxy, "(502 Bad Gateway)"},
		"proxy 599":          {get(t, viaProxy(answering("HTTP/1.1 599 \r\n\r\n")), target), volume.ReasonProxy, "(599)"},
		"proxy away":         {get(t, viaProxy(unused(t)), target), volume.ReasonProxy, "cannot be reached"},
		"proxy unknown name": {get(t, proxyWithoutName(), target), volume.ReasonProxy, "cannot be reached"},
		"anything else":      {errors.New("odd\nthing"), volume.ReasonNetwork, "(odd thing)"},
	} {
		t.Run(name, func(t *testing.T) {
			e := Classify(tc.err, host)
			if e.Reason != tc.reason || !strings.Contains(e.Message, tc.want) {
				t.Errorf("%s: %s\nfrom: %v", e.Reason, e.Message, tc.err)
			}
			if !errors.Is(e, tc.err) {
				t.Error("the cause is lost")
			}
			if strings.ContainsAny(e.Message, "\r\n") || strings.Contains(e.Message, "api-version") || strings.Contains(e.Message, "canary") {
				t.Errorf("not one clean line: %q", e.Message)
			}
		})
	}
}

// reset closes a connection so that the other side sees a reset.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

func proxyWithoutName() *http.Transport {
	t := dialing(&net.DNSError{Err: "no such host", Name: "proxy.example", IsNotFound: true})
	t.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.example:3128"})
	return t
}

func TestKnownErrorsStay(t *testing.T) {
	known := &volume.Error{Reason: volume.ReasonThrottled, Message: "said already"}
	if got := Classify(fmt.Errorf("around: %w", known), host); got != known {
		t.Errorf("got %+v", got)
	}
}
