package transport_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/transport"
)

func TestAnswersAreBounded(t *testing.T) {
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		size   int
		fails  bool
	}{
		"small":          {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "small") }, 5, false},
		"the biggest":    {func(w http.ResponseWriter, _ *http.Request) { write(w, transport.BiggestBody) }, transport.BiggestBody, false},
		"one byte more":  {func(w http.ResponseWriter, _ *http.Request) { write(w, transport.BiggestBody+1) }, 0, true},
		"without an end": {func(w http.ResponseWriter, _ *http.Request) { write(w, 1<<62) }, 0, true},
		"a gzip bomb": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			write(z, 64<<20)
			_ = z.Close()
		}, 0, true},
		"gzip": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			write(z, 1000)
			_ = z.Close()
		}, 1000, false},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(tc.answer)
			defer server.Close()
			rt, err := transport.New(transport.Options{IdlePerHost: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer rt.CloseIdleConnections()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := transport.Client{RoundTripper: rt}.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			if (err != nil) != tc.fails || !tc.fails && len(body) != tc.size || len(body) > transport.BiggestBody {
				t.Errorf("%d bytes, %v", len(body), err)
			}
			if tc.fails && (volume.ReasonOf(err) != volume.ReasonUnavailable || !strings.Contains(err.Error(), "bigger than 1 MiB")) {
				t.Errorf("error: %v", err)
			}
		})
	}
}

// write writes zeros until the reader has gone.
func write(w io.Writer, n int64) {
	block := make([]byte, 32<<10)
	for n > 0 {
		part := block[:min(n, int64(len(block)))]
		if _, err := w.Write(part); err != nil {
			return
		}
		n -= int64(len(part))
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	followed := false
	mux := http.NewServeMux()
	mux.HandleFunc("/from", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/to", http.StatusTemporaryRedirect) })
	mux.HandleFunc("/to", func(http.ResponseWriter, *http.Request) { followed = true })
	server := httptest.NewServer(mux)
	defer server.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/from", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.Client{RoundTripper: server.Client().Transport}.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if followed || resp.StatusCode != http.StatusTemporaryRedirect {
		t.Errorf("status %d, followed: %t", resp.StatusCode, followed)
	}
}

func TestCAFileIsChecked(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{empty: "holds no PEM certificate", empty + ".none": "--ca-file"} {
		if _, err := transport.New(transport.Options{CAFile: file}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", file, err)
		}
	}
}
