//go:build race

package kubelet

// buildFlags make the driver's binary look for races where the tests do: it then ends with an error, which Stop tells.
var buildFlags = []string{"-race"} //nolint:gochecknoglobals // a constant
