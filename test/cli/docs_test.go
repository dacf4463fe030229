package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube/manifest"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

var (
	yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")
	classKind = regexp.MustCompile(`(?m)^kind: SecretProviderClass$`)
)

// documented are the classes that the documentation shows, as it shows them, by page and number.
func documented(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	paths, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(paths, "../../README.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range yamlBlock.FindAllStringSubmatch(string(text), -1) {
			if classKind.MatchString(block[1]) { // and not what names the kind
				found[fmt.Sprintf("%s %d", filepath.Base(path), i+1)] = block[1]
			}
		}
	}
	if len(found) < 12 {
		t.Fatalf("only %d", len(found))
	}
	return found
}

// stock creates the objects of a class in an emulator. Objects that other programs read must be certificates.
func stock(t *testing.T, server *emulator.Server, c *class.Class, client, tenant string) {
	t.Helper()
	vaults := map[string]*emulator.Vault{}
	for _, o := range c.Objects {
		name, _, _ := strings.Cut(strings.TrimPrefix(o.VaultURL, "https://"), ".")
		v := vaults[name]
		if v == nil {
			v = &emulator.Vault{Name: name, Tenant: tenant, Grants: []emulator.Grant{{ClientID: client, Permissions: []string{"*"}}}}
			vaults[name] = v
		}
		if o.Selector != nil {
			o.Name = strings.ReplaceAll(o.Selector.Pattern, "*", "one")
		}
		switch {
		case o.Selector != nil && o.Kind == class.Secret:
			v.Secrets = append(v.Secrets, emulator.Secret{Name: o.Name, Value: canary, Tags: o.Selector.Tags})
		case o.Selector != nil: // optional, and there is none
		case o.Kind == class.Key:
			v.Keys = append(v.Keys, emulator.Key{Name: o.Name, Type: "EC", Curve: "P-256", Version: o.Version})
		case o.Kind == class.Certificate || strings.Contains(o.Name, "tls"):
			v.Certificates = append(v.Certificates, emulator.Certificate{Name: o.Name, KeyType: "EC", Chain: 1, Version: o.Version})
		default:
			for range max(o.History, 1) {
				v.Secrets = append(v.Secrets, emulator.Secret{Name: o.Name, Value: valueOf(c, &o), Version: o.Version})
			}
		}
	}
	for _, v := range vaults {
		if err := server.Apply(emulator.Seed{Vaults: []emulator.Vault{*v}}); err != nil {
			t.Fatal(err)
		}
	}
}

// valueOf is the value of a secret: JSON where the class reads its fields.
func valueOf(c *class.Class, o *class.Object) string {
	read := o.Extract != nil
	for _, t := range c.Templates {
		read = read || strings.Contains(t.Text, `json "`+o.Path+`"`)
	}
	if read {
		return `{"user":"shop","password":"` + canary + `","host":"db.example.com","replicas":[{"host":"replica"}]}`
	}
	return canary
}

// Every class of the documentation gives the files that it says, in front of a vault that has its objects.
func TestClassesOfTheDocumentationWork(t *testing.T) {
	t.Parallel()
	clouds, err := cloud.NewResolver("AzurePublicCloud", "")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range documented(t) {
		t.Run(name, func(t *testing.T) {
			classes, err := manifest.Decode([]byte(text))
			if err != nil || len(classes) == 0 {
				t.Fatal(err, len(classes))
			}
			d := newSession(t)
			for _, c := range classes {
				parsed, mistakes, _ := class.Parse(c.Spec.Parameters, class.Options{Clouds: clouds})
				if len(mistakes) > 0 {
					t.Fatal(mistakes)
				}
				stock(t, d.Server, parsed, d.env["AZURE_CLIENT_ID"], d.env["AZURE_TENANT_ID"])
				paths, known := parsed.Paths()
				files := len(paths)
				for _, o := range parsed.Objects {
					switch {
					case o.Selector != nil && o.Kind == class.Secret:
						files++ // stock makes one that matches
					case o.Selector == nil && o.Open() || o.Selector != nil && !o.Optional:
						t.Fatalf("the test does not know what the class mounts (%t)", known)
					}
				}
				r := d.run(nil, "preview", "-f", d.file("class.yaml", text), "-o", "json")
				d.secretless(r)
				found := parse(t, r.stdout)
				if r.exit != 0 || len(found) != len(classes) || len(found[0].Files) != files || len(found[0].Warnings) > 0 {
					t.Errorf("%d files wanted: %s", files, r)
				}
			}
		})
	}
}
