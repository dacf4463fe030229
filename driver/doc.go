// Package driver implements the CSI Identity and Node services: it keeps the volumes of this node, registers itself with
// kubelet and refreshes what is mounted. It knows neither Azure nor the API server: it meets them through the interfaces in
// ports.go and package volume.
package driver
