//go:build integration && bench

package integration

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube"
	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
)

// counted is a way to the API server that counts the bytes of each direction, TLS included.
type counted struct{ sent, received atomic.Int64 }

// behind returns a kubeconfig like the given one whose connections are its own and are counted.
func (c *counted) behind(t *testing.T, kubeconfig string) string {
	t.Helper()
	raw, err := clientcmd.LoadFromFile(kubeconfig)
	must(t, err)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	to := ""
	for _, cluster := range raw.Clusters {
		server, err := url.Parse(cluster.Server)
		must(t, err)
		to = server.Host
		cluster.Server, cluster.TLSServerName = "https://"+listener.Addr().String(), "localhost"
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, clientcmd.WriteToFile(*raw, path))
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = from.Close() }()
				server, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", to)
				if err != nil {
					return
				}
				defer func() { _ = server.Close() }()
				go func() {
					_, _ = io.Copy(server, io.TeeReader(from, counter{&c.sent}))
					_ = server.Close()
				}()
				_, _ = io.Copy(from, io.TeeReader(server, counter{&c.received}))
			}()
		}
	}()
	return path
}

type counter struct{ n *atomic.Int64 }

// Write implements io.Writer.
func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// memoryUsed is the heap and the stacks of this process after a collection, in KiB.
func memoryUsed() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc+m.StackInuse) / 1024
}

// cpuUsed is the processor time of this process.
func cpuUsed() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// processOf is the resident memory in KiB and the processor time of a process.
func processOf(t *testing.T, pid int) (kib int, cpu time.Duration) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err = strconv.Atoi(strings.Fields(value)[0])
			must(t, err)
		}
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	_, after, _ := strings.Cut(string(stat), ") ")
	for _, field := range strings.Fields(after)[11:13] {
		ticks, err := strconv.Atoi(field)
		must(t, err)
		cpu += time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
	}
	return kib, cpu
}

// TestFiguresOfClasses prints what 50,000 classes in the namespace of the Pods cost a node that uses ten of them, what nodes that start
// together cost the API server for each watch, and how long `validate --live -A` takes for all of them.
func TestFiguresOfClasses(t *testing.T) {
	policy := filepath.Join(t.TempDir(), "audit.yaml") // which leaves out who makes the classes
	must(t, os.WriteFile(policy, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\n"+
		"rules: [{level: None, users: [admin]}, {level: Metadata}]\n"), 0o600))
	c := controlplane.Start(t, controlplane.Options{APIServerFlags: []string{"--audit-policy-file", policy}})
	s := install(t, c)
	all := 50000
	if text := os.Getenv("FIGURES_CLASSES"); text != "" {
		var err error
		all, err = strconv.Atoi(text)
		must(t, err)
	}
	makeClasses(t, c.Admin(), s.shop, all)
	c.StopAPIServer()
	c.StartAPIServer()
	open := func(kubeconfig string) *kube.Cluster {
		cluster, err := kube.Open(t.Context(), kube.Options{
			Kubeconfig: kubeconfig, DriverName: "secrets-store.csi.k8s.io", NodeID: "node-1", Version: "bench", Log: slog.New(slog.DiscardHandler),
		})
		must(t, err)
		return cluster
	}
	get := func(cluster *kube.Cluster, from, count int) {
		for i := range count {
			_, err := cluster.Get(t.Context(), s.shop, fmt.Sprintf("team-%d", from+i))
			must(t, err)
		}
	}
	watches := func() (n int) {
		for _, r := range c.Requests("keyvault-csi/bench") {
			if r.Verb == "watch" {
				n++
			}
		}
		return n
	}

	bytes, kubeconfig := &counted{}, s.kubeconfig("node-1")
	warm := open(bytes.behind(t, kubeconfig)) // what the first connection of a process costs is no cost of classes
	get(warm, 0, 1)
	c.Eventually("the watch", func() bool { return watches() == 1 })
	memory := memoryUsed()
	sent, received := bytes.sent.Load(), bytes.received.Load()
	cpu := cpuUsed()
	get(warm, 1, 10)
	time.Sleep(3 * time.Second) // for the watches; to look for them would take processor time
	cpuAfter := cpuUsed()
	if n := watches(); n != 11 {
		t.Errorf("%d watches", n)
	}
	memoryAfter := memoryUsed()
	fmt.Printf("\n%d classes in the namespace of the Pods; a node uses 10 of them\n", all)
	fmt.Printf("  memory %.0f KiB, processor %v, %.1f KB sent, %.1f KB received\n", memoryAfter-memory,
		(cpuAfter - cpu).Round(100*time.Microsecond), float64(bytes.sent.Load()-sent)/1000, float64(bytes.received.Load()-received)/1000)
	sent, received = bytes.sent.Load(), bytes.received.Load()
	cpu = cpuUsed()
	time.Sleep(3 * time.Minute)
	cpuAfter = cpuUsed()
	fmt.Printf("  at rest, a minute: %.1f KB sent, %.1f KB received, processor %v\n", float64(bytes.sent.Load()-sent)/3000,
		float64(bytes.received.Load()-received)/3000, ((cpuAfter - cpu) / 3).Round(100*time.Microsecond))
	must(t, warm.Close())

	const nodes, each = 100, 10
	var ways []string
	for range nodes {
		ways = append(ways, bytes.behind(t, kubeconfig))
	}
	before := watches()
	kib, apiCPU := processOf(t, c.APIServerPID())
	sent, received = bytes.sent.Load(), bytes.received.Load()
	start := time.Now()
	var group sync.WaitGroup
	for i, way := range ways {
		cluster := open(way)
		defer func() { _ = cluster.Close() }()
		group.Go(func() { get(cluster, i*each, each) })
	}
	group.Wait()
	took := time.Since(start)
	c.Eventually("the watches of all nodes", func() bool { return watches() == before+nodes*each })
	kibAfter, apiCPUAfter := processOf(t, c.APIServerPID())
	fmt.Printf("%d nodes start together, each with %d classes of their own: the last class is read after %v, the last watch open after %v\n",
		nodes, each, took.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
	fmt.Printf("  for each class: %.1f KB sent, %.1f KB received, %v of the API server's processor, %d KiB of its memory\n",
		float64(bytes.sent.Load()-sent)/nodes/each/1000, float64(bytes.received.Load()-received)/nodes/each/1000,
		((apiCPUAfter - apiCPU) / nodes / each).Round(10*time.Microsecond), (kibAfter-kib)/nodes/each)

	start = time.Now()
	cmd := exec.CommandContext(t.Context(), binaries.Driver(t), "validate", "--live", "-A", "--kubeconfig", c.AdminKubeconfig()) //nolint:gosec // the test's own command
	out, err := cmd.CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	fmt.Printf("validate --live -A: %v, %d MiB; %s (%v)\n", time.Since(start).Round(100*time.Millisecond),
		cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss>>10, lines[len(lines)-1], err)
}
