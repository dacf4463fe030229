package cli

import (
	"maps"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

type step struct {
	Step, Name, Status, Message, Reason, RequestID string
	Way                                            []struct{ Name, Detail string }
}

type checkedClass struct {
	Class, Origin string
	OK            bool
	Steps         []step
	Warnings      []string
}

func parseChecks(t *testing.T, r result) []checkedClass {
	t.Helper()
	var found []checkedClass
	if err := yaml.UnmarshalStrict([]byte(r.stdout), &found); err != nil {
		t.Fatalf("%v\n%s", err, r)
	}
	return found
}

func TestCheckGoesOnAfterEachFailure(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	class := d.class("shop", map[string]string{"objects": `array:
- "{objectName: off, objectType: secret}"
- "{objectName: db, objectType: secret}"
- "{objectName: gone, objectType: key}"
- "{objectName: tls, objectType: cert, objectAlias: cert.pem}"
- "{objectName: old, objectType: secret}"
- "{objectName: next, objectType: secret}"
- "{objectName: many, objectType: secret, objectVersionHistory: 5}"
- "{objectName: db, objectType: secret, objectEncoding: hex, objectAlias: hex}"
`})
	for _, format := range []string{"json", "yaml"} {
		r := d.run(nil, "check", "-f", class, "-o", format)
		d.secretless(r)
		found := parseChecks(t, r)
		if r.exit != 1 || len(found) != 1 || found[0].OK {
			t.Fatal(r)
		}
		var got []string
		for _, s := range found[0].Steps {
			got = append(got, s.Step+" "+s.Name+" "+s.Status+" "+s.Reason)
			if s.Reason != "" && s.Step == "object" && s.Reason != "InvalidContent" && s.RequestID == "" {
				t.Errorf("no request id: %+v", s)
			}
		}
		const want = `class default/shop ok 
identity you ok 
vault contoso.vault.azure.net ok 
object secret/off disabled Disabled
object secret/db ok 
object key/gone missing NotFound
object cert/tls denied Permission
object secret/old expired 
object secret/next not-yet-valid 
object secret/many ok 
object secret/db invalid InvalidContent`
		if text := strings.Join(got, "\n"); text != want {
			t.Errorf("got\n%s", text)
		}
		for _, part := range []struct {
			step int
			text string
		}{
			{1, "client id 22222222-2222-2222-2222-222222222222, object id 22222222-0000-0000-0000-000000000000, tenant 11111111-"},
			{2, "a vault of tenant 11111111-1111-1111-1111-111111111111"}, {3, "enable it"}, {6, "Key Vault Reader"},
			{7, "2020-01-01T00:00:00Z"}, {9, "2 versions"},
		} {
			if m := found[0].Steps[part.step].Message; !strings.Contains(m, part.text) {
				t.Errorf("%q lacks %q", m, part.text)
			}
		}
		way := found[0].Steps[2].Way
		if len(way) != 3 || way[0].Name != "proxy" || way[1].Name != "tcp" || way[2].Name != "tls" || !strings.Contains(way[2].Detail, "TLS 1.3") {
			t.Errorf("%+v", way)
		}
	}
}

func TestCheckTable(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	r := d.run(nil, "check", "-f", d.class("shop", nil, "db", "off"))
	d.secretless(r)
	want := regexp.MustCompile(`^default/shop  \(\S+\)

STATUS    STEP      NAME
ok        class     default/shop
    2 objects
ok        identity  you
    token for client id .*
ok        vault     contoso.vault.azure.net
    proxy: through the HTTP proxy 127.0.0.1:\d+
    tcp: connected to 127.0.0.1:\d+ \(\S+\)
    tls: TLS 1.3, certificate of "[^"]+" until \S+ \(\S+\)
    answers as a vault of tenant 11111111-1111-1111-1111-111111111111
ok        object    secret/db
    version 0123456789abcdef0123456789abcdef
disabled  object    secret/off
    vault contoso.vault.azure.net: secret "off": it is disabled: .*
$`)
	if r.exit != 1 || r.stderr != "" || !want.MatchString(r.stdout) {
		t.Error(r)
	}
	if r := d.run(nil, "check", "-f", d.class("good", nil, "db")); r.exit != 0 {
		t.Error(r)
	}
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		parameters map[string]string
		env        map[string]string
		fault      *emulator.Fault
		args       []string
		step       string // "step status", of the first that is not ok
		want       string // in its message
	}{
		"class":             {map[string]string{"keyvaultName": "k_v"}, nil, nil, nil, "class invalid", `keyvaultName "k_v"`},
		"provider":          {map[string]string{"keyvaultName": "-"}, nil, nil, nil, "class invalid", "keyvaultName"},
		"client secret":     {nil, map[string]string{"AZURE_CLIENT_SECRET": "canary-x"}, nil, nil, "identity refused", "AADSTS7000215"},
		"expired secret":    {nil, map[string]string{"AZURE_CLIENT_SECRET": "canary-old"}, nil, nil, "identity refused", "AADSTS7000222"},
		"unknown client":    {nil, map[string]string{"AZURE_CLIENT_ID": "nobody"}, nil, nil, "identity refused", "AADSTS700016"},
		"nobody":            {nil, map[string]string{"AZURE_TENANT_ID": "-", "AZURE_TOKEN_CREDENTIALS": "dev"}, nil, nil, "identity refused", "az login"},
		"no pod's token":    {nil, nil, nil, []string{"--as-class"}, "identity refused", "no service account token"},
		"role":              {map[string]string{"objects": "array:\n- '{objectName: tls, objectType: cert}'\n"}, nil, nil, nil, "object denied", "Key Vault Reader"},
		"access policy":     {map[string]string{"keyvaultName": "policies"}, nil, nil, nil, "object denied", `add "secret get" to its access policy`},
		"firewall":          {map[string]string{"keyvaultName": "behind"}, nil, nil, nil, "object blocked", "networking"},
		"vault's tenant":    {map[string]string{"keyvaultName": "foreign"}, nil, nil, nil, "vault refused", "belongs to tenant 99999999-9999-9999-9999-999999999999"},
		"no such vault":     {map[string]string{"keyvaultName": "nowhere"}, nil, nil, nil, "vault unreachable", "nowhere.vault.azure.net"},
		"authority unknown": {nil, map[string]string{"SSL_CERT_FILE": "/dev/null"}, nil, nil, "identity unreachable", "--ca-file"},
		"throttled":         {nil, nil, &emulator.Fault{Kind: emulator.FaultThrottle, Operation: "get secret", Name: "db"}, nil, "object throttled", "fewer requests"},
		"vault down":        {nil, nil, &emulator.Fault{Kind: emulator.FaultStatus, Status: 503, Host: "contoso.vault.azure.net"}, nil, "vault unreachable", "503"},
		"a proxy's page":    {nil, nil, &emulator.Fault{Kind: emulator.FaultHTML, Operation: "get secret", Name: "db"}, nil, "object unreachable", "502"},
		"proxy refuses":     {nil, nil, &emulator.Fault{Kind: emulator.FaultConnect, Status: 407, Host: "contoso.vault.azure.net"}, nil, "vault unreachable", "HTTPS_PROXY"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newSession(t)
			if tc.fault != nil {
				d.AddFault(*tc.fault)
			}
			parameters := map[string]string{}
			maps.Copy(parameters, tc.parameters)
			objects := []string{"db"}
			if parameters["objects"] != "" {
				objects = nil
			}
			class := d.class("shop", parameters, objects...)
			r := d.run(tc.env, append([]string{"check", "-f", class, "-o", "json", "--timeout", "1m"}, tc.args...)...)
			d.secretless(r)
			found := parseChecks(t, r)
			if r.exit != 1 || len(found) != 1 || found[0].OK {
				t.Fatal(r)
			}
			for _, s := range found[0].Steps {
				if s.Status == "ok" {
					continue
				}
				if s.Step+" "+s.Status != tc.step || !strings.Contains(s.Message, tc.want) {
					t.Error(r)
				}
				return
			}
			t.Error(r)
		})
	}
}

// Where there is no token or no way, the objects are not blamed.
func TestCheckSkipsWhatCannotBeAsked(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	class := d.class("shop", map[string]string{"objects": "array:\n- '{objectName: db, objectType: secret}'\n"})
	d.ResetRequests()
	r := d.run(map[string]string{"AZURE_CLIENT_SECRET": "canary-x"}, "check", "-f", class, "-o", "json")
	steps := parseChecks(t, r)[0].Steps
	if len(steps) != 4 || steps[2].Status != "ok" || steps[3].Status != "skipped" {
		t.Error(r)
	}
	for _, asked := range d.Requests() {
		if asked.Host == "contoso.vault.azure.net" && asked.Caller != "" {
			t.Errorf("%+v", asked)
		}
	}
}

func TestCheckTellsWarnings(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	class := d.class("shop", map[string]string{"objectz": "x"}, "db")
	r := d.run(nil, "check", "-f", class)
	if r.exit != 0 || !strings.Contains(r.stdout, "warning  objectz is an unknown parameter") {
		t.Error(r)
	}
}
