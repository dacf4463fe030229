package emulator_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

const setBody = `{"value":"x"}`

// TestThrottle holds --throttle to the service's limits of a vault in ten seconds. The emulator's clock is ahead of the
// machine's, so that the test does not wait for a window's end.
func TestThrottle(t *testing.T) {
	for name, test := range map[string]struct {
		limit int
		ask   func(w *wire) answer
		// more is a request that still has its own limit.
		more func(w *wire) answer
	}{
		"secrets": {
			4000, func(w *wire) answer { return w.get("/secrets/db") },
			func(w *wire) answer { return w.send(http.MethodPut, "/secrets/new", setBody) },
		},
		"set secrets": {
			300, func(w *wire) answer { return w.send(http.MethodPut, "/secrets/new", setBody) },
			func(w *wire) answer { return w.get("/secrets/db") },
		},
		"keys in an HSM": {
			2000, func(w *wire) answer { return w.get("/keys/ec") },
			func(w *wire) answer { return w.get("/keys/rsa") },
		},
		"created keys": {
			20, func(w *wire) answer { return w.send(http.MethodPost, "/keys/new/create", `{"kty":"EC"}`) },
			func(w *wire) answer { return w.get("/keys/new") },
		},
		"rotated keys in an HSM": {
			10, func(w *wire) answer { return w.send(http.MethodPost, "/keys/ec/rotate", "") },
			func(w *wire) answer { return w.get("/keys/ec") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now() // the window does not pass, however slow the machine is
			w := newWireWith(t, emulator.Options{Throttle: true, Now: func() time.Time { return begin }})
			refused := answer{}
			for i := range test.limit + 1 {
				if a := test.ask(w); a.status != http.StatusOK {
					if i != test.limit {
						t.Fatalf("request %d: %d %s", i, a.status, a.body)
					}
					refused = a
				}
			}
			seconds, err := strconv.Atoi(refused.header.Get("Retry-After"))
			if refused.status != http.StatusTooManyRequests || !strings.Contains(refused.body, `"Throttled"`) || err != nil || seconds < 1 || seconds > 10 {
				t.Fatalf("refused with %d, Retry-After %q: %s", refused.status, refused.header.Get("Retry-After"), refused.body)
			}
			if a := test.more(w); a.status != http.StatusOK {
				t.Errorf("of another limit: %d %s", a.status, a.body)
			}
			w.AdvanceClock(10 * time.Second)
			if a := test.ask(w); a.status != http.StatusOK {
				t.Errorf("in the next window: %d %s", a.status, a.body)
			}
		})
	}
}

// TestFailover holds the fault to what the service's documentation permits while a region fails over.
func TestFailover(t *testing.T) {
	w := newWire(t)
	backup := w.send(http.MethodPost, "/secrets/db/backup", "").field(t, "value")
	w.AddFault(emulator.Fault{Kind: emulator.FaultFailover, RetryAfter: 30})
	for _, works := range []answer{
		w.get("/secrets/db"), w.get("/secrets"), w.get("/keys/rsa"), w.get("/certificates/web"), w.get("/deletedsecrets"),
		w.send(http.MethodPost, "/secrets/db/backup", ""),
		w.send(http.MethodPost, "/keys/rsa/sign", `{"alg":"RS256","value":"47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"}`),
		w.send(http.MethodPost, "/keys/rsa/encrypt", `{"alg":"RSA-OAEP","value":"YQ"}`),
	} {
		if works.status != http.StatusOK {
			t.Errorf("a read is refused: %d %s", works.status, works.body)
		}
	}
	w.tokenOf(factsClient)
	for _, refused := range []struct{ method, path, body, name string }{
		{http.MethodPut, "/secrets/new", setBody, "SecretSet"},
		{http.MethodPatch, "/secrets/db", `{"tags":{}}`, "SecretUpdate"},
		{http.MethodDelete, "/secrets/db", "", "SecretDelete"},
		{http.MethodPost, "/deletedsecrets/db/recover", "", "SecretRecover"},
		{http.MethodDelete, "/deletedsecrets/db", "", "SecretPurge"},
		{http.MethodPost, "/secrets/restore", `{"value":"` + backup + `"}`, "SecretRestore"},
		{http.MethodPost, "/keys/new/create", `{"kty":"EC"}`, "KeyCreate"},
		{http.MethodPut, "/keys/new", `{}`, "KeyImport"},
		{http.MethodPost, "/keys/rsa/rotate", "", "KeyRotate"},
		{http.MethodPut, "/keys/rsa/rotationpolicy", `{}`, "KeyRotationPolicySet"},
		{http.MethodPost, "/certificates/new/create", `{}`, "CertificateCreate"},
		{http.MethodPatch, "/certificates/web/policy", `{}`, "CertificatePolicyUpdate"},
		{http.MethodPut, "/certificates/contacts", `{}`, "CertificateContactsSet"},
	} {
		a := w.send(refused.method, refused.path, refused.body)
		want := `{"error":{"code":"ServiceUnavailable","message":"Operation \"` + refused.name +
			`\" is unavailable: the service is currently in a read-only state."}}`
		if a.status != http.StatusServiceUnavailable || a.body != want || a.header.Get("Retry-After") != "30" {
			t.Errorf("%s %s: %d %s", refused.method, refused.path, a.status, a.body)
		}
	}
	w.ClearFaults()
	if a := w.send(http.MethodPut, "/secrets/new", setBody); a.status != http.StatusOK || a.field(t, "value") != "x" {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
	if a := w.get("/secrets/db"); a.status != http.StatusOK {
		t.Errorf("what was refused was done: %d %s", a.status, a.body)
	}
}
