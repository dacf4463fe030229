package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
)

// descriptors lets this process open as many files as it may, and returns how many that are.
func descriptors(t *testing.T) int {
	t.Helper()
	var limit syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	limit.Cur = limit.Max
	must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
	return int(min(limit.Max, 1<<20))
}

// crowd opens connections of a kind and leaves each of them as it is.
type crowd struct {
	t       *testing.T
	address string
	roots   *x509.CertPool
	open    []net.Conn
}

func (c *crowd) dial() net.Conn {
	c.t.Helper()
	conn, err := new(net.Dialer).DialContext(c.t.Context(), "tcp", c.address)
	if err != nil {
		c.t.Fatalf("connection %d: %v", len(c.open), err)
	}
	c.open = append(c.open, conn)
	return conn
}

// send opens a connection and sends something. That fails where the emulator has closed it already, which it may.
func (c *crowd) send(text string) net.Conn {
	conn := c.dial()
	_, _ = conn.Write([]byte(text))
	return conn
}

// tunnel opens one to a vault; false where the emulator has closed it.
func (c *crowd) tunnel() (net.Conn, bool) {
	conn := c.send("CONNECT contoso.vault.azure.net:443 HTTP/1.1\r\nHost: contoso.vault.azure.net:443\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect}) //nolint:bodyclose // a tunnel has none
	return conn, err == nil && answer.StatusCode == http.StatusOK
}

// TestTenThousandConnections: with 10,000 connections that wait for different things, memory is bounded, and a client that makes requests is
// served over the connection that it has, and a new one too.
func TestTenThousandConnections(t *testing.T) {
	dir := t.TempDir()
	seed := filepath.Join(dir, "seed.yaml")
	put(t, seed, secretSeed("one"))
	p := launchProgram(t, binaries.Emulator(t), "--seed="+seed, "--tls-dir="+dir)
	authority, err := os.ReadFile(filepath.Join(dir, authorityFile))
	must(t, err)
	c := &crowd{t: t, address: p.address, roots: x509.NewCertPool()}
	c.roots.AppendCertsFromPEM(authority)
	t.Cleanup(func() {
		for _, conn := range c.open {
			_ = conn.Close()
		}
	})

	proxy := &url.URL{Scheme: "http", Host: p.address}
	newClient := func() *http.Client {
		transport := &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS12}}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}
	}
	ask := func(client *http.Client) (reused bool) {
		t.Helper()
		trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }}
		r, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodGet,
			"https://contoso.vault.azure.net/secrets/one?api-version=7.6", http.NoBody)
		must(t, err)
		a, err := client.Do(r)
		if err != nil {
			t.Fatalf("with %d connections: %v", len(c.open), err)
		}
		_, err = io.Copy(io.Discard, a.Body) // else the connection is not used again
		if err := errors.Join(err, a.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if a.StatusCode != http.StatusUnauthorized {
			t.Fatalf("with %d connections: %s", len(c.open), a.Status)
		}
		return reused
	}
	kinds := []func(){
		func() { c.dial() },
		func() { c.send("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + strings.Repeat("x", 8<<10)) },
		func() {
			c.send("POST /vaults/contoso/secrets HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{\"value\":\"" + strings.Repeat("x", 8<<10))
		},
		func() { c.tunnel() },
		func() {
			conn, ok := c.tunnel()
			if !ok {
				return
			}
			inner := tls.Client(conn, &tls.Config{RootCAs: c.roots, ServerName: "contoso.vault.azure.net", MinVersion: tls.VersionTLS12})
			if err := inner.HandshakeContext(t.Context()); err == nil {
				_, _ = inner.Write([]byte("PUT /secrets/x?api-version=7.6 HTTP/1.1\r\nHost: contoso.vault.azure.net\r\nContent-Length: 10000\r\n\r\n{"))
			}
		},
	}
	steady := newClient()
	ask(steady)
	most := min(10_000, descriptors(t)-1000)
	for i := range most {
		kinds[i%len(kinds)]()
		if i%100 == 0 && !ask(steady) {
			t.Errorf("with %d connections: the one that is in use was closed", len(c.open))
		}
	}
	ask(newClient())
	if status, body := p.ask(http.MethodGet, "/healthz", ""); status != http.StatusOK {
		t.Errorf("health: %d %s", status, body)
	}
	p.ask(http.MethodPost, "/vaults/contoso/secrets", `{"name":"new","value":"v"}`)

	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.command.Process.Pid))
	must(t, err)
	kib := p.peakMemory()
	t.Logf("%d connections: the emulator has %d files open, and %.1f MiB of memory at most", most, len(files), float64(kib)/1024)
	if len(files) > 2100 {
		t.Errorf("%d files are open: more than 2,000 connections", len(files))
	}
	if kib > 256<<10 {
		t.Errorf("%d KiB of memory: more than 256 MiB", kib)
	}
}

// TestLargeBodiesAtTheSameTime: together they are bounded too, and what is refused is so in the service's way.
func TestLargeBodiesAtTheSameTime(t *testing.T) {
	seed := filepath.Join(t.TempDir(), "seed.yaml")
	put(t, seed, secretSeed("one"))
	p := launchProgram(t, binaries.Emulator(t), "--seed="+seed)
	c := &crowd{t: t, address: p.address}
	t.Cleanup(func() {
		for _, conn := range c.open {
			_ = conn.Close()
		}
	})
	half := strings.Repeat("x", 8<<20)
	refused := 0
	for range 40 { // 320 MiB
		conn := c.dial()
		must(t, conn.SetDeadline(time.Now().Add(5*time.Minute)))
		_, err := conn.Write([]byte("POST /vaults/contoso/secrets HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n{\"value\":\"" + half))
		if err != nil { // it is refused before it is sent
			refused++
		}
	}
	for _, conn := range c.open {
		must(t, conn.SetReadDeadline(time.Now().Add(time.Second))) // those that are not refused are not answered
		if answer, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode != http.StatusBadRequest {
				t.Errorf("%s", answer.Status)
			}
			refused++
		}
	}
	if refused == 0 {
		t.Error("no request was refused")
	}
	if kib := p.peakMemory(); kib > 512<<10 {
		t.Errorf("%d KiB of memory: more than 512 MiB", kib)
	} else {
		t.Logf("%d of 40 refused; %.1f MiB of memory at most", refused, float64(kib)/1024)
	}
	for _, conn := range c.open {
		_ = conn.Close()
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if status, _ := p.ask(http.MethodPost, "/vaults/contoso/secrets", `{"name":"new","value":"v"}`); status == http.StatusOK {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("afterwards: %d", status)
		}
	}
}

// peakMemory is how much memory the process had at most, in KiB.
func (p *process) peakMemory() int {
	p.t.Helper()
	status, err := os.ReadFile("/proc/" + strconv.Itoa(p.command.Process.Pid) + "/status")
	must(p.t, err)
	match := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if match == nil {
		p.t.Fatalf("no VmHWM in %s", status)
	}
	kib, err := strconv.Atoi(string(match[1]))
	must(p.t, err)
	return kib
}
