package vault_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

func status(status int, code, inner, message string) *emulator.Fault {
	return &emulator.Fault{Kind: emulator.FaultStatus, Status: status, Code: code, InnerCode: inner, Message: message}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	w.secret(t, "s", "v")
	w.secret(t, "disabled", "v")
	w.secret(t, "deleted", "v")
	if err := errors.Join(w.Disable("contoso", "secrets", "disabled", "", true), w.Delete("contoso", "secrets", "deleted", true)); err != nil {
		t.Fatal(err)
	}
	if err := w.SetCertificate("contoso", emulator.Certificate{Name: "requested", Pending: true}); err != nil {
		t.Fatal(err)
	}
	type ask struct {
		host, client, name, version string
		kind                        class.Kind
		fault                       *emulator.Fault
		reason                      volume.Reason
		want                        []string
	}
	const policiesHost = "policies.vault.azure.net"
	for name, tc := range map[string]ask{
		"missing":            {name: "no", reason: volume.ReasonNotFound, want: []string{`vault contoso.vault.azure.net: secret "no": it was not found`}},
		"missing version":    {name: "s", version: strings.Repeat("a", 32), reason: volume.ReasonNotFound, want: []string{`secret "s" version aaaa`}},
		"missing key":        {name: "no", kind: class.Key, reason: volume.ReasonNotFound, want: []string{`key "no"`}},
		"missing cert":       {name: "no", kind: class.Certificate, reason: volume.ReasonNotFound, want: []string{`certificate "no"`}},
		"deleted":            {name: "deleted", reason: volume.ReasonNotFound, want: []string{"recover it"}},
		"disabled":           {name: "disabled", reason: volume.ReasonDisabled, want: []string{"it is disabled: enable it"}},
		"not issued":         {name: "requested", kind: class.Certificate, reason: volume.ReasonDisabled, want: []string{`certificate "requested": it is requested and not issued yet: complete its request`}},
		"not issued, secret": {name: "requested", reason: volume.ReasonDisabled, want: []string{`secret "requested": it is disabled`}},
		"no role":            {client: "nobody", name: "s", reason: volume.ReasonPermission, want: []string{`"Key Vault Secrets User"`, "oid b2", "minutes"}},
		"no role for keys":   {client: "nobody", name: "s", kind: class.Key, reason: volume.ReasonPermission, want: []string{`"Key Vault Reader"`}},
		"no role for certs":  {client: "nobody", name: "s", kind: class.Certificate, reason: volume.ReasonPermission, want: []string{`"Key Vault Reader"`}},
		"no policy":          {host: policiesHost, name: "s", reason: volume.ReasonPermission, want: []string{`add "secret get" to its access policy`}},
		"another tenant":     {host: "foreign.vault.azure.net", name: "s", reason: volume.ReasonInvalidClass, want: []string{"belongs to tenant other-tenant", "is of tenant tenant", "keyvaultName"}},
		"no such vault":      {host: "unknown.vault.azure.net", name: "s", reason: volume.ReasonProxy, want: []string{"unknown.vault.azure.net"}},
		"firewall":           {fault: status(403, "Forbidden", "ForbiddenByFirewall", "Client address is not authorized."), reason: volume.ReasonFirewall, want: []string{"15 minutes"}},
		"private":            {fault: status(403, "Forbidden", "ForbiddenByConnection", "Public network access is disabled."), reason: volume.ReasonFirewall, want: []string{"private endpoint"}},
		"firewall, by words": {fault: status(403, "Forbidden", "", "Client address is not authorized and caller is not a trusted service."), reason: volume.ReasonFirewall},
		"403 of no kind":     {fault: status(403, "Forbidden", "", "No."), reason: volume.ReasonPermission, want: []string{"assign it the role", "access policy"}},
		"403 page":           {fault: &emulator.Fault{Kind: emulator.FaultHTML, Status: 403}, reason: volume.ReasonUnavailable, want: []string{"status 403", "check proxies"}},
		"404 page":           {fault: &emulator.Fault{Kind: emulator.FaultHTML, Status: 404}, reason: volume.ReasonUnavailable, want: []string{"status 404", "check proxies"}},
		"302 page":           {fault: &emulator.Fault{Kind: emulator.FaultHTML, Status: 302}, reason: volume.ReasonUnavailable, want: []string{"status 302", "check proxies"}},
		"407":                {fault: &emulator.Fault{Kind: emulator.FaultHTML, Status: 407}, reason: volume.ReasonProxy, want: []string{"user and password"}},
		"502 page":           {fault: &emulator.Fault{Kind: emulator.FaultHTML}, reason: volume.ReasonUnavailable, want: []string{"answered 502"}},
		"200 page":           {fault: &emulator.Fault{Kind: emulator.FaultHTML, Status: 200}, reason: volume.ReasonUnavailable, want: []string{"not one of Key Vault's"}},
		"empty":              {fault: &emulator.Fault{Kind: emulator.FaultEmpty}, reason: volume.ReasonUnavailable, want: []string{"not one of Key Vault's"}},
		"truncated":          {fault: &emulator.Fault{Kind: emulator.FaultTruncated}, reason: volume.ReasonUnavailable, want: []string{"not one of Key Vault's"}},
		"reset":              {fault: &emulator.Fault{Kind: emulator.FaultReset}, reason: volume.ReasonNetwork, want: []string{"broke off"}},
		"500":                {fault: status(500, "InternalError", "", "canary"), reason: volume.ReasonUnavailable, want: []string{"answered 500"}},
		"408":                {fault: status(408, "", "", ""), reason: volume.ReasonUnavailable},
		"429":                {fault: &emulator.Fault{Kind: emulator.FaultThrottle, RetryAfter: 7}, reason: volume.ReasonThrottled, want: []string{"fewer requests"}},
		"400":                {fault: status(400, "BadParameter", "", "The request URI contains canary-value"), reason: volume.ReasonInvalidClass, want: []string{"(BadParameter, status 400; details redacted)"}},
		"400 of no kind":     {fault: status(400, "canary-code", "canary-inner", "canary-value"), reason: volume.ReasonInvalidClass, want: []string{"(unknown code, status 400; details redacted)"}},
		"403 that quotes":    {fault: status(403, "Forbidden", "", "oid=canary-value"), reason: volume.ReasonPermission, want: []string{"oid a1"}},
		"a list":             {kind: "list", fault: status(403, "Forbidden", "ForbiddenByPolicy", "no"), reason: volume.ReasonPermission, want: []string{`add "secret list"`}},
	} {
		t.Run(name, func(t *testing.T) {
			w.ClearFaults()
			if tc.fault != nil {
				tc.fault.Host = host
				w.AddFault(*tc.fault)
			}
			at, who := tc.host, tc.client
			if at == "" {
				at = host
			}
			if who == "" {
				who = "client"
			}
			client := w.of(t, at, who)
			var err error
			switch tc.kind {
			case "list":
				_, err = versions(t.Context(), client, class.Secret, "s")
			case "":
				_, err = get(t.Context(), client, class.Secret, tc.name+map[bool]string{true: "s"}[tc.name == ""], tc.version)
			default:
				_, err = get(t.Context(), client, tc.kind, tc.name, tc.version)
			}
			e, ok := errors.AsType[*volume.Error](err)
			if !ok || e.Reason != tc.reason {
				t.Fatalf("got %v (%s)", err, volume.ReasonOf(err))
			}
			for _, text := range append(tc.want, at) {
				if !strings.Contains(e.Message, text) {
					t.Errorf("%q lacks %q", e.Message, text)
				}
			}
			if strings.ContainsAny(e.Message, "\r\n\x1b") || strings.Contains(e.Message, "canary") {
				t.Errorf("message %q", e.Message)
			}
			answered := tc.reason != volume.ReasonNetwork && at != "unknown.vault.azure.net"
			if answered && e.RequestID == "" {
				t.Error("the service's request id is lost")
			}
			if tc.fault != nil && e.RetryAfter != time.Duration(tc.fault.RetryAfter)*time.Second {
				t.Errorf("retry after %s", e.RetryAfter)
			}
		})
	}
}
