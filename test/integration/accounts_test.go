//go:build integration

package integration

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// TestServiceAccountAnnotations name the identity of a class that names none.
func TestServiceAccountAnnotations(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{})
	s := install(t, c, "serviceAccountAnnotations.enabled=true")
	s.class("web", "    tenantID: "+kubelet.Tenant+"\n", "", "    clientID: "+kubelet.Client+"\n", "")
	n := s.start(t, "--service-account-annotations")
	n.Secret("db", "s3cret")
	pod := s.pod("cart")
	if err := s.publish(n, pod, "web"); err == nil || !strings.Contains(err.Error(), "identity") {
		t.Errorf("without annotations: %v", err)
	}
	c.MustKubectl("", "-n", s.shop, "annotate", "serviceaccount", "app",
		"azure.workload.identity/client-id="+kubelet.Client, "azure.workload.identity/tenant-id="+kubelet.Tenant)
	n.Eventually("the annotations", func() bool { return s.publish(n, pod, "web") == nil })
	reads := func() (count int) {
		for _, r := range c.Requests("keyvault-csi/") {
			if r.ObjectRef.Resource == "serviceaccounts" {
				count++
				if r.Verb != "get" || r.ObjectRef.Name != "app" || r.ResponseStatus.Code != 200 {
					t.Errorf("%s", r)
				}
			}
		}
		return count
	}
	before := reads()
	for i := range 10 {
		must(t, s.publish(n, s.pod(fmt.Sprintf("cart-%d", i)), "web"))
		must(t, s.publish(n, pod, "web"))
	}
	if more := reads() - before; more != 0 {
		t.Errorf("%d more reads for 10 Pods of one ServiceAccount", more)
	}
	tokens := kubelet.ForPod(pod, s.Tokens(pod))
	c.StopAPIServer()
	must(t, n.Publish("late", "web", tokens))
}

// TestServiceAccountAnnotationsWithoutTheRight: the driver says what its operator forgot.
func TestServiceAccountAnnotationsWithoutTheRight(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	s.class("web", "    clientID: "+kubelet.Client+"\n", "")
	n := s.start(t, "--service-account-annotations")
	err := s.publish(n, s.pod("cart"), "web")
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "serviceAccountAnnotations.enabled") {
		t.Errorf("%v", err)
	}
}
