package metrics

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/pace"
	"github.com/keyvault-csi/keyvault-csi-driver/report"
	"github.com/keyvault-csi/keyvault-csi-driver/volume"
)

func TestMetricsTellWhatHappened(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	m := New(clk)
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(m); err != nil {
		t.Fatal(err)
	}
	m.SetGates(func() []pace.Snapshot {
		return []pace.Snapshot{{Host: "kv.vault.azure.net", Rate: 50, Throttled: 2, NotBefore: clk.Now().Add(time.Minute)}}
	})
	a, b := volume.Ref{TargetPath: "/a"}, volume.Ref{TargetPath: "/b"}
	bundle := &volume.Bundle{FetchedAt: clk.Now().Add(-time.Minute), Objects: []volume.Object{{Expires: clk.Now().Add(time.Hour)}}}
	for _, e := range []report.Event{
		{Kind: report.Published, Volume: a, Bundle: bundle, Duration: time.Second},
		{Kind: report.Published, Volume: b, Bundle: bundle},
		{Kind: report.PublishFailed, Reason: volume.NotFound},
		{Kind: report.Refreshed, Volume: a, Bundle: bundle, Changed: true},
		{Kind: report.RefreshFailed, Volume: b, Reason: volume.TokenExpired},
		{Kind: report.Panicked},
	} {
		m.Report(e)
	}
	m.VaultRequest("get secret", "", time.Millisecond)
	m.VaultRequest("get secret", volume.ReasonOf(errors.New("x")), time.Millisecond)
	m.TokenRequest("workload identity", "", time.Millisecond)
	m.Source("cached")
	want := `
# HELP keyvault_csi_gate_closed_seconds Seconds for which nothing is sent to the host.
# TYPE keyvault_csi_gate_closed_seconds gauge
keyvault_csi_gate_closed_seconds{host="kv.vault.azure.net"} 60
# HELP keyvault_csi_nearest_expiry_seconds Seconds until the first mounted object ends; negative after its end.
# TYPE keyvault_csi_nearest_expiry_seconds gauge
keyvault_csi_nearest_expiry_seconds 3600
# HELP keyvault_csi_oldest_value_age_seconds Age of the oldest values that a volume holds: seconds since they left the vault.
# TYPE keyvault_csi_oldest_value_age_seconds gauge
keyvault_csi_oldest_value_age_seconds 60
# HELP keyvault_csi_vault_requests_total Requests to Key Vault, by operation and reason (empty: success).
# TYPE keyvault_csi_vault_requests_total counter
keyvault_csi_vault_requests_total{operation="get secret",reason=""} 1
keyvault_csi_vault_requests_total{operation="get secret",reason="Internal"} 1
# HELP keyvault_csi_volumes Volumes that this process has filled or refreshed.
# TYPE keyvault_csi_volumes gauge
keyvault_csi_volumes 2
# HELP keyvault_csi_volumes_waiting_for_token Volumes that wait for kubelet to republish them with a valid service account token.
# TYPE keyvault_csi_volumes_waiting_for_token gauge
keyvault_csi_volumes_waiting_for_token 1
# HELP node_publish_error_total Calls of NodePublishVolume that failed, by reason.
# TYPE node_publish_error_total counter
node_publish_error_total{error_type="NotFound",os_type="linux",provider="azure"} 1
# HELP node_publish_total Volumes that were mounted and filled.
# TYPE node_publish_total counter
node_publish_total{os_type="linux",provider="azure"} 2
# HELP rotation_reconcile_total Refreshes of a volume; rotated says whether files changed.
# TYPE rotation_reconcile_total counter
rotation_reconcile_total{os_type="linux",provider="azure",rotated="true"} 1
`
	var names []string
	for line := range strings.Lines(want) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[1] == "TYPE" {
			names = append(names, fields[2])
		}
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	m.Report(report.Event{Kind: report.Unpublished, Volume: a})
	m.Report(report.Event{Kind: report.Unpublished, Volume: b})
	if err := testutil.GatherAndCompare(registry, strings.NewReader(""), "keyvault_csi_nearest_expiry_seconds"); err != nil {
		t.Error(err)
	}
}
