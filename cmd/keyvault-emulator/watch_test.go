package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

const (
	reloaded = "the seed is reloaded"
	refused  = "the seed is refused, and what was before stays"
)

// secretSeed is a seed with a secret of each name.
func secretSeed(names ...string) []byte {
	text := "vaults:\n- name: contoso\n  tenant: t\n  secrets:\n"
	for _, name := range names {
		text += "  - {name: " + name + ", value: v}\n"
	}
	return []byte(text)
}

func put(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestSeedIsReloaded changes the seed of a running emulator in each way in which files are changed.
func TestSeedIsReloaded(t *testing.T) {
	for name, changes := range map[string]struct {
		// begin makes the seed's file of a directory with a secret one, and change has it hold the secrets of another text.
		begin  func(t *testing.T, dir string) (file string)
		change func(t *testing.T, dir string, text []byte)
	}{
		"written in place": {
			func(t *testing.T, dir string) string {
				t.Helper()
				put(t, filepath.Join(dir, "seed.yaml"), secretSeed("one"))
				return filepath.Join(dir, "seed.yaml")
			},
			func(t *testing.T, dir string, text []byte) {
				t.Helper()
				put(t, filepath.Join(dir, "seed.yaml"), text)
			},
		},
		"renamed over it": {
			func(t *testing.T, dir string) string {
				t.Helper()
				put(t, filepath.Join(dir, "seed.yaml"), secretSeed("one"))
				return filepath.Join(dir, "seed.yaml")
			},
			func(t *testing.T, dir string, text []byte) {
				t.Helper()
				put(t, filepath.Join(dir, "new"), text)
				must(t, os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "seed.yaml")))
			},
		},
		"as kubelet changes a ConfigMap": {
			func(t *testing.T, dir string) string {
				t.Helper()
				must(t, os.Mkdir(filepath.Join(dir, "..1"), 0o700))
				put(t, filepath.Join(dir, "..1", "seed.yaml"), secretSeed("one"))
				must(t, os.Symlink("..1", filepath.Join(dir, "..data")))
				must(t, os.Symlink("..data/seed.yaml", filepath.Join(dir, "seed.yaml")))
				return filepath.Join(dir, "seed.yaml")
			},
			func(t *testing.T, dir string, text []byte) {
				t.Helper()
				next, err := os.MkdirTemp(dir, "..2") //nolint:usetesting // beside the links
				must(t, err)
				put(t, filepath.Join(next, "seed.yaml"), text)
				must(t, os.Symlink(filepath.Base(next), filepath.Join(dir, "..data_tmp")))
				must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			p := launch(t, "--seed="+changes.begin(t, dir))
			if status, body := p.ask(http.MethodPost, "/vaults/contoso/secrets", `{"name":"mine","value":"v"}`); status != http.StatusOK {
				t.Fatal(status, body)
			}
			changes.change(t, dir, secretSeed("one", "two"))
			if line := p.waitFor(reloaded, 0); line["versions"] != 1.0 || line["deleted"] != 0.0 {
				t.Errorf("%v", line)
			}
			changes.change(t, dir, []byte("vaults:\n- name: contoso\n  network: closed\n"))
			if line := p.waitFor(refused, 0); !strings.HasSuffix(fmt.Sprint(line["error"]),
				`/seed.yaml: seed: vaults[contoso].network: unknown network "closed": firewall, private, or empty`) {
				t.Errorf("%v", line)
			}
			changes.change(t, dir, secretSeed("two"))
			if line := p.waitFor(reloaded, 1); line["versions"] != 0.0 || line["deleted"] != 1.0 {
				t.Errorf("%v", line)
			}
			for name, want := range map[string]string{"one": "; it is deleted", "two": "1 versions of", "mine": "1 versions of"} {
				if status, body := p.ask(http.MethodGet, "/page/vaults/contoso/secrets/"+name, ""); status != http.StatusOK || !strings.Contains(body, want) {
					t.Errorf("%s: %d %s", name, status, body)
				}
			}
		})
	}
}

// TestSeedThatGoesAway: what is no seed is refused once, and the next seed is taken.
func TestSeedThatGoesAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "seed.yaml")
	put(t, file, secretSeed("one"))
	p := launch(t, "--seed="+file)
	for i, bad := range []struct {
		make func() error
		want string
	}{
		{func() error { return os.Remove(file) }, "no such file or directory: put it back"},
		{func() error { return os.Mkdir(file, 0o700) }, "is not a file: put a YAML file in its place"},
		{func() error { return errors.Join(os.Remove(file), os.Symlink(file, file)) }, "too many levels of symbolic links"},
		{func() error { return errors.Join(os.Remove(file), syscall.Mkfifo(file, 0o600)) }, "is not a file"},
		{func() error { return errors.Join(os.Remove(file), os.WriteFile(file, nil, 0o600)) }, "seed: it is empty"},
		{func() error { return os.WriteFile(file, []byte("vaults: ["), 0o600) }, "seed: yaml: line 1"},
		{func() error { return os.Truncate(file, mostSeed+1) }, "is larger than 16 MiB: make it smaller"},
	} {
		must(t, bad.make())
		if line := p.waitFor(refused, i); !strings.Contains(fmt.Sprint(line["error"]), bad.want) || strings.Contains(fmt.Sprint(line["error"]), "\n") {
			t.Errorf("%s: %v", bad.want, line)
		}
	}
	put(t, file, secretSeed("one", "two"))
	if line := p.waitFor(reloaded, 0); line["versions"] != 1.0 {
		t.Errorf("%v", line)
	}
	if again := p.messages(refused); len(again) != 7 {
		t.Errorf("what is refused is said again: %d times", len(again))
	}
}

// TestSeedThatIsBeingWritten: what a look finds is taken when the next one finds it too.
func TestSeedThatIsBeingWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "seed.yaml")
	put(t, file, secretSeed("one", "two"))
	f := flags{seedFile: file}
	o, err := f.options(t.Context(), slog.New(slog.DiscardHandler))
	must(t, err)
	server, err := emulator.New(o)
	must(t, err)
	w := f.watch(server, slog.New(slog.DiscardHandler))
	var applied []int
	w.reload = func(seed emulator.Seed) (emulator.SeedChanges, error) {
		applied = append(applied, len(seed.Vaults[0].Secrets))
		if len(applied) == 2 {
			panic("defect")
		}
		return emulator.SeedChanges{}, nil
	}
	for _, names := range [][]string{
		{"one", "two"}, {"one"}, {"one", "two", "three"}, {"one"}, {"one", "two", "three"}, {"one", "two", "three"}, {"one", "two", "three"},
		{"one"}, {"one"}, {"one"}, {"one", "two"}, {"one", "two"},
	} {
		put(t, file, secretSeed(names...))
		w.look(t.Context())
	}
	if fmt.Sprint(applied) != "[3 1 2]" {
		t.Errorf("seeds with %v secrets were applied", applied)
	}
}

// TestSeedFromAPipe is read once.
func TestSeedFromAPipe(t *testing.T) {
	f := flags{seedFile: filepath.Join(t.TempDir(), "seed.yaml")}
	must(t, syscall.Mkfifo(f.seedFile, 0o600))
	go func() { _ = os.WriteFile(f.seedFile, secretSeed("one"), 0o600) }()
	o, err := f.options(t.Context(), slog.New(slog.DiscardHandler))
	must(t, err)
	if len(o.Seed.Vaults) != 1 {
		t.Errorf("%+v", o.Seed)
	}
	if w := f.watch(nil, nil); w.file != "" {
		t.Error("it is watched")
	}
}

// TestWrongSeedAtTheStart ends the emulator with one line that names file, field, value and fix.
func TestWrongSeedAtTheStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "seed.yaml")
	put(t, file, []byte("vaults:\n- {name: contoso, retentionDays: 5}\n- {name: fabrikam, keys: [{name: k, type: DSA}]}\n"))
	c := command()
	c.SetArgs([]string{"--seed", file, "--listen", "127.0.0.1:0"})
	c.SetErr(new(strings.Builder))
	want := file + `: seed: vaults[contoso].retentionDays: 5 days are not between 7 and 90; vaults[fabrikam].keys[k]: key type "DSA" is not known: ` +
		"one of RSA, RSA-HSM, EC, EC-HSM, oct and oct-HSM"
	if err := c.ExecuteContext(t.Context()); err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
}
