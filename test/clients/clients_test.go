//go:build clients

// Package clients runs Microsoft's clients, as they are, against the emulator: each language's program makes the same
// reads and writes, and prints what it was given. What differs is a defect of the emulator, or of the variables that
// `keyvault-emulator env` prints. hack/test-clients installs what the programs need.
package clients

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

//go:embed seed.yaml
var seed string

// The languages' commands. hack/test-clients sets the variables where the defaults are not right.
func languages(t *testing.T) map[string][]string {
	return map[string][]string{
		"go":         {binaries.ClientGo(t)},
		"javascript": {variable("CLIENTS_NODE", "node"), absolute(t, "javascript/client.cjs")},
		"python":     {variable("CLIENTS_PYTHON", "/usr/bin/python3"), absolute(t, "python/client.py")},
	}
}

func variable(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	found, err := filepath.Abs(path)
	must(t, err)
	return found
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// emulator is a process that runs until the test ends.
type emulator struct {
	address, dir string
	variables    []string
}

func start(t *testing.T) *emulator {
	t.Helper()
	e := &emulator{dir: t.TempDir()}
	issuer, err := emulatortest.NewIssuer("https://oidc.example.com/cluster/")
	must(t, err)
	certificate := clientCertificate(t)
	write := func(name, content string) string {
		path := filepath.Join(e.dir, name)
		must(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	audience := "api://AzureADTokenExchange"
	e.variables = []string{
		"AZURE_FEDERATED_TOKEN_FILE=" + write("token", issuer.Token("default", "app", audience, time.Hour)),
		"CLIENTS_OTHER_TOKEN=" + write("other-token", issuer.Token("default", "other", audience, time.Hour)),
		"CLIENTS_CERTIFICATE=" + write("client.pem", certificate),
		"CLIENTS_IDENTITY=55555555-5555-5555-5555-555555555555",
	}
	public, _, _ := strings.Cut(certificate, "-----BEGIN PRIVATE KEY-----")
	var text bytes.Buffer
	must(t, template.Must(template.New("seed").Parse(seed)).Execute(&text, map[string]string{
		"PublicKey": fmt.Sprintf("%q", issuer.PublicKey()), "Certificate": fmt.Sprintf("%q", public),
	}))
	c := exec.CommandContext(context.WithoutCancel(t.Context()), binaries.Emulator(t), //nolint:gosec // the test's own
		"--listen", "127.0.0.1:0", "--tls-dir", e.dir, "--seed", write("seed.yaml", text.String()))
	var log bytes.Buffer
	c.Stderr = &log
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		if err := c.Wait(); err != nil {
			t.Errorf("emulator: %v\n%s", err, &log)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("emulator: %v", err)
	}
	fields := strings.Fields(line)
	e.address = fields[len(fields)-1]
	for _, gone := range []string{
		`{"kind":"secrets","name":"gone"}`, `{"kind":"keys","name":"gone"}`, `{"kind":"certificates","name":"gone-cert"}`,
	} {
		e.control(t, http.MethodPost, "/vaults/contoso/delete", gone)
	}
	return e
}

// clientCertificate is a certificate and its key, as the clients read it from a file.
func clientCertificate(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "client"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

func (e *emulator) control(t *testing.T, method, path, body string) []byte {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+e.address+path, strings.NewReader(body))
	must(t, err)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	answer, err := transport.RoundTrip(request)
	must(t, err)
	defer func() { _ = answer.Body.Close() }()
	data, err := io.ReadAll(answer.Body)
	must(t, err)
	if answer.StatusCode >= http.StatusBadRequest {
		t.Fatalf("%s %s: %s %s", method, path, answer.Status, data)
	}
	return data
}

// run runs a program as a person does, who has the variables set by a shell.
func (e *emulator) run(t *testing.T, command []string) map[string]outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	script := `variables=$("$0" env --listen "$1" --tls-dir "$2" --seed "$2/seed.yaml") || exit; shift 2
eval "$variables"; exec "$@"`
	args := append([]string{"-c", script, binaries.Emulator(t), e.address, e.dir}, command...)
	c := exec.CommandContext(ctx, "sh", args...) //nolint:gosec // the test's own command
	// variables of this machine must not win over those that are printed
	c.Env = append(os.Environ(), "https_proxy=http://192.0.2.1:1", "no_proxy=*", "REQUESTS_CA_BUNDLE=/dev/null")
	c.Env = append(c.Env, e.variables...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, &stderr)
	}
	found := map[string]outcome{}
	for line := range bytes.Lines(out) {
		var o outcome
		if err := json.Unmarshal(line, &o); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		found[o.Step] = o
	}
	return found
}

// outcome is what a program says of a step.
type outcome struct {
	Step   string
	Result any
	Error  *failure
}

type failure struct {
	Status        int
	Code, Message string
}
