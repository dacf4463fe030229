package emulator

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// What clients can make the emulator hold, at most.
const (
	// maxConnections are open at the same time, tunnels included.
	maxConnections = 2000
	// maxHeader is how many bytes the headers of a request may have, and maxReceived what is kept of the bodies of an HTTP/2 connection
	// before they are read.
	maxHeader   = 64 << 10
	maxReceived = 128 << 10
	// maxBodies is how many bytes the bodies may have together that are being read.
	maxBodies = 64 << 20
	// bodyTimeout is how long a body may take.
	bodyTimeout = time.Minute
)

// connections is a listener that keeps a bounded number of connections open. One more closes the one that has been without a byte for the
// longest time, so that new clients are served although others hold connections open.
type connections struct {
	net.Listener
	most int

	mu   sync.Mutex
	open map[*connection]struct{}
}

func limitConnections(l net.Listener, most int) *connections {
	return &connections{Listener: l, most: most, open: map[*connection]struct{}{}}
}

// connection is one of connections.
type connection struct {
	net.Conn
	of *connections
	// used is when the last byte came or went.
	used atomic.Int64
}

// Accept implements net.Listener.
func (l *connections) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			if (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)) && l.closeOldest() {
				continue // the process may have fewer descriptors than connections
			}
			return nil, err
		}
		c := &connection{Conn: raw, of: l}
		c.use()
		l.mu.Lock()
		l.open[c] = struct{}{}
		full := len(l.open) > l.most
		l.mu.Unlock()
		if full {
			l.closeOldest()
		}
		return c, nil
	}
}

// closeOldest closes the connection that has been without a byte for the longest time; false where there is none.
func (l *connections) closeOldest() bool {
	var oldest *connection
	l.mu.Lock()
	for c := range l.open {
		if oldest == nil || c.used.Load() < oldest.used.Load() {
			oldest = c
		}
	}
	l.mu.Unlock()
	if oldest == nil {
		return false
	}
	_ = oldest.Close()
	return true
}

func (c *connection) use() { c.used.Store(time.Now().UnixNano()) }

// Read implements net.Conn.
func (c *connection) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.use()
	return n, err
}

// Write implements net.Conn.
func (c *connection) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.use()
	return n, err
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// errBodies is what reading a body fails with when the bodies of all requests are too large together.
var errBodies = errors.New("the emulator is reading too many large requests at the same time: try again later")

// boundBodies makes a handler read bodies in bounded time, and not more than maxBodies of all of them together.
func (s *Server) boundBodies(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody {
			next(w, r)
			return
		}
		b := &body{ReadCloser: r.Body, all: &s.bodies, control: http.NewResponseController(w)}
		defer b.release()
		_ = b.control.SetReadDeadline(time.Now().Add(bodyTimeout))
		bounded := *r
		bounded.Body = b
		next(w, &bounded)
	}
}

// body counts what is read of a request's.
type body struct {
	io.ReadCloser
	all     *atomic.Int64
	mine    int64
	control *http.ResponseController
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.mine += int64(n)
	if b.all.Add(int64(n)) > maxBodies {
		return 0, errBodies
	}
	if err != nil { // the answer may take longer
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

func (b *body) release() { b.all.Add(-b.mine) }
