//go:build chaos

package chaos

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/chaos/outcome"
)

// plan says at which system call what happens.
type plan struct {
	// Below is the directory of the node: paths in the report are relative to it, and reads of its files count.
	Below string
	// Call is the number of the call, from 1; at 0 all are only counted.
	Call int
	// Errno is what it fails with. At 0 the driver is killed instead, before the call.
	Errno syscall.Errno
}

// report is what a tracer has seen.
type report struct {
	// Calls are all system calls that count, with what they are about.
	Calls []string
	// Hit is the call of the plan; empty where there were fewer.
	Hit string
	// Gone says that the driver has ended.
	Gone bool
}

// trace follows the driver until stop is called, which returns what was seen.
func (n *node) trace(p plan) (stop func() report) {
	n.Helper()
	p.Below = n.Dir
	text, err := json.Marshal(p)
	must(n.TB, err)
	command := self(n.TB, "attach", fmt.Sprint(n.PID()), string(text))
	helper := exec.Command(command[0], command[1:]...) //nolint:noctx // it ends with its input
	helper.Stderr = os.Stderr
	helper.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := helper.StdinPipe()
	must(n.TB, err)
	pipe, err := helper.StdoutPipe()
	must(n.TB, err)
	must(n.TB, helper.Start())
	out := bufio.NewReader(pipe)
	if line, err := out.ReadString('\n'); line != "ready\n" {
		n.Fatalf("the tracer does not begin: %q %v", line, err)
	}
	return func() (r report) {
		n.Helper()
		must(n.TB, in.Close())
		text, err := io.ReadAll(out)
		must(n.TB, err)
		if err := json.Unmarshal(text, &r); err != nil {
			n.Fatalf("the tracer's report %q: %v", text, err)
		}
		must(n.TB, helper.Wait())
		return r
	}
}

// operation is what is done while the driver is followed.
type operation struct {
	name  string
	flags []string
	// inShort is how many of its calls the short run tries.
	inShort int
	// prepare makes the Pod ready for do, which does the operation once, and returns when it is over, with any outcome.
	// settle is what kubelet does after it, until all is as it should be.
	prepare, do, settle func(n *node, pod string)
}

var operations = []operation{
	{
		name: "publish", flags: []string{"--rotation=false"}, inShort: 8,
		prepare: func(n *node, _ string) { n.advance() },
		do: func(n *node, pod string) {
			if err := n.publish(pod); err == nil && n.whole(pod) != n.newest.Load() {
				n.Errorf("%s was published with an older generation", pod)
			}
		},
		settle: func(n *node, pod string) {
			// What a failed call left is nothing, a mount without a generation, or a whole one.
			if _, err := os.Lstat(n.Target(pod) + "/..data"); err == nil {
				n.whole(pod)
			}
			n.again(pod)
			if got := n.whole(pod); got != n.newest.Load() {
				n.Errorf("%s is of generation %d, not %d", pod, got, n.newest.Load())
			}
			n.gone(pod)
		},
	},
	{
		name: "rotate", flags: []string{"--rotation-interval", "1s"}, inShort: 3,
		prepare: func(n *node, _ string) { n.advance() },
		do: func(n *node, _ string) {
			n.Eventually("the rotation, or the end of the driver", func() bool {
				generation, err := whole(n.Target("steady"))
				must(n.TB, err)
				return generation == n.newest.Load() || syscall.Kill(n.PID(), 0) != nil || ended(n.PID())
			})
		},
		settle: func(n *node, _ string) {
			n.again("steady")
			n.Eventually("the newest generation", func() bool { return n.whole("steady") == n.newest.Load() })
		},
	},
	{
		name: "unpublish", flags: []string{"--rotation=false"}, inShort: 5,
		prepare: func(n *node, pod string) { n.again(pod) },
		do:      func(n *node, pod string) { _ = n.unpublish(pod) },
		settle:  func(n *node, pod string) { n.gone(pod) },
	},
}

// ended reports whether a process is one that its parent has not waited for yet.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	state := stat[slices.Index(stat, ')')+2]
	return state == 'Z' || state == 'X'
}

// TestSystemCalls kills the driver at each system call of an operation, and makes each of them fail, one after the other, while readers
// look at a volume of the node. What kubelet does next puts all right.
func TestSystemCalls(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Fatal("system calls can be changed on amd64 alone")
	}
	for _, op := range operations {
		for _, errno := range []syscall.Errno{0, syscall.ENOSPC, syscall.EMFILE, syscall.EIO, syscall.ENOMEM} {
			name, fault := "killed", "killed at a system call of "+op.name
			if errno != 0 {
				code := map[syscall.Errno]string{
					syscall.ENOSPC: "ENOSPC", syscall.EMFILE: "EMFILE", syscall.EIO: "EIO", syscall.ENOMEM: "ENOMEM",
				}[errno]
				name, fault = code, "a system call of "+op.name+" fails with "+code
			}
			t.Run(op.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				everyCall(t, op, fault, errno)
			})
		}
	}
}

func everyCall(t *testing.T, op operation, fault string, errno syscall.Errno) {
	n := start(t, "", op.flags...)
	n.again("steady")
	w := n.watch()
	r, hits, begun := random(t), 0, time.Now()
	count := func() int { // a call more, so that connections are open
		op.prepare(n, "warm")
		stop := n.trace(plan{})
		op.do(n, "warm")
		calls := stop().Calls
		op.settle(n, "warm")
		if os.Getenv("CHAOS_CALLS") != "" && errno == 0 {
			t.Log(strings.Join(calls, "\n"))
		}
		return len(calls)
	}
	count()
	total := count()
	if total == 0 {
		t.Fatal("no system call was seen")
	}
	var which []int
	if short() {
		which = r.Perm(total)[:min(total, op.inShort)]
	} else {
		for i := range total + 10 { // an operation may have some more than the one that was counted
			which = append(which, i)
		}
	}
	for i, call := range which {
		pod := fmt.Sprintf("pod-%d", i)
		op.prepare(n, pod)
		stop := n.trace(plan{Call: call + 1, Errno: errno})
		op.do(n, pod)
		seen := stop()
		if seen.Hit != "" {
			hits++
		}
		if seen.Gone || errno == 0 && seen.Hit != "" {
			if errno != 0 {
				t.Errorf("the driver ended when %s failed", seen.Hit)
			}
			n.Stop(syscall.SIGKILL)
			n.Run()
			n.again("steady")
		}
		op.settle(n, pod)
		if _, err := os.Lstat(n.Target(pod)); !os.IsNotExist(err) {
			t.Errorf("call %d, %s: %s is left: %v", call+1, seen.Hit, pod, err)
		}
		if t.Failed() {
			t.Fatalf("at call %d of %d: %s", call+1, total, seen.Hit)
		}
	}
	w.stop()
	if hits < len(which)*3/4-10 || hits == 0 || w.reads.Load() == 0 {
		t.Errorf("%d of %d calls were hit, %d reads", hits, len(which), w.reads.Load())
	}
	t.Logf("%s: %d calls, %d hit, %d reads in %v", fault, total, hits, w.reads.Load(), time.Since(begun).Round(time.Second))
	did := "goes on; kubelet's next call, or the next refresh, succeeds"
	if errno == 0 {
		did = "starts again and takes the volumes over"
	}
	found.Add(outcome.Row{Fault: fault, Times: hits, Driver: did, Files: "whole, of one generation"})
}
