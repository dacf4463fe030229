package class

import (
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
)

func options(t testing.TB) Options {
	t.Helper()
	clouds, err := cloud.NewResolver("AzurePublicCloud", "")
	if err != nil {
		t.Fatal(err)
	}
	return Options{Clouds: clouds, AllowedHosts: []string{"vault.corp.example", ".odd.example"}}
}

// parameters are those of a good class; more go over them, "-" takes one away.
func with(more map[string]string) map[string]string {
	all := map[string]string{
		"keyvaultName": "kv1", "tenantID": "tenant", "clientID": "client",
		"objects": "array:\n- |\n  objectName: s\n  objectType: secret\n",
	}
	maps.Copy(all, more)
	maps.DeleteFunc(all, func(_, v string) bool { return v == "-" })
	return all
}

// object is the objects parameter with one object of these lines.
func object(lines ...string) string {
	return "array:\n- |\n  " + strings.Join(lines, "\n  ") + "\n"
}

func mustParse(t *testing.T, parameters map[string]string) *Class {
	t.Helper()
	c, mistakes, _ := Parse(parameters, options(t))
	if len(mistakes) > 0 {
		t.Fatalf("mistakes: %v", mistakes)
	}
	return c
}

func TestParseObjects(t *testing.T) {
	for name, tc := range map[string]struct {
		objects string
		want    Object
	}{
		"defaults": {object("objectName: db", "objectType: secret"),
			Object{Kind: Secret, Name: "db", Path: "db", Format: PEM, Encoding: UTF8, Look: Look{Mode: 0o644}}},
		"everything": {object(`objectName: " db "`, "objectType: secret", "objectAlias: dir/file.txt", "objectVersion: 0123456789abcdef0123456789abcdef",
			"objectFormat: PFX", "objectEncoding: Base64", `filePermission: "0400"`, "writeCertAndKeyInSeparateFiles: true", "convertPFX: 1"),
			Object{Kind: Secret, Name: "db", Path: "dir/file.txt", Version: "0123456789abcdef0123456789abcdef", Format: PFX, Encoding: Base64,
				Look: Look{Mode: 0o400}, SplitCertAndKey: true, ConvertPFX: true}},
		"literal scalars": {object("objectName: 0123", "objectType: secret", "objectAlias: yes", "filePermission: 0755"),
			Object{Kind: Secret, Name: "0123", Path: "yes", Format: PEM, Encoding: UTF8, Look: Look{Mode: 0o755}}},
		"null is unset": {object("objectName: k", "objectType: key", "objectAlias: null", "objectVersion: ~"),
			Object{Kind: Key, Name: "k", Path: "k", Format: PEM, Encoding: UTF8, Look: Look{Mode: 0o644}}},
		"latest": {object("objectName: k", "objectType: cert", "objectVersion: latest"),
			Object{Kind: Certificate, Name: "k", Path: "k", Format: PEM, Encoding: UTF8, Look: Look{Mode: 0o644}}},
		"history": {object("objectName: k", "objectType: secret", "objectVersionHistory: 5"),
			Object{Kind: Secret, Name: "k", Path: "k", History: 5, Format: PEM, Encoding: UTF8, Look: Look{Mode: 0o644}}},
		"history of one": {object("objectName: k", "objectType: secret", "objectVersionHistory: -3"),
			Object{Kind: Secret, Name: "k", Path: "k", Format: PEM, Encoding: UTF8, Look: Look{Mode: 0o644}}},
		"JSON and flow":     {"array: ['{\"objectName\": \"s\", \"objectType\": \"secret\"}']", Object{Kind: Secret, Name: "s", Path: "s", Format: PEM, Encoding: UTF8, Look: Look{Mode: 0o644}}},
		"anchor and remark": {"array:\n- &a |\n  # remark\n  {objectName: s, objectType: secret}\n", Object{Kind: Secret, Name: "s", Path: "s", Format: PEM, Encoding: UTF8, Look: Look{Mode: 0o644}}},
		"its own vault": {object("objectName: s", "objectType: secret", "keyvaultName: other"),
			Object{VaultURL: "https://other.vault.azure.net/", Kind: Secret, Name: "s", Path: "s", Format: PEM, Encoding: UTF8, Look: Look{Mode: 0o644}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := mustParse(t, with(map[string]string{"objects": tc.objects})).Objects
			if tc.want.VaultURL == "" {
				tc.want.VaultURL = "https://kv1.vault.azure.net/"
			}
			if len(got) != 1 || !reflect.DeepEqual(got[0], tc.want) {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

func TestMistakes(t *testing.T) {
	for name, tc := range map[string]struct {
		parameters map[string]string
		want       []string // each in some mistake
	}{
		"no vault":         {map[string]string{"keyvaultName": "-"}, []string{"keyvaultName is not set"}},
		"short vault":      {map[string]string{"keyvaultName": "kv"}, []string{`keyvaultName "kv" is not a vault name`}},
		"long vault":       {map[string]string{"keyvaultName": strings.Repeat("v", 25)}, []string{"is not a vault name"}},
		"vault and URI":    {map[string]string{"keyvaultURI": "https://kv1.vault.azure.net"}, []string{"both set"}},
		"foreign URI":      {map[string]string{"keyvaultName": "-", "keyvaultURI": "https://evil.example.com/"}, []string{"not a vault of the cloud", "--allowed-vault-hosts"}},
		"suffix as host":   {map[string]string{"keyvaultName": "-", "keyvaultURI": "https://evilvault.azure.net/"}, []string{"not a vault of the cloud"}},
		"plain http":       {map[string]string{"keyvaultName": "-", "keyvaultURI": "http://kv1.vault.azure.net/"}, []string{"not a vault URI"}},
		"URI with path":    {map[string]string{"keyvaultName": "-", "keyvaultURI": "https://kv1.vault.azure.net/secrets"}, []string{"not a vault URI"}},
		"URI with user":    {map[string]string{"keyvaultName": "-", "keyvaultURI": "https://u" + "@kv1.vault.azure.net/"}, []string{"not a vault URI"}},
		"boolean":          {map[string]string{"useVMManagedIdentity": "tru"}, []string{`useVMManagedIdentity "tru" is not a boolean`}},
		"two modes":        {map[string]string{"useVMManagedIdentity": "true", "useAzureTokenProxy": "t"}, []string{"several identity modes"}},
		"pod identity":     {map[string]string{"usePodIdentity": "1"}, []string{"workload identity", "docs/migration.md"}},
		"cloud":            {map[string]string{"cloudName": "moon"}, []string{`cloudName "moon"`}},
		"German cloud":     {map[string]string{"cloudName": "AzureGermanCloud"}, []string{"closed"}},
		"custom, no file":  {map[string]string{"cloudName": "AzureStackCloud"}, []string{"cloudEnvFileName"}},
		"custom, no dir":   {map[string]string{"cloudName": "AzureStackCloud", "cloudEnvFileName": "x.json"}, []string{"--cloud-config-dir"}},
		"tenant":           {map[string]string{"tenantID": "a b"}, []string{`tenantID "a b" is not a tenant`}},
		"interval":         {map[string]string{"rotationInterval": "soon"}, []string{"rotationInterval", "duration"}},
		"short interval":   {map[string]string{"rotationInterval": "1s"}, []string{"shorter than 10s"}},
		"stale":            {map[string]string{"staleIfError": "48h"}, []string{"between 0 and 24h"}},
		"resource id":      {map[string]string{"useVMManagedIdentity": "true", "userAssignedIdentityID": "/subscriptions/x"}, []string{"resource id"}},
		"no objects":       {map[string]string{"objects": "-"}, []string{"objects is not set"}},
		"not YAML":         {map[string]string{"objects": "array: ["}, []string{"not YAML"}},
		"a list":           {map[string]string{"objects": "- a"}, []string{"not a mapping"}},
		"a mapping inside": {map[string]string{"objects": "array:\n- objectName: s"}, []string{"mapping instead of a string"}},
		"array is text":    {map[string]string{"objects": "array: x"}, []string{"no list"}},
		"object is text":   {map[string]string{"objects": "array:\n- s"}, []string{"objects[0] is not a mapping"}},
		"twice the field":  {map[string]string{"objects": object("objectName: a", "objectName: b", "objectType: secret")}, []string{"objects[0]", "objectName is a duplicate in the object"}},
		"no name":          {map[string]string{"objects": object("objectType: secret")}, []string{"objectName is not set"}},
		"no type":          {map[string]string{"objects": object("objectName: s")}, []string{"objectType is not set"}},
		"type's case":      {map[string]string{"objects": object("objectName: s", "objectType: Secret")}, []string{`objectType "Secret"`, "lower case"}},
		"name's letters":   {map[string]string{"objects": object("objectName: a_b", "objectType: secret")}, []string{"Key Vault allows", "objectAlias"}},
		"format":           {map[string]string{"objects": object("objectName: s", "objectType: secret", "objectFormat: pxf")}, []string{`objectFormat "pxf"`}},
		"PFX of a key":     {map[string]string{"objects": object("objectName: s", "objectType: key", "objectFormat: Pfx")}, []string{"objectType secret only"}},
		"encoding":         {map[string]string{"objects": object("objectName: s", "objectType: secret", "objectEncoding: rot13")}, []string{`objectEncoding "rot13"`}},
		"encoding of cert": {map[string]string{"objects": object("objectName: s", "objectType: cert", "objectEncoding: utf-8")}, []string{"objectType secret only"}},
		"mode 0900":        {map[string]string{"objects": object("objectName: s", "objectType: secret", "filePermission: 0900")}, []string{`filePermission "0900"`}},
		"mode 0o644":       {map[string]string{"objects": object("objectName: s", "objectType: secret", "filePermission: 0o644")}, []string{"filePermission"}},
		"mode 7777":        {map[string]string{"objects": object("objectName: s", "objectType: secret", "filePermission: 7777")}, []string{"0777"}},
		"mode -1":          {map[string]string{"objects": object("objectName: s", "objectType: secret", "filePermission: -1")}, []string{"filePermission"}},
		"history":          {map[string]string{"objects": object("objectName: s", "objectType: secret", "objectVersionHistory: x")}, []string{"whole number"}},
		"version":          {map[string]string{"objects": object("objectName: s", "objectType: secret", "objectVersion: ../keys")}, []string{"not a version"}},
		"dots anywhere":    {map[string]string{"objects": object("objectName: s", "objectType: secret", "objectAlias: a..b")}, []string{"'..'"}},
		"absolute":         {map[string]string{"objects": object("objectName: s", "objectType: secret", "objectAlias: /a")}, []string{"relative"}},
		"dot":              {map[string]string{"objects": object("objectName: s", "objectType: secret", "objectAlias: ./a")}, []string{"clean path"}},
		"same path": {map[string]string{"objects": object("objectName: a", "objectType: secret") + "- |\n  {objectName: b, objectType: key, objectAlias: a}\n"},
			[]string{`objects[1] "b" objectAlias "a" writes "a", as objects[0] "a" does`}},
		"file and directory": {map[string]string{"objects": object("objectName: a", "objectType: secret") + "- |\n  {objectName: b, objectType: key, objectAlias: a/b}\n"},
			[]string{`objects[1] "b"`, `objects[0] "a"`}},
		"history and file": {map[string]string{"objects": object("objectName: a", "objectType: secret", "objectVersionHistory: 3") +
			"- |\n  {objectName: b, objectType: secret, objectAlias: a/2}\n"}, []string{`writes "a/2"`}},
		"all at once": {map[string]string{"keyvaultName": "k", "cloudName": "moon", "useVMManagedIdentity": "x",
			"objects": object("objectName: a_b", "objectType: Key", "filePermission: 9") + "- |\n  objectType: secret\n"},
			[]string{"keyvaultName", "cloudName", "useVMManagedIdentity", "objects[0] \"a_b\" objectName", "objectType", "filePermission", "objects[1] objectName"}},
	} {
		t.Run(name, func(t *testing.T) {
			c, mistakes, _ := Parse(with(tc.parameters), options(t))
			if c != nil || len(mistakes) == 0 {
				t.Fatal("no mistake was found")
			}
			line := Error(mistakes).Error()
			for _, want := range tc.want {
				if !strings.Contains(line, want) {
					t.Errorf("%q is not in: %s", want, line)
				}
			}
			if strings.Contains(line, "\n") {
				t.Errorf("not one line: %q", line)
			}
			if volume.ReasonOf(Error(mistakes)) != volume.ReasonInvalidClass {
				t.Error("wrong reason")
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	for name, tc := range map[string]struct {
		parameters map[string]string
		want       string
	}{
		"old parameter": {map[string]string{"resourceGroup": "x"}, "is ignored"},
		"typo":          {map[string]string{"keyvaultname": "kv1"}, "did you mean keyvaultName?"},
		"field's typo":  {map[string]string{"objects": object("objectName: s", "objectType: secret", "objectVerison: 1")}, "did you mean objectVersion?"},
		"many versions": {
			map[string]string{"objects": object("objectName: s", "objectType: secret", "objectVersionHistory: 1000")},
			`objectVersionHistory "1000" is more than 500: the newest 500 are written`,
		},
		"second document": {
			map[string]string{"objects": object("objectName: s", "objectType: secret") + "---\narray: []\n"},
			"has a second YAML document, which is ignored",
		},
		"idle identity": {map[string]string{"userAssignedIdentityID": "x"}, "useVMManagedIdentity"},
	} {
		t.Run(name, func(t *testing.T) {
			c := mustParse(t, with(tc.parameters))
			if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0].String(), tc.want) {
				t.Errorf("warnings %v", c.Warnings)
			}
		})
	}
}

func TestIdentityParameters(t *testing.T) {
	c := mustParse(t, with(map[string]string{"tenantID": " ", "tenantId": " old\u00a0", "useVMManagedIdentity": " T ", "clientID": "-"}))
	if c.TenantID != "old" || c.Mode != ManagedIdentity || c.ManagedClientID+c.ManagedObjectID+c.ManagedResourceID != "" {
		t.Errorf("%+v", c)
	}
	id := "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/n"
	c = mustParse(t, with(map[string]string{"useVMManagedIdentity": "true", "userAssignedIdentityID": id}))
	if c.ManagedResourceID != id {
		t.Errorf("%+v", c)
	}
	c = mustParse(t, with(map[string]string{"useVMManagedIdentity": "true", "userAssignedIdentityObjectID": "o"}))
	if c.ManagedObjectID != "o" {
		t.Errorf("%+v", c)
	}
}

func TestRefreshParameters(t *testing.T) {
	c := mustParse(t, with(map[string]string{"rotationInterval": "30s", "staleIfError": "1h"}))
	if *c.RotationInterval != 30*time.Second || c.StaleIfError != time.Hour {
		t.Errorf("%+v", c)
	}
	for _, off := range []string{"off", "0", "0s"} {
		if c := mustParse(t, with(map[string]string{"rotationInterval": off})); c.RotationInterval == nil || *c.RotationInterval != 0 {
			t.Errorf("%s: %v", off, c.RotationInterval)
		}
	}
	if c := mustParse(t, with(nil)); c.RotationInterval != nil {
		t.Error("an interval out of nothing")
	}
}

func TestVaultURLs(t *testing.T) {
	for want, parameters := range map[string]map[string]string{
		"https://KV-1.vault.azure.net/":        {"keyvaultName": "KV-1"},
		"https://kv1.vault.usgovcloudapi.net/": {"cloudName": "azureusgovernment"},
		"https://kv1.vault.azure.cn/":          {"cloudName": "AzureChinaCloud"},
		"https://x.vault.azure.net/":           {"keyvaultName": "-", "keyvaultURI": "https://X.vault.azure.net"},
		"https://vault.corp.example/":          {"keyvaultName": "-", "keyvaultURI": "https://vault.corp.example/"},
		"https://a.odd.example/":               {"keyvaultName": "-", "keyvaultURI": "https://a.odd.example/"},
	} {
		if got := mustParse(t, with(parameters)).Objects[0].VaultURL; got != want {
			t.Errorf("%v: %s", parameters, got)
		}
	}
}

func TestHashFollowsMeaning(t *testing.T) {
	base := mustParse(t, with(nil)).Hash
	same := mustParse(t, with(map[string]string{"keyvaultName": " kv1 ", "objects": "array: ['{objectType: secret, objectName: s}'] # x", "unknown": "x"})).Hash
	if same != base {
		t.Error("another hash for the same class")
	}
	for _, change := range []map[string]string{
		{"keyvaultName": "kv2"}, {"clientID": "x"}, {"rotationInterval": "1m"},
		{"objects": object("objectName: s", "objectType: key")}, {"objects": object("objectName: s", "objectType: secret", "filePermission: 0600")},
	} {
		if mustParse(t, with(change)).Hash == base {
			t.Errorf("the same hash after %v", change)
		}
	}
}

func TestMergeIgnoresKubeletsKeys(t *testing.T) {
	got := Merge(map[string]string{"a": "1", "b": "1"}, map[string]string{
		"b": "2", "csi.storage.k8s.io/pod.name": "x", "secretProviderClass": "x", "providerName": "x",
	})
	if !maps.Equal(got, map[string]string{"a": "1", "b": "2"}) {
		t.Errorf("%v", got)
	}
}

func TestManyMistakesStayReadable(t *testing.T) {
	var b strings.Builder
	b.WriteString("array:\n")
	for range 100 {
		b.WriteString("- |\n  objectName: a_b\n")
	}
	_, mistakes, _ := Parse(with(map[string]string{"objects": b.String()}), options(t))
	more := fmt.Sprintf("and %d more: `keyvault-csi validate`", len(mistakes)-maxListed)
	if line := Error(mistakes).Error(); len(line) > 2000 || !strings.Contains(line, more) || strings.Count(line, "objects[") != maxListed {
		t.Errorf("%d bytes: %s", len(line), line)
	}
}

// A file, the numbered files of a history, and their directories: which of them are one path, and whose mistake it is.
func TestClashes(t *testing.T) {
	for name, tc := range map[string]struct {
		paths string // ALIAS or ALIAS*VERSIONS, of one object each
		index int    // of the object with the mistake; -1 for none
		at    string
	}{
		"the first of a history":       {"h*3 h/0", 1, "h/0"},
		"the last of a history":        {"h*3 h/2", 1, "h/2"},
		"behind the last":              {"h*3 h/3", -1, ""},
		"a name in it":                 {"h*3 h/x", -1, ""},
		"a number before it":           {"h*3 h/-1", -1, ""},
		"another form of a number":     {"h*3 h/01", -1, ""},
		"a history comes later":        {"h/1 h*3", 1, "h/1"},
		"a file in place of its files": {"h h*3", 1, "h"},
		"histories of one directory":   {"h*3 h*2", 1, "h/0"},
		"a history in a file of one":   {"h*3 h/1*2", 1, "h/1"},
		"a history beside its files":   {"h*3 h/5*2", -1, ""},
		"a history of one is a file":   {"h*1 h*1", 1, "h"},
		"a directory of a file":        {"d d/a/b", 1, "d"},
		"a file that was a directory":  {"d/a/b d/a", 1, "d/a"},
		"neighbours":                   {"d/a d/b d2", -1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			objects := "array:\n"
			for i, text := range strings.Fields(tc.paths) {
				alias, history, _ := strings.Cut(text, "*")
				objects += fmt.Sprintf("- |\n  objectName: s%d\n  objectType: secret\n  objectAlias: %s\n", i, alias)
				if history != "" {
					objects += "  objectVersionHistory: " + history + "\n"
				}
			}
			_, mistakes, _ := Parse(with(map[string]string{"objects": objects}), options(t))
			switch {
			case tc.index < 0:
				if len(mistakes) > 0 {
					t.Errorf("%v", mistakes)
				}
			case len(mistakes) != 1 || mistakes[0].Index != tc.index || !strings.HasPrefix(mistakes[0].Problem, fmt.Sprintf("writes %q, as objects[0]", tc.at)):
				t.Errorf("%v", mistakes)
			}
		})
	}
}

// No mistake follows from another one, and none hides another one.
func TestEachMistakeOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		objects string
		fields  []string
	}{
		"twice the field, and the first is wrong": {object("objectName: a_b", "objectName: s", "objectType: secret"), []string{"objectName"}},
		"twice the field, and another is wrong":   {object("objectName: s", "objectName: s", "objectType: secret", "filePermission: 9"), []string{"objectName", "filePermission"}},
		"no mapping":                              {object("just text"), []string{""}},
	} {
		_, mistakes, _ := Parse(with(map[string]string{"objects": tc.objects}), options(t))
		var fields []string
		for _, m := range mistakes {
			fields = append(fields, m.Field)
		}
		if !slices.Equal(fields, tc.fields) {
			t.Errorf("%s: %v", name, mistakes)
		}
	}
}

// Where a mistake is: parameter, index, field and line. Nothing else is said.
func TestPlacesOfMistakes(t *testing.T) {
	const bare = "array:\n- |\n  objectName: s\n  objectType: secret\n"
	filler := strings.Repeat("x", MaxSize/2)
	for name, tc := range map[string]struct {
		parameters map[string]string
		want       []string
	}{
		"no vault anywhere":         {map[string]string{"keyvaultName": "-"}, []string{"keyvaultName -1 0"}},
		"a wrong vault":             {map[string]string{"keyvaultName": "k"}, []string{"keyvaultName -1 0"}},
		"each object has its vault": {map[string]string{"keyvaultName": "-", "objects": bare + "  keyvaultName: kv2\n"}, nil},
		"paths of fields": {map[string]string{"objects": bare + "  jmesPath:\n  - {path: a, objectAlias: x}\n  - {path: b, objectAlias: y}\n  - {path: c, objectAlias: x}\n"},
			[]string{"objects 0 jmesPath[2].objectAlias 8"}},
		"its own fallback": {map[string]string{"objects": bare + "  keyvaultName: kv2\n  fallbackKeyvaultNames: kv3,kv2\n"},
			[]string{"objects 0 fallbackKeyvaultNames 6"}},
		"a fallback of no vault": {map[string]string{"keyvaultName": "-", "objects": bare + "  keyvaultName: k\n  fallbackKeyvaultNames: kv3\n"},
			[]string{"objects 0 keyvaultName 5"}},
		"a name that is no file":    {map[string]string{"objects": "array:\n- |\n  objectName: a..b\n  objectType: secret\n"}, []string{"objects 0 objectName 3"}},
		"an alias that is no file":  {map[string]string{"objects": bare + "  objectAlias: /x\n"}, []string{"objects 0 objectAlias 5"}},
		"one mode of identity":      {map[string]string{"useVMManagedIdentity": "true"}, nil},
		"the other":                 {map[string]string{"useAzureTokenProxy": "true"}, nil},
		"both":                      {map[string]string{"useVMManagedIdentity": "true", "useAzureTokenProxy": "true"}, []string{"useVMManagedIdentity -1 0"}},
		"that of Pods":              {map[string]string{"usePodIdentity": "true"}, []string{"usePodIdentity -1 0"}},
		"that of Pods, and another": {map[string]string{"usePodIdentity": "true", "useAzureTokenProxy": "true"}, []string{"usePodIdentity -1 0", "useVMManagedIdentity -1 0"}},
		"a client that is none":     {map[string]string{"clientID": "a b"}, []string{"clientID -1 0"}},
		"too long, the first":       {map[string]string{"a": filler + "yy", "b": filler}, []string{"a -1 0"}},
		"too long, the last":        {map[string]string{"a": filler, "b": filler + "yy"}, []string{"b -1 0"}},
	} {
		_, mistakes, _ := Parse(with(tc.parameters), options(t))
		var got []string
		for _, m := range mistakes {
			place := fmt.Sprintf("%s %d %s", m.Parameter, m.Index, m.Field)
			got = append(got, fmt.Sprintf("%s %d", strings.TrimSpace(place), m.Line))
		}
		slices.Sort(got)
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q: %v", name, got, mistakes)
		}
	}
}

// The parameters together may be as long as MaxSize.
func TestSizeOfAllParameters(t *testing.T) {
	all := with(nil)
	size := len("filler")
	for name, value := range all {
		size += len(name) + len(value)
	}
	for over, right := range map[int]bool{0: true, 1: false} {
		all["filler"] = strings.Repeat("x", MaxSize-size+over)
		if _, mistakes, _ := Parse(all, options(t)); (len(mistakes) == 0) != right {
			t.Errorf("%d bytes over: %v", over, mistakes)
		}
	}
}

// A name that is part of one other is a name that was meant; what is part of several is not.
func TestSuggestions(t *testing.T) {
	for name, want := range map[string]string{
		"type": "did you mean objectType?", "version": "remove it", "typ": "remove it", "objectname": "did you mean objectName?", "colour": "remove it",
	} {
		if got := suggestion(name, []string{"objectName", "objectType", "objectVersion", "objectVersionHistory"}); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// What is just small enough is right, and what is one larger is not.
func TestLimitsOfAnObject(t *testing.T) {
	sized := func(size int) string {
		text := "objectName: s\nobjectType: secret\n#"
		return "array:\n- " + strconv.Quote(text+strings.Repeat("x", size-len(text))) + "\n"
	}
	for name, tc := range map[string]struct {
		right, wrong string
	}{
		"size":  {sized(maxObjectSize), sized(maxObjectSize + 1)},
		"mode":  {object("objectName: s", "objectType: secret", "filePermission: 0777"), object("objectName: s", "objectType: secret", "filePermission: 1000")},
		"owner": {object("objectName: s", "objectType: secret", "fileOwner: 4294967294"), object("objectName: s", "objectType: secret", "fileOwner: 4294967295")},
		"group": {object("objectName: s", "objectType: secret", "fileGroup: 0"), object("objectName: s", "objectType: secret", "fileGroup: -1")},
	} {
		if _, mistakes, _ := Parse(with(map[string]string{"objects": tc.right}), options(t)); len(mistakes) > 0 {
			t.Errorf("%s: %v", name, mistakes)
		}
		if _, mistakes, _ := Parse(with(map[string]string{"objects": tc.wrong}), options(t)); len(mistakes) != 1 {
			t.Errorf("%s: %v", name, mistakes)
		}
	}
}

// A field that is there and empty is not set: another one may be in its place.
func TestEmptyFieldsAreNotSet(t *testing.T) {
	for _, objects := range []string{
		object("objectName: s", "objectType: secret", "fields: all", "jmesPath:"),
		object("objectName: s", "objectType: secret", "fields: all", `jmesPath: ""`),
		object("objectType: secret", "objectSelector: {name: a}", "objectVersion:"),
		object("objectType: secret", "objectSelector: {name: a}", `objectVersion: ""`),
	} {
		if _, mistakes, _ := Parse(with(map[string]string{"objects": objects}), options(t)); len(mistakes) > 0 {
			t.Errorf("%s: %v", objects, mistakes)
		}
	}
}

// A mode that is right and odd is a warning for those who ask, and none for a mount.
func TestOddModeIsForLint(t *testing.T) {
	for mode, fix := range map[string]string{
		"0222": "such as 0400", "436": "did you mean 0664?", "622": "did you mean 0644?", "0444": "", "": "",
	} {
		for _, lint := range []bool{true, false} {
			o := options(t)
			o.Lint = lint
			_, _, warnings := Parse(with(map[string]string{"objects": object("objectName: s", "objectType: secret", "filePermission: "+strconv.Quote(mode))}), o)
			odd := len(warnings) == 1 && warnings[0].Field == "filePermission" && strings.Contains(warnings[0].Fix, fix)
			if odd != (fix != "" && lint) {
				t.Errorf("mode %q, lint %v: %v", mode, lint, warnings)
			}
		}
	}
}

// The nearest name is meant, where it is near enough for the length of the word.
func TestNearest(t *testing.T) {
	for _, tc := range []struct {
		name  string
		known []string
		want  string
	}{
		{"nam", []string{"name"}, "name"},
		{"name", []string{"nam"}, "nam"},
		{"name", []string{"neme"}, "neme"},
		{"name", []string{"nama"}, "nama"},
		{"name", []string{"NAME"}, "NAME"},
		{"kidn", []string{"kind"}, "kind"},
		{"name", []string{"nemo"}, ""},
		{"names", []string{"nemos"}, "nemos"},
		{"name", []string{"namely"}, ""},
		{"name", []string{"objectVersionHistory", "nama"}, "nama"},
		{"names", []string{"nama", "nemas", "name"}, "name"},
		{"names", []string{"name", "nama"}, "name"},
		{"names", []string{"nama", "name"}, "name"},
		{"name", nil, ""},
	} {
		if got := Nearest(tc.name, tc.known); got != tc.want {
			t.Errorf("%s of %v: %q", tc.name, tc.known, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("kv1", "tenant", "array:\n- |\n  objectName: s\n  objectType: secret\n", "true")
	f.Add("", "", "array: [*a]", "")
	f.Add("kv1", "adfs", "a: &a [*a, *a]\narray: *a", "1")
	f.Add("kv1", "t", "array:\n- '{objectName: x, objectType: key, objectVersionHistory: 99999}'\n", "x")
	f.Add("kv1", "t", "array:\n- \"objectName: [\"\n- |\n  ? {a: b}\n  : c\n", "x")
	o := options(f)
	f.Fuzz(func(t *testing.T, vault, tenant, objects, flag string) {
		c, mistakes, _ := Parse(map[string]string{
			"keyvaultName": vault, "tenantID": tenant, "objects": objects, "useVMManagedIdentity": flag, "rotationInterval": flag,
		}, o)
		if (c == nil) == (len(mistakes) == 0) {
			t.Fatal("neither a class nor a mistake, or both")
		}
		if c == nil {
			if line := Error(mistakes).Error(); strings.ContainsAny(line, "\n\r") {
				t.Fatalf("not one line: %q", line)
			}
			return
		}
		for i := range c.Objects {
			for _, p := range c.Objects[i].Paths() {
				if err := volume.CheckPath(p); err != nil {
					t.Fatalf("path %q: %v", p, err)
				}
			}
			if c.Objects[i].Mode&^fs.FileMode(0o777) != 0 {
				t.Fatalf("mode %v", c.Objects[i].Mode)
			}
		}
	})
}
