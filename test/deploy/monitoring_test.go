//go:build integration

package deploy

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	k8syaml "sigs.k8s.io/yaml"
)

// TestTheChartShipsAlertsAndDashboard: what the chart installs is what deploy/monitoring has, and off by default.
func TestTheChartShipsAlertsAndDashboard(t *testing.T) {
	args := []string{"template", "x", "deploy/chart", "--kube-version", newest, "--show-only", "templates/monitoring.yaml"}
	if out, _, err := helm(t, args...); err == nil && strings.Contains(out, "kind:") {
		t.Errorf("without being asked for: %s", out)
	}
	out, problems, err := helm(t, append(args, "--set", "prometheusRule.enabled=true,prometheusRule.labels.release=prometheus",
		"--set", "dashboard.enabled=true,dashboard.annotations.grafana_folder=Secrets")...)
	if err != nil {
		t.Fatal(err, problems)
	}
	type object struct {
		Kind     string
		Metadata struct{ Labels, Annotations map[string]string }
		Spec     map[string]any
		Data     map[string]string
	}
	found := map[string]object{}
	for text := range strings.SplitSeq(out, "\n---\n") {
		var o object
		if err := k8syaml.Unmarshal([]byte(text), &o); err != nil {
			t.Fatal(err)
		}
		found[o.Kind] = o
	}
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(root, "deploy/monitoring", name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var alerts map[string]any
	if err := k8syaml.Unmarshal(read("alerts.yaml"), &alerts); err != nil {
		t.Fatal(err)
	}
	rule, dashboard := found["PrometheusRule"], found["ConfigMap"]
	if rule.Metadata.Labels["release"] != "prometheus" || !reflect.DeepEqual(rule.Spec, alerts) {
		t.Errorf("not the alerts of deploy/monitoring (make generate): %v", rule.Metadata)
	}
	if dashboard.Metadata.Labels["grafana_dashboard"] != "1" || dashboard.Metadata.Annotations["grafana_folder"] != "Secrets" ||
		dashboard.Data["keyvault-csi.json"] != strings.TrimSpace(string(read("dashboard.json"))) {
		t.Errorf("not the dashboard of deploy/monitoring (make generate): %v", dashboard.Metadata)
	}
}
