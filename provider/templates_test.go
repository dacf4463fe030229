package provider_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider"
	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

// counted returns a program that runs keyvault-render, and how often it was run.
func counted(t *testing.T) (program string, runs func() int) {
	t.Helper()
	dir := t.TempDir()
	program, log := filepath.Join(dir, "render"), filepath.Join(dir, "log")
	script := fmt.Sprintf("#!/bin/sh\necho run >>%s\nexec %s\n", log, binaries.Render(t))
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	return program, func() int {
		data, _ := os.ReadFile(log)
		return strings.Count(string(data), "run\n")
	}
}

func (w *world) secret(t *testing.T, name, value string) {
	t.Helper()
	if _, err := w.SetSecret("contoso", emulator.Secret{Name: name, Value: value}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) fetch(t *testing.T, b volume.Binding) *volume.Bundle {
	t.Helper()
	bundle, err := b.Fetch(t.Context(), volume.FetchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

// A template is run where one of its inputs changed, with all others that must be in one process, and not otherwise; its
// file has the sources of its inputs.
func TestTemplatesRunWhereAnInputChanged(t *testing.T) {
	program, runs := counted(t)
	w := newWorld(t, func(o *provider.Options) { o.RenderProgram, o.CacheTTL = program, 0 })
	b := w.bind(t, w.request(map[string]string{
		"templates": "array:\n- '{path: both, template: \"{{ file `one` }}-{{ file `two` }}\"}'\n" +
			"- '{path: first, filePermission: \"0400\", template: \"1={{ file `one` }}\"}'\n- '{path: fixed, template: text}'\n",
	}, "one", "two"))
	content := func(bundle *volume.Bundle) string {
		var all []string
		for _, f := range bundle.Files {
			all = append(all, f.Path+"="+string(f.Data))
		}
		return strings.Join(all, " ")
	}
	first := w.fetch(t, b)
	if got := content(first); got != "one=1 two=2 both=1-2 first=1=1 fixed=text" || runs() != 1 {
		t.Errorf("%s after %d runs", got, runs())
	}
	names := func(f volume.File) (names []string) {
		for _, k := range append([]volume.SourceKey{f.Source}, f.Others...) {
			names = append(names, k.Name)
		}
		return names
	}
	for path, want := range map[string][]string{"one": {"one"}, "both": {"one", "two"}, "first": {"one"}, "fixed": {"one", "two"}} {
		i := slices.IndexFunc(first.Files, func(f volume.File) bool { return f.Path == path })
		if got := names(first.Files[i]); !slices.Equal(got, want) {
			t.Errorf("%s is made of %v, want %v", path, got, want)
		}
		if made := first.Files[i].Template; made != (path != "one") {
			t.Errorf("%s is made by a template: %t", path, made)
		}
	}
	if w.fetch(t, b); runs() != 1 {
		t.Errorf("%d runs though nothing changed", runs())
	}
	w.secret(t, "two", "3")
	if got := content(w.fetch(t, b)); got != "one=1 two=3 both=1-3 first=1=1 fixed=text" || runs() != 2 {
		t.Errorf("%s after %d runs", got, runs())
	}
	w.secret(t, "two", "2") // as it was: known still
	if got := content(w.fetch(t, b)); got != "one=1 two=2 both=1-2 first=1=1 fixed=text" || runs() != 2 {
		t.Errorf("%s after %d runs", got, runs())
	}
}

// Plain paths need no process; an expression that is none is evaluated in one.
func TestFields(t *testing.T) {
	program, runs := counted(t)
	w := newWorld(t, func(o *provider.Options) { o.RenderProgram, o.CacheTTL = program, 0 })
	w.secret(t, "db", `{"user":"a","port":5432,"hosts":[{"n":"x"},{"n":"y"}],"none":null}`)
	file := func(entries ...string) string {
		return "array:\n- |\n  objectName: db\n  objectType: secret\n" + strings.Join(entries, "")
	}
	for name, c := range map[string]struct {
		objects, want string
		runs          int
	}{
		"plain": {file("  jmesPath:\n  - {path: user, objectAlias: user}\n  - {path: 'hosts[1].n', objectAlias: d/host}\n"),
			`db={"user":"a","port":5432,"hosts":[{"n":"x"},{"n":"y"}],"none":null} user=a d/host=y`, 0},
		"without the whole": {file("  excludeObjectName: 'true'\n  jmesPath:\n  - {path: port, objectAlias: port, filePermission: '0400'}\n"), "port=5432", 0},
		"optional":          {file("  excludeObjectName: true\n  jmesPath:\n  - {path: none, objectAlias: n, optional: true}\n  - {path: hosts, objectAlias: h}\n"), `h=[{"n":"x"},{"n":"y"}]`, 0},
		"an expression": {file("  excludeObjectName: true\n  jmesPath:\n  - {path: \"hosts[?n=='y'] | [0].n\", objectAlias: y}\n" +
			"  - {path: user, objectAlias: u}\n  - {path: 'length(hosts)', objectAlias: l}\n  - {path: 'max(a)', objectAlias: m, optional: true}\n"), "", 1},
		"an expression that matches": {file("  excludeObjectName: true\n  jmesPath:\n  - {path: \"hosts[?n=='y'] | [0].n\", objectAlias: y}\n" +
			"  - {path: user, objectAlias: u}\n  - {path: 'length(hosts)', objectAlias: l}\n  - {path: 'a || b', objectAlias: m, optional: true}\n"), "y=y u=a l=2", 1},
	} {
		before := runs()
		bundle, err := w.bind(t, w.request(map[string]string{"objects": c.objects})).Fetch(t.Context(), volume.FetchOptions{})
		var got []string
		if err == nil {
			for _, f := range bundle.Files {
				got = append(got, f.Path+"="+string(f.Data))
			}
		}
		if strings.Join(got, " ") != c.want || (err != nil) != (c.want == "") || runs()-before != c.runs {
			t.Errorf("%s: %q, %v, %d runs", name, got, err, runs()-before)
		}
	}
	again := w.bind(t, w.request(map[string]string{"objects": file("  jmesPath: [{path: 'length(hosts)', objectAlias: n}, {path: 'x || y', objectAlias: o, optional: true}]\n")}))
	before := runs()
	if w.fetch(t, again); runs() != before+1 {
		t.Errorf("%d runs of new expressions", runs()-before)
	}
	if bundle := w.fetch(t, again); runs() != before+1 || string(bundle.Files[1].Data) != "2" || len(bundle.Files) != 2 {
		t.Errorf("%d runs though nothing changed: %+v", runs()-before, bundle.Files)
	}
	w.secret(t, "db", `{"a/b":"x"}`)
	_, err := w.bind(t, w.request(map[string]string{"objects": file("  fields: all\n")})).Fetch(t.Context(), volume.FetchOptions{})
	if err == nil || !strings.Contains(err.Error(), `the field "a/b" cannot be a file`) {
		t.Errorf("%v", err)
	}
	w.secret(t, "db", `{"b":{"c":[1, 2]},"a":"x"}`)
	bundle := w.fetch(t, w.bind(t, w.request(map[string]string{"objects": file("  fields: all\n")})))
	if f := bundle.Files; len(f) != 2 || f[0].Path != "db/a" || string(f[0].Data) != "x" || f[1].Path != "db/b" || string(f[1].Data) != `{"c":[1,2]}` {
		t.Errorf("%+v", f)
	}
	if o := bundle.Objects; len(o) != 1 || o[0].Path != "db/a" {
		t.Errorf("%+v", o)
	}
}

func TestTemplatesNeedTheProgram(t *testing.T) {
	w := newWorld(t, func(o *provider.Options) { o.RenderProgram = filepath.Join(t.TempDir(), "keyvault-render") })
	b := w.bind(t, w.request(map[string]string{"templates": "array: ['{path: t, template: x}']"}, "one"))
	_, err := b.Fetch(t.Context(), volume.FetchOptions{})
	if volume.ReasonOf(err) != volume.ReasonInternal || !strings.Contains(err.Error(), "install it there") {
		t.Errorf("%v", err)
	}
}
