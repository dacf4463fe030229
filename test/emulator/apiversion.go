package emulator

import "slices"

// apiVersion is a version of the data plane: its place in apiVersions.
type apiVersion int

// apiVersions are those that the service accepts, oldest first: all that the SDKs of Go, JavaScript, Python, .NET and
// Java were recorded with.
var apiVersions = []string{
	"2015-06-01",
	"2016-10-01",
	"7.0-preview",
	"7.0",
	"7.1-preview",
	"7.1",
	"7.2-preview",
	"7.2",
	"7.3-preview",
	"7.3",
	"7.4-preview.1",
	"7.4",
	"7.5-preview.1",
	"7.5",
	"7.6-preview.1",
	"7.6-preview.2",
	"7.6",
	"2025-06-01-preview",
	"2025-07-01",
	"2026-01-01-preview",
	"2026-03-01-preview",
	"2026-04-01",
}

// latestAPIVersion is what the service recommends to a client that asks for one that it does not know.
const latestAPIVersion = "2026-04-01"

// parseAPIVersion returns false for a version that the service does not know.
func parseAPIVersion(name string) (apiVersion, bool) {
	i := slices.Index(apiVersions, name)
	return apiVersion(i), i >= 0
}

// has reports whether answers of the version have what came with another one.
func (v apiVersion) has(since string) bool { return int(v) >= slices.Index(apiVersions, since) }
