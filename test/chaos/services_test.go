//go:build chaos

package chaos

import (
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/chaos/outcome"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

// TestServices breaks the vault, Entra ID and the proxy, each in every way that the emulator knows, under Pods that run and Pods that
// start. Kubelet's calls for Pods that run never fail, or it would take their volumes away.
func TestServices(t *testing.T) {
	const vault, entra = "contoso.vault.azure.net", "login.microsoftonline.com"
	cases := []struct {
		what  string
		fault emulator.Fault
		// starts says that new Pods start all the same.
		starts bool
	}{
		{"the vault throttles, for a second", emulator.Fault{Kind: emulator.FaultThrottle, RetryAfter: 1, Host: vault}, false},
		{"the vault throttles, without a time", emulator.Fault{Kind: emulator.FaultThrottle, Host: vault}, false},
		{"the vault answers 500", emulator.Fault{Kind: emulator.FaultStatus, Status: 500, Code: "InternalError", Host: vault}, false},
		{"the vault answers 503", emulator.Fault{Kind: emulator.FaultStatus, Status: 503, Host: vault}, false},
		{"the vault answers late", emulator.Fault{Kind: emulator.FaultLatency, Delay: emulator.Duration(300 * time.Millisecond), Host: vault}, true},
		{"the vault's connections break", emulator.Fault{Kind: emulator.FaultReset, Host: vault}, false},
		{"the vault's answers are cut off", emulator.Fault{Kind: emulator.FaultTruncated, Host: vault}, false},
		{"the vault's answers are empty", emulator.Fault{Kind: emulator.FaultEmpty, Host: vault}, false},
		{"the vault refuses the token", emulator.Fault{Kind: emulator.FaultChallenge, Host: vault}, false},
		{"a proxy answers with HTML", emulator.Fault{Kind: emulator.FaultHTML, Host: vault}, false},
		{"the vault refuses access", emulator.Fault{Kind: emulator.FaultStatus, Status: 403, Code: "Forbidden", Host: vault}, false},
		{"the vault does not have the object", emulator.Fault{Kind: emulator.FaultStatus, Status: 404, Code: "SecretNotFound", Host: vault}, false},
		{"Entra ID throttles", emulator.Fault{Kind: emulator.FaultStatus, Status: http.StatusTooManyRequests, RetryAfter: 1, Host: entra}, false},
		{"Entra ID answers 503", emulator.Fault{Kind: emulator.FaultStatus, Status: 503, Host: entra}, false},
		{"Entra ID's connections break", emulator.Fault{Kind: emulator.FaultReset, Host: entra}, false},
		{"Entra ID's answers are cut off", emulator.Fault{Kind: emulator.FaultTruncated, Host: entra}, false},
		{"Entra ID's answers are empty", emulator.Fault{Kind: emulator.FaultEmpty, Host: entra}, false},
		{"Entra ID answers with HTML", emulator.Fault{Kind: emulator.FaultHTML, Host: entra}, false},
		{"the proxy refuses connections", emulator.Fault{Kind: emulator.FaultConnect, Status: http.StatusBadGateway}, false},
		{"the proxy wants a password", emulator.Fault{Kind: emulator.FaultConnect, Status: http.StatusProxyAuthRequired}, false},
	}
	random(t).Shuffle(len(cases), func(i, j int) { cases[i], cases[j] = cases[j], cases[i] })
	for _, tc := range cases[:times(6, len(cases))] {
		t.Run(tc.what, func(t *testing.T) {
			t.Parallel()
			n := start(t, "tokenLifetime: 2s\n", "--rotation-interval", "1s")
			n.again("steady")
			w := n.watch()
			w.sees(1)
			n.Emulator.AddFault(tc.fault)
			n.Emulator.DropConnections() // or open ones would be used, and a fault of the proxy not met
			n.Emulator.ResetRequests()
			before := n.newest.Load()
			if tc.starts {
				w.sees(n.advance())
			} else {
				n.advance()
			}
			// With Entra ID away, Pods start until the token that the driver has ends.
			for waits, i := 0, 0; waits < times(2, 10); i++ {
				if err := n.publish("steady"); err != nil {
					t.Fatalf("a call for a Pod that runs: %v", err)
				}
				pod := fmt.Sprintf("new-%d", i)
				switch err := n.publish(pod); {
				case err == nil:
					n.whole(pod)
				case tc.starts:
					t.Fatalf("a new Pod does not start: %v", err)
				}
				if _, err := os.Lstat(n.Target(pod)); tc.starts || os.IsNotExist(err) {
					waits++
				}
				n.gone(pod)
				time.Sleep(100 * time.Millisecond)
			}
			if hit := faulty(n); hit == 0 {
				t.Error("no request met the fault")
			}
			if got := n.whole("steady"); got < before {
				t.Errorf("generation %d after %d", got, before)
			}
			n.Emulator.ClearFaults()
			w.sees(n.advance())
			n.again("new")
			n.whole("new")
			n.gone("new")
			w.stop()
			row := outcome.Row{Fault: tc.what, Times: 1, Driver: "new Pods wait; recovers by itself", Files: "stay as they are"}
			if tc.starts {
				row.Driver, row.Files = "new Pods start", "follow the vault"
			}
			found.Add(row)
			t.Logf("%d reads", w.reads.Load())
		})
	}
}

// faulty is how many requests met a fault.
func faulty(n *node) (count int) {
	for _, r := range n.Emulator.Requests() {
		if r.Fault != "" || r.Status >= http.StatusBadRequest {
			count++
		}
	}
	return count
}
