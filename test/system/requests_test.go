package system

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// The counts that docs/benchmarks.md has, without its times: what the driver asks of the vault and of Entra ID, in all.

// asked returns the requests since the last call, by operation, without the one-time discovery of Entra ID.
func asked(n *kubelet.Node) (vault, tokens, discovery int) {
	counts := n.Emulator.Counts()
	n.Emulator.ResetRequests()
	tokens = counts["token"]
	for operation, count := range counts {
		switch {
		case strings.HasPrefix(operation, "get ") || strings.HasPrefix(operation, "list "):
			vault += count
		case operation != "token":
			discovery += count
		}
	}
	return vault, tokens, discovery
}

func secretNames(count int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = "s" + strconv.Itoa(i)
	}
	return names
}

// A new process asks for each object once and for one token; the next Pod of the class asks for nothing, and the next class of
// the identity needs no token.
func TestRequestsOfAPublish(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed)
	n.Secret("other", "value")
	n.Class("other", map[string]string{"objects": kubelet.Objects("other")})
	for _, count := range []int{1, 10, 50} {
		name := "class-" + strconv.Itoa(count)
		for _, s := range secretNames(count) {
			n.Secret(s, "value")
		}
		n.Class(name, map[string]string{"objects": kubelet.Objects(secretNames(count)...)})
		n.Stop(syscall.SIGTERM)
		n.Run()
		n.Emulator.ResetRequests()
		n.MustPublish("cold-"+name, name)
		if vault, tokens, discovery := asked(n); vault != count || tokens != 1 || discovery > 2 {
			t.Errorf("%d secrets, new process: %d of the vault, %d tokens, %d of discovery", count, vault, tokens, discovery)
		}
		n.MustPublish("again-"+name, name)
		if vault, tokens, discovery := asked(n); vault+tokens+discovery != 0 {
			t.Errorf("%d secrets, another Pod: %d of the vault, %d tokens, %d of discovery", count, vault, tokens, discovery)
		}
		n.MustPublish("other-"+name, "other")
		if vault, tokens, discovery := asked(n); vault != 1 || tokens+discovery != 0 {
			t.Errorf("another class: %d of the vault, %d tokens, %d of discovery", vault, tokens, discovery)
		}
		for _, pod := range []string{"cold-", "again-", "other-"} {
			n.Unpublish(pod + name)
		}
	}
}

// Pods of many identities that start together before a new process: each identity gets its token and its values by itself, once, and discovery
// is of all together.
func TestRequestsOfAStormOfIdentities(t *testing.T) {
	t.Parallel()
	const identities, pods, secrets = 25, 50, 4
	n := kubelet.Start(t, kubelet.Seed)
	app := emulator.Application{ClientID: kubelet.Client, ObjectID: "22222222-0000-0000-0000-000000000000"}
	for i := range identities {
		app.Federated = append(app.Federated, emulator.Federated{Issuer: n.Issuer.URL, Subject: "system:serviceaccount:default:sa-" + strconv.Itoa(i)})
	}
	must(t, n.Emulator.Apply(emulator.Seed{Tenants: []emulator.Tenant{{ID: kubelet.Tenant, Applications: []emulator.Application{app}}}}))
	for _, s := range secretNames(secrets) {
		n.Secret(s, "value")
	}
	n.Class("c", map[string]string{"objects": kubelet.Objects(secretNames(secrets)...)})
	requests := make([]*csi.NodePublishVolumeRequest, pods)
	for i := range requests {
		requests[i] = n.Request(fmt.Sprintf("pod-%d", i), "c", n.As("default", "sa-"+strconv.Itoa(i%identities)))
	}
	n.Emulator.ResetRequests()
	var work sync.WaitGroup
	for _, request := range requests {
		work.Go(func() {
			if _, err := n.NodePublishVolume(t.Context(), request); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	if vault, tokens, discovery := asked(n); vault != identities*secrets || tokens != identities || discovery > 2 {
		t.Errorf("%d Pods of %d identities, %d secrets: %d of the vault, %d tokens, %d of discovery",
			pods, identities, secrets, vault, tokens, discovery)
	}
}

// A refresh of 20 volumes of one identity asks for each object once, whether anything changed or not, and kubelet's calls for nothing.
func TestRequestsOfARefresh(t *testing.T) {
	t.Parallel()
	const pods, secrets = 20, 5
	// No cycle comes by itself: the class's annotation asks for one.
	n := kubelet.Start(t, kubelet.Seed, "--rotation-interval", "1h", "--cache-ttl", "0s")
	for _, s := range secretNames(secrets) {
		n.Secret(s, "value-0")
	}
	class := func(refresh int) {
		text, err := json.Marshal(map[string]any{
			"apiVersion": "secrets-store.csi.x-k8s.io/v1",
			"kind":       "SecretProviderClass",
			"metadata": map[string]any{
				"name":        "c",
				"namespace":   "default",
				"annotations": map[string]string{"keyvault-csi/refresh": strconv.Itoa(refresh) + "/0s"},
			},
			"spec": map[string]any{
				"provider": "azure",
				"parameters": map[string]string{
					"keyvaultName": kubelet.Vault,
					"tenantID":     kubelet.Tenant,
					"clientID":     kubelet.Client,
					"objects":      kubelet.Objects(secretNames(secrets)...),
				},
			},
		})
		must(t, err)
		n.ClassFile("c.json", string(text))
	}
	class(0)
	for i := range pods {
		n.MustPublish(fmt.Sprintf("pod-%d", i), "c")
	}
	republish := func() {
		for i := range pods {
			n.MustPublish(fmt.Sprintf("pod-%d", i), "c")
		}
	}
	asked(n)
	republish()
	if vault, tokens, discovery := asked(n); vault+tokens+discovery != 0 {
		t.Errorf("kubelet's calls: %d of the vault, %d tokens, %d of discovery", vault, tokens, discovery)
	}
	// Counted over all refreshes, so that a request too many counts although it comes late.
	for cycle, value := range []string{"value-1", "value-1", "value-2"} {
		for _, s := range secretNames(secrets) {
			if n.Read("pod-0", s) != value { // the second time, nothing changes
				n.Secret(s, value)
			}
		}
		class(cycle + 1)
		republish()
		n.Eventually("the refresh", func() bool {
			for i := range pods {
				for _, s := range secretNames(secrets) {
					if n.Read(fmt.Sprintf("pod-%d", i), s) != value {
						return false
					}
				}
			}
			return len(n.Emulator.Requests()) >= (cycle+1)*secrets
		})
	}
	if vault, tokens, discovery := asked(n); vault != 3*secrets || tokens+discovery != 0 {
		t.Errorf("three refreshes of %d volumes, %d secrets: %d of the vault, %d tokens, %d of discovery", pods, secrets, vault, tokens, discovery)
	}
}
