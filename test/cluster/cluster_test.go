//go:build e2e

package cluster

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// machineSysctls are the machine's values of what kubelet wants otherwise.
func machineSysctls(t *testing.T) map[string]string {
	t.Helper()
	values := map[string]string{}
	for name := range sysctls {
		data, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			t.Fatal(err)
		}
		values[name] = string(data)
	}
	return values
}

// traces are what the machine shows of a cluster: processes, mounts, cgroups, network devices and files.
func traces(n *Node) []string {
	var found []string
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, n.Dir) {
			found = append(found, "mount "+line)
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*" + n.cgroup(), "/sys/class/net/" + n.veth(), n.Dir} {
		paths, _ := filepath.Glob(pattern)
		found = append(found, paths...)
	}
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range commands {
		if data, _ := os.ReadFile(path); strings.Contains(string(data), n.Dir) {
			found = append(found, "process "+string(data))
		}
	}
	return found
}

// TestNothingIsLeft starts a cluster, runs a Pod that survives a reboot, and finds the machine as it was.
func TestNothingIsLeft(t *testing.T) {
	before := machineSysctls(t)
	c := Start(t, Options{SyncFrequency: 5 * time.Second})
	if len(traces(c.Node)) < 5 {
		t.Fatalf("a cluster that runs shows only %v", traces(c.Node))
	}
	if _, err := Up(context.Background(), Options{Dir: c.Node.Dir}); err == nil {
		t.Error("a second cluster was started in the same directory")
	}
	c.ImportBusybox()
	c.ApplyYAML(`
apiVersion: v1
kind: Pod
metadata: {name: shell, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: shell, image: ` + Busybox + `, imagePullPolicy: Never, args: ["nc -w 5 10.96.0.1 443 < /dev/null && sleep 100000"]}
`)
	ready := func() bool {
		out, err := c.Kubectl("", "exec", "shell", "--", "hostname")
		return err == nil && out == "shell\n"
	}
	c.Eventually("the Pod, which reaches the API server", ready)
	c.Reboot()
	c.Eventually("the Pod after a reboot", ready)
	if now := machineSysctls(t); !maps.Equal(now, before) {
		t.Errorf("the machine's sysctls are %v, were %v", now, before)
	}
	if err := c.Down(); err != nil {
		t.Fatal(err)
	}
	if left := traces(c.Node); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
