package cli

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
)

// Wrong flags of the controller end it at once with what to do; all that are wrong in themselves are said together.
func TestWrongFlagsOfTheController(t *testing.T) {
	t.Parallel()
	none := filepath.Join(t.TempDir(), "none", "file")
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"an argument":   {[]string{"run"}, []string{"run"}},
		"interval":      {[]string{"--rotation-interval", "1ms"}, []string{"--rotation-interval 1ms is below 1s: 0 turns it off"}},
		"cache":         {[]string{"--cache-ttl", "-1s"}, []string{"--cache-ttl -1s is negative"}},
		"audiences":     {[]string{"--audiences", ""}, []string{"--audiences is empty: name"}},
		"driver":        {[]string{"--pod-secrets", "--driver-name", ""}, []string{"--driver-name is empty"}},
		"names":         {[]string{"--controller-names="}, []string{"--controller-names is empty: no object"}},
		"types":         {[]string{"--secret-types", "helm.sh/release.v1"}, []string{"--secret-types: Secrets of the type helm.sh/release.v1", "leave it out"}},
		"node identity": {[]string{"--node-identity", "some"}, []string{"node-identity"}},
		"requests":      {[]string{"--api-qps", "0"}, []string{"--api-qps and --api-burst must be positive"}},
		"several":       {[]string{"--api-burst", "0", "--cache-ttl", "-1s"}, []string{"--api-burst", "--cache-ttl"}},
		"verbosity":     {[]string{"--v", "-1"}, []string{"--v: "}},
		"form of logs":  {[]string{"--log-format", "xml"}, []string{"--log-format: "}},
		"audit log":     {[]string{"--audit-log", none}, []string{"--audit-log: ", none}},
		"no cluster":    {nil, []string{"no API server: run in a cluster, or set --kubeconfig"}},
		"no kubeconfig": {[]string{"--kubeconfig", none}, []string{"no API server", none}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := exec.CommandContext(t.Context(), binaries.Controller(t), append([]string{"--health-addr=", "--metrics-addr="}, tc.args...)...) //nolint:gosec // the test's own command
			c.Env = []string{"PATH=" + t.TempDir()}                                                                                             // in no cluster
			out, err := c.CombinedOutput()
			if err == nil || c.ProcessState.ExitCode() != 1 {
				t.Errorf("it ended with %v: %s", err, out)
			}
			for _, want := range append(tc.want, "keyvault-controller: ") {
				if !strings.Contains(string(out), want) {
					t.Errorf("%q is not in: %s", want, out)
				}
			}
		})
	}
}
