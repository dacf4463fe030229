package metrics

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
)

func TestMetricsTellWhatHappened(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	m := New(clk)
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(m); err != nil {
		t.Fatal(err)
	}
	m.SetLimiters(func() []limiter.Snapshot {
		return []limiter.Snapshot{{Host: "kv.vault.azure.net", Rate: 50, Throttled: 2, NotBefore: clk.Now().Add(time.Minute)}}
	})
	m.SetReady(func() error { return errors.New("not yet") })
	fetched := clk.Now().Add(-time.Minute)
	objects := []volume.Object{
		{ID: "secret/x", Expires: clk.Now().Add(time.Hour)},
		{ID: "secret/y", Expires: clk.Now().Add(48 * time.Hour)},
		{ID: "secret/z"},
	}
	at := func(target string, fetched time.Time) *volume.Snapshot {
		return &volume.Snapshot{Ref: volume.Ref{TargetPath: target}, Objects: objects, Bytes: 10, FetchedAt: fetched}
	}
	failing := at("/b", fetched)
	failing.Failure = &volume.Failure{Reason: volume.ReasonTokenExpired}
	volumes := []*volume.Snapshot{at("/a", fetched), failing, {Ref: volume.Ref{TargetPath: "/c"}}}
	m.SetVolumes(func() []*volume.Snapshot { return volumes })
	for _, e := range []report.Event{
		report.Published{
			After:    at("/a", fetched.Add(-3*time.Minute)),
			Duration: time.Second,
			Phases:   report.Phases{Class: time.Millisecond, Token: 100 * time.Millisecond, Fetch: 800 * time.Millisecond},
		},
		report.Published{After: at("/b", fetched)},
		report.Adopted{After: &volume.Snapshot{Ref: volume.Ref{TargetPath: "/c"}}},
		report.PublishFailed{Err: &volume.Error{Reason: volume.ReasonNotFound}},
		report.Refreshed{Before: at("/a", fetched.Add(-3*time.Minute)), After: at("/a", fetched.Add(-time.Minute)), Changed: true},
		report.Confirmed{Before: at("/a", fetched.Add(-time.Minute)), After: at("/a", fetched)},
		report.UnpublishFailed{Err: errors.New("busy")},
		report.SecretWritten{Duration: time.Second},
		report.RefreshFailed{Err: &volume.Error{Reason: volume.ReasonTokenExpired}},
		report.Panicked{},
	} {
		m.Report(t.Context(), e)
	}
	m.VaultRequest("get secret", "", time.Millisecond)
	m.VaultRequest("get secret", volume.ReasonOf(errors.New("x")), time.Millisecond)
	m.TokenRequest("workload identity", "", time.Millisecond)
	m.Source("cached")
	m.AuditLost()
	want := `
# HELP keyvault_csi_audit_errors_total Lines of the audit log that were lost.
# TYPE keyvault_csi_audit_errors_total counter
keyvault_csi_audit_errors_total 1
# HELP keyvault_csi_gate_closed_seconds Seconds for which nothing is sent to the host.
# TYPE keyvault_csi_gate_closed_seconds gauge
keyvault_csi_gate_closed_seconds{host="kv.vault.azure.net"} 60
# HELP keyvault_csi_mounted_bytes Bytes of the files that this process wrote and that are mounted.
# TYPE keyvault_csi_mounted_bytes gauge
keyvault_csi_mounted_bytes 20
# HELP keyvault_csi_nearest_expiry_seconds Seconds until the first mounted object ends; negative after its end.
# TYPE keyvault_csi_nearest_expiry_seconds gauge
keyvault_csi_nearest_expiry_seconds 3600
# HELP keyvault_csi_objects_expiring Mounted objects that end within the time, ended ones included.
# TYPE keyvault_csi_objects_expiring gauge
keyvault_csi_objects_expiring{within="1d"} 1
keyvault_csi_objects_expiring{within="30d"} 2
keyvault_csi_objects_expiring{within="7d"} 2
# HELP keyvault_csi_oldest_value_age_seconds Age of the oldest values that a volume holds: seconds since they left the vault.
# TYPE keyvault_csi_oldest_value_age_seconds gauge
keyvault_csi_oldest_value_age_seconds 60
# HELP keyvault_csi_ready 1 while volumes can be published, else 0; /readyz says why.
# TYPE keyvault_csi_ready gauge
keyvault_csi_ready 0
# HELP keyvault_csi_vault_requests_total Requests to Key Vault, by operation and reason (empty: success).
# TYPE keyvault_csi_vault_requests_total counter
keyvault_csi_vault_requests_total{operation="get secret",reason=""} 1
keyvault_csi_vault_requests_total{operation="get secret",reason="Internal"} 1
# HELP keyvault_csi_volumes Volumes that this process keeps.
# TYPE keyvault_csi_volumes gauge
keyvault_csi_volumes 3
# HELP keyvault_csi_volumes_waiting_for_token Volumes that wait for kubelet to republish them with a valid service account token.
# TYPE keyvault_csi_volumes_waiting_for_token gauge
keyvault_csi_volumes_waiting_for_token 1
# HELP node_publish_error_total Calls of NodePublishVolume that failed, by reason.
# TYPE node_publish_error_total counter
node_publish_error_total{error_type="NotFound",os_type="linux",provider="azure"} 1
# HELP node_publish_total Volumes that were mounted and filled.
# TYPE node_publish_total counter
node_publish_total{os_type="linux",provider="azure"} 2
# HELP node_unpublish_error_total Volumes that could not be unmounted.
# TYPE node_unpublish_error_total counter
node_unpublish_error_total{os_type="linux"} 1
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
	gap := metricText(t, registry, "keyvault_csi_refresh_gap_seconds")
	if !strings.Contains(gap, "keyvault_csi_refresh_gap_seconds_sum 180\n") || !strings.Contains(gap, "_count 2\n") {
		t.Errorf("gaps of two minutes and of one: %s", gap)
	}
	phases := metricText(t, registry, "keyvault_csi_publish_phase_duration_seconds")
	for _, want := range []string{`_sum{phase="token"} 0.1` + "\n", `_sum{phase="fetch"} 0.8` + "\n", `_count{phase="sync"} 2` + "\n"} {
		if !strings.Contains(phases, want) {
			t.Errorf("phases lack %q: %s", want, phases)
		}
	}
	volumes = nil
	if err := testutil.GatherAndCompare(registry, strings.NewReader(""), "keyvault_csi_nearest_expiry_seconds"); err != nil {
		t.Error(err)
	}
}

// metricText is what a scrape says of one metric.
func metricText(t *testing.T, registry *prometheus.Registry, name string) string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	var b strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, name) {
			b.WriteString(line)
		}
	}
	return b.String()
}
