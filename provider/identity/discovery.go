package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/flight"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
)

const (
	// discoveryTime is how long a discovery document is kept. It changes about never.
	discoveryTime = 24 * time.Hour
	// mostDocuments bounds the documents that are kept.
	mostDocuments = 1024
)

// discovery keeps the OpenID Connect discovery documents of authorities. The SDK fetches one for each credential
// object, so that a hundred identities of one tenant would fetch the same document a hundred times.
type discovery struct {
	clock   clock.PassiveClock
	flights flight.Group[string, document]

	mu        sync.Mutex
	documents map[string]document
}

// document is an answer to a discovery request.
type document struct {
	status int
	header http.Header
	body   []byte
	until  time.Time
}

func newDiscovery(clk clock.PassiveClock) *discovery {
	d := &discovery{clock: clk, documents: map[string]document{}}
	d.flights.OnJoin = limiter.Promote
	return d
}

func (d *discovery) close() { d.flights.Close() }

// policy returns an azcore policy that answers discovery requests. Requests that take different ways share nothing.
func (d *discovery) policy(way string) policy.Policy { return discoveryPolicy{discovery: d, way: way} }

type discoveryPolicy struct {
	discovery *discovery
	way       string
}

// Do implements policy.Policy.
func (p discoveryPolicy) Do(req *policy.Request) (*http.Response, error) {
	raw := req.Raw()
	if raw.Method != http.MethodGet || !strings.HasSuffix(raw.URL.Path, "/.well-known/openid-configuration") {
		return req.Next()
	}
	key := p.way + " " + raw.URL.String()
	found, ok := p.discovery.kept(key)
	if !ok {
		var err error
		found, _, err = p.discovery.flights.Do(raw.Context(), key, func(ctx context.Context) (document, error) {
			return p.discovery.fetch(key, req.Clone(ctx))
		})
		if err != nil {
			return nil, err // as the request itself would fail
		}
	}
	return &http.Response{
		StatusCode:    found.status,
		Status:        fmt.Sprintf("%d %s", found.status, http.StatusText(found.status)),
		Header:        found.header.Clone(),
		Body:          io.NopCloser(bytes.NewReader(found.body)),
		ContentLength: int64(len(found.body)),
		Request:       raw,
	}, nil
}

func (d *discovery) kept(key string) (document, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	found, ok := d.documents[key]
	return found, ok && d.clock.Now().Before(found.until)
}

// fetch makes the request, and keeps its answer where it is a discovery document.
func (d *discovery) fetch(key string, req *policy.Request) (document, error) {
	resp, err := req.Next()
	if err != nil {
		return document{}, err // as the request itself would fail
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := runtime.Payload(resp)
	if err != nil {
		return document{}, fmt.Errorf("discovery document: %w", err)
	}
	found := document{status: resp.StatusCode, header: resp.Header, body: body, until: d.clock.Now().Add(discoveryTime)}
	if found.status == http.StatusOK && isDiscovery(body) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if len(d.documents) >= mostDocuments {
			clear(d.documents)
		}
		d.documents[key] = found
	}
	return found, nil
}

// isDiscovery returns whether a text is a discovery document, and not a page of a proxy.
func isDiscovery(body []byte) bool {
	var endpoints struct {
		Issuer    string `json:"issuer"`
		Authorize string `json:"authorization_endpoint"`
		Token     string `json:"token_endpoint"`
	}
	return json.Unmarshal(body, &endpoints) == nil && endpoints.Issuer != "" && endpoints.Authorize != "" &&
		endpoints.Token != ""
}
