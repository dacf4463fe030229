package provider

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/neterr"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/transport"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
)

// Step is one thing that had to work on the way to a vault.
type Step struct {
	// Name is proxy, dns, tcp or tls.
	Name string `json:"name"`
	// Detail is what came of it.
	Detail string `json:"detail"`
	// Took is how long it took.
	Took time.Duration `json:"-"`
}

// VaultInspection is what the way to a vault looks like from here.
type VaultInspection struct {
	// Host is the vault's host name.
	Host string
	// Steps are those that worked, in their order.
	Steps []Step
	// Tenant is the directory that the vault trusts, as it says itself; empty where it did not answer.
	Tenant string
	// Err is why the vault cannot be used; nil where it answers as a vault.
	Err *volume.Error
}

// reach makes one request without a token on a connection of its own, over the same transport as all requests, and
// notes how far it gets. A vault answers it with a challenge.
func (p *Provider) reach(ctx context.Context, vaultURL string) VaultInspection {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	v := VaultInspection{Host: host(vaultURL)}
	way := p.transport.Clone()
	defer way.CloseIdleConnections()
	w := &walk{now: p.options.Clock.Now}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, w.trace()), http.MethodGet,
		strings.TrimSuffix(vaultURL, "/")+"/secrets/reach?api-version=7.4", nil)
	if err != nil {
		v.Err = &volume.Error{Reason: volume.ReasonInvalidClass, Message: "vault URL is not usable", Cause: err}
		return v
	}
	if through, err := way.Proxy(req); err == nil && through != nil {
		w.add("proxy", "through the HTTP proxy "+through.Host, 0) // never its user
	}
	resp, err := transport.Client{RoundTripper: way}.Do(req)
	v.Steps = w.taken()
	if err != nil {
		v.Err = neterr.Classify(unwrapURL(err), v.Host)
		return v
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)) // the status and the header say all
	if c := vault.ParseChallenge(resp.Header); c.Tenant != "" && resp.StatusCode == http.StatusUnauthorized {
		v.Tenant = c.Tenant
		return v
	}
	v.Err = &volume.Error{
		Reason:    volume.ReasonUnavailable,
		RequestID: resp.Header.Get("X-Ms-Request-Id"),
		Message: fmt.Sprintf(
			"%s answered %d and not as a vault does: check proxies on the way, and the name", v.Host, resp.StatusCode),
	}
	return v
}

// unwrapURL takes off what holds the whole URL.
func unwrapURL(err error) error {
	if e, ok := err.(*url.Error); ok { //nolint:errorlint // it is outermost
		return e.Err
	}
	return err
}

// walk notes the steps of one request. The transport calls it from several goroutines.
type walk struct {
	now func() time.Time

	mu    sync.Mutex
	since map[string]time.Time
	steps []Step
}

func (w *walk) begin(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.since == nil {
		w.since = map[string]time.Time{}
	}
	if _, ok := w.since[name]; !ok {
		w.since[name] = w.now()
	}
}

// end notes a step; the first end of a name counts.
func (w *walk) end(name, detail string) {
	w.mu.Lock()
	began, ok := w.since[name]
	for _, s := range w.steps {
		ok = ok && s.Name != name
	}
	w.mu.Unlock()
	if ok {
		w.add(name, detail, w.now().Sub(began))
	}
}

func (w *walk) add(name, detail string, took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps = append(w.steps, Step{Name: name, Detail: detail, Took: took})
}

func (w *walk) taken() []Step {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Step(nil), w.steps...)
}

func (w *walk) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		DNSStart: func(httptrace.DNSStartInfo) { w.begin("dns") },
		DNSDone: func(i httptrace.DNSDoneInfo) {
			if i.Err == nil {
				w.end("dns", addresses(i.Addrs))
			}
		},
		ConnectStart: func(string, string) { w.begin("tcp") },
		ConnectDone: func(_, address string, err error) {
			if err == nil {
				w.end("tcp", "connected to "+address)
			}
		},
		TLSHandshakeStart: func() { w.begin("tls") },
		TLSHandshakeDone: func(s tls.ConnectionState, err error) {
			if err == nil && len(s.PeerCertificates) > 0 {
				c := s.PeerCertificates[0]
				w.end(
					"tls",
					fmt.Sprintf("%s, certificate of %s until %s", tls.VersionName(s.Version),
						issuer(c.Issuer.CommonName), c.NotAfter.UTC().Format(time.DateOnly)),
				)
			}
		},
	}
}

// issuer is a name that is safe to print.
func issuer(name string) string {
	if name == "" {
		return "a nameless issuer"
	}
	return fmt.Sprintf("%q", name)
}

// addresses lists what DNS gave; those of a private endpoint are marked.
func addresses(all []net.IPAddr) string {
	texts := make([]string, 0, len(all))
	for _, a := range all {
		text := a.String()
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap().IsPrivate() {
			text += " (private)"
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}
