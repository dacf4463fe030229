package metrics

import (
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// state is what the gauges need of a volume.
type state struct {
	// fetched is zero where an earlier process filled the volume.
	fetched time.Time
	// ends are those of the objects that state one, by vault, object and version.
	ends    map[string]time.Time
	bytes   int
	failing volume.Reason
}

// hold notes what a volume holds now.
func (m *Metrics) hold(e report.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.volumes[e.Volume.TargetPath]
	s := &state{fetched: e.FetchedAt}
	if before != nil && !before.fetched.IsZero() && e.FetchedAt.After(before.fetched) {
		m.refreshGap.WithLabelValues().Observe(e.FetchedAt.Sub(before.fetched).Seconds())
	}
	switch {
	case e.Bundle != nil:
		s.ends = map[string]time.Time{}
		for _, o := range e.Bundle.Objects {
			if !o.Expires.IsZero() {
				s.ends[o.Vault+" "+o.ID+" "+o.Version] = o.Expires
			}
		}
		for _, f := range e.Bundle.Files {
			s.bytes += len(f.Data)
		}
	case before != nil:
		s.ends, s.bytes = before.ends, before.bytes
	}
	m.volumes[e.Volume.TargetPath] = s
}

func (m *Metrics) adopt(e report.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.volumes[e.Volume.TargetPath] == nil {
		m.volumes[e.Volume.TargetPath] = &state{}
	}
}

func (m *Metrics) forget(e report.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.volumes, e.Volume.TargetPath)
}

func (m *Metrics) fail(e report.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.volumes[e.Volume.TargetPath]
	if !ok {
		s = &state{} // its class was wrong when kubelet first told of it
		m.volumes[e.Volume.TargetPath] = s
	}
	s.failing = e.Reason
}
