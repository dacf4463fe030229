//go:build chaos

package chaos

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/chaos/outcome"
)

// TestKillStorm kills the driver at random moments of publishes, rotations and unpublishes that happen at the same time.
func TestKillStorm(t *testing.T) {
	t.Parallel()
	n := start(t, "", "--rotation-interval", "1s")
	r := random(t)
	n.again("steady")
	w := n.watch()
	kills := times(25, 500)
	old := ""
	for i := range kills {
		n.advance()
		var work sync.WaitGroup
		pods := []string{fmt.Sprintf("pod-%d-a", i), fmt.Sprintf("pod-%d-b", i)}
		for _, pod := range pods {
			work.Go(func() { _ = n.publish(pod) })
		}
		if old != "" {
			work.Go(func() { _ = n.unpublish(old) })
		}
		time.Sleep(time.Duration(r.IntN(60)) * time.Millisecond)
		n.Stop(syscall.SIGKILL)
		work.Wait()
		n.Run()
		if old != "" {
			n.gone(old)
		}
		n.again("steady")
		for _, pod := range pods {
			n.again(pod)
			n.whole(pod)
		}
		n.gone(pods[0])
		old = pods[1]
		if t.Failed() {
			t.FailNow()
		}
	}
	n.gone(old)
	w.sees(n.advance())
	w.stop()
	t.Logf("%d reads", w.reads.Load())
	found.Add(outcome.Row{
		Fault:  "killed at random during publishes, a rotation and an unpublish",
		Times:  kills,
		Driver: "starts again and takes the volumes over",
		Files:  "whole, of one generation",
	})
}

// TestTwoDriversOverlap has the next version's driver run beside the old one on the same directories, as during an upgrade, while both
// refresh the same volumes and Pods come and go.
func TestTwoDriversOverlap(t *testing.T) {
	t.Parallel()
	n := start(t, "", "--rotation-interval", "1s")
	r := random(t)
	n.again("steady")
	w := n.watch()
	overlaps := times(6, 60)
	for i := range overlaps {
		old := *n
		pod := fmt.Sprintf("pod-%d", i)
		var work sync.WaitGroup
		work.Go(func() { n.until(pod+" to be published", func() error { return old.publish(pod) }) })
		n.Node = n.Beside()
		n.Run()
		n.again("steady")
		w.sees(n.advance()) // by either of them
		work.Wait()
		time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
		if r.IntN(2) == 0 {
			old.Stop(syscall.SIGKILL)
		} else {
			old.Stop(syscall.SIGTERM)
		}
		n.again("steady")
		n.again(pod)
		n.whole(pod)
		n.gone(pod)
		w.sees(n.advance())
		if t.Failed() {
			t.FailNow()
		}
	}
	w.stop()
	found.Add(outcome.Row{
		Fault:  "two drivers refresh the same volumes; the old one is stopped or killed",
		Times:  overlaps,
		Driver: "the new one has the socket and goes on",
		Files:  "whole, of one generation",
	})
}
