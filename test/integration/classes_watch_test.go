//go:build integration

package integration

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// classRequests are the driver's requests for classes, as "list web 200". An API server that has just started may ask to try again; that
// is left out.
func classRequests(c *controlplane.ControlPlane) (seen []string) {
	for _, r := range c.Requests("keyvault-csi/") {
		if r.ObjectRef.Resource != "secretproviderclasses" || r.ResponseStatus.Code == http.StatusTooManyRequests {
			continue
		}
		name := r.ObjectRef.Name
		if _, selected, found := strings.Cut(r.RequestURI, "fieldSelector=metadata.name%3D"); found {
			name, _, _ = strings.Cut(selected, "&")
		}
		seen = append(seen, fmt.Sprintf("%s %s %d", r.Verb, name, r.ResponseStatus.Code))
	}
	return seen
}

// makeClasses makes classes as people have them: ten objects, some words of metadata, what kubectl leaves.
func makeClasses(t *testing.T, config *rest.Config, namespace string, count int) {
	t.Helper()
	admin := newCaller(t, config)
	var objects strings.Builder
	objects.WriteString("array:\n")
	for i := range 10 {
		fmt.Fprintf(&objects, "  - |\n    objectName: application-secret-%d\n    objectType: secret\n    objectAlias: secrets/application-%d\n", i, i)
	}
	work := make(chan int)
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for i := range work {
				body := fmt.Sprintf(`{"apiVersion":"secrets-store.csi.x-k8s.io/v1","kind":"SecretProviderClass","metadata":{"name":"team-%d","namespace":%q,`+
					`"labels":{"app.kubernetes.io/name":"team-%d","app.kubernetes.io/managed-by":"Helm"}},"spec":{"provider":"azure","parameters":{`+
					`"keyvaultName":"contoso-team-%d","tenantID":%q,"clientID":%q,"objects":%q}}}`, i, namespace, i, i%100, kubelet.Tenant, kubelet.Client, &objects)
				got := admin.do("PATCH", fmt.Sprintf("/apis/secrets-store.csi.x-k8s.io/v1/namespaces/%s/secretproviderclasses/team-%d?fieldManager=helm", namespace, i), "apply-patch+yaml", body)
				if got.code != 201 {
					t.Errorf("class %d: %d: %s", i, got.code, got.body)
				}
			}
		})
	}
	for i := range count {
		work <- i
	}
	close(work)
	group.Wait()
}

// TestNodeAsksForWhatItsPodsUse: of many classes in the Pods' namespace a node reads, lists and watches those that its Pods use, each by
// name, also where the API server has started since they were last edited. An edit of each is acted on.
func TestNodeAsksForWhatItsPodsUse(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{})
	s := install(t, c)
	const used, all = 10, 500
	makeClasses(t, c.Admin(), s.shop, all)
	var names []string
	for i := range used {
		names = append(names, fmt.Sprintf("web-%d", i))
		s.class(names[i])
	}
	c.StopAPIServer() // what it remembers of edits begins after those
	c.StartAPIServer()
	n := s.start(t)
	n.Secret("db", "s3cret")
	n.Secret("more", "m0re")
	var pods []string
	for i, name := range names {
		pod := s.pod(fmt.Sprintf("cart-%d", i))
		pods = append(pods, string(pod.UID))
		must(t, s.publish(n, pod, name))
		must(t, s.publish(n, pod, name))
	}
	var want []string
	for _, name := range names {
		want = append(want, "get "+name+" 200", "list "+name+" 200", "watch "+name+" 200")
	}
	slices.Sort(want)
	c.Eventually("the watches", func() bool { return len(classRequests(c)) >= len(want) })
	if got := slices.Sorted(slices.Values(classRequests(c))); !slices.Equal(got, want) {
		t.Errorf("requests for classes: %v\nwant %v", got, want)
	}
	for i, name := range names {
		start := time.Now()
		s.class(name, "objects: |\n      array:\n", "objects: |\n      array:\n"+anotherObject)
		n.Eventually("the edit to reach the volume", func() bool { return there(n, pods[i], "more") })
		if i == 0 {
			t.Logf("an edit is in the files %v after kubectl was started", time.Since(start).Round(time.Millisecond))
		}
	}
	if got := classRequests(c); len(got) != len(want) {
		t.Errorf("edits cost requests: %v", got[len(want):])
	}
}

// TestClassIsForbidden: a missing right is no missing class, and the error says which one it is. A right that is given later is found
// at kubelet's next try, and one that is taken away is reported while the Pod's files stay.
func TestClassIsForbidden(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{})
	s := install(t, c)
	s.class("web")
	n := s.start(t)
	n.Secret("db", "s3cret")
	role := s.account + "-driver"
	rights := func(verbs string) {
		c.MustKubectl("", "patch", "clusterrole", role, "--type=json", "-p",
			`[{"op":"replace","path":"/rules/0/verbs","value":[`+verbs+`]}]`)
	}
	rights(`"list"`)
	pod := s.pod("cart")
	forbidden := func() bool {
		err := n.Publish("probe", "web", kubelet.ForPod(pod, s.Tokens(pod)))
		return status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "get, list and watch secretproviderclasses") &&
			strings.Contains(err.Error(), `cannot get resource "secretproviderclasses"`)
	}
	c.Eventually("the right to be missing", forbidden)
	rights(`"get","list","watch"`)
	c.Eventually("the right to be there", func() bool { return s.publish(n, pod, "web") == nil })
	if got := n.Read(string(pod.UID), "db"); got != "s3cret" {
		t.Errorf("the file holds %q", got)
	}
	rights(`"list"`)
	c.StopAPIServer() // which ends the watch
	c.StartAPIServer()
	c.Eventually("the Pod to say that the right is missing", func() bool {
		must(t, s.publish(n, pod, "web"))
		return strings.Contains(s.events("cart", "MountRotationFailed"), "get, list and watch")
	})
	if got := n.Read(string(pod.UID), "db"); got != "s3cret" {
		t.Errorf("the file holds %q", got)
	}
}
