package identity

import (
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

func TestCallerOf(t *testing.T) {
	until := time.Now().Add(time.Hour)
	for name, tc := range map[string]struct {
		token, want string
	}{
		"application": {unsigned(map[string]any{"appid": "app", "oid": "object", "tid": "tenant"}), "client id app, object id object, tenant tenant"},
		"person":      {unsigned(map[string]any{"appid": "cli", "oid": "o", "tid": "t", "upn": "me@example.com"}), "me@example.com, client id cli, object id o, tenant t"},
		"guest":       {unsigned(map[string]any{"oid": "o", "unique_name": "live.com#me@example.com"}), "live.com#me@example.com, object id o"},
		"unprintable": {unsigned(map[string]any{"oid": "a\x1b[31m\nb"}), "object id a [31m b"},
		"opaque":      {"opaque", ""},
		"not base64":  {"a.!.c", ""},
		"not JSON":    {"a.e30x.c", ""},
		"nothing":     {"", ""},
	} {
		c := CallerOf(azcore.AccessToken{Token: tc.token, ExpiresOn: until})
		if c.String() != tc.want || !c.Expires.Equal(until) {
			t.Errorf("%s: %q", name, c)
		}
	}
}

// The person's own credentials replace those of class and request, and need neither token nor Secret.
func TestPersonIsWhoeverAsks(t *testing.T) {
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
	for _, name := range []string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"} {
		t.Setenv(name, "")
	}
	r := New(Options{Transport: &wire{}, Person: true, Clock: testingclock.NewFakePassiveClock(time.Now())})
	t.Cleanup(r.Close)
	managed := resolve(t, r, public(class.Class{Mode: class.ManagedIdentity, TenantID: "tenant"}), volume.Request{})
	if other := resolve(t, r, workload(), fromPod(time.Now().Add(time.Hour))); other != managed || managed.String() != "you" {
		t.Errorf("%s and %s", managed, other)
	}
	_, err := get(t, managed)
	if volume.ReasonOf(err) != volume.ReasonIdentity || !strings.Contains(err.Error(), "run `az login`") || strings.Contains(err.Error(), "\n") ||
		!strings.Contains(err.Error(), "AZURE_TENANT_ID") {
		t.Errorf("got %v", err)
	}
}
