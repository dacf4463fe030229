// Package system tests the built driver as kubelet meets it: over its socket, against the emulator.
package system

import (
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

func TestMain(m *testing.M) { os.Exit(kubelet.Main(m)) }

func TestRequestsOfAMount(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed)
	names := []string{"s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"}
	for _, name := range names {
		n.Secret(name, "value of "+name)
	}
	n.Class("ten", map[string]string{"objects": kubelet.Objects(names...)})
	n.MustPublish("cold", "ten")
	for _, name := range names {
		if got := n.Read("cold", name); got != "value of "+name {
			t.Errorf("%s holds %q", name, got)
		}
	}
	counts := n.Emulator.Counts()
	if counts["get secret"] != 10 {
		t.Errorf("cold: %d vault requests for 10 secrets", counts["get secret"])
	}
	if tokens := counts["token"] + counts["discovery"] + counts["openid configuration"]; tokens > 3 || counts["token"] != 1 {
		t.Errorf("cold: %v", counts)
	}
	for _, r := range n.Emulator.Requests() {
		if r.Status == 401 {
			t.Errorf("a request began with a 401: %+v", r)
		}
	}
	n.Emulator.ResetRequests()
	n.MustPublish("warm", "ten")
	if counts := n.Emulator.Counts(); len(counts) > 0 {
		t.Errorf("a second pod within the cache's time: %v", counts)
	}
}

// Bytes must come through unchanged.
func TestValuesAreExact(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed)
	values := map[string]string{
		"empty": "", "nul": "a\x00b", "crlf": "line\r\nline\r\n", "utf8": "ä€𝄞", "big": strings.Repeat("0123456789abcdef", 1600),
		"spaces": "  x \n", "quote": `"\`,
	}
	var names []string
	for name, value := range values {
		n.Secret(name, value)
		names = append(names, name)
	}
	n.Class("all", map[string]string{"objects": kubelet.Objects(names...)})
	n.MustPublish("a", "all")
	for name, want := range values {
		if got := n.Read("a", name); got != want {
			t.Errorf("%s: %d bytes, want %d", name, len(got), len(want))
		}
	}
}

// canary is what no log and no error may hold.
const canary = "canary-3f9a7c"

func TestErrorsNameTheCauseAndLeaveNothing(t *testing.T) {
	t.Parallel()
	fault := func(f emulator.Fault) func(*kubelet.Node) {
		return func(n *kubelet.Node) { n.Emulator.AddFault(f) }
	}
	type request = csi.NodePublishVolumeRequest
	for name, tc := range map[string]struct {
		class map[string]string
		set   func(*kubelet.Node)
		edit  func(*request)
		code  codes.Code
		want  []string
	}{
		"missing secret": {class: map[string]string{"objects": kubelet.Objects("absent")}, code: codes.NotFound,
			want: []string{"contoso.vault.azure.net", `secret "absent"`, "not found", "objectName"}},
		"several missing": {class: map[string]string{"objects": kubelet.Objects("absent", "gone", "s")}, code: codes.NotFound,
			want: []string{`"absent"`, `"gone"`}},
		"disabled": {set: func(n *kubelet.Node) { _ = n.Emulator.Disable("contoso", "secrets", "s", "", true) },
			code: codes.PermissionDenied, want: []string{"disabled", "enable it"}},
		"no permission by role": {set: func(n *kubelet.Node) { _ = n.Emulator.Grant("contoso", kubelet.Client) },
			code: codes.PermissionDenied, want: []string{"Key Vault Secrets User", "appid " + kubelet.Client}},
		"no permission by policy": {set: func(n *kubelet.Node) {
			_ = n.Emulator.Grant("contoso", kubelet.Client)
			_ = n.Emulator.Apply(emulator.Seed{Vaults: []emulator.Vault{{Name: "contoso", Tenant: kubelet.Tenant, Policies: true}}})
		}, code: codes.PermissionDenied, want: []string{"access policy", "secret get"}},
		"firewall": {set: func(n *kubelet.Node) { _ = n.Emulator.SetNetwork("contoso", "firewall") }, code: codes.PermissionDenied,
			want: []string{"network rules"}},
		"private": {set: func(n *kubelet.Node) { _ = n.Emulator.SetNetwork("contoso", "private") }, code: codes.PermissionDenied,
			want: []string{"private endpoint"}},
		"no such vault": {class: map[string]string{"keyvaultName": "nowhere"}, code: codes.Unavailable,
			want: []string{"nowhere.vault.azure.net", "proxy", "502"}},
		"throttled": {set: fault(emulator.Fault{Kind: emulator.FaultThrottle, Operation: "get", RetryAfter: 300}), code: codes.ResourceExhausted,
			want: []string{"fewer requests"}},
		"500": {set: fault(emulator.Fault{Kind: emulator.FaultStatus, Status: 500, Operation: "get", Code: "InternalError"}), code: codes.Unavailable,
			want: []string{"500"}},
		"truncated": {set: fault(emulator.Fault{Kind: emulator.FaultTruncated, Operation: "get"}), code: codes.Unavailable,
			want: []string{"not one of Key Vault's"}},
		"html": {set: fault(emulator.Fault{Kind: emulator.FaultHTML, Status: 200, Operation: "get"}), code: codes.Unavailable,
			want: []string{"proxies"}},
		"empty answer": {set: fault(emulator.Fault{Kind: emulator.FaultEmpty, Operation: "get"}), code: codes.Unavailable,
			want: []string{"not one of Key Vault's"}},
		"reset": {set: fault(emulator.Fault{Kind: emulator.FaultReset, Operation: "get"}), code: codes.Unavailable, want: []string{"broke off"}},
		"token refused for good": {set: fault(emulator.Fault{Kind: emulator.FaultChallenge, Operation: "get"}), code: codes.PermissionDenied,
			want: []string{"refused a fresh token", "tenant"}},
		"CONNECT refused": {set: fault(emulator.Fault{Kind: emulator.FaultConnect, Host: "contoso.vault.azure.net", Status: 403}), code: codes.Unavailable,
			want: []string{"proxy", "HTTPS_PROXY", "403"}},
		"proxy wants a login": {set: fault(emulator.Fault{Kind: emulator.FaultConnect, Host: "login.microsoftonline.com", Status: 407}), code: codes.Unavailable,
			want: []string{"login.microsoftonline.com", "407"}},
		"no federated credential": {class: map[string]string{"clientID": "33333333-3333-3333-3333-333333333333"},
			code: codes.PermissionDenied, want: []string{"AADSTS700016", "clientID"}},
		"wrong tenant": {class: map[string]string{"tenantID": "99999999-9999-9999-9999-999999999999"}, code: codes.PermissionDenied,
			want: []string{"AADSTS90002", "tenantID"}},
		"no token": {edit: func(r *request) { r.Secrets = nil }, code: codes.PermissionDenied, want: []string{"tokenRequests", "api://AzureADTokenExchange"}},
		"another's token in the volume context": {edit: func(r *request) {
			r.VolumeContext["csi.storage.k8s.io/serviceAccount.name"] = "other"
		}, code: codes.PermissionDenied, want: []string{"system:serviceaccount:default:other"}},
		"provider is not azure": {set: func(n *kubelet.Node) {
			n.ClassFile("c.json", `{"apiVersion":"secrets-store.csi.x-k8s.io/v1","kind":"SecretProviderClass","metadata":{"name":"c"},"spec":{"provider":"vault","parameters":{"a":"b"}}}`)
		}, code: codes.InvalidArgument, want: []string{`provider "vault"`, "azure"}},
		"objects are no strings": {class: map[string]string{"objects": "array:\n- objectName: s\n"}, code: codes.InvalidArgument,
			want: []string{"mapping instead of a string", "|"}},
		"objects are no YAML": {class: map[string]string{"objects": "array: [\n"}, code: codes.InvalidArgument, want: []string{"not YAML"}},
		"two objects on one path": {class: map[string]string{"objects": kubelet.Objects("s") + "- |\n  objectName: t\n  objectType: secret\n  objectAlias: s\n"},
			code: codes.InvalidArgument, want: []string{"objects[1]", "objects[0]", "objectAlias"}},
		"dots": {class: map[string]string{"objects": "array:\n- |\n  objectName: s\n  objectType: secret\n  objectAlias: ../../x\n"},
			code: codes.InvalidArgument, want: []string{"'..'"}},
		"absolute": {class: map[string]string{"objects": "array:\n- |\n  objectName: s\n  objectType: secret\n  objectAlias: /etc/x\n"},
			code: codes.InvalidArgument, want: []string{"relative"}},
		"long": {class: map[string]string{"objects": "array:\n- |\n  objectName: s\n  objectType: secret\n  objectAlias: " + strings.Repeat("x", 300) + "\n"},
			code: codes.InvalidArgument, want: []string{"255"}},
		"many mistakes": {class: map[string]string{"keyvaultName": "no_name", "cloudName": "moon", "objects": "array:\n- |\n  objectName: s\n  objectType: Secret\n"},
			code: codes.InvalidArgument, want: []string{"keyvaultName", "cloudName", "objectType"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := kubelet.Start(t, kubelet.Seed)
			n.Secret("s", canary)
			class := map[string]string{"objects": kubelet.Objects("s")}
			maps.Copy(class, tc.class)
			n.Class("c", class)
			if tc.set != nil {
				tc.set(n)
			}
			var edit []func(*request)
			if tc.edit != nil {
				edit = append(edit, tc.edit)
			}
			err := n.Publish("a", "c", edit...)
			message := status.Convert(err).Message()
			if status.Code(err) != tc.code {
				t.Errorf("code %v: %s", status.Code(err), message)
			}
			for _, want := range append(tc.want, "pod default/a, class c: ") {
				if !strings.Contains(message, want) {
					t.Errorf("%q is not in: %s", want, message)
				}
			}
			if strings.ContainsAny(message, "\n\r") || len(message) > 1500 {
				t.Errorf("not one readable line: %q", message)
			}
			if strings.Contains(n.Log()+message, canary) {
				t.Error("a secret value was leaked")
			}
			if tc.code == codes.NotFound { // the log comes through a pipe, the answer through a socket
				n.Eventually("the vault's request id in the log", func() bool { return strings.Contains(n.Log(), `"x-ms-request-id":"`) })
			}
			if strings.Contains(n.Log()+message, "eyJ") {
				t.Error("a token was leaked")
			}
			if targets := n.Targets(); len(targets) > 0 {
				t.Errorf("left behind: %v", targets)
			}
		})
	}
}
