// Package driver implements the CSI Identity and Node services, serves them to kubelet and registers the driver there.
//
// It checks requests and maps errors to gRPC codes. What a request means for a volume is the matter of package refresh, which the
// Driver hands it to: kubelet calls NodePublishVolume for a new volume, and again about every minute for as long as its Pod
// runs (requiresRepublish).
//
// The package knows neither Azure nor the API server: it meets them through volume.Provider, Classes and refresh.Secrets.
package driver
