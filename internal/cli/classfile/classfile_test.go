package classfile

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/nodeidentity"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
)

func options(t testing.TB) class.Options {
	t.Helper()
	clouds, err := cloud.NewResolver("AzurePublicCloud", "")
	if err != nil {
		t.Fatal(err)
	}
	return class.Options{Clouds: clouds}
}

const good = `apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: app, namespace: shop}
spec:
  provider: azure
  parameters:
    keyvaultName: kv1
    tenantID: tenant
    clientID: client
    objects: |
      array:
      - |
        objectName: db
        objectType: secret
`

// after is the good class from a text on.
func after(text string) string {
	_, rest, _ := strings.Cut(good, text)
	return text + rest
}

// told are the findings as a person reads them.
func told(t *testing.T, text string) (lines []string, classes int) {
	t.Helper()
	findings, classes := Check("f.yaml", []byte(text), options(t), Rules{})
	for _, f := range findings {
		lines = append(lines, f.String())
	}
	return lines, classes
}

func TestGoodFiles(t *testing.T) {
	for name, tc := range map[string]struct {
		text    string
		classes int
	}{
		"one":           {good, 1},
		"two documents": {good + "---\n" + good, 2},
		"empty ones":    {"---\n---\n" + good + "---\n", 1},
		"with Secrets": {good + `  secretObjects:
  - secretName: db
    type: Opaque
    data:
    - {objectName: db, key: password}
`, 1},
		"with a Secret of the only file": {good + "  secretObjects:\n  - secretName: db\n    type: kubernetes.io/ssh-auth\n    data:\n    - {objectName: db, key: ssh-privatekey}\n", 1},
		"a list":                         {"apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(good), "\n", "\n  ") + "\n", 1},
		"JSON": {`{"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass", "metadata": {"name": "app"}, "spec": {"provider": "azure",
"parameters": {"keyvaultName": "kv1", "tenantID": "t", "clientID": "c", "objects": "array:\n- |\n  objectName: db\n  objectType: secret\n"}}}`, 1},
	} {
		t.Run(name, func(t *testing.T) {
			if lines, classes := told(t, tc.text); len(lines) > 0 || classes != tc.classes {
				t.Errorf("%d classes, findings:\n%s", classes, strings.Join(lines, "\n"))
			}
		})
	}
}

func TestFindings(t *testing.T) {
	for name, tc := range map[string]struct {
		from, to string // what is replaced in the good class
		want     []string
	}{
		"object's field": {"objectType: secret", "objectType: sekret", []string{"f.yaml:14: error: shop/app: ", `objectType "sekret"`}},
		"object's name":  {"objectName: db", "objectName: no_such", []string{"f.yaml:13: error: shop/app: ", "objectName"}},
		"parameter":      {"keyvaultName: kv1", "keyvaultName: k_v", []string{"f.yaml:7: error: shop/app: ", "keyvaultName"}},
		"unknown parameter": {"tenantID: tenant", "tenantID: tenant\n    objectz: x", []string{
			"f.yaml:9: warning: shop/app: ", "objectz"}},
		"number":          {"tenantID: tenant", "tenantID: 5", []string{"f.yaml:8: error: shop/app: parameter tenantID is not a string", `write tenantID: "5"`}},
		"boolean":         {"tenantID: tenant", "tenantID: tenant\n    useVMManagedIdentity: true", []string{"f.yaml:9: error: ", `write useVMManagedIdentity: "true"`}},
		"list":            {"objects: |", "objects:", []string{"f.yaml:10: error: ", "parameter objects is not a string"}},
		"twice":           {"tenantID: tenant", "tenantID: tenant\n    tenantID: tenant", []string{"f.yaml:9: error: ", "is a duplicate"}},
		"provider":        {"provider: azure", "provider: vault", []string{"f.yaml:5: note: ", `provider "vault", which this driver does not serve`}},
		"no provider":     {"  provider: azure\n", "", []string{"f.yaml:5: error: ", "spec.provider is not set"}},
		"provider's typo": {"provider: azure", "provider: azzure", []string{"f.yaml:5: error: ", "did you mean azure?"}},
		"old API":         {"x-k8s.io/v1\n", "x-k8s.io/v1alpha1\n", []string{"f.yaml:1: note: ", "deprecated"}},
		"wrong API":       {"secrets-store.csi.x-k8s.io/v1\n", "v1\n", []string{"f.yaml:1: error: ", "apiVersion"}},
		"name":            {"name: app", "name: App_1", []string{"f.yaml:3: error: ", "metadata.name"}},
		"spec's unknown field": {"  parameters:", "  parms: {}\n  parameters:", []string{
			"f.yaml:6: warning: ", "spec.parms is an unknown field"}},
		"no parameters": {after("  parameters:"), "", []string{"f.yaml:5: error: ", "spec.parameters is not set"}},
		"no spec":       {after("spec:"), "", []string{"f.yaml:1: error: ", "spec is not set"}},
		"not YAML":      {"spec:", "spec: [", []string{"error: is not YAML"}},
		"tab":           {"spec:", "\tspec:", []string{"f.yaml:4: error: is not YAML"}},
		"not an object": {good, "- a\n", []string{"f.yaml:1: error: the document is not a Kubernetes object"}},
		"no kind":       {"kind: SecretProviderClass\n", "", []string{"f.yaml:1: error: the document has no kind"}},
		"another kind":  {"kind: SecretProviderClass", "kind: Pod", []string{"f.yaml:2: error: kind \"Pod\" is not known: did you mean SecretProviderClass?"}},
		"ignored kind":  {good, "apiVersion: v1\nkind: Pod\n", []string{"f.yaml:2: note: kind Pod is ignored"}},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(good, tc.from) {
				t.Fatalf("the good class has no %q", tc.from)
			}
			lines, _ := told(t, strings.Replace(good, tc.from, tc.to, 1))
			for _, line := range lines {
				if strings.HasPrefix(line, tc.want[0]) || strings.Contains(line, tc.want[0]) {
					for _, text := range tc.want {
						if !strings.Contains(line, text) {
							t.Errorf("%q lacks %q", line, text)
						}
					}
					return
				}
			}
			t.Errorf("nothing begins with %q in:\n%s", tc.want[0], strings.Join(lines, "\n"))
		})
	}
}

func TestFindingsOfSecretObjects(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"no list":                {"  secretObjects: {}\n", "f.yaml:15: error: shop/app: spec.secretObjects is not a list"},
		"no mapping":             {"  secretObjects:\n  - x\n", "f.yaml:16: error: shop/app: spec.secretObjects[0] is not a mapping"},
		"name":                   {"  secretObjects:\n  - secretName: A_B\n    type: Opaque\n    data: [{objectName: db, key: k}]\n", "f.yaml:16: warning: shop/app: spec.secretObjects[0].secretName"},
		"no such file":           {"  secretObjects:\n  - secretName: a\n    type: Opaque\n    data:\n    - {objectName: x, key: k}\n", `f.yaml:19: warning: shop/app: spec.secretObjects[0].data[0].objectName "x" is not mounted by the class`},
		"key":                    {"  secretObjects:\n  - secretName: a\n    type: Opaque\n    data:\n    - {objectName: db, key: a b}\n", "f.yaml:19: warning: shop/app: spec.secretObjects[0].data[0].key"},
		"key twice":              {"  secretObjects:\n  - secretName: a\n    type: Opaque\n    data:\n    - {objectName: db, key: k}\n    - {objectName: db, key: k}\n", "f.yaml:20: warning: shop/app: spec.secretObjects[0].data[1].key"},
		"half a pair":            {"  secretObjects:\n  - secretName: a\n    type: kubernetes.io/tls\n    data:\n    - {objectName: db, key: tls.crt}\n", "f.yaml:19: warning: shop/app: spec.secretObjects[0].data has no key tls.key, which a Secret of the type kubernetes.io/tls needs"},
		"docker":                 {"  secretObjects:\n  - secretName: a\n    type: kubernetes.io/dockerconfigjson\n    data: [{objectName: db, key: config.json}]\n", "f.yaml:18: warning: shop/app: spec.secretObjects[0].data has no key .dockerconfigjson"},
		"twice":                  {"  secretObjects:\n  - secretName: a\n    data: [{objectName: db, key: k}]\n  - secretName: a\n    data: [{objectName: db, key: l}]\n", "f.yaml:18: warning: shop/app: spec.secretObjects[1].secretName \"a\" is a duplicate"},
		"label":                  {"  secretObjects:\n  - secretName: a\n    labels: {app: a b}\n    data: [{objectName: db, key: k}]\n", "f.yaml:17: warning: shop/app: spec.secretObjects[0].labels app has \"a b\""},
		"annotation":             {"  secretObjects:\n  - secretName: a\n    annotations: {app: 5}\n    data: [{objectName: db, key: k}]\n", "f.yaml:17: error: shop/app: spec.secretObjects[0].annotations.app is not text"},
		"data no list":           {"  secretObjects:\n  - secretName: a\n    data: {objectName: db, key: k}\n", "f.yaml:17: error: shop/app: spec.secretObjects[0].data is not a list"},
		"unlisted":               {"  secretObjects:\n  - secretName: a\n    type: example.com/x\n", "f.yaml:17: warning: shop/app: spec.secretObjects[0].type \"example.com/x\" is not written unless the driver's operator allows it: ask for syncSecret.types"},
		"Helm":                   {"  secretObjects:\n  - secretName: a\n    type: helm.sh/release.v1\n", "f.yaml:17: warning: shop/app: spec.secretObjects[0].type helm.sh/release.v1 gives access to the cluster itself"},
		"account":                {"  secretObjects:\n  - secretName: a\n    type: kubernetes.io/service-account-token\n", "f.yaml:17: warning: shop/app: spec.secretObjects[0].type kubernetes.io/service-account-token gives access to the cluster itself"},
		"no type":                {"  secretObjects:\n  - secretName: a\n    data: [{objectName: db, key: k}]\n", "f.yaml:16: note: shop/app: spec.secretObjects[0] has no type"},
		"no data":                {"  secretObjects:\n  - secretName: a\n    type: Opaque\n", "f.yaml:16: note: shop/app: spec.secretObjects[0] has no data"},
		"parts of a certificate": {"  secretObjects:\n  - secretName: a\n    type: kubernetes.io/tls\n    data:\n    - {objectName: db.crt, key: tls.crt}\n    - {objectName: db.key, key: tls.key}\n", `f.yaml:20: warning: shop/app: spec.secretObjects[0].data[1] "db.key" is mounted only where the driver's operator set --write-cert-and-key-in-separate-files`},
		"unknown":                {"  secretObjects:\n  - secretName: a\n    type: Opaque\n    dataa: []\n    data: [{objectName: db, key: k}]\n", "f.yaml:18: warning: shop/app: spec.secretObjects[0].dataa is an unknown field"},
	} {
		t.Run(name, func(t *testing.T) {
			lines, _ := told(t, good+tc.text)
			for _, line := range lines {
				if strings.HasPrefix(line, tc.want) {
					return
				}
			}
			t.Errorf("nothing begins with %q in:\n%s", tc.want, strings.Join(lines, "\n"))
		})
	}
}

func TestEveryMistakeIsToldInTheFilesOrder(t *testing.T) {
	text := strings.NewReplacer("keyvaultName: kv1", "keyvaultName: k_v", "objectType: secret", "objectType: sekret", "provider: azure", "provider: azur").Replace(good)
	findings, classes := Check("f.yaml", []byte(good+"---\n"+text), options(t), Rules{})
	var lines []string
	for _, f := range findings {
		lines = append(lines, fmt.Sprint(f.Line))
	}
	if got := strings.Join(lines, " "); got != "20 22 29" || classes != 2 {
		t.Errorf("%d classes, lines %s: %v", classes, got, findings)
	}
}

// TestClassOfAnotherProvider: one note, and nothing about what is in it.
func TestClassOfAnotherProvider(t *testing.T) {
	lines, classes := told(t, "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {name: db}\nspec:\n  provider: aws\n"+
		"  parameters:\n    objects: |\n      - objectName: x\n        objectType: secretsmanager\n  secretObjects:\n  - secretName: A\n")
	if classes != 1 || len(lines) != 1 || !strings.HasPrefix(lines[0], "f.yaml:5: note: db: ") {
		t.Errorf("%d classes:\n%s", classes, strings.Join(lines, "\n"))
	}
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(good + "  secretObjects:\n  - &a {secretName: a, data: [*a]}\n"))
	f.Add([]byte("&a {kind: List, items: [*a]}"))
	f.Add([]byte("kind: SecretProviderClass\nspec: {parameters: {objects: >-\n  array: [x]}}"))
	f.Add([]byte("kind: SecretProviderClass\nspec: {<<: *x}"))
	f.Add([]byte("{"))
	f.Add([]byte(shopSet))
	f.Add([]byte("kind: Pod\nspec: &a {volumes: [{csi: *a, driver: secrets-store.csi.k8s.io}], containers: [*a]}"))
	f.Add([]byte("\xff---\n...\n"))
	o := options(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		findings, classes := Check("f.yaml", data, o, Rules{})
		if classes < 0 {
			t.Error(classes)
		}
		set := NewSet(o, Rules{Lint: true})
		set.Add("f.yaml", data, true)
		findings = append(findings, set.Finish(t.Context(), nil)...)
		for _, one := range findings {
			if one.Line < 1 || one.File != "f.yaml" || one.Message == "" || strings.ContainsAny(one.String(), "\n\r") {
				t.Errorf("%q gives %+v", data, one)
			}
		}
	})
}

// The node's identity is the operator's choice, which the namespace of the class decides about.
func TestTheNodesIdentity(t *testing.T) {
	const managed = "tenantID: tenant\n    useVMManagedIdentity: \"true\""
	class := strings.Replace(good, "tenantID: tenant", managed, 1)
	anywhere := strings.Replace(class, ", namespace: shop", "", 1)
	for name, tc := range map[string]struct {
		text  string
		flags nodeidentity.Flags
		want  string
	}{
		"all":                     {class, nodeidentity.Flags{Mode: "all"}, ""},
		"none":                    {class, nodeidentity.Flags{Mode: "none"}, "f.yaml:9: error: shop/app: useVMManagedIdentity is not allowed in this cluster"},
		"none, and not asked for": {good, nodeidentity.Flags{Mode: "none"}, ""},
		"named":                   {class, nodeidentity.Flags{Mode: "namespaces", Names: []string{"bank", "shop"}}, ""},
		"not named": {
			class, nodeidentity.Flags{Mode: "namespaces", Names: []string{"bank"}},
			"f.yaml:9: error: shop/app: useVMManagedIdentity is not allowed in the namespace shop: use workload identity",
		},
		"labels": {
			class, nodeidentity.Flags{Mode: "namespaces", Names: []string{"bank"}, Selector: "team=a"},
			"f.yaml:9: warning: shop/app: useVMManagedIdentity is allowed only in bank and namespaces with the labels team=a: if",
		},
		"no namespace": {
			anywhere, nodeidentity.Flags{Mode: "namespaces", Names: []string{"bank"}},
			"f.yaml:9: warning: app: useVMManagedIdentity is allowed only in bank: if",
		},
	} {
		t.Run(name, func(t *testing.T) {
			rule, err := tc.flags.Rule()
			if err != nil {
				t.Fatal(err)
			}
			findings, _ := Check("f.yaml", []byte(tc.text), options(t), Rules{NodeIdentity: rule})
			switch {
			case tc.want == "" && len(findings) > 0:
				t.Errorf("findings: %v", findings)
			case tc.want != "" && (len(findings) != 1 || !strings.HasPrefix(findings[0].String(), tc.want)):
				t.Errorf("got %v, want %s", findings, tc.want)
			}
		})
	}
}
