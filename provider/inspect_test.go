package provider_test

import (
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

func TestInspect(t *testing.T) {
	w := newWorld(t, nil)
	in, err := w.Inspector().Inspect(t.Context(), w.request(nil, "one", "gone"))
	if err != nil {
		t.Fatal(err)
	}
	if in.IdentityErr != nil || in.Caller.ClientID != "client" || in.Caller.ObjectID != "a1" || in.Caller.Tenant != "tenant" ||
		time.Until(in.Caller.Expires) < time.Minute {
		t.Errorf("%+v", in)
	}
	if v := in.Vaults; len(v) != 1 || v[0].Err != nil || v[0].Tenant != "tenant" || v[0].Host != "contoso.vault.azure.net" {
		t.Errorf("%+v", v)
	}
	if o := in.Objects; len(o) != 2 || o[0].Err != nil || len(o[0].Versions) != 1 || o[1].Err == nil || o[1].Err.Reason != volume.ReasonNotFound {
		t.Errorf("%+v", o)
	}
	if _, err := w.Inspector().Inspect(t.Context(), w.request(map[string]string{"keyvaultName": "k_v"})); volume.ReasonOf(err) != volume.ReasonInvalidClass {
		t.Errorf("got %v", err)
	}
}

// The way to a vault breaks at each of its steps, with a cause of its own; what others can give is still asked for.
func TestInspectOfBrokenWays(t *testing.T) {
	for name, tc := range map[string]struct {
		fail   func(string) error
		fault  *emulator.Fault
		reason volume.Reason
		want   string
	}{
		"name":     {noSuchHost("contoso."), nil, volume.ReasonDNS, "private DNS zone"},
		"refused":  {syscallFailure("contoso.", syscall.ECONNREFUSED), nil, volume.ReasonNetwork, "refused the connection"},
		"no route": {syscallFailure("contoso.", syscall.EHOSTUNREACH), nil, volume.ReasonNetwork, "no route"},
		"page":     {nil, &emulator.Fault{Kind: emulator.FaultHTML, Status: 200, Host: "contoso.vault.azure.net"}, volume.ReasonUnavailable, "not as a vault does"},
		"redirect": {nil, &emulator.Fault{Kind: emulator.FaultStatus, Status: http.StatusFound, Host: "contoso.vault.azure.net"}, volume.ReasonUnavailable, "302"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.failing(tc.fail)
			if tc.fault != nil {
				w.AddFault(*tc.fault)
			}
			in, err := w.Inspector().Inspect(t.Context(), w.request(nil, "one"))
			if err != nil {
				t.Fatal(err)
			}
			if in.IdentityErr != nil {
				t.Errorf("the identity is blamed: %v", in.IdentityErr)
			}
			if v := in.Vaults[0]; v.Err == nil || v.Err.Reason != tc.reason || !strings.Contains(v.Err.Message, tc.want) || v.Tenant != "" {
				t.Errorf("%+v: %v", v, v.Err)
			}
			if o := in.Objects[0]; !o.Skipped || o.Err != nil {
				t.Errorf("%+v", o)
			}
		})
	}
}

func syscallFailure(prefix string, errno syscall.Errno) func(string) error {
	return func(address string) error {
		if strings.HasPrefix(address, prefix) {
			return &net.OpError{Op: "dial", Net: "tcp", Err: errno}
		}
		return nil
	}
}

// Without a Pod's token there is no identity; the rest of the way is checked all the same.
func TestInspectWithoutAnybody(t *testing.T) {
	w := newWorld(t, nil)
	req := w.request(nil, "one")
	req.Tokens = nil
	in, err := w.Inspector().Inspect(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if in.IdentityErr == nil || in.IdentityErr.Reason != volume.ReasonIdentity || in.Identity != "" || in.Vaults[0].Err != nil || !in.Objects[0].Skipped {
		t.Errorf("%+v", in)
	}
}

// A cause is of one step: where Entra ID cannot be reached, the vault is.
func TestInspectWithoutEntra(t *testing.T) {
	w := newWorld(t, nil)
	w.failing(noSuchHost("login."))
	in, err := w.Inspector().Inspect(t.Context(), w.request(nil, "one"))
	if err != nil {
		t.Fatal(err)
	}
	if in.IdentityErr == nil || in.IdentityErr.Reason != volume.ReasonDNS || in.Vaults[0].Err != nil || !in.Objects[0].Skipped {
		t.Errorf("%+v", in)
	}
	if strings.Contains(in.IdentityErr.Message, "\n") {
		t.Errorf("%v", in.IdentityErr)
	}
}
