// Package metrics turns what happens into Prometheus metrics. Labels are bounded: no object name, no pod, no error
// text. docs/metrics.md lists each metric.
package metrics

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
)

// The label values of metrics that people know from the Secrets Store CSI Driver.
const (
	azure = "azure"
	linux = "linux"
)

// seconds are the buckets of durations: from a warm mount's few milliseconds to kubelet's two minutes.
func seconds() []float64 {
	return []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}
}

// ages are the buckets of what is measured in rotation intervals.
func ages() []float64 {
	return []float64{15, 30, 60, 90, 120, 150, 180, 240, 300, 600, 1800, 3600, 3 * 3600, 12 * 3600, 24 * 3600}
}

// Metrics implements report.Reporter, provider.Observer and prometheus.Collector.
type Metrics struct {
	clock clock.PassiveClock

	published, publishFailed, unpublished, unpublishFailed *prometheus.CounterVec
	refreshed, refreshFailed, synced, syncFailed           *prometheus.CounterVec
	stale, panics, auditFailed, vaultRequests, tokens      *prometheus.CounterVec
	sources, detections, fallbacks                         *prometheus.CounterVec
	publishSeconds, phaseSeconds, refreshSeconds, syncTook prometheus.ObserverVec
	vaultSeconds, tokenSeconds, refreshGap                 prometheus.ObserverVec
	vectors                                                []prometheus.Collector

	mu       sync.Mutex
	volumes  func() []*volume.Snapshot
	limiters func() []limiter.Snapshot
	ready    func() error
}

// New returns metrics; register them with a registry.
func New(clk clock.PassiveClock) *Metrics {
	m := &Metrics{clock: clk}
	m.published = m.counter("node_publish_total", "Volumes that were mounted and filled.", "provider", "os_type")
	m.publishFailed = m.counter(
		"node_publish_error_total",
		"Calls of NodePublishVolume that failed, by reason.",
		"provider",
		"os_type",
		"error_type",
	)
	m.unpublished = m.counter("node_unpublish_total", "Volumes that were unmounted.", "os_type")
	m.unpublishFailed = m.counter("node_unpublish_error_total", "Volumes that could not be unmounted.", "os_type")
	m.refreshed = m.counter(
		"rotation_reconcile_total",
		"Refreshes of a volume; rotated says whether files changed.",
		"provider",
		"os_type",
		"rotated",
	)
	m.refreshFailed = m.counter(
		"rotation_reconcile_error_total",
		"Refreshes of a volume that failed, by reason; the files stay as they are.",
		"provider",
		"os_type",
		"error_type",
	)
	m.refreshSeconds = m.histogram(
		"rotation_reconcile_duration_sec",
		"How long a refresh took, up to the volume's files.",
		seconds(),
		"os_type",
	)
	m.synced = m.counter("sync_k8s_secret_total", "Kubernetes Secrets that were written.", "provider", "os_type")
	m.syncTook = m.histogram(
		"k8s_secret_duration_sec",
		"How long it took to write a Kubernetes Secret.",
		seconds(),
		"os_type",
	)
	m.syncFailed = m.counter(
		"keyvault_csi_sync_errors_total",
		"Kubernetes Secrets that could not be written, by kind.",
		"kind",
	)
	m.stale = m.counter("keyvault_csi_stale_mounts_total", "Pods that started from last known good values.")
	m.panics = m.counter("keyvault_csi_panics_total", "Panics that were recovered.")
	m.auditFailed = m.counter("keyvault_csi_audit_errors_total", "Lines of the audit log that were lost.")
	m.vaultRequests = m.counter(
		"keyvault_csi_vault_requests_total",
		"Requests to Key Vault, by operation and reason (empty: success).",
		"operation",
		"reason",
	)
	m.vaultSeconds = m.histogram("keyvault_csi_vault_request_duration_seconds",
		"How long requests to Key Vault took, waiting at the limiter included.", seconds(), "operation")
	m.tokens = m.counter(
		"keyvault_csi_token_requests_total",
		"Token requests, by identity mode and reason (empty: success).",
		"mode",
		"reason",
	)
	m.tokenSeconds = m.histogram("keyvault_csi_token_request_duration_seconds",
		"How long token requests took, waiting at the limiter included.", seconds(), "mode")
	m.sources = m.counter(
		"keyvault_csi_sources_total",
		"How sources were answered: requested, joined, cached, listed or stale.",
		"how",
	)
	m.detections = m.counter(
		"keyvault_csi_change_detections_total",
		"How fetches of classes that ask for lists found out what changed.",
		"by",
	)
	m.fallbacks = m.counter("keyvault_csi_fallback_objects_total", "Objects that were taken from a fallback vault.")
	m.publishSeconds = m.histogram(
		"keyvault_csi_publish_duration_seconds",
		"How long it took to mount and fill a volume.",
		seconds(),
	)
	m.phaseSeconds = m.histogram("keyvault_csi_publish_phase_duration_seconds",
		"How long the parts of a publish took: class, token, fetch, write and sync.", seconds(), "phase")
	m.refreshGap = m.histogram(
		"keyvault_csi_refresh_gap_seconds",
		"Seconds between two good answers that a volume's values are from.",
		ages(),
	)
	m.start()
	return m
}

// start makes series exist before their first event, so that a rate sees it.
func (m *Metrics) start() {
	for _, v := range []*prometheus.CounterVec{m.stale, m.panics, m.auditFailed, m.fallbacks} {
		v.WithLabelValues()
	}
	for _, v := range []*prometheus.CounterVec{m.unpublished, m.unpublishFailed} {
		v.WithLabelValues(linux)
	}
	for _, v := range []*prometheus.CounterVec{m.published, m.synced} {
		v.WithLabelValues(azure, linux)
	}
	for _, how := range []string{"requested", "joined", "cached", "listed", "stale"} {
		m.sources.WithLabelValues(how)
	}
}

func (m *Metrics) counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.vectors = append(m.vectors, v)
	return v
}

func (m *Metrics) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	m.vectors = append(m.vectors, v)
	return v
}

// SetLimiters says where the state of the limiters is read from.
func (m *Metrics) SetLimiters(limiters func() []limiter.Snapshot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limiters = limiters
}

// SetVolumes says where the snapshots of volumes are read from.
func (m *Metrics) SetVolumes(volumes func() []*volume.Snapshot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.volumes = volumes
}

// SetReady says who knows whether volumes can be published.
func (m *Metrics) SetReady(ready func() error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready = ready
}

// VaultRequest implements provider.Observer.
func (m *Metrics) VaultRequest(operation string, reason volume.Reason, took time.Duration) {
	m.vaultRequests.WithLabelValues(operation, string(reason)).Inc()
	m.vaultSeconds.WithLabelValues(operation).Observe(took.Seconds())
}

// TokenRequest implements provider.Observer.
func (m *Metrics) TokenRequest(mode string, reason volume.Reason, took time.Duration) {
	m.tokens.WithLabelValues(mode, string(reason)).Inc()
	m.tokenSeconds.WithLabelValues(mode).Observe(took.Seconds())
}

// Source implements provider.Observer.
func (m *Metrics) Source(how string) { m.sources.WithLabelValues(how).Inc() }

// Detected implements provider.Observer.
func (m *Metrics) Detected(how volume.Detection) { m.detections.WithLabelValues(string(how)).Inc() }

// Fallback implements provider.Observer.
func (m *Metrics) Fallback() { m.fallbacks.WithLabelValues().Inc() }

// Panicked implements provider.Observer.
func (m *Metrics) Panicked(string) { m.panics.WithLabelValues().Inc() }

// AuditLost counts a line of the audit log that was not written.
func (m *Metrics) AuditLost() { m.auditFailed.WithLabelValues().Inc() }

// Report implements report.Reporter.
func (m *Metrics) Report(_ context.Context, e report.Event) {
	switch e := e.(type) {
	case report.Published:
		m.published.WithLabelValues(azure, linux).Inc()
		m.observePublish(e)
	case report.PublishFailed:
		m.publishFailed.WithLabelValues(azure, linux, string(e.Reason())).Inc()
	case report.Unpublished:
		m.unpublished.WithLabelValues(linux).Inc()
	case report.UnpublishFailed:
		m.unpublishFailed.WithLabelValues(linux).Inc()
	case report.Refreshed:
		m.refreshed.WithLabelValues(azure, linux, strconv.FormatBool(e.Changed)).Inc()
		m.refreshSeconds.WithLabelValues(linux).Observe(e.Duration.Seconds())
		m.observeGap(e.Before, e.After)
	case report.Confirmed:
		m.observeGap(e.Before, e.After)
	case report.RefreshFailed:
		m.refreshFailed.WithLabelValues(azure, linux, string(e.Reason())).Inc()
	case report.ServedStale:
		m.stale.WithLabelValues().Inc()
	case report.SecretWritten:
		m.synced.WithLabelValues(azure, linux).Inc()
		m.syncTook.WithLabelValues(linux).Observe(e.Duration.Seconds())
	case report.SecretFailed, report.SecretConflict:
		m.syncFailed.WithLabelValues(string(e.Kind())).Inc()
	case report.Panicked:
		m.panics.WithLabelValues().Inc()
	}
}

func (m *Metrics) observePublish(e report.Published) {
	m.publishSeconds.WithLabelValues().Observe(e.Duration.Seconds())
	for phase, took := range map[string]time.Duration{
		"class": e.Phases.Class,
		"token": e.Phases.Token,
		"fetch": e.Phases.Fetch,
		"write": e.Phases.Write,
		"sync":  e.Phases.Sync,
	} {
		m.phaseSeconds.WithLabelValues(phase).Observe(took.Seconds())
	}
}

// observeGap notes how far two good answers of a volume are apart.
func (m *Metrics) observeGap(before, after *volume.Snapshot) {
	if gap := after.FetchedAt.Sub(before.FetchedAt); !before.FetchedAt.IsZero() && gap > 0 {
		m.refreshGap.WithLabelValues().Observe(gap.Seconds())
	}
}
