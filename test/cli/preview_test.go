package cli

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// all is a class with every shape of file.
const all = `array:
- |
  objectName: db
  objectType: secret
  filePermission: "0400"
- |
  objectName: binary
  objectType: secret
  objectEncoding: base64
  objectAlias: keys/raw
- |
  objectName: tls
  objectType: secret
  objectAlias: tls/server.pem
- |
  objectName: many
  objectType: secret
  objectVersionHistory: 2
`

type file struct {
	Path, Mode, Object, Version, Vault, NotBefore, Expires string
	Size                                                   int
	Value, ValueBase64                                     *string
}

type seen struct {
	Class, Origin, Identity string
	Files                   []file
	Warnings                []string
	Error                   *struct{ Reason, Message, RequestID string }
}

func parse(t *testing.T, text string) []seen {
	t.Helper()
	var found []seen
	if err := yaml.UnmarshalStrict([]byte(text), &found); err != nil { // JSON is YAML
		t.Fatalf("%v\n%s", err, text)
	}
	return found
}

func TestPreviewAsPerson(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	class := d.class("shop", map[string]string{"objects": all, "clientID": "-"})
	for _, format := range []string{"json", "yaml"} {
		r := d.run(nil, "preview", "-f", class, "-o", format)
		d.secretless(r)
		if r.exit != 0 || r.stderr != "" || json.Valid([]byte(r.stdout)) != (format == "json") {
			t.Fatal(r)
		}
		found := parse(t, r.stdout)
		if len(found) != 1 || found[0].Class != "default/shop" || found[0].Origin != class || found[0].Identity != "you" {
			t.Fatalf("%s: %+v", format, found)
		}
		var lines []string
		for _, f := range found[0].Files {
			if f.Value != nil || f.ValueBase64 != nil || f.Vault != "contoso.vault.azure.net" || f.Version == "" {
				t.Errorf("%+v", f)
			}
			lines = append(lines, fmt.Sprintf("%s %s %s", f.Path, f.Mode, f.Object))
		}
		const want = "db 0400 secret/db\nkeys/raw 0644 secret/binary\nmany/0 0644 secret/many/0\nmany/1 0644 secret/many/1\n" +
			"tls/server.pem 0644 secret/tls"
		if got := strings.Join(lines, "\n"); got != want {
			t.Errorf("%s: got\n%s", format, got)
		}
		if f := found[0].Files; f[0].Size != len(canary) || f[1].Size != 1 || f[2].Expires != "2199-01-01T00:00:00Z" || f[4].Expires == "" {
			t.Errorf("%+v", f)
		}
	}
}

func TestPreviewTable(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	r := d.run(nil, "preview", "-f", d.class("shop", map[string]string{"objects": all}))
	d.secretless(r)
	want := regexp.MustCompile(`^default/shop  \(\S+shop.yaml\)
as you

FILE          MODE  SIZE  OBJECT         VERSION                           EXPIRES               VAULT
db            0400    17  secret/db      0123456789abcdef0123456789abcdef  -                     contoso.vault.azure.net
keys/         0755
  raw         0644     1  secret/binary  cccccccccccccccccccccccccccccccc  -                     contoso.vault.azure.net
many/         0755
  0           0644    18  secret/many/0  bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb  2199-01-01T00:00:00Z  contoso.vault.azure.net
  1           0644    18  secret/many/1  aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  -                     contoso.vault.azure.net
tls/          0755
  server.pem  0644  \d{4}  secret/tls     [0-9a-f]{32}  \S{20}  contoso.vault.azure.net
$`)
	if r.exit != 0 || r.stderr != "" || !want.MatchString(r.stdout) {
		t.Error(r)
	}
}

func TestPreviewReveals(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	class := d.class("shop", map[string]string{"objects": all})
	r := d.run(nil, "preview", "-f", class, "-o", "json", "--reveal")
	found := parse(t, r.stdout)
	if r.exit != 0 || len(found) != 1 || len(found[0].Files) != 5 {
		t.Fatal(r)
	}
	f := found[0].Files
	if f[0].Value == nil || *f[0].Value != canary || f[1].Value != nil || f[1].ValueBase64 == nil || *f[1].ValueBase64 != "/w==" ||
		*f[2].Value != canary+"2" || *f[3].Value != canary+"1" || !strings.Contains(*f[4].Value, "BEGIN CERTIFICATE") {
		t.Error(r)
	}
	r = d.run(nil, "preview", "-f", class, "--reveal")
	for _, text := range []string{"--- db\n" + canary + "\n", "--- keys/raw (base64)\n/w==\n", "--- tls/server.pem\n-----BEGIN "} {
		if !strings.Contains(r.stdout, text) {
			t.Errorf("no %q in %s", text, r)
		}
	}
	// a value is not a way to the terminal's controls
	if _, err := d.SetSecret("contoso", emulator.Secret{Name: "db", Value: "a\x1b[31mb\r\nc"}); err != nil {
		t.Fatal(err)
	}
	if r = d.run(nil, "preview", "-f", d.class("esc", nil, "db"), "--reveal"); !strings.Contains(r.stdout, "--- db\na�[31mb�\nc\n") {
		t.Error(r)
	}
}

// What a person sees is what the driver mounts.
func TestPreviewIsWhatTheDriverMounts(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	text := classText(t, "shop", map[string]string{"objects": all})
	r := d.run(nil, "preview", "-f", d.file("c.yaml", text), "-o", "json", "--reveal")
	found := parse(t, r.stdout)
	if r.exit != 0 || len(found) != 1 || len(found[0].Files) != 5 {
		t.Fatal(r)
	}
	n := kubelet.StartWith(t, d.Server, issuerOf(d))
	n.ClassFile("shop.yaml", text)
	n.MustPublish("pod", "shop")
	for _, f := range found[0].Files {
		want := n.Read("pod", f.Path)
		if f.Value == nil {
			if f.Path != "keys/raw" || want != "\xff" {
				t.Errorf("%s: %q", f.Path, want)
			}
			continue
		}
		if *f.Value != want || len(want) != f.Size {
			t.Errorf("%s differs", f.Path)
		}
	}
}

func TestPreviewOfSeveralClasses(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	good, bad := classText(t, "good", nil, "db"), classText(t, "bad", nil, "gone")
	path := d.file("both.yaml", good+"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n---\n"+bad)
	r := d.run(nil, "preview", "-f", path, "-o", "json")
	found := parse(t, r.stdout)
	if r.exit != 1 || len(found) != 2 || len(found[0].Files) != 1 || found[0].Error != nil || found[1].Error == nil ||
		found[1].Error.Reason != "NotFound" || found[1].Error.RequestID == "" || len(found[1].Files) != 0 {
		t.Error(r)
	}
	// as `kubectl get spc -o yaml` prints them
	list := "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(good), "\n", "\n  ") + "\n"
	if r := d.run(nil, "preview", "-f", d.file("list.yaml", list)); r.exit != 0 || !strings.Contains(r.stdout, "secret/db") {
		t.Error(r)
	}
}

func TestPreviewAsServicePrincipal(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	class := d.class("shop", map[string]string{"clientID": "-"}, "db")
	nobody := map[string]string{"AZURE_CLIENT_ID": "-", "AZURE_CLIENT_SECRET": "-", "AZURE_TENANT_ID": "-"}
	const manifest = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n"
	for name, text := range map[string]string{
		"stringData": manifest + "stringData: {clientid: " + kubelet.Client + ", clientsecret: " + clientSecret + "}\n",
		"data": manifest + "data: {clientid: MjIyMjIyMjItMjIyMi0yMjIyLTIyMjItMjIyMjIyMjIyMjIy, " +
			"clientsecret: Y2FuYXJ5LWNsaWVudC1zZWNyZXQtMDgxNQ==}\n",
		"mapping": "clientid: " + kubelet.Client + "\nclientsecret: " + clientSecret + "\n",
	} {
		r := d.run(nobody, "preview", "-f", class, "--node-publish-secret-file", d.file("secret.yaml", text))
		d.secretless(r)
		if r.exit != 0 || !strings.Contains(r.stdout, "as service principal "+kubelet.Client) {
			t.Errorf("%s: %s", name, r)
		}
	}
	r := d.run(nobody, "preview", "-f", class, "--node-publish-secret-file", d.file("secret.yaml", "- canary\n"))
	d.secretless(r)
	if r.exit != 1 || !strings.Contains(r.stderr, "neither the manifest of a Secret") {
		t.Error(r)
	}
}

func TestPreviewAsTheMachine(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	class := d.class("shop", map[string]string{"clientID": "-", "tenantID": "-", "useVMManagedIdentity": "true"}, "db")
	d.ResetRequests()
	r := d.run(nil, "preview", "-f", class, "--as-class")
	if r.exit != 0 || !strings.Contains(r.stdout, "system-assigned managed identity") || !askedAs(d, "machine") {
		t.Error(r)
	}
	// without --as-class it is the person's own
	d.ResetRequests()
	if r := d.run(nil, "preview", "-f", class); r.exit != 0 || !askedAs(d, kubelet.Client) {
		t.Error(r)
	}
}

// askedAs reports whether every secret was requested by the client.
func askedAs(d *session, client string) bool {
	asked := false
	for _, r := range d.Requests() {
		if r.Operation == "get secret" {
			if r.Caller != client {
				return false
			}
			asked = true
		}
	}
	return asked
}

func TestPreviewRefusals(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	good := d.class("shop", nil, "db")
	for name, tc := range map[string]struct {
		args []string
		env  map[string]string
		want string
	}{
		"nothing":         {nil, nil, "no class given"},
		"no such file":    {[]string{"-f", "gone.yaml"}, nil, "gone.yaml"},
		"no class":        {[]string{"-f", d.file("pod.yaml", "kind: Pod\napiVersion: v1\nmetadata: {name: x}\n")}, nil, "no SecretProviderClass"},
		"not YAML":        {[]string{"-f", d.file("broken.yaml", "a: [")}, nil, "broken.yaml:1: error: is not YAML"},
		"mistakes":        {[]string{"-f", d.class("wrong", map[string]string{"keyvaultName": "k_v"}, "db")}, nil, `keyvaultName "k_v"`},
		"format":          {[]string{"-f", good, "-o", "xml"}, nil, "use table, wide, json or yaml"},
		"two identities":  {[]string{"-f", good, "--as-class", "--service-account", "x"}, nil, "mutually exclusive"},
		"annotations":     {[]string{"-f", good, "--service-account-annotations"}, nil, "needs --service-account"},
		"no time":         {[]string{"-f", good, "--timeout", "0s"}, nil, "--timeout"},
		"no cluster":      {[]string{"default/shop"}, nil, "--kubeconfig"},
		"no tokens":       {[]string{"-f", good, "--as-class"}, nil, "no service account token"},
		"wrong secret":    {[]string{"-f", good}, map[string]string{"AZURE_CLIENT_SECRET": "canary-wrong"}, "AADSTS7000215"},
		"nobody":          {[]string{"-f", good}, map[string]string{"AZURE_CLIENT_SECRET": "-", "AZURE_TOKEN_CREDENTIALS": "dev"}, "run `az login`"},
		"bad chain":       {[]string{"-f", good}, map[string]string{"AZURE_TOKEN_CREDENTIALS": "none"}, "AZURE_TOKEN_CREDENTIALS"},
		"unknown cloud":   {[]string{"-f", good, "--cloud", "x"}, nil, "--cloud"},
		"unknown flag":    {[]string{"--nope"}, nil, "unknown flag"},
		"authority":       {[]string{"-f", good, "--ca-file", good}, nil, "--ca-file"},
		"not a reference": {[]string{"a/b/c", "--kubeconfig", kubeconfig(d, "https://127.0.0.1:1")}, nil, "does not name a class"},
	} {
		t.Run(name, func(t *testing.T) {
			d := d.in(t)
			r := d.run(tc.env, append([]string{"preview"}, tc.args...)...)
			d.secretless(r)
			if r.exit != 1 || !strings.Contains(r.stdout+r.stderr, tc.want) {
				t.Error(r)
			}
		})
	}
}

// There is only the person's credential: an unavailable proxy or vault is reported as such.
func TestPreviewOutages(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	class := d.class("shop", nil, "db")
	r := d.run(map[string]string{"HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}, "preview", "-f", class, "-o", "json")
	if found := parse(t, r.stdout); r.exit != 1 || found[0].Error.Reason != "Proxy" {
		t.Error(r)
	}
	d.AddFault(emulator.Fault{Kind: emulator.FaultThrottle, Operation: "get secret", RetryAfter: 600})
	r = d.run(nil, "preview", "-f", class, "-o", "json", "--timeout", "1m")
	if found := parse(t, r.stdout); r.exit != 1 || found[0].Error.Reason != "Throttled" {
		t.Error(r)
	}
}
