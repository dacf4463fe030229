package node

import (
	"strings"
	"testing"
)

// Every mistake in the flags is reported, each with its fix.
func TestMistakesInFlags(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"good": {[]string{"--node-identity=namespaces", "--node-identity-namespaces=a,b"}, nil},
		"without an API server": {
			[]string{
				"--classes=x", "--kubeconfig=y", "--sync-secrets", "--service-account-annotations",
				"--node-identity=namespaces", "--node-identity-namespace-selector=team=a",
			},
			[]string{
				"--classes and --kubeconfig are mutually exclusive",
				"--sync-secrets needs the API server",
				"--service-account-annotations needs the API server",
				"--node-identity-namespace-selector needs the API server",
			},
		},
		"rule of the node's identity": {[]string{"--node-identity=namespaces"}, []string{"--node-identity=namespaces needs"}},
		"two at once":                 {[]string{"--node-identity=x", "--cache-ttl=-1s"}, []string{`--node-identity "x"`, "--cache-ttl"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newDriverCommand()
			if err := c.ParseFlags(tc.args); err != nil {
				t.Fatal(err)
			}
			c.SetArgs(tc.args)
			if tc.want == nil {
				return
			}
			err := c.ExecuteContext(t.Context())
			for _, text := range tc.want {
				if err == nil || !strings.Contains(err.Error(), text) {
					t.Errorf("%q is not in %v", text, err)
				}
			}
		})
	}
}
