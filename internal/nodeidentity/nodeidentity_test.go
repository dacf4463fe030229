package nodeidentity

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

type provider struct{ binds int }

func (p *provider) Bind(context.Context, volume.Request) (volume.Binding, error) {
	p.binds++
	return nil, nil
}

func TestWhoMayUseTheNodesIdentity(t *testing.T) {
	managed := map[string]string{"useVMManagedIdentity": " True "}
	for name, tc := range map[string]struct {
		mode       string
		names      []string
		selector   string
		parameters map[string]string
		attributes map[string]string
		reason     volume.Reason
	}{
		"all":                       {mode: "all", parameters: managed},
		"none":                      {mode: "none", parameters: managed, reason: volume.ReasonPermission},
		"none, and none is asked":   {mode: "none", parameters: map[string]string{"clientID": "x"}},
		"none, asked by the Pod":    {mode: "none", attributes: managed, reason: volume.ReasonPermission},
		"none, the Pod takes over":  {mode: "none", parameters: managed, attributes: map[string]string{"useVMManagedIdentity": "false"}},
		"by name":                   {mode: "namespaces", names: []string{"shop"}, parameters: managed},
		"another name":              {mode: "namespaces", names: []string{"bank"}, parameters: managed, reason: volume.ReasonPermission},
		"by label":                  {mode: "namespaces", selector: "team in (a,b)", parameters: managed},
		"another label":             {mode: "namespaces", selector: "team=c", parameters: managed, reason: volume.ReasonPermission},
		"another label, but a name": {mode: "namespaces", names: []string{"shop"}, selector: "team=c", parameters: managed},
	} {
		t.Run(name, func(t *testing.T) {
			rule, err := ParseRule(tc.mode, tc.names, tc.selector)
			if err != nil {
				t.Fatal(err)
			}
			p := &provider{}
			g := New(p, rule, func(context.Context, string) (map[string]string, error) { return map[string]string{"team": "a"}, nil },
				clocktesting.NewFakePassiveClock(time.Now()))
			_, err = g.Bind(t.Context(), volume.Request{
				Pod: volume.Pod{Namespace: "shop"}, Parameters: tc.parameters, Attributes: tc.attributes,
			})
			if (err != nil) != (tc.reason != "") || err != nil && volume.ReasonOf(err) != tc.reason {
				t.Errorf("got %v", err)
			}
			if (err == nil) != (p.binds == 1) {
				t.Errorf("%d binds", p.binds)
			}
		})
	}
	for _, wrong := range []struct {
		mode     string
		names    []string
		selector string
		says     string
	}{
		{"some", nil, "", "none of all"}, {"none", []string{"a"}, "", "require --node-identity=namespaces"},
		{"namespaces", nil, "", "requires"}, {"namespaces", nil, "a b", "--node-identity-selector"},
	} {
		if _, err := ParseRule(wrong.mode, wrong.names, wrong.selector); err == nil || !strings.Contains(err.Error(), wrong.says) {
			t.Errorf("%v: %v", wrong, err)
		}
	}
}

// Labels are read once a minute, and old ones are used while the API server is away.
func TestLabelsAreKept(t *testing.T) {
	rule, err := ParseRule("namespaces", nil, "team=a")
	if err != nil {
		t.Fatal(err)
	}
	clk := clocktesting.NewFakePassiveClock(time.Now())
	reads, away := 0, errors.New("away")
	answer := away
	team := "a"
	g := New(&provider{}, rule, func(context.Context, string) (map[string]string, error) {
		reads++
		return map[string]string{"team": team}, answer
	}, clk)
	bind := func() error {
		_, err := g.Bind(t.Context(), volume.Request{Pod: volume.Pod{Namespace: "shop"}, Parameters: map[string]string{"useVMManagedIdentity": "1"}})
		return err
	}
	if err := bind(); volume.ReasonOf(err) != volume.ReasonNotReady {
		t.Errorf("unread: %v", err)
	}
	answer = nil
	for range 3 {
		if err := bind(); err != nil {
			t.Error(err)
		}
	}
	if reads != 2 {
		t.Errorf("%d reads", reads)
	}
	clk.SetTime(clk.Now().Add(2 * labelsAge))
	answer = away
	if err := bind(); err != nil {
		t.Errorf("while the API server is away: %v", err)
	}
	answer, team = nil, "b"
	if err := bind(); volume.ReasonOf(err) != volume.ReasonPermission {
		t.Errorf("after the label changed: %v", err)
	}
}
