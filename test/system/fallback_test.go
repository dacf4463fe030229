package system

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// fallbackSeed has a second vault with the same secrets but for their values.
const fallbackSeed = kubelet.Seed + `- name: backup
  tenant: 11111111-1111-1111-1111-111111111111
  grants: [{clientID: 22222222-2222-2222-2222-222222222222, permissions: ["*"]}]
  secrets: [{name: s, value: from backup}, {name: only-there, value: from backup}]
`

// requestsTo counts the requests that a vault got for secrets.
func requestsTo(n *kubelet.Node, vault string) (count int) {
	for _, r := range n.Emulator.Requests() {
		if r.Host == vault+".vault.azure.net" && r.Operation != "connect" {
			count++
		}
	}
	return count
}

// TestFallbackVaults: a Pod that starts while the vault cannot be reached has the values of the fallback, which the vault's own replace as
// soon as it answers. The outage is found out once, and not by each Pod.
func TestFallbackVaults(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, fallbackSeed, "--rotation-interval", "1s", "--cache-ttl", "0s", "--http-addr", kubelet.AnyPort)
	n.Secret("s", "from contoso")
	n.Class("c", map[string]string{"fallbackKeyvaultNames": "nowhere, backup", "metadataFile": "about.json", "objects": kubelet.Objects("s")})
	n.MustPublish("before", "c")
	if got := n.Read("before", "s"); got != "from contoso" || requestsTo(n, "backup") != 0 {
		t.Fatalf("%q, and %d requests to the fallback of a vault that answers", got, requestsTo(n, "backup"))
	}
	n.Emulator.AddFault(emulator.Fault{Kind: emulator.FaultReset, Host: "contoso.vault.azure.net"})
	const pods = 30
	for i := range pods {
		n.MustPublish(fmt.Sprint("pod-", i), "c")
	}
	for i := range pods {
		if got := n.Read(fmt.Sprint("pod-", i), "s"); got != "from backup" {
			t.Fatalf("pod-%d reads %q", i, got)
		}
	}
	if got := n.Read("before", "s"); got != "from contoso" {
		t.Errorf("a running Pod's file became %q", got)
	}
	for _, want := range []string{"started with values of the fallback vault backup.vault.azure.net", `"ServedFallback"`} {
		if !strings.Contains(n.Log(), want) {
			t.Errorf("%s is not in the log", want)
		}
	}
	if got := n.Read("pod-0", "about.json"); !strings.Contains(got, "backup.vault.azure.net") {
		t.Errorf("the metadata says %s", got)
	}
	if _, body := get(t, "http://"+n.Address("health and metrics")+"/metrics"); !strings.Contains(body, "keyvault_csi_fallback_objects_total 3") {
		t.Error("no metric of the fallback")
	}
	n.Emulator.ClearFaults()
	for i := range pods {
		n.Eventually("the vault's own value", func() bool { return n.Read(fmt.Sprint("pod-", i), "s") == "from contoso" })
	}
}

// TestFallbackIsForOutagesAlone: what the vault refuses or does not have is not looked for elsewhere.
func TestFallbackIsForOutagesAlone(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, fallbackSeed)
	n.Class("missing", map[string]string{"fallbackKeyvaultNames": "backup", "objects": kubelet.Objects("only-there")})
	if err := n.Publish("a", "missing"); err == nil || !strings.Contains(err.Error(), "it was not found") {
		t.Errorf("%v", err)
	}
	n.Secret("s", "1")
	must(t, n.Emulator.Grant(kubelet.Vault, kubelet.Client))
	n.Class("refused", map[string]string{"fallbackKeyvaultNames": "backup", "objects": kubelet.Objects("s")})
	if err := n.Publish("b", "refused"); err == nil || !strings.Contains(err.Error(), "has no permission") {
		t.Errorf("%v", err)
	}
	if got := requestsTo(n, "backup"); got != 0 {
		t.Errorf("%d requests to the fallback", got)
	}
	n.Emulator.AddFault(emulator.Fault{Kind: emulator.FaultReset, Host: "contoso.vault.azure.net"})
	n.Emulator.AddFault(emulator.Fault{Kind: emulator.FaultReset, Host: "backup.vault.azure.net"})
	if err := n.Publish("c", "refused"); err == nil || !strings.Contains(err.Error(), "contoso.vault.azure.net") {
		t.Errorf("both are away, and the error names another vault than the object's: %v", err)
	}
	// what another class asked for, when the outage was found out, is its own affair
	n.Class("others", map[string]string{"fallbackKeyvaultNames": "backup", "objects": kubelet.Objects("theirs")})
	if err := n.Publish("d", "others"); err == nil || !strings.Contains(err.Error(), `secret "theirs": the vault could not be reached a moment ago`) ||
		strings.Contains(err.Error(), `"s"`) {
		t.Errorf("%v", err)
	}
}

// TestADeadVaultCostsOneTimeOut: Pods that start one after the other while a vault does not answer wait for it once.
func TestADeadVaultCostsOneTimeOut(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, fallbackSeed, "--rotation-interval", "1h", "--cache-ttl", "0s")
	n.Class("c", map[string]string{"fallbackKeyvaultNames": "backup", "objects": kubelet.Objects("s")})
	n.Emulator.AddFault(emulator.Fault{Kind: emulator.FaultHang, Host: "contoso.vault.azure.net"})
	n.MustPublish("first", "c") // waits for the time-out
	asked := requestsTo(n, "contoso")
	const pods = 20
	for i := range pods {
		n.MustPublish(fmt.Sprint("pod-", i), "c")
	}
	// the refresh that looks whether the vault is back may have asked meanwhile; no Pod has
	if got := requestsTo(n, "contoso"); got > asked+2 {
		t.Errorf("%d Pods made %d more requests to the vault that does not answer", pods, got-asked)
	}
	if got := n.Read("pod-0", "s"); got != "from backup" {
		t.Errorf("%q", got)
	}
}

// TestAnIdentityWithoutTokenIsNoOutage: where Entra ID does not answer for one identity, the vault is not passed over for others.
func TestAnIdentityWithoutTokenIsNoOutage(t *testing.T) {
	t.Parallel()
	const other = "33333333-3333-3333-3333-333333333333"
	seed := strings.Replace(fallbackSeed, "vaults:\n", `  - clientID: `+other+`
    objectID: 33333333-0000-0000-0000-000000000000
    federated:
    - {issuer: "https://oidc.example.com/cluster/", subject: "system:serviceaccount:default:other"}
vaults:
`, 1)
	n := kubelet.Start(t, seed, "--rotation-interval", "1h", "--cache-ttl", "0s")
	n.Secret("s", "from contoso")
	must(t, n.Emulator.Grant(kubelet.Vault, other, "*"))
	objects := map[string]string{"fallbackKeyvaultNames": "backup", "objects": kubelet.Objects("s")}
	n.Class("healthy", objects)
	objects["clientID"] = other
	n.Class("sick", objects)
	n.Emulator.AddFault(emulator.Fault{Kind: emulator.FaultReset, Operation: "token", Name: other})
	if err := n.Publish("a", "sick", n.As("default", "other")); err == nil || strings.Contains(err.Error(), "backup") {
		t.Errorf("%v", err)
	}
	n.MustPublish("b", "healthy")
	if got := n.Read("b", "s"); got != "from contoso" {
		t.Errorf("%q", got)
	}
}
