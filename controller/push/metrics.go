package push

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what happens.
type metrics struct {
	events      *prometheus.CounterVec
	requested   prometheus.Counter
	delays      prometheus.Histogram
	queueErrors prometheus.Counter
}

func newMetrics(to prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyvault_csi_events_total", Help: "Events of Key Vault by what came of them.",
		}, []string{"result"}),
		requested: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keyvault_csi_events_refreshes_total", Help: "Classes that were asked to refresh because of events.",
		}),
		delays: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "keyvault_csi_events_delay_seconds", Help: "Time from an event until the refresh was asked for.",
			Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 3600},
		}),
		queueErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keyvault_csi_events_queue_errors_total", Help: "Requests to the queue of events that failed.",
		}),
	}
	for _, c := range []prometheus.Collector{m.events, m.requested, m.delays, m.queueErrors} {
		if err := to.Register(c); err != nil {
			return nil, fmt.Errorf("metrics of events: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) event(o outcome) { m.events.WithLabelValues(string(o)).Inc() }

// delay notes how old an event was. Clocks differ: it is never negative.
func (m *metrics) delay(d time.Duration) { m.delays.Observe(max(0, d).Seconds()) }
