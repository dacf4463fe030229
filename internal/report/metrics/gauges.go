package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// gauges are computed when they are scraped, so that they cannot be old.
type gauges struct {
	ready, volumes, failing, waiting, bytes *prometheus.Desc
	age, overdue, expiry, expiring, expired *prometheus.Desc
}

func newGauges() gauges {
	d := description
	return gauges{
		ready:   d("ready", "1 while volumes can be published, else 0; /readyz says why."),
		volumes: d("volumes", "Volumes that this process keeps."),
		failing: d("volumes_failing", "Volumes whose last refresh failed, by reason.", "reason"),
		waiting: d(
			"volumes_waiting_for_token",
			"Volumes that wait for kubelet to republish them with a valid service account token.",
		),
		bytes: d("mounted_bytes", "Bytes of the files that this process wrote and that are mounted."),
		age: d(
			"oldest_value_age_seconds",
			"Age of the oldest values that a volume holds: seconds since they left the vault.",
		),
		overdue: d(
			"oldest_value_overdue_seconds",
			"Seconds by which the oldest values are older than the volume's refresh interval, at most of all volumes; volumes that are never refreshed do not count.",
		),
		expiry:   d("nearest_expiry_seconds", "Seconds until the first mounted object ends; negative after its end."),
		expiring: d("objects_expiring", "Mounted objects that end within the time, ended ones included.", "within"),
		expired:  d("volumes_with_expired_objects", "Volumes that hold an object past its end."),
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	m.Requests.Describe(ch)
	m.describe(ch)
	g := newGauges()
	for _, d := range []*prometheus.Desc{
		g.ready, g.volumes, g.failing, g.waiting, g.bytes, g.age, g.overdue, g.expiry, g.expiring, g.expired,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.Requests.Collect(ch)
	m.collect(ch)
	m.mu.Lock()
	ready, volumes := m.ready, m.volumes
	m.mu.Unlock()
	g := newGauges()
	if volumes != nil {
		m.collectVolumes(g, setter(ch), volumes())
	}
	if ready != nil {
		setter(ch)(g.ready, btof(ready() == nil))
	}
}

// collectVolumes computes what is about volumes.
func (m *Metrics) collectVolumes(g gauges, gauge set, volumes []*volume.Snapshot) {
	now := m.clock.Now()
	failing := map[volume.Reason]int{}
	expiries := map[string]time.Time{}
	expired, bytes := 0, int64(0)
	var oldest, nearest time.Time
	var overdue time.Duration
	for _, s := range volumes {
		if s.Failure != nil {
			failing[s.Failure.Reason]++
		}
		bytes += s.Bytes
		oldest = earlier(oldest, s.FetchedAt)
		if s.Interval > 0 && !s.FetchedAt.IsZero() {
			overdue = max(overdue, now.Sub(s.FetchedAt)-s.Interval)
		}
		if expiry := collectExpiries(expiries, s.Objects); !expiry.IsZero() {
			nearest = earlier(nearest, expiry)
			if !expiry.After(now) {
				expired++
			}
		}
	}
	gauge(g.volumes, float64(len(volumes)))
	for reason, count := range failing {
		gauge(g.failing, float64(count), string(reason))
	}
	gauge(g.waiting, float64(failing[volume.ReasonTokenExpired]))
	gauge(g.bytes, float64(bytes))
	gauge(g.expired, float64(expired))
	if !oldest.IsZero() {
		gauge(g.age, now.Sub(oldest).Seconds())
		gauge(g.overdue, overdue.Seconds())
	}
	if !nearest.IsZero() {
		gauge(g.expiry, nearest.Sub(now).Seconds())
	}
	const day = 24 * time.Hour
	for within, d := range map[string]time.Duration{"1d": day, "7d": 7 * day, "30d": 30 * day} {
		count := 0
		for _, end := range expiries {
			if end.Sub(now) <= d {
				count++
			}
		}
		gauge(g.expiring, float64(count), within)
	}
}

// collectExpiries adds the objects that expire, by vault, object and version, and returns the first expiry.
func collectExpiries(expiries map[string]time.Time, objects []volume.Object) (first time.Time) {
	for _, o := range objects {
		if !o.Expires.IsZero() {
			expiries[o.Vault+" "+o.ID+" "+o.Version] = o.Expires
			first = earlier(first, o.Expires)
		}
	}
	return first
}

// earlier returns the earlier one of two times; zero counts as none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func btof(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
