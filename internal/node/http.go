package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
)

// aliveTimeout is how long the CSI socket may take to answer, shorter than what a probe waits.
const aliveTimeout = 4 * time.Second

// healthMux serves /healthz (OK while the CSI socket answers), /readyz (OK while volumes can be published, else the
// reason), and /metrics.
func healthMux(alive func(context.Context) error, ready func() error, metrics http.Handler) *http.ServeMux {
	answer := func(w http.ResponseWriter, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), aliveTimeout)
		defer cancel()
		answer(w, alive(ctx))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, ready()) })
	mux.Handle("GET /metrics", metrics)
	return mux
}

// debugMux answers /debug/pprof.
func debugMux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// listener is an HTTP server with a bound socket, so that a port in use is an error at startup.
type listener struct {
	server *http.Server
	socket net.Listener
}

// listenHTTP binds the address. It returns nil if the address is empty.
func listenHTTP(ctx context.Context, flag, addr string, handler http.Handler) (*listener, error) {
	if addr == "" {
		return nil, nil
	}
	socket, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return &listener{socket: socket, server: &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
	}}, nil
}

// serve answers until ctx ends.
func (l *listener) serve(ctx context.Context, log *slog.Logger, what string) error {
	if l == nil {
		return nil
	}
	log.InfoContext(ctx, "serving http", "what", what, "address", l.socket.Addr().String())
	stop := context.AfterFunc(ctx, func() {
		if err := l.server.Close(); err != nil {
			log.WarnContext(ctx, "stop http", "what", what, logkeys.Error, err)
		}
	})
	defer stop()
	if err := l.server.Serve(l.socket); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", what, err)
	}
	return nil
}
