package system

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// TestFieldsOfValues: fields of a value become files, all of them or those of paths, and follow a change in one
// generation.
func TestFieldsOfValues(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--rotation-interval", "1s", "--cache-ttl", "0s")
	n.Secret("db", `{"user":"app","password":"p1","port":5432,"hosts":[{"name":"a","main":false},{"name":"b","main":true}]}`)
	n.Secret("settings", "# shop\nexport URL='https://a b'\nDEBUG=\n")
	n.Secret("nested", "a: {b: [1, two]}\n")
	n.Secret("java", "greeting = hi \\\n  there\n")
	n.Class("c", map[string]string{"objects": `array:
- |
  objectName: db
  objectType: secret
  excludeObjectName: true
  jmesPath:
  - {path: password, objectAlias: db/password, filePermission: "0400"}
  - {path: port, objectAlias: db/port}
  - {path: "hosts[?main] | [0].name", objectAlias: db/host}
  - {path: replica, objectAlias: db/replica, optional: true}
- "{objectName: settings, objectType: secret, fields: all, contentFormat: dotenv}"
- "{objectName: nested, objectType: secret, contentFormat: yaml, jmesPath: [{path: a.b, objectAlias: list}]}"
- "{objectName: java, objectType: secret, fields: all, contentFormat: properties, objectAlias: conf/java}"
`})
	must(t, n.Publish("a", "c"))
	for file, want := range map[string]string{
		"db/password": "p1", "db/port": "5432", "db/host": "b", "settings/URL": "https://a b", "settings/DEBUG": "",
		"nested": "a: {b: [1, two]}\n", "list": `[1,"two"]`, "conf/java/greeting": "hi there",
	} {
		if got := n.Read("a", file); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	if info, err := os.Stat(n.Target("a") + "/db/password"); err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("%v, %v", info, err)
	}
	if exists(n, "db/replica") || exists(n, "db.json") {
		t.Error("there are files that the class does not ask for")
	}
	n.Secret("db", `{"user":"app","password":"p2","port":5432,"hosts":[{"name":"c","main":true}],"replica":"r"}`)
	n.Secret("settings", "URL=x\n")
	n.Eventually("the new fields", func() bool {
		return n.Read("a", "db/password") == "p2" && n.Read("a", "db/host") == "c" && exists(n, "db/replica") &&
			n.Read("a", "settings/URL") == "x" && !exists(n, "settings/DEBUG")
	})
	// a value whose fields are gone keeps the files
	n.Secret("db", `{"hunter2":`)
	n.Eventually("the failure", func() bool { return strings.Contains(n.Log(), "the files stay as they are") })
	if n.Read("a", "db/password") != "p2" || strings.Contains(n.Log(), "hunter2") {
		t.Errorf("the files changed, or a value is in the log:\n%s", n.Log())
	}
}

// TestHostileFields: what a vault may hold that is no fields is one clear error without a value, and leaves no mount.
func TestHostileFields(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--cache-ttl", "0s")
	laughs := "a: &a [hunter2,hunter2,hunter2,hunter2,hunter2]\n"
	for c := 'b'; c < 'z'; c++ {
		laughs += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	for name, tc := range map[string]struct{ value, fields, want string }{
		"large":        {`{"a":"` + strings.Repeat("hunter2", 30_000) + `"}`, "fields: all", "of which no fields are read: at most 131072"},
		"deep":         {strings.Repeat(`{"a":`, 5000) + `"hunter2"`, "fields: all", "more than 64 levels deep"},
		"laughs":       {laughs, "fields: all\n  contentFormat: yaml", "more than 20000 fields"},
		"up":           {`{"..":"hunter2"}`, "fields: all", `the field ".." cannot be a file`},
		"up and away":  {`{"../../x":"hunter2"}`, "fields: all", `the field "../../x" cannot be a file`},
		"nul":          {`{"a\u0000b":"hunter2"}`, "fields: all", `the field "a\x00b" cannot be a file`},
		"look-alike":   {`{"․․∕x":"hunter2"}`, "fields: all", "cannot be a file"},
		"data":         {`{"..data":"hunter2"}`, "fields: all", "cannot be a file"},
		"null":         {`{"a":null,"b":"hunter2"}`, "fields: all", `the field "a": no match, or the value is null`},
		"list":         {`["hunter2"]`, "fields: all", "the value is no object"},
		"twice":        {`{"a":1,"a":"hunter2"}`, "fields: all", `the field "a" is a duplicate`},
		"no match":     {`{"b":"hunter2"}`, "jmesPath: [{path: a.b, objectAlias: x}]", `jmesPath "a.b" matches nothing, or null`},
		"wrong type":   {`{"a":"hunter2"}`, "jmesPath: [{path: 'sum(a)', objectAlias: x}]", `jmesPath "sum(a)" cannot be evaluated on the value`},
		"doubling":     {`{"a":["hunter2"]}`, "jmesPath: [{path: '" + "a" + strings.Repeat("|[@,@][]", 80) + "', objectAlias: x}]", "needs more than 128 MiB of memory"},
		"huge padding": {`{"a":"hunter2"}`, "jmesPath: [{path: 'pad_left(a, `9000000000`)', objectAlias: x}]", "jmesPath"},
	} {
		n.Secret("s", tc.value)
		n.Class("c", map[string]string{"objects": "array:\n- |\n  objectName: s\n  objectType: secret\n  " + tc.fields + "\n"})
		err := n.Publish("a", "c")
		if status.Code(err) != codes.FailedPrecondition && status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || len(err.Error()) > 700) {
			t.Errorf("%s: a value is in the error, or it is long: %v", name, err)
		}
		if len(n.Targets()) != 0 {
			t.Fatalf("%s: a mount is left", name)
		}
	}
	if strings.Contains(n.Log(), "hunter2") {
		t.Errorf("a value is in the log:\n%s", n.Log())
	}
}

// TestTemplatesOfFiles: templates make files of a class's objects, follow them, keep the files when they fail, and make
// the same key store after a restart.
func TestTemplatesOfFiles(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed+`
  certificates:
  - {name: web, subject: web.example.com, chain: 2}
  - {name: other, contentType: application/x-pem-file, subject: other.example.com, chain: 1, keyType: EC}
`, "--rotation-interval", "1s", "--cache-ttl", "0s")
	n.Secret("db", `{"user":"app","password":"p1"}`)
	n.Secret("word", "changeit")
	n.Class("c", map[string]string{
		"metadataFile": "about.json",
		"objects": kubelet.Objects("db", "word", "web", "other") +
			"- '{objectName: extra, objectType: secret, optional: true}'\n",
		"templates": `array:
- |
  path: conf/app.properties
  filePermission: "0400"
  template: |
    {{- with json "db" }}
    login={{ .user }}/{{ .password | urlquery }}
    {{- end }}
    extra={{ if hasFile "extra" }}{{ file "extra" }}{{ else }}none{{ end }}
- |
  path: web.p12
  template: '{{ pkcs12 "web" (file "word") }}'
- |
  path: web.jks
  template: '{{ jks "web" (file "word") }}'
- |
  path: ca.pem
  template: '{{ caBundle "web" "other" }}'
`})
	must(t, n.Publish("a", "c"))
	if got := n.Read("a", "conf/app.properties"); got != "\nlogin=app/p1\nextra=none\n" {
		t.Errorf("%q", got)
	}
	if info, err := os.Stat(n.Target("a") + "/conf/app.properties"); err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("%v, %v", info, err)
	}
	store, jks := n.Read("a", "web.p12"), n.Read("a", "web.jks")
	if _, leaf, issuers, err := pkcs12.DecodeChain([]byte(store), "changeit"); err != nil || leaf.Subject.CommonName != "web.example.com" || len(issuers) != 2 {
		t.Errorf("%v, %v, %d issuers", err, leaf, len(issuers))
	}
	if found := blocks(t, n.Read("a", "ca.pem")); len(found) != 3 {
		t.Errorf("%d certificates in the bundle, want 3", len(found))
	}
	if d := readAbout(t, n, "a")["web.jks"]; !d.Template {
		t.Errorf("%+v", d)
	}
	generation := generationOf(t, n, "a")
	n.Stop(syscall.SIGTERM)
	n.Run() // a new process, which has other keys for its hashes
	must(t, n.Publish("a", "c"))
	must(t, n.Publish("b", "c"))
	if n.Read("b", "web.p12") != store || n.Read("b", "web.jks") != jks {
		t.Error("another process makes other key stores")
	}
	n.Emulator.ResetRequests()
	n.Eventually("a refresh of all objects", func() bool { return len(n.Emulator.Requests()) > 20 })
	if generationOf(t, n, "a") != generation {
		t.Error("files were written though nothing changed")
	}
	n.Secret("extra", "x")
	n.Secret("db", `{"user":"app","password":"p 2"}`)
	n.Eventually("the new file", func() bool {
		return n.Read("a", "conf/app.properties") == "\nlogin=app/p+2\nextra=x\n"
	})
	if n.Read("a", "web.p12") != store || generationOf(t, n, "a") == generation {
		t.Error("the key store changed, or there is no new generation")
	}
	n.Secret("db", `{"user":"hunter2"}`)
	n.Eventually("the failure", func() bool {
		return strings.Contains(n.Log(), `template \"conf/app.properties\", line 2: there is no field \"password\"`)
	})
	if n.Read("a", "conf/app.properties") != "\nlogin=app/p+2\nextra=x\n" || strings.Contains(n.Log(), "hunter2") {
		t.Errorf("the files changed, or a value is in the log:\n%s", n.Log())
	}
}

// generationOf names the generation of a Pod's files.
func generationOf(t *testing.T, n *kubelet.Node, pod string) string {
	t.Helper()
	target, err := os.Readlink(n.Target(pod) + "/..data")
	must(t, err)
	return target
}

// readAbout returns the entries of a Pod's metadata file by path.
func readAbout(t *testing.T, n *kubelet.Node, pod string) map[string]struct{ Template bool } {
	t.Helper()
	var document struct {
		Files []struct {
			Path     string
			Template bool
		}
	}
	must(t, json.Unmarshal([]byte(n.Read(pod, "about.json")), &document))
	all := map[string]struct{ Template bool }{}
	for _, d := range document.Files {
		all[d.Path] = struct{ Template bool }{d.Template}
	}
	return all
}

// TestHostileTemplates: a template that is wrong, never ends or never stops growing is one clear error that names it,
// without a value; nothing is mounted, and others are not held up.
func TestHostileTemplates(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--cache-ttl", "0s")
	n.Secret("s", "hunter2")
	for name, tc := range map[string]struct{ template, want string }{
		"syntax":       {`{{ if }}`, `templates[0] "out" template is not a template: missing value for if`},
		"unknown file": {`{{ file "t" }}`, `names the file "t", which no object of the class makes`},
		"environment":  {`{{ env "HOME" }}`, "calls env, which templates cannot use: it reads the environment"},
		"recursion":    {`{{ define "d" }}{{ template "d" }}{{ end }}{{ template "d" }}`, `template "out": calls itself without an end`},
		"endless":      {`{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}`, `template "out": does not end within 1 second of processor time`},
		"doubling":     {`{{ $x := file "s" }}{{ range until 60 }}{{ $x = print $x $x }}{{ end }}`, `template "out": needs more than 128 MiB of memory`},
		"output":       {`{{ file "s" | repeat 100000 }}{{ file "s" | repeat 100000 }}`, `template "out": makes more than 1048576 bytes`},
		"fail":         {`{{ fail (file "s") }}`, `template "out", line 1: fail: the template calls fail`},
		"type":         {`{{ (json "s").x }}`, `template "out", line 1: json: the value is not JSON`},
		"key store":    {`{{ pkcs12 "s" "x" }}`, `template "out", line 1: pkcs12: file "s": the file is neither PEM nor PFX`},
		"made-up path": {`{{ file (print "../" "s") }}`, `template "out", line 1: file: the class has no such file`},
		"driver's own": {`{{ file (print "/proc/self" "/environ") }}`, `template "out", line 1: file: the class has no such file`},
	} {
		text, err := json.Marshal(map[string]string{"path": "out", "template": tc.template})
		must(t, err)
		items, err := json.Marshal(map[string][]string{"array": {string(text)}})
		must(t, err)
		n.Class("c", map[string]string{"objects": kubelet.Objects("s"), "templates": string(items)})
		err = n.Publish("a", "c")
		slow := err != nil && strings.Contains(tc.want, "memory") && strings.Contains(err.Error(), "processor time") // the other limit came first
		if status.Code(err) != codes.FailedPrecondition && status.Code(err) != codes.InvalidArgument || !slow && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") || len(n.Targets()) != 0 {
			t.Errorf("%s: a value is in the error, or a mount is left: %v", name, err)
		}
	}
	n.Class("fine", map[string]string{"objects": kubelet.Objects("s"), "templates": "array: ['{path: out, template: \"{{ file `s` }}!\"}']"})
	must(t, n.Publish("b", "fine"))
	if n.Read("b", "out") != "hunter2!" || strings.Contains(n.Log(), "hunter2") {
		t.Errorf("%s\n%s", n.Read("b", "out"), n.Log())
	}
}
