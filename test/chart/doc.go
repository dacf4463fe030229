// Package chart tests what the Helm chart makes of its values: it needs Helm, which `go tool` builds, and no cluster.
package chart
