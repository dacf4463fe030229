//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// there tells whether a file is in a Pod's volume.
func there(n *kubelet.Node, uid, path string) bool {
	_, err := os.Stat(filepath.Join(n.Target(uid), path))
	return err == nil
}

const anotherObject = "      - |\n        objectName: more\n        objectType: secret\n"

// TestClassesComeAndGo: a class that is made after its Pod, edited, removed, and made anew.
func TestClassesComeAndGo(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	n := s.start(t)
	n.Secret("db", "s3cret")
	n.Secret("more", "m0re")
	pod := s.pod("cart")
	uid := string(pod.UID)

	err := s.publish(n, pod, "web")
	if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "failed to get secretproviderclass "+s.shop+"/web: not found") {
		t.Errorf("no class: %v", err)
	}
	s.class("web")
	must(t, s.publish(n, pod, "web")) // at once: no watch need have told of it

	s.class("web", "objects: |\n      array:\n", "objects: |\n      array:\n"+anotherObject)
	second := s.pod("cart-2")
	must(t, s.publish(n, second, "web")) // maybe with the class as it was
	for _, uid := range []string{uid, string(second.UID)} {
		n.Eventually("the edit to reach the volume", func() bool { return there(n, uid, "more") && there(n, uid, "db") })
	}

	c.MustKubectl("", "-n", s.shop, "delete", "secretproviderclass", "web")
	n.Eventually("the class to be gone for new Pods", func() bool {
		return status.Code(s.publish(n, s.pod(fmt.Sprintf("late-%d", len(s.get("pods", "-o", "name")))), "web")) == codes.NotFound
	})
	must(t, s.publish(n, pod, "web")) // what stands goes on
	if got := n.Read(uid, "more"); got != "m0re" {
		t.Errorf("after the class is gone: %q", got)
	}
	s.class("web")
	n.Eventually("the class made anew to reach the volume", func() bool { return !there(n, uid, "more") && there(n, uid, "db") })
}

// TestSocketBeforeTheAPIServer: the socket answers while the API server says nothing, with what is the matter.
func TestSocketBeforeTheAPIServer(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{})
	s := install(t, c)
	s.class("web")
	n := s.start(t)
	n.Secret("db", "s3cret")
	pod := s.pod("cart")
	request := n.Request(string(pod.UID), "web", kubelet.ForPod(pod, s.Tokens(pod)))
	later := n.Request("later", "web", kubelet.ForPod(pod, s.Tokens(pod)))
	unready := func(request *csi.NodePublishVolumeRequest) {
		t.Helper()
		_, err := n.NodePublishVolume(t.Context(), request)
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "failed to get secretproviderclass "+s.shop+"/web from the API server") {
			t.Errorf("before the API server answers: %v", err)
		}
	}
	n.Stop(syscall.SIGTERM)
	c.Pause()
	n.Launch()
	unready(request)
	c.Resume()
	n.Eventually("the classes", func() bool { _, err := n.NodePublishVolume(t.Context(), request); return err == nil })

	n.Stop(syscall.SIGTERM)
	c.StopAPIServer()
	n.Launch()
	unready(later)
	_, err := n.NodePublishVolume(t.Context(), request)
	must(t, err) // what stands is not put in question
	if got := n.Read(string(pod.UID), "db"); got != "s3cret" {
		t.Errorf("what an earlier process mounted: %q", got)
	}
	c.StartAPIServer()
	n.Eventually("the classes", func() bool { _, err := n.NodePublishVolume(t.Context(), later); return err == nil })
}

// TestMissWhileTheAPIServerIsAway: what is not known cannot be told apart from what is not there, so it is no NotFound.
func TestMissWhileTheAPIServerIsAway(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{})
	s := install(t, c)
	s.class("web")
	n := s.start(t)
	n.Secret("db", "s3cret")
	pod := s.pod("cart")
	tokens := kubelet.ForPod(pod, s.Tokens(pod))
	must(t, n.Publish("first", "web", tokens))
	c.StopAPIServer()
	must(t, n.Publish("second", "web", tokens))
	if err := n.Publish("third", "unknown", tokens); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("the API server is down: %v", err)
	}
	c.StartAPIServer()
	n.Eventually("a class that was made meanwhile", func() bool {
		return status.Code(n.Publish("third", "unknown", tokens)) == codes.NotFound
	})
	c.Pause()
	must(t, n.Publish("fourth", "web", tokens))
	if err := n.Publish("fifth", "unheard", tokens); status.Code(err) != codes.Unavailable {
		t.Errorf("the API server hangs: %v", err)
	}
	c.Resume()
}

// TestWatchThatExpired: a driver that slept while the API server forgot what it had last seen lists the class anew, and misses neither an
// edit nor a deletion.
func TestWatchThatExpired(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{})
	s := install(t, c)
	s.class("web")
	s.class("gone")
	n := s.start(t)
	n.Secret("db", "s3cret")
	n.Secret("more", "m0re")
	pod := s.pod("cart")
	uid := string(pod.UID)
	must(t, s.publish(n, pod, "web"))
	lists := func() (lists, expired int) {
		for _, r := range c.Requests("keyvault-csi/") {
			if r.ObjectRef.Resource == "secretproviderclasses" {
				if r.Verb == "list" || strings.Contains(r.RequestURI, "sendInitialEvents=true") {
					lists++
				}
				if r.ResponseStatus.Code == 410 {
					expired++
				}
			}
		}
		return lists, expired
	}
	before, _ := lists()

	must(t, syscall.Kill(n.PID(), syscall.SIGSTOP))
	c.StopAPIServer()
	c.StartAPIServer()
	s.class("web", "objects: |\n      array:\n", "objects: |\n      array:\n"+anotherObject)
	c.MustKubectl("", "-n", s.shop, "delete", "secretproviderclass", "gone")
	c.StopAPIServer() // with its memory of events, which a new one does not have
	c.StartAPIServer()
	must(t, syscall.Kill(n.PID(), syscall.SIGCONT))

	n.Eventually("the edit", func() bool { return there(n, uid, "more") })
	late := s.pod("late")
	n.Eventually("the deletion", func() bool {
		return status.Code(s.publish(n, late, "gone")) == codes.NotFound
	})
	after, expired := lists()
	if after == before && expired == 0 {
		t.Errorf("the classes were listed %d times before and %d after: the watch did not expire, so this proved nothing", before, after)
	}
	t.Logf("lists before %d, after %d, answers of 410: %d", before, after, expired)
	must(t, s.publish(n, pod, "web"))
	if strings.Contains(n.Log(), `"level":"ERROR"`) && !strings.Contains(n.Log(), "call failed") {
		t.Error("an expired watch is logged as an error")
	}
}

// TestAPIServerAwayDuringMounts stops and starts the API server while Pods come: each is mounted, and each is told of in the end.
func TestAPIServerAwayDuringMounts(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{})
	s := install(t, c)
	s.class("web")
	n := s.start(t, "--rotation-interval", "1s")
	n.Secret("db", canary)
	pod := s.pod("cart")
	tokens := kubelet.ForPod(pod, s.Tokens(pod))
	// the driver knows the class: an API server that has just started may refuse who asks for the first time
	must(t, n.Publish("0", "web", tokens))
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			if err := n.Publish(fmt.Sprint(i%20), "web", tokens); err != nil {
				ended <- err
				return
			}
		}
	}()
	for range 3 {
		c.StopAPIServer()
		n.Secret("db", canary+"-new")
		c.StartAPIServer()
	}
	n.Eventually("a rotation", func() bool { return n.Read("0", "db") == canary+"-new" })
	close(stop)
	if err := <-ended; err != nil {
		t.Errorf("a mount failed while the API server was away: %v", err)
	}
	s.await("true", "secretproviderclasspodstatus", "cart-"+s.shop+"-web", "-o", "jsonpath={.status.mounted}")
	noCanary(t, n.Log())
}

// TestRequestsOfAMount counts what a mount and a republish cost the API server.
func TestRequestsOfAMount(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{})
	s := install(t, c)
	s.class("web")
	n := s.start(t)
	n.Secret("db", "s3cret")
	mine := func() []controlplane.AuditEvent { return c.Requests("keyvault-csi/") }
	start := len(mine())
	const pods = 20
	requests := make([]func() error, 0, pods)
	for i := range pods {
		pod := s.pod(fmt.Sprintf("cart-%d", i))
		tokens := kubelet.ForPod(pod, s.Tokens(pod))
		requests = append(requests, func() error { return n.Publish(string(pod.UID), "web", tokens) })
	}
	for _, publish := range requests {
		must(t, publish())
	}
	c.Eventually("the status objects", func() bool { return strings.Count(s.get("secretproviderclasspodstatus", "-o", "name"), "\n") == pods })
	mount := mine()[start:]
	for range 5 {
		for _, publish := range requests {
			must(t, publish())
		}
	}
	again := len(mine()) - start - len(mount)
	t.Logf("API requests per mount without Secrets: %.2f; per republish: %.2f", float64(len(mount))/pods, float64(again)/pods/5)
	if len(mount) != pods+3 || again != 0 { // the class is read, listed and watched once
		t.Errorf("%d requests for %d mounts, %d for republishes: %v", len(mount), pods, again, mount)
	}
}
