// Package monitoring tests deploy/monitoring with a real Prometheus that scrapes a real driver. Its tests need the tag
// prometheus: hack/test-monitoring runs them.
package monitoring
