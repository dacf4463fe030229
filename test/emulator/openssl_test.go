//go:build openssl

package emulator_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

// curl and openssl are independent clients; the test needs both in PATH.
func TestCurlAndOpenSSL(t *testing.T) {
	s := emulatortest.Start(t, seed)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, s.CAPEM(), 0o600))
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...) //nolint:gosec // curl or openssl
		cmd.Env = append(os.Environ(), "HTTPS_PROXY="+s.ProxyURL().String(), "http_proxy="+s.ProxyURL().String())
		cmd.Stdin = strings.NewReader("")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		return string(out)
	}
	out := run("curl", "-sS", "-i", "--cacert", ca, vault+"/secrets/s?api-version=7.6")
	for _, want := range []string{" 401", "AKV10000", `resource="https://vault.azure.net"`, "x-ms-request-id"} {
		if !strings.Contains(strings.ToLower(out), strings.ToLower(want)) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	out = run("curl", "-sS", "-H", "Metadata: true",
		"http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net")
	_, rest, _ := strings.Cut(out, `"access_token":"`)
	token, _, _ := strings.Cut(rest, `"`)
	out = run("curl", "-sS", "--cacert", ca, "-H", "Authorization: Bearer "+token, vault+"/secrets/s?api-version=7.6")
	if !strings.Contains(out, `"value":"v4"`) {
		t.Errorf("%s", out)
	}
	out = run("openssl", "s_client", "-proxy", s.Address(), "-connect", "contoso.vault.azure.net:443", "-servername", "contoso.vault.azure.net",
		"-CAfile", ca, "-verify_return_error", "-verify_hostname", "contoso.vault.azure.net", "-alpn", "h2")
	for _, want := range []string{"Verify return code: 0 (ok)", "ALPN protocol: h2"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}
