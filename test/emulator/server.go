// Package emulator answers as Azure Key Vault, Entra ID and the instance metadata service do. It is an HTTP forward
// proxy: an unmodified Azure client of any language reaches it with HTTPS_PROXY, HTTP_PROXY and SSL_CERT_FILE set,
// under the real host names, over real TLS. Hosts that are not Azure's are refused.
//
// It is strict: tokens and client assertions are verified, permissions are checked, and what the service refuses it
// refuses.
package emulator

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ControlHost is the host name of the control API, reached through the proxy or by the Host header.
const ControlHost = "emulator.local"

// Options configure New.
type Options struct {
	// Seed is the state to begin with.
	Seed Seed
	// Certificate and Key are the authority's, in PEM; one is made where they are empty.
	Certificate, Key []byte
	// DataDir is a directory that keeps the vaults, the clock and the authority: what it has takes the place of the seed's. Empty: nothing is kept.
	DataDir string
	// Now is the service's clock, which AdvanceClock moves; time.Now where nil.
	Now func() time.Time
	// Throttle refuses requests beyond the service's documented limits of a vault in ten seconds.
	Throttle bool
	// HTTP1 turns HTTP/2 off.
	HTTP1 bool
	// Events are the targets that get an event for each new version of an object, and EventsCA are authorities in PEM that their certificates may
	// be of, beside the system's and the emulator's own.
	Events   []EventTarget
	EventsCA []byte
	// ControlHosts are more host names under which the control API and its page answer. They answer to addresses, to names that no one can
	// register, such as localhost, and to ControlHost; every other name may be one that a web site points at this address.
	ControlHosts []string
	// Log receives each request; nothing is logged if nil.
	Log *slog.Logger
	// Intercept may answer a request in the emulator's place: then it returns true. It may be nil.
	Intercept func(http.ResponseWriter, *http.Request) bool
}

// Server is an emulator that runs.
type Server struct {
	state *state
	store *store
	// savedState is what of the state's file does not change, guarded by the store's lock.
	savedState savedState
	// seed is the last one that was applied, with the content of the files that it names, guarded by seeding.
	seeding   sync.Mutex
	seed      Seed
	log       *slog.Logger
	intercept func(http.ResponseWriter, *http.Request) bool

	authority   *authority
	signer      *ecdsa.PrivateKey
	public      publicSigner
	targets     []EventTarget
	eventsCA    []byte
	listener    net.Listener
	front, back *http.Server
	tunnels     *tunnels
	// bodies is how many bytes are held of requests that are being read.
	bodies atomic.Int64
	// control is the control API with the page, and controlHosts are more names that it answers to.
	control      http.Handler
	throttle     bool
	controlHosts []string
	// transport is that of Client.
	transport *http.Transport
	work      sync.WaitGroup
	stop      context.CancelFunc
	ctx       context.Context
}

// New makes a server from a seed; Start begins to serve. Close must be called.
func New(o Options) (*Server, error) {
	store, err := openStore(o.DataDir)
	if err != nil {
		return nil, err
	}
	s, err := newServer(o, store)
	if err != nil {
		return nil, errors.Join(err, store.close())
	}
	return s, nil
}

func newServer(o Options, store *store) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	saved, err := readState(o.DataDir)
	if err != nil {
		return nil, err
	}
	a, err := o.authority(&saved)
	if err != nil {
		return nil, err
	}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{log: o.Log, intercept: o.Intercept, authority: a, signer: signer, tunnels: newTunnels(), ctx: ctx, stop: stop}
	s.targets, s.eventsCA, s.controlHosts = o.Events, o.EventsCA, o.ControlHosts
	s.control, s.throttle = s.newControl(), o.Throttle
	s.transport = &http.Transport{
		Proxy:             func(*http.Request) (*url.URL, error) { return s.ProxyURL(), nil },
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: a.pool()},
		ForceAttemptHTTP2: true,
	}
	if s.intercept == nil {
		s.intercept = func(http.ResponseWriter, *http.Request) bool { return false }
	}
	s.store, s.savedState = store, saved
	sealer, err := newSealer(saved.Sealer)
	if err != nil {
		stop()
		return nil, err
	}
	s.state = newState(sealer)
	if o.Now != nil {
		s.state.clock = o.Now
	}
	err = s.state.load(&saved)
	if err == nil {
		s.seed.Vaults = o.Seed.vaultsOf(s.state)
		if _, err = s.replaceSeed(o.Seed); err == nil {
			err = s.persist()
		}
	}
	if err != nil {
		stop()
		return nil, err
	}
	quiet := slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server := func(h http.HandlerFunc) *http.Server {
		return &http.Server{
			Handler:           s.boundBodies(h),
			ReadHeaderTimeout: time.Minute,
			MaxHeaderBytes:    maxHeader,
			HTTP2:             &http.HTTP2Config{MaxReceiveBufferPerConnection: maxReceived, MaxReceiveBufferPerStream: maxReceived},
			ErrorLog:          quiet,
			BaseContext:       func(net.Listener) context.Context { return ctx },
		}
	}
	s.front, s.back = server(s.serveProxy), server(s.serveTLS)
	s.back.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.certificate}
	if o.HTTP1 {
		s.back.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	return s, nil
}

func (o *Options) authority(saved *savedState) (*authority, error) {
	if len(o.Certificate) > 0 {
		return readAuthority(o.Certificate, o.Key)
	}
	return saved.authority()
}

// Start serves on the address until Close.
func (s *Server) Start(address string) error {
	listener, err := new(net.ListenConfig).Listen(s.ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s.listener = listener
	for _, target := range s.targets {
		s.SendEvents(target, s.eventsCA) // what the seed holds is no event
	}
	s.work.Go(func() { s.done(s.front.Serve(limitConnections(listener, maxConnections))) })
	s.work.Go(func() { s.done(s.back.ServeTLS(s.tunnels, "", "")) })
	return nil
}

func (s *Server) done(err error) {
	if err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		s.log.Error("serve", "error", err)
	}
}

// Close ends all connections and waits for everything that runs.
func (s *Server) Close() error {
	s.stop()
	err := errors.Join(s.front.Close(), s.back.Close())
	s.tunnels.closeAll()
	s.transport.CloseIdleConnections()
	s.work.Wait()
	return errors.Join(err, s.persist(), s.store.close())
}

// Address is host:port of the proxy.
func (s *Server) Address() string { return s.listener.Addr().String() }

// ProxyURL is what HTTPS_PROXY and HTTP_PROXY are to be.
func (s *Server) ProxyURL() *url.URL { return &url.URL{Scheme: "http", Host: s.Address()} }

// Client is an HTTP client that reaches every host through the emulator and trusts its authority, without regard to the environment. It works between
// Start and Close.
func (s *Server) Client() *http.Client { return &http.Client{Transport: s.transport} }

// Dial reaches every host through the emulator, as if it were the network.
func (s *Server) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, s.Address())
	if err != nil {
		return nil, err
	}
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if err := request.Write(conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), request) //nolint:bodyclose // a tunnel has none
	if err != nil {
		return nil, errors.Join(fmt.Errorf("CONNECT: %w", err), conn.Close())
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("CONNECT: %s", resp.Status), conn.Close())
	}
	return conn, nil
}

// CAPEM is the certificate of the emulator's authority, for SSL_CERT_FILE.
func (s *Server) CAPEM() []byte { return s.authority.pem }

// CAPool holds the emulator's authority.
func (s *Server) CAPool() *x509.CertPool { return s.authority.pool() }

func (s *Server) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if hello.ServerName == "" {
		return nil, errors.New("no server name")
	}
	return s.authority.leaf(hello.ServerName)
}

// serveProxy answers on the proxy's own port: CONNECT, and absolute-form requests for plain HTTP hosts.
func (s *Server) serveProxy(w http.ResponseWriter, r *http.Request) {
	host := hostname(r.Host)
	if r.Method == http.MethodConnect {
		s.connect(w, r)
		return
	}
	switch {
	case host == ControlHost, r.URL.Host == "": // not asked as a proxy, but as itself
		s.control.ServeHTTP(w, r)
	case host == metadataHost:
		if !s.intercept(w, r) {
			s.handle(w, r, s.metadata)
		}
	default:
		http.Error(w, fmt.Sprintf("keyvault-emulator: plain http to %s is refused", host), http.StatusForbidden)
	}
}

// connect opens a tunnel to the emulator itself, for hosts that it answers for.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	host := hostname(r.Host)
	status, message := s.admit(host)
	if refusal := s.state.connectFault(host); refusal != 0 {
		status, message = refusal, "refused by a fault"
	}
	if status != http.StatusOK {
		s.state.log(Request{Host: host, Operation: "connect", Status: status})
		s.log.Info("connect refused", "host", host, "status", status)
		if status == http.StatusProxyAuthRequired {
			w.Header().Set("Proxy-Authenticate", "Basic")
		}
		http.Error(w, "keyvault-emulator: "+message, status)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "keyvault-emulator: "+err.Error(), http.StatusInternalServerError)
		return
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection Established\r\n\r\n"); err != nil || buffered.Reader.Buffered() > 0 {
		_ = conn.Close()
		return
	}
	s.tunnels.push(conn)
}

// DropConnections breaks all tunnels, as a proxy does that restarts.
func (s *Server) DropConnections() { s.tunnels.drop() }

// admit reports whether the emulator answers for a host.
func (s *Server) admit(host string) (status int, message string) {
	switch kind, known := s.state.route(host); {
	case kind == vaultHost && !known:
		return http.StatusBadGateway, "no such host " + host
	case kind == noHost:
		return http.StatusForbidden, host + " is not a host of Azure: refused"
	}
	return http.StatusOK, ""
}

// serveTLS answers inside tunnels.
func (s *Server) serveTLS(w http.ResponseWriter, r *http.Request) {
	host := hostname(r.Host)
	if s.intercept(w, r) {
		return
	}
	switch kind, _ := s.state.route(host); kind {
	case vaultHost:
		s.handle(w, r, s.vault)
	case authorityHost:
		s.handle(w, r, s.entra)
	case noHost:
		http.Error(w, "keyvault-emulator: unknown host", http.StatusMisdirectedRequest)
	}
}

func hostname(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	return strings.ToLower(host)
}

// tunnels is a listener whose connections come from CONNECT.
type tunnels struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once

	mu   sync.Mutex
	open map[*tunnel]struct{}
}

// tunnel is a connection that is counted while it is open.
type tunnel struct {
	net.Conn
	of *tunnels
}

// Close implements net.Conn.
func (c *tunnel) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

func newTunnels() *tunnels {
	return &tunnels{conns: make(chan net.Conn), done: make(chan struct{}), open: map[*tunnel]struct{}{}}
}

func (t *tunnels) drop() {
	t.mu.Lock()
	open := slices.Collect(maps.Keys(t.open))
	t.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
}

func (t *tunnels) push(raw net.Conn) {
	conn := &tunnel{Conn: raw, of: t}
	t.mu.Lock()
	t.open[conn] = struct{}{}
	t.mu.Unlock()
	select {
	case t.conns <- conn:
	case <-t.done:
		_ = conn.Close()
	}
}

// Accept implements net.Listener.
func (t *tunnels) Accept() (net.Conn, error) {
	select {
	case conn := <-t.conns:
		return conn, nil
	case <-t.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (t *tunnels) Close() error {
	t.closeAll()
	return nil
}

// Addr implements net.Listener.
func (t *tunnels) Addr() net.Addr { return &net.TCPAddr{} }

func (t *tunnels) closeAll() { t.once.Do(func() { close(t.done) }) }
