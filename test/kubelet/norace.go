//go:build !race

package kubelet

var buildFlags []string //nolint:gochecknoglobals // a constant
