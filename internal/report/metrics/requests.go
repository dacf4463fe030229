package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
)

// vectors are metrics that are counted as things happen.
type vectors struct{ all []prometheus.Collector }

func (v *vectors) counter(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	v.all = append(v.all, c)
	return c
}

func (v *vectors) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	v.all = append(v.all, h)
	return h
}

func (v *vectors) describe(ch chan<- *prometheus.Desc) {
	for _, c := range v.all {
		c.Describe(ch)
	}
}

func (v *vectors) collect(ch chan<- prometheus.Metric) {
	for _, c := range v.all {
		c.Collect(ch)
	}
}

// Requests are the metrics of the provider, for the driver and the controller: requests to vaults and for tokens, how
// sources were answered, limiters. It implements provider.Observer and prometheus.Collector.
type Requests struct {
	clock clock.PassiveClock

	panics, auditFailed, vaultRequests, tokens *prometheus.CounterVec
	sources, detections, fallbacks             *prometheus.CounterVec
	vaultSeconds, tokenSeconds                 prometheus.ObserverVec
	vectors

	mu       sync.Mutex
	limiters func() []limiter.Snapshot
}

// NewRequests returns metrics; register them with a registry.
func NewRequests(clk clock.PassiveClock) *Requests {
	r := &Requests{clock: clk}
	r.panics = r.counter("keyvault_csi_panics_total", "Panics that were recovered.")
	r.auditFailed = r.counter("keyvault_csi_audit_errors_total", "Lines of the audit log that were lost.")
	r.vaultRequests = r.counter(
		"keyvault_csi_vault_requests_total",
		"Requests to Key Vault, by operation and reason (empty: success).",
		"operation",
		"reason",
	)
	r.vaultSeconds = r.histogram("keyvault_csi_vault_request_duration_seconds",
		"How long requests to Key Vault took, waiting at the limiter included.", seconds(), "operation")
	r.tokens = r.counter(
		"keyvault_csi_token_requests_total",
		"Token requests, by identity mode and reason (empty: success).",
		"mode",
		"reason",
	)
	r.tokenSeconds = r.histogram("keyvault_csi_token_request_duration_seconds",
		"How long token requests took, waiting at the limiter included.", seconds(), "mode")
	r.sources = r.counter(
		"keyvault_csi_sources_total",
		"How sources were answered: requested, joined, cached, listed or stale.",
		"how",
	)
	r.detections = r.counter(
		"keyvault_csi_change_detections_total",
		"How fetches of classes that ask for lists found out what changed.",
		"by",
	)
	r.fallbacks = r.counter("keyvault_csi_fallback_objects_total", "Objects that were taken from a fallback vault.")
	for _, v := range []*prometheus.CounterVec{r.panics, r.auditFailed, r.fallbacks} {
		v.WithLabelValues() // a series exists before its first event, so that a rate sees it
	}
	for _, how := range []string{"requested", "joined", "cached", "listed", "stale"} {
		r.sources.WithLabelValues(how)
	}
	return r
}

// SetLimiters says where the state of the limiters is read from.
func (r *Requests) SetLimiters(limiters func() []limiter.Snapshot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limiters = limiters
}

// VaultRequest implements provider.Observer.
func (r *Requests) VaultRequest(operation string, reason volume.Reason, took time.Duration) {
	r.vaultRequests.WithLabelValues(operation, string(reason)).Inc()
	r.vaultSeconds.WithLabelValues(operation).Observe(took.Seconds())
}

// TokenRequest implements provider.Observer.
func (r *Requests) TokenRequest(mode string, reason volume.Reason, took time.Duration) {
	r.tokens.WithLabelValues(mode, string(reason)).Inc()
	r.tokenSeconds.WithLabelValues(mode).Observe(took.Seconds())
}

// Source implements provider.Observer.
func (r *Requests) Source(how string) { r.sources.WithLabelValues(how).Inc() }

// Detected implements provider.Observer.
func (r *Requests) Detected(how volume.Detection) { r.detections.WithLabelValues(string(how)).Inc() }

// Fallback implements provider.Observer.
func (r *Requests) Fallback() { r.fallbacks.WithLabelValues().Inc() }

// Panicked implements provider.Observer.
func (r *Requests) Panicked(string) { r.panics.WithLabelValues().Inc() }

// AuditLost counts a line of the audit log that was not written.
func (r *Requests) AuditLost() { r.auditFailed.WithLabelValues().Inc() }

// limiterGauges are computed when they are scraped, so that they cannot be old.
type limiterGauges struct {
	rate, inFlight, queued, notBefore, open, throttled *prometheus.Desc
}

func newLimiterGauges() limiterGauges {
	return limiterGauges{
		rate: description(
			"gate_rate",
			"Requests a second that the host may be sent now; absent where they are not limited.",
			"host",
		),
		inFlight:  description("gate_in_flight", "Requests under way.", "host"),
		queued:    description("gate_waiting", "Requests that wait.", "host"),
		notBefore: description("gate_closed_seconds", "Seconds for which nothing is sent to the host.", "host"),
		open: description(
			"gate_circuit_open",
			"1 while the host does not answer and only a probe is sent now and then.",
			"host",
		),
		throttled: description("gate_throttled_total", "Answers that asked for fewer requests.", "host"),
	}
}

func description(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("keyvault_csi_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (r *Requests) Describe(ch chan<- *prometheus.Desc) {
	r.describe(ch)
	g := newLimiterGauges()
	for _, d := range []*prometheus.Desc{g.rate, g.inFlight, g.queued, g.notBefore, g.open, g.throttled} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (r *Requests) Collect(ch chan<- prometheus.Metric) {
	r.collect(ch)
	r.mu.Lock()
	limiters := r.limiters
	r.mu.Unlock()
	if limiters == nil {
		return
	}
	g := newLimiterGauges()
	for _, s := range limiters() {
		r.collectLimiter(g, setter(ch), s)
		ch <- prometheus.MustNewConstMetric(g.throttled, prometheus.CounterValue, float64(s.Throttled), s.Host)
	}
}

func (r *Requests) collectLimiter(g limiterGauges, gauge set, s limiter.Snapshot) {
	if s.Rate > 0 { // 0: not limited
		gauge(g.rate, s.Rate, s.Host)
	}
	gauge(g.inFlight, float64(s.InFlight), s.Host)
	gauge(g.queued, float64(s.Waiting), s.Host)
	closed := 0.0
	if !s.NotBefore.IsZero() {
		closed = s.NotBefore.Sub(r.clock.Now()).Seconds()
	}
	gauge(g.notBefore, closed, s.Host)
	gauge(g.open, btof(s.Open), s.Host)
}

// set sends one value of a gauge.
type set func(d *prometheus.Desc, value float64, labels ...string)

func setter(ch chan<- prometheus.Metric) set {
	return func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
}
