//go:build integration

package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// events are those of a Pod of the shop with a reason: their type, messages and counts, one a line.
func (s site) events(pod, reason string) string {
	s.Helper()
	return s.get("events", "--field-selector", "involvedObject.kind=Pod,involvedObject.name="+pod+",reason="+reason, "-o",
		`jsonpath={range .items[*]}{.type} {.involvedObject.uid} {.source.component} {.count} {.message}{"\n"}{end}`)
}

// TestEventsOnThePod goes through what people are told of on the Pod, and how often.
func TestEventsOnThePod(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	s.class("web", "keyvaultName:", "tenentID: x\n    keyvaultName:")
	n := s.start(t, "--rotation-interval", "1s", "--cache-ttl", "0s")
	pod := s.pod("cart")
	told := func(reason, kind, text string) {
		t.Helper()
		var got string
		s.Eventually("the event "+reason, func() bool { got = s.events("cart", reason); return got != "" })
		want := fmt.Sprintf("%s %s secrets-store.csi.k8s.io 1 secretproviderclass web: ", kind, pod.UID)
		if !strings.HasPrefix(got, want) || !strings.Contains(got, text) || strings.Count(got, "\n") != 1 {
			t.Errorf("%s: %s", reason, got)
		}
	}
	for range 5 {
		if err := s.publish(n, pod, "web"); err == nil {
			t.Fatal("a secret that is not there was mounted")
		}
	}
	told("FailedToMount", "Warning", `secret "db": it was not found`)
	_, err := n.Emulator.SetSecret(kubelet.Vault, emulator.Secret{Name: "db", Value: canary, Expires: time.Now().Add(36 * time.Hour)})
	must(t, err)
	must(t, s.publish(n, pod, "web"))
	told("SecretProviderClassWarning", "Warning", "did you mean tenantID?")
	told("ObjectExpiring", "Warning", "renew it in the vault")

	n.Emulator.AddFault(emulator.Fault{Kind: emulator.FaultStatus, Status: http.StatusForbidden, Code: "Forbidden", Operation: "get"})
	told("MountRotationFailed", "Warning", "the files stay as they are")
	count := len(n.Emulator.Requests())
	n.Eventually("more failures", func() bool { return len(n.Emulator.Requests()) >= count+3 })
	n.Emulator.ClearFaults()
	told("MountRotationRecovered", "Normal", "refreshed again")
	told("MountRotationFailed", "Warning", "the files stay as they are")

	n.Secret("db", canary+"-2")
	told("MountRotationComplete", "Normal", "the mounted files were updated")
	n.Eventually("more polls", func() bool { return len(n.Emulator.Requests()) >= count+12 })
	told("MountRotationComplete", "Normal", "the mounted files were updated")
	noCanary(t, s.get("events", "-o", "yaml"))
	noCanary(t, n.Log())
}
