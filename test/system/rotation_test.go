package system

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// pair are two secrets that are always changed together; their values end with the same number.
func setPair(n *kubelet.Node, number int) {
	n.Helper()
	n.Secret("user", fmt.Sprintf("user-%d", number))
	n.Secret("password", fmt.Sprintf("%s-%d", strings.Repeat("p", 2000+number%500), number))
}

// TestFaultsNeverHarmFiles breaks the vault and the identity services in every way for seconds, while readers look at
// the files of running pods.
func TestFaultsNeverHarmFiles(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]emulator.Fault{
		"429 with Retry-After":    {Kind: emulator.FaultThrottle, RetryAfter: 1},
		"429 for two minutes":     {Kind: emulator.FaultThrottle, RetryAfter: 120},
		"429 without Retry-After": {Kind: emulator.FaultThrottle},
		"500":                     {Kind: emulator.FaultStatus, Status: 500, Code: "InternalError"},
		"503":                     {Kind: emulator.FaultStatus, Status: 503, Code: "ServiceUnavailable"},
		"hang":                    {Kind: emulator.FaultHang},
		"reset":                   {Kind: emulator.FaultReset},
		"truncated":               {Kind: emulator.FaultTruncated},
		"html":                    {Kind: emulator.FaultHTML},
		"empty":                   {Kind: emulator.FaultEmpty},
		"refused token":           {Kind: emulator.FaultChallenge, Host: "contoso.vault.azure.net"},
		"token endpoint down":     {Kind: emulator.FaultStatus, Status: 503, Host: "login.microsoftonline.com"},
		"proxy refuses":           {Kind: emulator.FaultConnect, Status: 502},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := kubelet.Start(t, kubelet.Seed+"tokenLifetime: 2s\n", "--rotation-interval", "1s", "--cache-ttl", "0s")
			setPair(n, 1)
			n.Class("c", map[string]string{"objects": kubelet.Objects("user", "password")})
			must(t, n.Publish("a", "c"))
			must(t, n.Publish("b", "c"))
			n.Emulator.ResetRequests()
			n.Emulator.AddFault(fault)
			if fault.Kind == emulator.FaultConnect {
				n.Emulator.DropConnections() // else the driver uses the open ones
			}
			start := time.Now()
			for time.Since(start) < 4*time.Second {
				for _, pod := range []string{"a", "b"} {
					if got := n.Read(pod, "user"); got != "user-1" {
						t.Fatalf("%s reads %q during the fault", pod, got)
					}
					// kubelet continues to call, and must get no error, at which it would remove the volume
					must(t, n.Publish(pod, "c"))
				}
				time.Sleep(50 * time.Millisecond)
			}
			requests := len(n.Emulator.Requests())
			perMinute := float64(requests) / time.Since(start).Minutes()
			t.Logf("%d requests in %v: %.0f a minute", requests, time.Since(start).Round(time.Second), perMinute)
			if perMinute > 60*10 { // at an interval of 1 s: two objects, each at most twice, and their tokens
				t.Errorf("%.0f requests a minute", perMinute)
			}
			// a refresh that is throttled or not answered waits, and has failed at its deadline only
			waits := fault.Kind == emulator.FaultHang || fault.Kind == emulator.FaultThrottle
			if !waits && !strings.Contains(n.Log(), "the files stay as they are") {
				t.Error("the log says nothing of the failure")
			}
			if fault.RetryAfter > 100 || fault.Kind == emulator.FaultHang {
				return // recovery would take longer than a test should
			}
			n.Emulator.ClearFaults()
			setPair(n, 2)
			for _, pod := range []string{"a", "b"} {
				n.Eventually("recovery of "+pod, func() bool { return n.Read(pod, "user") == "user-2" })
			}
			if !waits {
				n.Eventually("the log of the recovery", func() bool { return strings.Contains(n.Log(), "refreshed again after a failure") })
			}
		})
	}
}

// TestReadersSeeOneGenerationWhileItRotates reads two files of one object through one directory while the driver
// refreshes: a reader that has opened the directory always finds both, with the same value.
func TestReadersSeeOneGenerationWhileItRotates(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--rotation-interval", "1s", "--cache-ttl", "0s")
	value := func(number int) string { return strings.Repeat(fmt.Sprintf("%d,", number), 2000) }
	n.Secret("s", value(0))
	n.Class("c", map[string]string{"objects": "array:\n" +
		"- '{objectName: s, objectType: secret, objectAlias: one}'\n- '{objectName: s, objectType: secret, objectAlias: two}'\n"})
	must(t, n.Publish("a", "c"))
	stop := make(chan struct{})
	var generations sync.Map
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				one, two, err := readBoth(filepath.Join(n.Target("a"), "..data"))
				if err != nil || one != two || one == "" {
					t.Errorf("%d bytes beside %d bytes, %v", len(one), len(two), err)
					return
				}
				generations.Store(one, true)
			}
		})
	}
	for number := 1; number <= 5 && !t.Failed(); number++ {
		n.Secret("s", value(number))
		n.Eventually("the next value", func() bool {
			_, seen := generations.Load(value(number))
			return seen || t.Failed()
		})
	}
	close(stop)
	readers.Wait()
}

// readBoth reads the files one and two through one directory.
func readBoth(path string) (one, two string, err error) {
	dir, err := os.OpenRoot(path)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = dir.Close() }()
	first, err := dir.ReadFile("one")
	if err != nil {
		return "", "", err
	}
	second, err := dir.ReadFile("two")
	return string(first), string(second), err
}

// TestKilledDriver kills the driver with SIGKILL at random points of publish and rotation.
func TestKilledDriver(t *testing.T) {
	t.Parallel()
	const kills = 200
	n := kubelet.Start(t, kubelet.Seed, "--rotation-interval", "1s", "--cache-ttl", "0s")
	setPair(n, 0)
	n.Class("c", map[string]string{"objects": kubelet.Objects("user", "password")})
	must(t, n.Publish("steady", "c"))
	for i := range kills {
		pod := fmt.Sprintf("pod-%d", i)
		setPair(n, i)
		done := make(chan error, 1)
		request := n.Request(pod, "c")
		client := n.NodeClient
		go func() {
			_, err := client.NodePublishVolume(t.Context(), request)
			done <- err
		}()
		time.Sleep(time.Duration(rand.IntN(25)) * time.Millisecond)
		n.Stop(syscall.SIGKILL)
		if err := <-done; err == nil {
			t.Logf("kill %d came after the publish", i)
		}
		for _, p := range []string{"steady", pod} {
			user, errUser := os.ReadFile(filepath.Join(n.Target(p), "user"))
			password, errPassword := os.ReadFile(filepath.Join(n.Target(p), "password"))
			if p == "steady" && (errUser != nil || errPassword != nil) || (errUser == nil) != (errPassword == nil) {
				t.Fatalf("%s after the kill: %v %v", p, errUser, errPassword)
			}
			if errUser == nil && (len(user) < 6 || len(password) < 2000) {
				t.Fatalf("%s is torn after the kill", p)
			}
		}
		n.Run()
		must(t, n.Publish("steady", "c"))
		must(t, n.Publish(pod, "c"))
		for _, p := range []string{"steady", pod} {
			if user, password := n.Read(p, "user"), n.Read(p, "password"); user == "" || len(password) < 2000 {
				t.Fatalf("%s is not complete after the republish", p)
			}
		}
		n.Unpublish(pod)
		if _, err := os.Lstat(n.Target(pod)); !os.IsNotExist(err) {
			t.Fatalf("%s is still there: %v", pod, err)
		}
	}
	setPair(n, kills)
	n.Eventually("the last change", func() bool { return n.Read("steady", "user") == fmt.Sprintf("user-%d", kills) })
}

// TestStorm starts the pods of one Deployment together: one request per object, one token.
func TestStorm(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed+"latency: 20ms\n")
	n.Class("c", map[string]string{"objects": kubelet.Objects("a", "b", "c")})
	for _, s := range []string{"a", "b", "c"} {
		n.Secret(s, "value")
	}
	must(t, n.Publish("first", "c"))
	n.Unpublish("first")
	n.Stop(syscall.SIGTERM)
	n.Run()
	n.Emulator.ResetRequests()
	var work sync.WaitGroup
	for i := range 100 {
		work.Go(func() {
			if err := n.Publish(fmt.Sprintf("pod-%d", i), "c"); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	if counts := n.Emulator.Counts(); counts["get secret"] != 3 || counts["token"] != 1 {
		t.Errorf("%v", counts)
	}
}

func TestLastKnownGoodForNewPods(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--cache-ttl", "0s")
	n.Secret("s", "good")
	n.Class("opted", map[string]string{"objects": kubelet.Objects("s"), "staleIfError": "1h"})
	n.Class("plain", map[string]string{"objects": kubelet.Objects("s")})
	must(t, n.Publish("a", "opted"))
	must(t, n.Publish("b", "plain"))
	id := n.Emulator.AddFault(emulator.Fault{Kind: emulator.FaultThrottle, RetryAfter: 200, Host: "contoso.vault.azure.net"})
	_ = id
	must(t, n.Publish("c", "opted"))
	if got := n.Read("c", "s"); got != "good" {
		t.Errorf("%q", got)
	}
	n.Eventually("the warning", func() bool { return strings.Contains(n.Log(), "started from last known good values of 2") })
	if err := n.Publish("d", "plain"); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a class that did not opt in: %v", err)
	}
	// another identity never starts from these values
	if err := n.Publish("e", "opted", n.As("default", "other")); err == nil {
		t.Error("another service account got the values")
	}
}

// A missing permission is no outage: nothing is mounted.
func TestLastKnownGoodNotAfterARefusal(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--cache-ttl", "0s")
	n.Secret("s", "good")
	n.Class("c", map[string]string{"objects": kubelet.Objects("s"), "staleIfError": "1h"})
	must(t, n.Publish("a", "c"))
	must(t, n.Emulator.Grant(kubelet.Vault, kubelet.Client))
	if err := n.Publish("b", "c"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("403: %v", err)
	}
	must(t, n.Emulator.Grant(kubelet.Vault, kubelet.Client, "*"))
	must(t, n.Emulator.Delete(kubelet.Vault, "secrets", "s", true))
	if err := n.Publish("b", "c"); status.Code(err) != codes.NotFound {
		t.Errorf("404: %v", err)
	}
}

func TestClassEditReachesRunningPods(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--rotation-interval", "1h")
	n.Secret("s", "value")
	n.Secret("t", "more")
	n.Class("c", map[string]string{"objects": kubelet.Objects("s")})
	must(t, n.Publish("a", "c"))
	n.Class("c", map[string]string{"objects": kubelet.Objects("s", "t")})
	n.Eventually("the new object", func() bool {
		data, err := os.ReadFile(filepath.Join(n.Target("a"), "t"))
		return err == nil && string(data) == "more"
	})
}
