package emulator

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// TokenProxy plays the AKS token proxy of identity binding: the API server's address answers as Entra ID to those
// who ask for the right TLS server name.
type TokenProxy struct {
	// URL is where it is.
	URL string
	// ServerName is the TLS server name that it wants.
	ServerName string
	// CAPEM is the cluster's authority.
	CAPEM []byte

	server *http.Server
	done   chan error
}

// StartTokenProxy runs the proxy of a cluster with the id. Close must be called.
func (s *Server) StartTokenProxy(clusterID string) (*TokenProxy, error) {
	authority, err := newAuthority("cluster " + clusterID)
	if err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(s.ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("token proxy: %w", err)
	}
	sum := sha256.Sum256([]byte("identity-binding" + clusterID))
	p := &TokenProxy{
		URL:        "https://" + strings.Replace(listener.Addr().String(), "127.0.0.1", "localhost", 1),
		ServerName: strings.ToLower("a" + base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]) + ".ests.aks"),
		CAPEM:      authority.pem, done: make(chan error, 1),
	}
	p.server = &http.Server{
		ReadHeaderTimeout: time.Minute, BaseContext: func(net.Listener) context.Context { return s.ctx },
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName == p.ServerName {
				return authority.leaf(p.ServerName)
			}
			return authority.leaf("localhost", "kubernetes.default.svc.cluster.local", "hcp-kubernetes."+clusterID+".svc.cluster.local")
		}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.TLS.ServerName != p.ServerName {
				http.Error(w, "this is the API server", http.StatusUnauthorized)
				return
			}
			r.Host = "login.microsoftonline.com"
			s.handle(w, r, func(x *exchange) reply {
				a := s.entra(x)
				x.record.Host = "token-proxy"
				return a
			})
		}),
	}
	go func() { p.done <- p.server.ServeTLS(listener, "", "") }()
	return p, nil
}

// Close ends the proxy.
func (p *TokenProxy) Close() error {
	err := p.server.Close()
	if served := <-p.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
