package push

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
)

const (
	// mostConnections bounds the connections of one replica, and mostDeliveries the deliveries whose bodies are in memory.
	mostConnections = 128
	mostDeliveries  = 8
	// deliveryTimeout bounds the work on one delivery, below the 30 s after which Event Grid gives it up.
	deliveryTimeout = 20 * time.Second
	// mostOrigin bounds the origin of a handshake.
	mostOrigin = 200
)

// hook is the web hook. Every replica serves it: patching an annotation needs no leader.
type hook struct {
	address           string
	certFile, keyFile string
	verifier          *verifier
	serve             func(ctx context.Context, events []Event) error
	refuse            func(ctx context.Context, why outcome, text string)
	log               *slog.Logger
	safe              safe.Handler
	// slots bound the deliveries whose bodies are in memory.
	slots chan struct{}
	// listening is called with the address; may be nil.
	listening func(net.Addr)
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (*hook) NeedLeaderElection() bool { return false }

// Start implements manager.Runnable: it serves until ctx ends.
func (h *hook) Start(ctx context.Context) error {
	watcher, err := certwatcher.New(h.certFile, h.keyFile)
	if err != nil {
		return fmt.Errorf("--events-tls-cert-file and --events-tls-key-file: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", h.address)
	if err != nil {
		return fmt.Errorf("--events-listen: %w", err)
	}
	if h.listening != nil {
		h.listening(listener.Addr())
	}
	listener = tls.NewListener(netutil.LimitListener(listener, mostConnections), &tls.Config{
		MinVersion: tls.VersionTLS12, GetCertificate: watcher.GetCertificate, NextProtos: []string{"http/1.1"},
	})
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      deliveryTimeout + 10*time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // what scanners do is no news
	}
	h.log.InfoContext(ctx, "events are taken at a web hook", "address", listener.Addr().String())
	return h.run(ctx, server, listener, watcher)
}

// run serves until ctx ends or something fails, and returns when nothing is under way any more.
func (h *hook) run(ctx context.Context, server *http.Server, listener net.Listener, watcher *certwatcher.CertWatcher) error {
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error {
		return h.safe.Do(ctx, "watch the hook's certificate", func() error { return watcher.Start(ctx) })
	})
	work.Go(func() error {
		return h.safe.Do(ctx, "serve the hook", func() error {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("--events-listen: %w", err)
			}
			return nil
		})
	})
	work.Go(func() error {
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), deliveryTimeout)
		defer cancel()
		if err := server.Shutdown(stop); err != nil {
			return errors.Join(err, server.Close())
		}
		return nil
	})
	return work.Wait() //nolint:wrapcheck // says all
}

// ServeHTTP implements http.Handler.
func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := h.safe.Do(r.Context(), "serve a delivery", func() error {
		h.handle(w, r)
		return nil
	})
	if err != nil {
		h.fail(w, http.StatusInternalServerError, "internal error")
	}
}

func (h *hook) handle(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodOptions:
		h.handshake(w, r)
	case http.MethodPost:
		h.post(w, r)
	default:
		w.Header().Set("Allow", "POST, OPTIONS")
		h.fail(w, http.StatusMethodNotAllowed, "only POST and OPTIONS")
	}
}

// handshake answers that of CloudEvents. It allows the sender to try: each delivery needs its token all the same.
func (h *hook) handshake(w http.ResponseWriter, r *http.Request) {
	origin := r.Header.Get("WebHook-Request-Origin")
	if origin == "" || len(origin) > mostOrigin || strings.ContainsAny(origin, "\r\n") {
		h.fail(w, http.StatusBadRequest, "no WebHook-Request-Origin")
		return
	}
	w.Header().Set("Allow", "POST, OPTIONS")
	w.Header().Set("WebHook-Allowed-Origin", origin)
	w.Header().Set("WebHook-Allowed-Rate", "120")
	w.WriteHeader(http.StatusOK)
}

// post takes a delivery. The token is verified before anything is read of the body.
func (h *hook) post(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), deliveryTimeout)
	defer cancel()
	switch err := h.verifier.check(r.WithContext(ctx)); {
	case errors.Is(err, errIssuer):
		h.logRefusal(ctx, err)
		h.fail(w, http.StatusServiceUnavailable, "the token cannot be verified now")
		return
	case err != nil:
		h.logRefusal(ctx, err)
		w.Header().Set("WWW-Authenticate", "Bearer")
		h.fail(w, http.StatusUnauthorized, "the token is refused")
		return
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		h.fail(w, http.StatusServiceUnavailable, "too many deliveries")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, mostBytes))
	if err != nil {
		h.fail(w, http.StatusRequestEntityTooLarge, "the body is too big, or did not come whole")
		return
	}
	if code, ok := validationCode(r, body); ok {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"validationResponse": code})
		return
	}
	events, refused, err := Parse(body)
	if err != nil {
		h.refuse(ctx, malformed, err.Error())
		h.fail(w, http.StatusBadRequest, err.Error())
		return
	}
	for _, err := range refused {
		h.refuse(ctx, malformed, err.Error())
	}
	if err := h.serve(ctx, events); err != nil {
		h.log.WarnContext(ctx, "a delivery of events is to come again", logkeys.Error, printable.OneLine(err.Error()))
		w.Header().Set("Retry-After", "10")
		h.fail(w, http.StatusServiceUnavailable, "not every refresh could be asked for")
		return
	}
	w.WriteHeader(http.StatusOK)
}

// logRefusal logs why a token is refused, once in a while.
func (h *hook) logRefusal(ctx context.Context, err error) { h.refuse(ctx, unauthorized, err.Error()) }

func (*hook) fail(w http.ResponseWriter, status int, text string) { http.Error(w, text, status) }

// validationCode returns the code of the Event Grid schema's handshake.
func validationCode(r *http.Request, body []byte) (code string, ok bool) {
	if !strings.EqualFold(r.Header.Get("aeg-event-type"), "SubscriptionValidation") {
		return "", false
	}
	envelopes, err := parseEnvelopes(bytes.TrimSpace(body))
	if err != nil || len(envelopes) != 1 || envelopes[0].eventType() != validationType {
		return "", false
	}
	var data struct {
		Code string `json:"validationCode"`
	}
	if err := json.Unmarshal(envelopes[0].Data, &data); err != nil || data.Code == "" || len(data.Code) > 512 {
		return "", false
	}
	return data.Code, true
}
