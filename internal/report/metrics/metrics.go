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

// Metrics are the driver's. It implements report.Reporter, provider.Observer and prometheus.Collector.
type Metrics struct {
	*Requests

	clock clock.PassiveClock

	published, publishFailed, unpublished, unpublishFailed *prometheus.CounterVec
	refreshed, refreshFailed, synced, syncFailed           *prometheus.CounterVec
	stale                                                  *prometheus.CounterVec
	publishSeconds, phaseSeconds, refreshSeconds, syncTook prometheus.ObserverVec
	refreshGap                                             prometheus.ObserverVec
	vectors

	mu      sync.Mutex
	volumes func() []*volume.Snapshot
	ready   func() error
}

// New returns metrics; register them with a registry.
func New(clk clock.PassiveClock) *Metrics {
	m := &Metrics{clock: clk, Requests: NewRequests(clk)}
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
	m.stale.WithLabelValues()
	for _, v := range []*prometheus.CounterVec{m.unpublished, m.unpublishFailed} {
		v.WithLabelValues(linux)
	}
	for _, v := range []*prometheus.CounterVec{m.published, m.synced} {
		v.WithLabelValues(azure, linux)
	}
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
