package kubelet

import (
	"io"
	"math"
	"os"
	"regexp"
	"testing"
)

// openLog makes the file that a driver's processes log to. A file, not a pipe: what a process has written is there at
// once. It has no name any more, and is read until the last of a test's cleanups.
func openLog(t testing.TB) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "log-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(f.Name()); err != nil {
		t.Fatal(err)
	}
	return f
}

// Log is what the driver's processes have logged.
func (n *Node) Log() string {
	n.Helper()
	text, err := io.ReadAll(io.NewSectionReader(n.log, 0, math.MaxInt64))
	if err != nil {
		n.Fatal(err)
	}
	return string(text)
}

// races are the reports of the race detector, which may be long before the end of a log.
var races = regexp.MustCompile(`(?s)WARNING: DATA RACE.*?\n={10,}`)

var listening = regexp.MustCompile(`"msg":"serving http","what":"([^"]+)","address":"([^"]+)"`)

// AnyPort is an address for a listener that no other process has.
const AnyPort = "127.0.0.1:0"

// Address is where the driver's process listens: for "health and metrics", "pprof" or "admin".
func (n *Node) Address(what string) (address string) {
	n.Helper()
	n.Eventually("the listener for "+what, func() bool {
		for _, m := range listening.FindAllStringSubmatch(n.Log(), -1) {
			if m[1] == what {
				address = m[2] // of the last process
			}
		}
		return address != ""
	})
	return address
}
