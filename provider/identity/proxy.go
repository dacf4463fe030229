package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/transport"
)

// The defaults of ProxyOptions, as AKS has them.
const (
	DefaultProxyURL    = "https://kubernetes.default.svc.cluster.local"
	DefaultProxyCAFile = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
)

// ProxyOptions describe the AKS token proxy, through which identity binding reaches Entra ID.
type ProxyOptions struct {
	// URL is where the proxy is; DefaultProxyURL where empty. It must be https without user, query or fragment.
	URL string
	// ServerName is the TLS server name; where empty it is computed from the certificate of the API server.
	ServerName string
	// CAFile holds the authorities that the proxy's certificate is checked against; DefaultProxyCAFile where empty. It
	// is read again when it changes.
	CAFile string
}

// tokenProxy is a transport that sends requests for Entra ID to the token proxy: same path, other host. It does not use
// the HTTP proxy.
type tokenProxy struct {
	options ProxyOptions

	mu        sync.Mutex
	authority []byte
	name      string
	transport *http.Transport
}

func newTokenProxy(o ProxyOptions) *tokenProxy {
	if o.URL == "" {
		o.URL = DefaultProxyURL
	}
	if o.CAFile == "" {
		o.CAFile = DefaultProxyCAFile
	}
	return &tokenProxy{options: o, name: o.ServerName}
}

// Do implements policy.Transporter.
func (p *tokenProxy) Do(req *http.Request) (*http.Response, error) {
	base, err := url.Parse(p.options.URL)
	if err != nil || base.Scheme != "https" || base.Host == "" || base.User != nil || base.RawQuery != "" ||
		base.Fragment != "" {
		return nil, &volume.Error{
			Reason: volume.ReasonIdentity,
			Message: "--token-proxy-url is not an https URL without user, query and " +
				"fragment: correct it, or leave it out on AKS",
		}
	}
	way, err := p.current(req.Context(), base)
	if err != nil {
		return nil, err
	}
	out := req.Clone(req.Context())
	out.URL.Scheme, out.URL.Host = base.Scheme, base.Host
	out.URL.Path = strings.TrimSuffix(base.Path, "/") + req.URL.Path
	out.URL.RawPath = ""
	out.Host = ""
	resp, err := transport.Client{RoundTripper: way}.Do(out)
	if err != nil {
		return nil, fmt.Errorf("token proxy: %w", err)
	}
	return resp, nil
}

// current returns the transport for the authorities as the file has them now.
func (p *tokenProxy) current(ctx context.Context, base *url.URL) (*http.Transport, error) {
	authority, err := os.ReadFile(p.options.CAFile)
	if err != nil {
		return nil, &volume.Error{
			Reason: volume.ReasonIdentity,
			Cause:  err,
			Message: "the authorities of the AKS token proxy cannot be read: " +
				"set --token-proxy-ca-file, or let the pod have its service account's ca.crt",
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.transport != nil && bytes.Equal(authority, p.authority) {
		return p.transport, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return nil, &volume.Error{
			Reason: volume.ReasonIdentity,
			Message: "the file of the AKS token proxy's authorities holds no PEM certificate: " +
				"correct --token-proxy-ca-file",
		}
	}
	if p.name == "" {
		if p.name, err = serverName(ctx, base.Host, pool); err != nil {
			return nil, err
		}
	}
	if p.transport != nil {
		p.transport.CloseIdleConnections()
	}
	p.authority = authority
	p.transport = &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: pool, ServerName: p.name, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     90 * time.Second,
	}
	return p.transport, nil
}

// host is the proxy's host name, empty where the URL is not usable.
func (p *tokenProxy) host() string {
	base, err := url.Parse(p.options.URL)
	if err != nil {
		return ""
	}
	return strings.ToLower(base.Host)
}

func (p *tokenProxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.transport != nil {
		p.transport.CloseIdleConnections()
	}
}

// serverName computes the proxy's TLS server name from the cluster's id, which is part of a name in the API server's
// certificate: hcp-kubernetes.<id>.svc.cluster.local.
func serverName(ctx context.Context, host string, pool *x509.CertPool) (string, error) {
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(host, "443")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	dialer := &tls.Dialer{Config: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	conn, err := dialer.DialContext(ctx, "tcp", host)
	if err != nil {
		return "", fmt.Errorf("look at the API server's certificate: %w", err)
	}
	defer func() { _ = conn.Close() }()
	secure, ok := conn.(*tls.Conn)
	if !ok {
		return "", errors.New("the connection is not TLS")
	}
	for _, name := range secure.ConnectionState().PeerCertificates[0].DNSNames {
		id, isPrefixed := strings.CutPrefix(name, "hcp-kubernetes.")
		id, isWhole := strings.CutSuffix(id, ".svc.cluster.local")
		if isPrefixed && isWhole && id != "" {
			return bindingServerName(id), nil
		}
	}
	return "", &volume.Error{
		Reason: volume.ReasonIdentity,
		Message: "the API server's certificate names no AKS cluster: identity binding " +
			"works on AKS only, or with --token-proxy-sni",
	}
}

func bindingServerName(clusterID string) string {
	sum := sha256.Sum256([]byte("identity-binding" + clusterID))
	return strings.ToLower("a" + base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]) + ".ests.aks")
}
