//go:build integration && azurite

package integration

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// azurite is a storage queue that takes tokens of Entra ID over TLS.
type azurite struct {
	url, certFile string
	certificate   []byte
}

// startAzurite runs Azurite's queue service until the test ends. hack/test-azurite says where it is.
func startAzurite(t *testing.T) *azurite {
	t.Helper()
	certFile, keyFile, certificate := localCertificate(t)
	address := freeAddress(t)
	host, port, _ := strings.Cut(address, ":")
	log, err := os.Create(filepath.Join(t.TempDir(), "azurite.log"))
	must(t, err)
	cmd := exec.Command(os.Getenv("AZURITE_NODE"), os.Getenv("AZURITE_QUEUE"), "--queueHost", host, "--queuePort", port, "--oauth", "basic", //nolint:gosec,noctx // the test's own; it is killed
		"--cert", certFile, "--key", keyFile, "--inMemoryPersistence", "--disableTelemetry")
	cmd.Stdout, cmd.Stderr = log, log
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("Azurite's log:\n%s", text[max(0, len(text)-5000):])
		}
	})
	return &azurite{url: "https://" + address + "/devstoreaccount1/keyvault-events", certFile: certFile, certificate: certificate}
}

// create makes the queue, as soon as Azurite answers.
func (a *azurite) create(t *testing.T, token string) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.certificate)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	var last string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, a.url, http.NoBody)
		must(t, err)
		request.Header.Set("Authorization", "Bearer "+token)
		request.Header.Set("x-ms-version", "2024-11-04")
		request.Header.Set("x-ms-date", time.Now().UTC().Format(http.TimeFormat))
		answer, err := client.Do(request)
		if err != nil {
			last = err.Error()
			continue
		}
		_ = answer.Body.Close()
		if answer.StatusCode == http.StatusCreated {
			return
		}
		last = answer.Status
	}
	t.Fatalf("the queue is not created: %s", last)
}

// TestPushByQueue: from the vault over a storage queue, which the controller reads with workload identity, to the Secret. What is in the queue
// that is no event is removed.
func TestPushByQueue(t *testing.T) {
	a := startAzurite(t)
	tokenFile := filepath.Join(t.TempDir(), "token")
	p := &pushed{controllerSite: newControllerWith(t, controlplane.Shared(t), eventValues(),
		"--rotation-interval", "24h", "--cache-ttl", "10s", "--ca-file", a.certFile, "--events-queue-url", a.url, "--events-poll-interval", "200ms",
		"--events-client-id", kubelet.Client, "--events-tenant-id", kubelet.Tenant, "--events-token-file", tokenFile, "--v", "1")}
	token, err := p.Kubectl("", "-n", p.shop, "create", "token", "app", "--audience", "api://AzureADTokenExchange")
	must(t, err)
	must(t, os.WriteFile(tokenFile, []byte(strings.TrimSpace(token)), 0o600))
	a.create(t, p.vault.EventToken(kubelet.Tenant, "https://storage.azure.com"))
	target, err := emulator.ParseEventTarget(a.url + "#queue")
	must(t, err)
	p.vault.SendEvents(target, a.certificate)

	p.set("db", canaryValue)
	p.class("web", []string{"db"})
	p.sync("shop-db", "web", "{sourcePath: db, targetKey: password}")
	p.Eventually("the Secret", func() bool { return p.holds("shop-db", "password", canaryValue) })
	p.set("db", canaryValue+"-first") // the controller's first token, and what waited before it
	p.Eventually("the first change", func() bool { return p.holds("shop-db", "password", canaryValue+"-first") })
	took := p.change(t, 7)
	t.Logf("from the vault to the Secret, with a queue that is asked five times a second: median %s of %v", took[len(took)/2], took)
	p.noCanaryIn(t)
	text, err := os.ReadFile(p.log)
	must(t, err)
	for _, secret := range []string{strings.TrimSpace(token)[:40], "eyJ"} {
		if strings.Contains(string(text), secret) {
			t.Error("a token is in the log")
		}
	}
	if got := p.get("secretproviderclass", "web", "-o", `jsonpath={.metadata.annotations.keyvault-csi/refresh}`); got == "" {
		t.Error("there is no annotation")
	}
}
