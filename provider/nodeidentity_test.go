package provider_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider"
)

// allowed are the namespaces that may use the node's identity.
type allowed struct {
	mu         sync.Mutex
	namespaces map[string]bool
}

func (a *allowed) Check(_ context.Context, namespace string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.namespaces[namespace] {
		return nil
	}
	return &volume.Error{Reason: volume.ReasonIdentity, Message: "not in " + namespace}
}

func (a *allowed) set(namespace string, may bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.namespaces[namespace] = may
}

// The right to use the node's identity is checked at Bind on the merged parameters, and at each Fetch: a namespace may lose it while its
// Pods run. Namespaces share no binding, since one may lose the right and another keep it.
func TestTheNodesIdentity(t *testing.T) {
	namespaces := &allowed{namespaces: map[string]bool{"shop": true, "bank": true}}
	w := newWorld(t, func(o *provider.Options) { o.NodeIdentity = namespaces })
	request := func(namespace string) volume.Request {
		r := w.request(map[string]string{"useVMManagedIdentity": "true"}, "one")
		r.Pod.Namespace = namespace
		return r
	}
	shop, bank := w.bind(t, request("shop")), w.bind(t, request("bank"))
	if shop.Key() == bank.Key() || shop.ScheduleKey() != bank.ScheduleKey() {
		t.Errorf("keys %q and %q, schedule keys %q and %q", shop.Key(), bank.Key(), shop.ScheduleKey(), bank.ScheduleKey())
	}
	fetch := func(b volume.Binding) string { // the test's network has no metadata service, so all fetches fail
		_, err := b.Fetch(t.Context(), volume.FetchOptions{AllowStale: true})
		return err.Error()
	}
	for _, b := range []volume.Binding{shop, bank} {
		if got := fetch(b); !strings.Contains(got, "instance metadata service") {
			t.Errorf("allowed: %s", got)
		}
	}
	namespaces.set("bank", false)
	if got := fetch(shop); !strings.Contains(got, "instance metadata service") {
		t.Errorf("the other namespace: %s", got)
	}
	if got := fetch(bank); got != "not in bank" {
		t.Errorf("after the right is gone: %s", got)
	}
	if _, err := w.Bind(t.Context(), request("bank")); volume.ReasonOf(err) != volume.ReasonIdentity {
		t.Errorf("a bind after the right is gone: %v", err)
	}
	byPod := w.request(nil, "one")
	byPod.Attributes = map[string]string{"useVMManagedIdentity": "true"}
	if _, err := w.Bind(t.Context(), byPod); err == nil || !strings.Contains(err.Error(), "not in default") {
		t.Errorf("the Pod's volumeAttributes ask: %v", err)
	}
	otherwise := request("default")
	otherwise.Attributes = map[string]string{"useVMManagedIdentity": "false"}
	w.bind(t, otherwise)
}
