package system

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

func TestRegistrationWithKubelet(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket := filepath.Join(dir, "secrets-store.csi.k8s.io-reg.sock")
	stale, err := net.Listen("unix", socket) //nolint:noctx // what an earlier process left
	must(t, err)
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	must(t, stale.Close())
	n := kubelet.Start(t, kubelet.Seed, "--http-addr", kubelet.AnyPort,
		"--registration-dir", dir, "--kubelet-registration-path", "/var/lib/kubelet/plugins/x/csi.sock")
	address := n.Address("health and metrics")
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer func() { must(t, conn.Close()) }()
	watcher := registerapi.NewRegistrationClient(conn)
	info, err := watcher.GetInfo(t.Context(), &registerapi.InfoRequest{})
	must(t, err)
	if info.GetType() != registerapi.CSIPlugin || info.GetName() != "secrets-store.csi.k8s.io" ||
		info.GetEndpoint() != "/var/lib/kubelet/plugins/x/csi.sock" || len(info.GetSupportedVersions()) == 0 {
		t.Errorf("%v", info)
	}
	ready := func() bool {
		resp, err := n.Probe(context.Background(), &csi.ProbeRequest{})
		must(t, err)
		return resp.GetReady().GetValue()
	}
	if ready() {
		t.Error("ready before kubelet registered it")
	}
	if code, body := get(t, "http://"+address+"/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "not registered") {
		t.Errorf("readyz before the registration: %d %s", code, body)
	}
	_, err = watcher.NotifyRegistrationStatus(t.Context(), &registerapi.RegistrationStatus{Error: "another driver has the name"})
	must(t, err)
	if ready() || !strings.Contains(n.Log(), "another driver has the name") {
		t.Error("a rejected registration is not logged")
	}
	_, err = watcher.NotifyRegistrationStatus(t.Context(), &registerapi.RegistrationStatus{PluginRegistered: true})
	must(t, err)
	if !ready() {
		t.Error("not ready after the registration")
	}
	n.Stop(syscall.SIGTERM)
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the registration socket is left, so kubelet goes on calling a driver that is gone: %v", err)
	}
}

// freePort returns an address without a listener.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a test
	must(t, err)
	must(t, l.Close())
	return l.Addr().String()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	must(t, err)
	resp, err := new(http.Client).Do(req)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(body)
}

func TestHealthIsThatOfTheSocket(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--http-addr", kubelet.AnyPort)
	address := n.Address("health and metrics")
	if code, body := get(t, "http://"+address+"/healthz"); code != http.StatusOK {
		t.Errorf("%d %s", code, body)
	}
	must(t, os.Remove(filepath.Join(n.Dir, "csi.sock"))) // kubelet cannot call it any more: only a restart helps
	if code, body := get(t, "http://"+address+"/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "csi socket") {
		t.Errorf("%d %s", code, body)
	}
}

func TestHealthMetricsAndDebugListeners(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--http-addr", kubelet.AnyPort, "--debug-addr", kubelet.AnyPort)
	address, debug := n.Address("health and metrics"), n.Address("pprof")
	n.Secret("s", canary)
	n.Class("c", map[string]string{"objects": kubelet.Objects("s")})
	n.MustPublish("a", "c")
	for path, want := range map[string]string{
		"/healthz": "ok", "/readyz": "ok",
		"/metrics": `keyvault_csi_vault_requests_total{operation="get secret",reason=""} 1`,
	} {
		if code, body := get(t, "http://"+address+path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.300s", path, code, body)
		}
	}
	_, body := get(t, "http://"+address+"/metrics")
	for _, never := range []string{canary, `"s"`, "default/a"} {
		if strings.Contains(body, never) {
			t.Errorf("%s is in the metrics", never)
		}
	}
	if code, _ := get(t, "http://"+address+"/debug/pprof/"); code != http.StatusNotFound {
		t.Errorf("pprof on the metrics port: %d", code)
	}
	if code, _ := get(t, "http://"+debug+"/debug/pprof/"); code != http.StatusOK {
		t.Errorf("no pprof on its own port: %d", code)
	}
}

// What the pod's author writes into volumeAttributes never replaces what kubelet passes.
func TestForgedAttributes(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed)
	n.Secret("s", "value")
	n.Class("c", map[string]string{"objects": kubelet.Objects("s")})
	n.MustPublish("ignored", "c", func(r *csi.NodePublishVolumeRequest) {
		r.VolumeContext["csi.storage.k8s.io/serviceAccount.tokens"] = "not even JSON"
		r.VolumeContext["csi.storage.k8s.io/anything"] = "x"
		r.VolumeContext["providerName"] = "mock_provider"
	})
	if got := n.Read("ignored", "s"); got != "value" {
		t.Errorf("%q", got)
	}
	err := n.Publish("stolen", "c", func(r *csi.NodePublishVolumeRequest) {
		// no token from kubelet, and another service account's in the attributes
		r.Secrets = nil
		r.VolumeContext["csi.storage.k8s.io/serviceAccount.tokens"] = n.Tokens("kube-system", "admin", time.Hour)
	})
	if err == nil || !strings.Contains(err.Error(), "system:serviceaccount:kube-system:admin") {
		t.Errorf("got %v", err)
	}
	// attributes do go over parameters, and are checked like them
	err = n.Publish("override", "c", func(r *csi.NodePublishVolumeRequest) { r.VolumeContext["keyvaultName"] = "no_name" })
	if err == nil || !strings.Contains(err.Error(), `keyvaultName "no_name"`) {
		t.Errorf("got %v", err)
	}
	// tokens in the volume context alone, as older clusters pass them
	n.MustPublish("older", "c", func(r *csi.NodePublishVolumeRequest) {
		r.VolumeContext["csi.storage.k8s.io/serviceAccount.tokens"] = r.GetSecrets()["csi.storage.k8s.io/serviceAccount.tokens"]
		r.Secrets = nil
	})
}

// An inspecting proxy's authority comes from --ca-file, a private host name of a vault from --allowed-vault-hosts.
func TestMoreAuthoritiesAndVaultHosts(t *testing.T) {
	server := emulatortest.Start(t, kubelet.Seed+"vaultSuffixes: [corp.example]\n")
	must(t, server.Apply(emulator.Seed{Vaults: []emulator.Vault{{
		Name: "private", Suffix: "corp.example", Tenant: kubelet.Tenant, Secrets: []emulator.Secret{{Name: "s", Value: "private"}},
		Grants: []emulator.Grant{{ClientID: kubelet.Client, Permissions: []string{"*"}}},
	}}}))
	ca := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, server.CAPEM(), 0o600))
	issuer := emulatortest.StartIssuer(t, server)
	t.Setenv("SSL_CERT_FILE", "/dev/null")
	n := kubelet.StartWithout(t, server, issuer, "SSL_CERT_FILE", "--allowed-vault-hosts", ".corp.example", "--ca-file", ca)
	n.Secret("s", "public")
	n.Class("public", map[string]string{"objects": kubelet.Objects("s")})
	n.MustPublish("a", "public")
	if got := n.Read("a", "s"); got != "public" {
		t.Errorf("%q", got)
	}
	n.Class("foreign", map[string]string{"objects": kubelet.Objects("s"), "keyvaultName": "-", "keyvaultURI": "https://private.other.example/"})
	if err := n.Publish("c", "foreign"); err == nil || !strings.Contains(err.Error(), "--allowed-vault-hosts") {
		t.Errorf("got %v", err)
	}
	// the token for the cloud's vaults is not for this one: its challenge says which is
	n.Class("private", map[string]string{"objects": kubelet.Objects("s"), "keyvaultName": "-", "keyvaultURI": "https://private.corp.example/"})
	n.MustPublish("b", "private")
	if got := n.Read("b", "s"); got != "private" {
		t.Errorf("%q", got)
	}
}

// Calls in progress finish before the driver stops.
func TestStopDrains(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed+"latency: 500ms\n")
	n.Secret("s", "value")
	n.Class("c", map[string]string{"objects": kubelet.Objects("s")})
	request, client := n.Request("a", "c"), n.NodeClient
	done := make(chan error, 1)
	go func() {
		_, err := client.NodePublishVolume(context.Background(), request)
		done <- err
	}()
	n.Eventually("the request to be in progress", func() bool { return len(n.Emulator.Requests()) > 0 })
	must(t, syscall.Kill(n.PID(), syscall.SIGTERM))
	must(t, <-done)
	if got := n.Read("a", "s"); got != "value" {
		t.Errorf("%q", got)
	}
}

func TestMetadataServiceDown(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed+"managedIdentities: [{clientID: mi, objectID: o, system: true}]\n")
	n.Secret("s", "value")
	must(t, n.Emulator.Grant(kubelet.Vault, "mi", "secrets/get"))
	n.Class("c", map[string]string{"objects": kubelet.Objects("s"), "useVMManagedIdentity": "true"})
	for _, status := range []int{http.StatusServiceUnavailable} {
		n.Emulator.ClearFaults()
		n.Emulator.AddFault(emulator.Fault{Kind: emulator.FaultStatus, Status: status, Host: "169.254.169.254"})
		n.Emulator.ResetRequests()
		err := n.Publish("a", "c")
		if err == nil || !strings.Contains(err.Error(), fmt.Sprint(status)) || !strings.Contains(err.Error(), "metadata") {
			t.Errorf("%d: %v", status, err)
		}
		if requests := len(n.Emulator.Requests()); requests > 8 {
			t.Errorf("%d: %d requests", status, requests)
		}
	}
	n.Emulator.ClearFaults()
	n.Eventually("the identity to work again", func() bool { return n.Publish("a", "c") == nil })
}
