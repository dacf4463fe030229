//go:build integration && bench

package integration

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// memory is a line of the driver's /proc/PID/status, in KiB.
func memory(t *testing.T, n *kubelet.Node, key string) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.PID()))
	must(t, err)
	for line := range bytes.Lines(data) {
		if value, ok := strings.CutPrefix(string(line), key+":"); ok {
			kib, err := strconv.Atoi(strings.Fields(value)[0])
			must(t, err)
			return kib
		}
	}
	t.Fatal("no " + key)
	return 0
}

// TestFiguresOfMemory prints what the driver needs with 5,000 classes in the cluster and 100 volumes on its node.
func TestFiguresOfMemory(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{})
	s := install(t, c)
	const classes, volumes = 5000, 100
	config := c.Admin()
	row := func(what string, n *kubelet.Node) {
		fmt.Printf("  %-48s RSS %6d KiB  of which anonymous %6d KiB  peak %6d KiB\n", what, memory(t, n, "VmRSS"), memory(t, n, "RssAnon"), memory(t, n, "VmHWM"))
	}
	fmt.Printf("\nMemory of the driver, from /proc/PID/status\n")
	n := s.start(t, "--v", "0")
	row("no class, no volume", n)
	n.Stop(15)
	makeClasses(t, config, s.system, classes)
	s.class("web")
	n.Run()
	row(fmt.Sprintf("%d classes, none of them used", classes), n)
	n.Secret("db", "s3cret")
	for i := range volumes {
		must(t, s.publish(n, s.pod(fmt.Sprintf("cart-%d", i)), "web"))
	}
	c.Eventually("the status objects", func() bool {
		return strings.Count(s.get("secretproviderclasspodstatus", "-o", "name"), "\n") == volumes
	})
	row(fmt.Sprintf("%d classes, %d volumes", classes, volumes), n)
	start := len(c.Requests("keyvault-csi/"))
	fmt.Printf("  API requests for all of it: %d\n", start)
}

// TestFiguresOfRequests prints what a mount, a republish and an hour of rest cost the API server, without Secrets.
func TestFiguresOfRequests(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{})
	s := install(t, c)
	s.class("web")
	n := s.start(t, "--rotation-interval", "10s")
	n.Secret("db", "s3cret")
	const volumes = 100
	before := len(c.Requests("keyvault-csi/"))
	publish := make([]func() error, 0, volumes)
	for i := range volumes {
		pod := s.pod(fmt.Sprintf("cart-%d", i))
		tokens := kubelet.ForPod(pod, s.Tokens(pod))
		publish = append(publish, func() error { return n.Publish(string(pod.UID), "web", tokens) })
		must(t, publish[i]())
	}
	c.Eventually("the status objects", func() bool {
		return strings.Count(s.get("secretproviderclasspodstatus", "-o", "name"), "\n") == volumes
	})
	mounted := len(c.Requests("keyvault-csi/"))
	polls := len(n.Emulator.Requests())
	for range 10 { // as kubelet does in ten minutes
		for _, again := range publish {
			must(t, again())
		}
	}
	n.Eventually("six polls", func() bool { return len(n.Emulator.Requests()) >= polls+6 })
	rest := len(c.Requests("keyvault-csi/")) - mounted
	fmt.Printf("\nRequests to the API server, from its audit log\n  %d mounts: %d, %.2f each\n  %d republishes of %d volumes and 6 polls of the vault without a change: %d\n",
		volumes, mounted-before, float64(mounted-before)/volumes, 10*volumes, volumes, rest)
}
