package cli

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

// Mistakes in templates and expressions have the line of the class's file, all of them at once.
func TestValidateTemplates(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	class := d.file("class.yaml", goodClass+`        jmesPath:
        - path: db-password
          objectAlias: password
        - {path: "a[", objectAlias: open}
    templates: |
      array:
      - |
        path: app.conf
        template: |
          # line 24
          user={{ env "USER" }}
          {{ file "password" }}
          {{ file "passwrd" }}
      - |
        path: other.conf
        template: "{{ if }}"
`)
	r := d.run(nil, "validate", "-f", class)
	for _, want := range []string{
		`:16: error: shop/app: objects[0] "db" jmesPath[0].path "db-password" is a subtraction to JMESPath: quote a name that has hyphens`,
		`:18: error: shop/app: objects[0] "db" jmesPath[1].path "a[" is not a JMESPath expression`,
		`:25: error: shop/app: templates[0] "app.conf" template calls env, which templates cannot use: it reads the environment`,
		`:30: error: shop/app: templates[1] "other.conf" template is not a template: missing value for if`,
	} {
		if !strings.Contains(r.stdout, class+want) {
			t.Errorf("no %q in\n%s", want, r)
		}
	}
	// files are looked for once it is known what the objects make
	class = d.file("class.yaml", strings.Replace(goodClass, "objects: |", "templates: |\n      array:\n      - |\n        path: x\n        template: |\n"+
		"          a\n          {{ file \"dc\" }}\n    objects: |", 1))
	r = d.run(nil, "validate", "-f", class)
	if want := class + `:16: error: shop/app: templates[0] "x" template names the file "dc", which no object of the class makes: did you mean db?`; r.exit != 1 ||
		!strings.Contains(r.stdout, want) {
		t.Errorf("no %q in\n%s", want, r)
	}
}

// preview makes fields and templates as the driver does, check says whether they can be made, and neither shows a value.
func TestPreviewAndCheckTemplates(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	if _, err := d.SetSecret("contoso", emulator.Secret{Name: "json", Value: `{"user":"app","password":"` + canary + `"}`}); err != nil {
		t.Fatal(err)
	}
	class := func(template string) string {
		return d.class("shop", map[string]string{
			"objects":   "array:\n- '{objectName: json, objectType: secret, excludeObjectName: true, jmesPath: [{path: user, objectAlias: db/user}, {path: password, objectAlias: db/password}]}'\n",
			"templates": "array:\n- |\n  path: app.conf\n  filePermission: '0400'\n  template: '" + template + "'\n",
		})
	}
	good := class(`{{ file "db/user" }}:{{ file "db/password" }}`)
	r := d.run(nil, "preview", "-f", good, "-o", "json")
	d.secretless(r)
	found := parse(t, r.stdout)
	if r.exit != 0 || len(found) != 1 {
		t.Fatal(r)
	}
	var lines []string
	for _, f := range found[0].Files {
		lines = append(lines, fmt.Sprintf("%s %s %d %s", f.Path, f.Mode, f.Size, f.Object))
	}
	size := len(canary)
	want := fmt.Sprintf("app.conf 0400 %d template, db/password 0644 %d secret/json, db/user 0644 3 secret/json", size+4, size)
	if got := strings.Join(lines, ", "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	r = d.run(nil, "preview", "-f", good, "--reveal")
	if !strings.Contains(r.stdout, "--- app.conf\napp:"+canary+"\n") {
		t.Error(r)
	}
	r = d.run(nil, "check", "-f", good, "-o", "json")
	d.secretless(r)
	if steps := parseChecks(t, r)[0].Steps; r.exit != 0 || steps[len(steps)-1].Step != "templates" || steps[len(steps)-1].Name != "app.conf" {
		t.Error(r)
	}
	bad := class(`{{ fail (file "db/password") }}`)
	for _, command := range []string{"preview", "check"} {
		r = d.run(nil, command, "-f", bad, "-o", "json")
		d.secretless(r)
		if r.exit != 1 || !strings.Contains(r.stdout, `template \"app.conf\", line 1: fail: the template calls fail`) {
			t.Errorf("%s: %s", command, r)
		}
	}
	// the program that makes files is looked for beside the tool
	alone := filepath.Join(d.dir, "keyvault-csi")
	// by another process: a program that another test starts meanwhile would inherit the file while it is written, which then cannot be run
	if out, err := exec.CommandContext(t.Context(), "cp", binaries.Driver(t), alone).CombinedOutput(); err != nil { //nolint:gosec // the test's own
		t.Fatalf("%v: %s", err, out)
	}
	c := d.command(nil, "preview", "-f", good)
	c.Path = alone
	if out, err := c.CombinedOutput(); err == nil || !strings.Contains(string(out), filepath.Join(d.dir, "keyvault-render")+" cannot be run") {
		t.Errorf("%v: %s", err, out)
	}
}
