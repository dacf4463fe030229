//go:build chaos && amd64

package chaos

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/chaos/outcome"
)

// TestClockIsStepped steps the node's wall clock, and not that of the vault, under a driver that refreshes, and ends its
// tokens after each step.
func TestClockIsStepped(t *testing.T) {
	t.Parallel()
	n := start(t, "", "--rotation-interval", "1s")
	file := filepath.Join(t.TempDir(), "ahead")
	step := func(ahead time.Duration) {
		data := binary.NativeEndian.AppendUint64(nil, uint64(int64(ahead/time.Second)))
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE, 0o600) // in place: it is mapped
		must(t, err)
		_, err = f.Write(data)
		must(t, err)
		must(t, f.Close())
	}
	step(0)
	n.Stop(syscall.SIGTERM)
	n.SetRelease()
	n.SetWrapper(self(t, "clock", file)...)
	n.Run()
	n.again("steady")
	w := n.watch()
	for i, at := range []struct {
		fault string
		ahead time.Duration
	}{
		{"", 0},
		{"the node's clock is stepped forward by a day", 24 * time.Hour},
		{"the node's clock is stepped back by a day", 0},
		{"the node's clock is stepped back by an hour", -time.Hour},
		{"the node's clock is stepped forward by an hour", 0},
	} {
		step(at.ahead)
		marker := time.Now().Add(at.ahead).Format(`"time":"2006-01-02T15:`)
		n.Emulator.ResetRequests()
		n.Emulator.RevokeTokens() // as if they had ended, which the driver's clock does not say
		for range times(2, 6) {
			w.sees(n.advance())
			n.again("steady") // kubelet goes on to call
		}
		pod := "pod-" + string(rune('a'+i))
		n.again(pod)
		n.whole(pod)
		n.gone(pod)
		n.Eventually("a new token", func() bool { return n.Emulator.Counts()["token"] > 0 })
		// The driver's own log has its clock; at the change of an hour that of the test may be ahead.
		if log := n.Log(); !strings.Contains(log, marker) && !strings.Contains(log, time.Now().Add(at.ahead).Format(`"time":"2006-01-02T15:`)) {
			t.Errorf("the driver has not seen the clock of step %d", i)
		}
		if at.fault != "" {
			found.Add(outcome.Row{Fault: at.fault, Times: 1, Driver: "goes on to refresh, with new tokens", Files: "follow the vault"})
		}
	}
	w.stop()
	n.Stop(syscall.SIGTERM)
}
