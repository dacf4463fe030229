package nodeidentity_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/nodeidentity"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// selected are namespaces that a selector matches.
type selected map[string]bool

func (s selected) Match(_ context.Context, namespace string) (bool, error) {
	matches, known := s[namespace]
	if !known {
		return false, &volume.Error{Reason: volume.ReasonNotReady, Message: "the API server does not answer"}
	}
	return matches, nil
}

func TestWhoMayUseTheNodesIdentity(t *testing.T) {
	labels := selected{"shop": true, "bank": false}
	for name, tc := range map[string]struct {
		flags     nodeidentity.Flags
		namespace string
		reason    volume.Reason
		says      string
	}{
		"all":                   {nodeidentity.Flags{Mode: "all"}, "shop", "", ""},
		"none":                  {nodeidentity.Flags{Mode: "none"}, "shop", volume.ReasonIdentity, "nodeIdentity.allowed"},
		"named":                 {nodeidentity.Flags{Mode: "namespaces", Names: []string{"shop"}}, "shop", "", ""},
		"not named":             {nodeidentity.Flags{Mode: "namespaces", Names: []string{"shop"}}, "bank", volume.ReasonIdentity, "nodeIdentity.namespaces"},
		"selected":              {nodeidentity.Flags{Mode: "namespaces", Selector: "a=b"}, "shop", "", ""},
		"not selected":          {nodeidentity.Flags{Mode: "namespaces", Selector: "a=b"}, "bank", volume.ReasonIdentity, "workload identity"},
		"named, not selected":   {nodeidentity.Flags{Mode: "namespaces", Names: []string{"bank"}, Selector: "a=b"}, "bank", "", ""},
		"labels are not known":  {nodeidentity.Flags{Mode: "namespaces", Selector: "a=b"}, "new", volume.ReasonNotReady, "does not answer"},
		"named, labels unknown": {nodeidentity.Flags{Mode: "namespaces", Names: []string{"new"}, Selector: "a=b"}, "new", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			rule, err := tc.flags.Rule()
			if err != nil {
				t.Fatal(err)
			}
			policy := &nodeidentity.Policy{Rule: rule, Selected: labels}
			err = policy.Check(t.Context(), tc.namespace)
			if tc.reason == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			var e *volume.Error
			if !errors.As(err, &e) || e.Reason != tc.reason || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestFlagsOfTheNodesIdentity(t *testing.T) {
	for name, tc := range map[string]struct {
		flags nodeidentity.Flags
		says  []string
	}{
		"mode":           {nodeidentity.Flags{Mode: "some"}, []string{`--node-identity "some"`}},
		"names too many": {nodeidentity.Flags{Mode: "none", Names: []string{"a"}}, []string{"need --node-identity=namespaces"}},
		"nothing named":  {nodeidentity.Flags{Mode: "namespaces"}, []string{"--node-identity-namespaces or"}},
		"two mistakes": {
			nodeidentity.Flags{Mode: "all", Selector: "a b"},
			[]string{"need --node-identity=namespaces", `--node-identity-namespace-selector "a b"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tc.flags.Rule()
			for _, text := range tc.says {
				if err == nil || !strings.Contains(err.Error(), text) {
					t.Errorf("%q is not in %v", text, err)
				}
			}
		})
	}
}
