package emulator_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

// BenchmarkGetSecret is how many requests for a secret the emulator answers, over TLS through the proxy, in a vault of
// a thousand. The clients write HTTP themselves, so that most of the time is the emulator's.
func BenchmarkGetSecret(b *testing.B) {
	var seed strings.Builder
	seed.WriteString(strings.TrimSuffix(factsSeed, "\n") + "\n- name: big\n  tenant: " + factsTenant +
		"\n  grants: [{clientID: " + factsClient + ", permissions: [\"*\"]}]\n  secrets:\n")
	for i := range 1000 {
		fmt.Fprintf(&seed, "  - {name: secret-%d, value: value-%d}\n", i, i)
	}
	s := emulatortest.StartWith(b, seed.String(), emulator.Options{HTTP1: true})
	token := benchToken(b, s)
	b.SetParallelism(8)
	before := processTime(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		raw, err := s.Dial(b.Context(), "tcp", "big.vault.azure.net:443")
		if err != nil {
			b.Error(err)
			return
		}
		conn := tls.Client(raw, &tls.Config{RootCAs: s.CAPool(), ServerName: "big.vault.azure.net", MinVersion: tls.VersionTLS12})
		defer func() { _ = conn.Close() }()
		answers := bufio.NewReader(conn)
		for i := 0; pb.Next(); i++ {
			request := fmt.Sprintf("GET /secrets/secret-%d?api-version=7.6 HTTP/1.1\r\nHost: big.vault.azure.net\r\nAuthorization: Bearer %s\r\n\r\n",
				i%1000, token)
			if _, err := io.WriteString(conn, request); err != nil {
				b.Error(err)
				return
			}
			a, err := http.ReadResponse(answers, nil)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, a.Body)
			_ = a.Body.Close()
			if a.StatusCode != http.StatusOK {
				b.Errorf("status %d", a.StatusCode)
				return
			}
		}
	})
	b.ReportMetric(float64((processTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/request")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

// processTime is the processor time that this process has used: it does not depend on what else runs on the machine.
func processTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func benchToken(b *testing.B, s *emulator.Server) string {
	b.Helper()
	transport := &http.Transport{
		Proxy:           http.ProxyURL(s.ProxyURL()),
		TLSClientConfig: &tls.Config{RootCAs: s.CAPool(), MinVersion: tls.VersionTLS12},
	}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "https://login.microsoftonline.com/"+factsTenant+"/oauth2/v2.0/token",
		strings.NewReader(credentials(factsClient, "p4ss").Encode()))
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	a, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = a.Body.Close() }()
	var token struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(a.Body).Decode(&token); err != nil || token.AccessToken == "" {
		b.Fatalf("no token: status %d, %v", a.StatusCode, err)
	}
	return token.AccessToken
}
