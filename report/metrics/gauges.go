package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyvault-csi/keyvault-csi-driver/volume"
)

// gauges are computed when they are scraped, so that they cannot be old.
type gauges struct {
	volumes, failing, waiting, age, expiry, expired    *prometheus.Desc
	rate, inFlight, queued, notBefore, open, throttled *prometheus.Desc
}

func newGauges() gauges {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("keyvault_csi_"+name, help, labels, nil)
	}
	return gauges{
		volumes: d("volumes", "Volumes that this process has filled or refreshed."),
		failing: d("volumes_failing", "Volumes whose last refresh failed, by reason.", "reason"),
		waiting: d("volumes_waiting_for_token", "Volumes that wait for kubelet to republish them with a valid service account token."),
		age:     d("oldest_value_age_seconds", "Age of the oldest values that a volume holds: seconds since they left the vault."),
		expiry:  d("nearest_expiry_seconds", "Seconds until the first mounted object ends; negative after its end."),
		expired: d("volumes_with_expired_objects", "Volumes that hold an object past its end."),

		rate:      d("gate_rate", "Requests a second that the host may be sent now.", "host"),
		inFlight:  d("gate_in_flight", "Requests under way.", "host"),
		queued:    d("gate_waiting", "Requests that wait for their turn.", "host"),
		notBefore: d("gate_closed_seconds", "Seconds for which nothing is sent to the host.", "host"),
		open:      d("gate_circuit_open", "1 while the host does not answer and only a probe is sent now and then.", "host"),
		throttled: d("gate_throttled_total", "Answers that asked for fewer requests.", "host"),
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, v := range m.vectors {
		v.Describe(ch)
	}
	g := newGauges()
	for _, d := range []*prometheus.Desc{
		g.volumes, g.failing, g.waiting, g.age, g.expiry, g.expired, g.rate, g.inFlight, g.queued, g.notBefore, g.open, g.throttled,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, v := range m.vectors {
		v.Collect(ch)
	}
	g := newGauges()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	m.mu.Lock()
	gates := m.gates
	m.collectVolumes(g, gauge)
	m.mu.Unlock()
	now := m.clock.Now()
	for _, s := range gates() {
		gauge(g.rate, s.Rate, s.Host)
		gauge(g.inFlight, float64(s.InFlight), s.Host)
		gauge(g.queued, float64(s.Waiting), s.Host)
		closed := 0.0
		if !s.NotBefore.IsZero() {
			closed = s.NotBefore.Sub(now).Seconds()
		}
		gauge(g.notBefore, closed, s.Host)
		open := 0.0
		if s.Open {
			open = 1
		}
		gauge(g.open, open, s.Host)
		ch <- prometheus.MustNewConstMetric(g.throttled, prometheus.CounterValue, float64(s.Throttled), s.Host)
	}
}

// collectVolumes computes what is about volumes. The caller holds the lock.
func (m *Metrics) collectVolumes(g gauges, gauge func(*prometheus.Desc, float64, ...string)) {
	now := m.clock.Now()
	failing := map[volume.Reason]int{}
	waiting, expired := 0, 0
	var oldest, nearest *float64
	for _, s := range m.volumes {
		if s.failing != "" {
			failing[s.failing]++
		}
		if s.failing == volume.TokenExpired {
			waiting++
		}
		if !s.fetched.IsZero() {
			if age := now.Sub(s.fetched).Seconds(); oldest == nil || age > *oldest {
				oldest = &age
			}
		}
		if s.expires.IsZero() {
			continue
		}
		left := s.expires.Sub(now).Seconds()
		if nearest == nil || left < *nearest {
			nearest = &left
		}
		if left <= 0 {
			expired++
		}
	}
	gauge(g.volumes, float64(len(m.volumes)))
	for reason, count := range failing {
		gauge(g.failing, float64(count), string(reason))
	}
	gauge(g.waiting, float64(waiting))
	gauge(g.expired, float64(expired))
	if oldest != nil {
		gauge(g.age, *oldest)
	}
	if nearest != nil {
		gauge(g.expiry, *nearest)
	}
}
