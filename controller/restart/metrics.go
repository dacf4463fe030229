package restart

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Why a workload was not restarted at a look. The set is closed: it is a metric's label.
const (
	skippedAnnotation = "annotation"
	skippedSecret     = "secret"
	skippedPaused     = "paused"
	skippedRolling    = "rollout"
	skippedInterval   = "interval"
	skippedBound      = "bound"
	skippedOwner      = "owner"
)

func skips() []string {
	return []string{skippedAnnotation, skippedSecret, skippedPaused, skippedRolling, skippedInterval, skippedBound, skippedOwner}
}

// meters are the metrics of restarts.
type meters struct {
	restarts *prometheus.CounterVec
	failures prometheus.Counter
	skipped  *prometheus.CounterVec
}

func newMeters(to prometheus.Registerer) (*meters, error) {
	m := &meters{
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyvault_csi_controller_restarts_total", Help: "Workloads that were restarted because what their Pods read has new versions.",
		}, []string{"kind"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keyvault_csi_controller_restart_failures_total", Help: "Restarts that the API server refused.",
		}),
		skipped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyvault_csi_controller_restarts_skipped_total",
			Help: "Looks at a workload that did not restart it, by why: annotation, secret, paused, rollout, interval, bound, owner.",
		}, []string{"reason"}),
	}
	for _, kind := range kinds() {
		m.restarts.WithLabelValues(kind)
	}
	for _, reason := range skips() {
		m.skipped.WithLabelValues(reason)
	}
	if to == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.restarts, m.failures, m.skipped} {
		if err := to.Register(c); err != nil {
			return nil, fmt.Errorf("metrics of restarts: %w", err)
		}
	}
	return m, nil
}

func (m *meters) restart(kind string) { m.restarts.WithLabelValues(kind).Inc() }
func (m *meters) fail()               { m.failures.Inc() }
func (m *meters) skip(reason string)  { m.skipped.WithLabelValues(reason).Inc() }
