package kubelet

import (
	"io"
	"math"
	"os"
	"testing"
)

// openLog makes the file that a driver's processes log to. A file, not a pipe: what a process has written is there at once.
// It has no name any more, and is read until the last of a test's cleanups.
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
