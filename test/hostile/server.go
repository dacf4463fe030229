package hostile

import (
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

// The hosts that can be made hostile.
const (
	VaultHost    = "attacked.vault.azure.net"
	EntraHost    = "login.microsoftonline.com"
	MetadataHost = "169.254.169.254"
)

// Server is an emulator that misbehaves on demand.
type Server struct {
	*emulator.Server

	mu      sync.Mutex
	hostile map[string]http.HandlerFunc // by host
	seen    map[string]int              // how often a hostile host was asked
}

// Start runs a server with the seed until the test ends.
func Start(t testing.TB, seed string) *Server {
	t.Helper()
	s := &Server{hostile: map[string]http.HandlerFunc{}, seen: map[string]int{}}
	s.Server = emulatortest.StartWith(t, seed, emulator.Options{Intercept: s.intercept})
	return s
}

// Attack answers each request to a host with the handler, until Calm.
func (s *Server) Attack(host string, answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hostile[host], s.seen[host] = answer, 0
}

// Calm lets all hosts behave again.
func (s *Server) Calm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.hostile)
}

// Asked is how many requests came to a host since it was made hostile.
func (s *Server) Asked(host string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[host]
}

func (s *Server) intercept(w http.ResponseWriter, r *http.Request) bool {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	s.mu.Lock()
	answer := s.hostile[strings.ToLower(host)]
	if answer != nil {
		s.seen[strings.ToLower(host)]++
	}
	s.mu.Unlock()
	if answer == nil {
		return false
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	answer(w, r)
	return true
}

// Answer answers with a status and a body.
func Answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// Endless answers with a body that does not end.
func Endless(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"value":"`)
		flood(w, r)
	}
}

// Bomb answers with a small body that is big once it is decompressed.
func Bomb(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(status)
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, `{"value":"`)
		flood(z, r)
		_ = z.Close()
	}
}

// flood writes 2 GiB, or until the client goes.
func flood(w io.Writer, r *http.Request) {
	block := []byte(strings.Repeat("a", 64<<10))
	for range 32 << 10 {
		if _, err := w.Write(block); err != nil || r.Context().Err() != nil {
			return
		}
	}
}

// BigHeader answers with a header that does not end.
func BigHeader(w http.ResponseWriter, _ *http.Request) {
	for i := range 1000 {
		w.Header().Set("X-Filler-"+strconv.Itoa(i), strings.Repeat("a", 4<<10))
	}
	w.WriteHeader(http.StatusOK)
}

// Slow answers a byte a second.
func Slow(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusOK)
	for {
		if _, err := io.WriteString(w, " "); err != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-time.After(time.Second):
		case <-r.Context().Done():
			return
		}
	}
}

// Hang does not answer.
func Hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// Truncated promises more than it sends.
func Truncated(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "4096")
	w.WriteHeader(http.StatusOK)
	_, _ = io.WriteString(w, `{"value":"cut`)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// HTML answers as a captive portal does.
func HTML(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "<html><body>Please log in</body></html>")
	}
}

// Redirect sends the client elsewhere.
func Redirect(url string, status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, url, status) }
}

// Challenge refuses the token.
func Challenge(header string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if header != "" {
			w.Header().Set("WWW-Authenticate", header)
		}
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":{"code":"Unauthorized","message":"AKV10032: Invalid issuer."}}`)
	}
}

// Secret answers with a secret of the given id.
func Secret(id, value string) http.HandlerFunc {
	return Answer(http.StatusOK, fmt.Sprintf(`{"id":%q,"value":%q,"attributes":{"enabled":true}}`, id, value))
}

// Refusal answers with an error of Key Vault that has the text in all its words.
func Refusal(status int, text string) http.HandlerFunc {
	return Answer(status, fmt.Sprintf(`{"error":{"code":%q,"message":%q,"innererror":{"code":%q}}}`, text, text, text))
}
