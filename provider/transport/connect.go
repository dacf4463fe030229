package transport

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// connectPatience bounds how long requests wait for the connection that another one opens. A host that takes longer may not answer at all.
const connectPatience = 2 * time.Second

// Shared sends requests that begin at the same moment over one connection, where the server speaks HTTP/2. http.Transport opens one for
// each of them as long as there is none, and uses the first: the handshakes of all others are work for nothing, on both sides.
type Shared struct {
	transport http.RoundTripper
	mu        sync.Mutex
	// opening has, for each host, a channel that is closed when the request which came first has a connection, or has none and ended.
	opening map[string]chan struct{}
}

// NewShared returns a Shared over the transport.
func NewShared(t http.RoundTripper) *Shared {
	return &Shared{transport: t, opening: map[string]chan struct{}{}}
}

// RoundTrip implements http.RoundTripper.
func (s *Shared) RoundTrip(req *http.Request) (*http.Response, error) {
	host := req.URL.Scheme + "://" + req.URL.Host
	opened, first := s.enter(host)
	if !first {
		if err := await(req.Context(), opened); err != nil {
			return nil, err
		}
		return s.transport.RoundTrip(req)
	}
	done := sync.OnceFunc(func() { s.leave(host, opened) })
	defer done()
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { done() }}
	return s.transport.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
}

// enter returns the channel of the host. First is true for the request that is to close it with leave.
func (s *Shared) enter(host string) (opened chan struct{}, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	opened, known := s.opening[host]
	if !known {
		opened = make(chan struct{})
		s.opening[host] = opened
	}
	return opened, !known
}

func (s *Shared) leave(host string, opened chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.opening, host)
	close(opened)
}

// await waits until there is a connection, or none within patience. The error is the context's.
func await(ctx context.Context, opened chan struct{}) error {
	timer := time.NewTimer(connectPatience)
	defer timer.Stop()
	select {
	case <-opened:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err() // as http.Transport returns it; neterr classifies it
	}
	return nil
}
