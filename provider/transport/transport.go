package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/neterr"
)

const (
	// BiggestBody bounds an answer's body after decompression, in bytes. A secret has at most 25 KiB, and a page of a
	// list 25 entries.
	BiggestBody = 1 << 20
	// biggestHeader bounds an answer's header, in bytes.
	biggestHeader = 128 << 10
)

// Options configure New.
type Options struct {
	// CAFile is a PEM file of authorities to trust beside the system's; may be empty.
	CAFile string
	// Dial replaces the network's dialer; may be nil.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// IdlePerHost is the number of idle connections that are kept to each host.
	IdlePerHost int
}

// New returns a transport that uses the HTTP proxy of the environment.
func New(o Options) (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		data, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("--ca-file: %w", err)
		}
		if !pool.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("--ca-file: %s holds no PEM certificate", o.CAFile)
		}
		config.RootCAs = pool
	}
	dial := o.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		OnProxyConnectResponse: neterr.CheckConnect,
		DialContext:            dial,
		TLSClientConfig:        config,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           8 * o.IdlePerHost,
		MaxIdleConnsPerHost:    o.IdlePerHost,
		IdleConnTimeout:        5 * time.Minute, // longer than the usual refresh interval
		TLSHandshakeTimeout:    10 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: biggestHeader,
	}, nil
}

// Client sends requests over a transport. It implements policy.Transporter of the Azure SDK.
type Client struct{ RoundTripper http.RoundTripper }

// Do sends a request. It follows no redirect: Key Vault and Entra ID never redirect, and a token must not follow one. The body of
// the answer fails beyond BiggestBody.
func (c Client) Do(req *http.Request) (*http.Response, error) {
	// Not http.Client: on a redirect it rewinds the request's body, which an earlier write may still read.
	resp, err := c.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err // neterr classifies it
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: BiggestBody, host: req.URL.Host}
	return resp, nil
}

// boundedBody is a body that fails beyond a bound, and does not end early: what is cut off must not be taken for whole.
type boundedBody struct {
	io.ReadCloser
	left int
	host string
}

// Read implements io.Reader.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, b.tooBig()
	}
	if len(p) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, b.tooBig()
	}
	return n, err // neterr classifies it
}

func (b *boundedBody) tooBig() error {
	return &volume.Error{Reason: volume.ReasonUnavailable, Message: fmt.Sprintf(
		"%s: the answer is bigger than %d MiB: check proxies on the way", b.host, BiggestBody>>20)}
}
