package server

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// The comparison is fair only if this program asks as often as what it plays, neither more nor less: for each volume, the
// unauthenticated request, three of Entra ID (instance discovery, its configuration, a token) and one for each object.
func TestRequestsOfEachVolume(t *testing.T) {
	s := emulatortest.Start(t, kubelet.Seed)
	issuer := emulatortest.StartIssuer(t, s)
	transport := &http.Transport{
		Proxy:             http.ProxyURL(s.ProxyURL()),
		TLSClientConfig:   &tls.Config{RootCAs: s.CAPool(), MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	plain := &Server{Classes: t.TempDir(), Transport: &http.Client{Transport: transport}}
	for _, count := range []int{1, 10} {
		var names []string
		for i := range count {
			names = append(names, "s"+strconv.Itoa(i))
			if _, err := s.SetSecret(kubelet.Vault, emulator.Secret{Name: names[i], Value: "value of " + names[i]}); err != nil {
				t.Fatal(err)
			}
		}
		class := fmt.Sprintf(`{"spec": {"parameters": {"keyvaultName": %q, "tenantID": %q, "clientID": %q, "objects": %q}}}`,
			kubelet.Vault, kubelet.Tenant, kubelet.Client, kubelet.Objects(names...))
		if err := os.WriteFile(filepath.Join(plain.Classes, "c.json"), []byte(class), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second volume is no cheaper
			s.ResetRequests()
			target := filepath.Join(t.TempDir(), "mount")
			request := kubelet.PublishRequest(target, "pod", "c", kubelet.Tokens(issuer, "default", "app", time.Hour))
			if _, err := plain.NodePublishVolume(t.Context(), request); err != nil {
				t.Fatal(err)
			}
			vault, all := 0, 0
			for operation, n := range s.Counts() {
				all += n
				if strings.HasPrefix(operation, "get ") {
					vault += n
				}
			}
			if vault != 1+count || all != vault+3 {
				t.Errorf("%d secrets: %v", count, s.Counts())
			}
			last := names[count-1]
			if data, err := os.ReadFile(filepath.Join(target, last)); err != nil || string(data) != "value of "+last {
				t.Errorf("%s: %q, %v", last, data, err)
			}
		}
	}
}
