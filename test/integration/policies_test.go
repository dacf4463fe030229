//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	kvclass "github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
)

const goodObjects = "array:\n- |\n  objectName: s\n  objectType: secret\n"

// with returns the parameters of a valid class, overridden by more; the value "-" removes a parameter.
func with(more map[string]string) map[string]string {
	all := map[string]string{"keyvaultName": "kv1", "tenantID": "tenant", "clientID": "client", "objects": goodObjects}
	maps.Copy(all, more)
	maps.DeleteFunc(all, func(_, v string) bool { return v == "-" })
	return all
}

// judge returns the mistakes that the driver finds in the parameters: a policy must not reject what the driver accepts.
func judge(t *testing.T, parameters map[string]string) []kvclass.Mistake {
	t.Helper()
	clouds, err := cloud.NewResolver("AzurePublicCloud", t.TempDir())
	must(t, err)
	_, mistakes, _ := kvclass.Parse(parameters, kvclass.Options{Clouds: clouds, AllowedHosts: []string{".example.com", ".example.com:"}})
	return mistakes
}

// apply creates a class as a dry run and returns the API server's answer.
func apply(c caller, namespace string, spec v1.SecretProviderClassSpec) answer {
	c.t.Helper()
	body, err := json.Marshal(map[string]any{
		"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass", "metadata": map[string]string{"name": "x"}, "spec": spec,
	})
	must(c.t, err)
	return c.do(http.MethodPost, "/apis/secrets-store.csi.x-k8s.io/v1/namespaces/"+namespace+"/secretproviderclasses?dryRun=All", "json", string(body))
}

func TestClassesAtKubectlApply(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	admin := newCaller(t, c.Admin())
	for name, tt := range map[string]struct {
		parameters map[string]string
		refused    []string // each is in the error
		warned     string   // is in a warning
	}{
		"good":                 {nil, nil, ""},
		"managed identity":     {map[string]string{"useVMManagedIdentity": "true", "tenantID": "-", "clientID": "-"}, nil, ""},
		"managed, odd ids":     {map[string]string{"useVMManagedIdentity": "true", "tenantID": "{guid}", "clientID": "ä"}, nil, ""},
		"resource id":          {map[string]string{"useVMManagedIdentity": " T ", "userAssignedIdentityID": "/Subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/n"}, nil, ""},
		"spaces":               {map[string]string{"keyvaultName": " kv1\n", "useVMManagedIdentity": " false ", "tenantID": "\u00a0t"}, nil, ""},
		"URI":                  {map[string]string{"keyvaultName": "-", "keyvaultURI": "HTTPS://kv1.vault.azure.net//"}, nil, ""},
		"cloud":                {map[string]string{"cloudName": "azureUSgovernment"}, nil, ""},
		"old tenant":           {map[string]string{"tenantID": " ", "tenantId": "adfs"}, nil, ""},
		"off":                  {map[string]string{"rotationInterval": "OFF", "staleIfError": "1h30m"}, nil, ""},
		"zero":                 {map[string]string{"rotationInterval": "0", "staleIfError": "-0"}, nil, ""},
		"odd durations":        {map[string]string{"rotationInterval": "+.5h1.s", "staleIfError": "3µs2μs"}, nil, ""},
		"vaults of objects":    {map[string]string{"keyvaultName": "-", "objects": goodObjects + "  keyvaultName: kv2\n"}, nil, ""},
		"vault's name":         {map[string]string{"keyvaultName": "k_v"}, []string{`keyvaultName "k_v"`, "3 to 24"}, ""},
		"vault twice":          {map[string]string{"keyvaultURI": "https://kv1.vault.azure.net"}, []string{"both set"}, ""},
		"plain http":           {map[string]string{"keyvaultName": "-", "keyvaultURI": "http://kv1.vault.azure.net/"}, []string{"not a vault URI"}, ""},
		"URI with a path":      {map[string]string{"keyvaultName": "-", "keyvaultURI": "https://kv1.vault.azure.net/secrets"}, []string{"not a vault URI"}, ""},
		"cloud's name":         {map[string]string{"cloudName": "AzureGermanCloud"}, []string{"not a cloud"}, ""},
		"tenant":               {map[string]string{"tenantID": "a b"}, []string{`tenantID "a b"`}, ""},
		"client":               {map[string]string{"clientID": "<client>"}, []string{`clientID "<client>"`}, ""},
		"boolean":              {map[string]string{"useVMManagedIdentity": "tru", "useAzureTokenProxy": "yes"}, []string{"useVMManagedIdentity and useAzureTokenProxy: not a boolean"}, ""},
		"pod identity":         {map[string]string{"usePodIdentity": "true"}, []string{"workload identity"}, ""},
		"two modes":            {map[string]string{"useVMManagedIdentity": "true", "useAzureTokenProxy": "1"}, []string{"several identity modes"}, ""},
		"two identities":       {map[string]string{"useVMManagedIdentity": "true", "userAssignedIdentityID": "a", "userAssignedIdentityObjectID": "b"}, []string{"both set"}, ""},
		"no resource id":       {map[string]string{"useVMManagedIdentity": "true", "userAssignedIdentityID": "/subscriptions/x"}, []string{"is not the id of an identity"}, ""},
		"interval":             {map[string]string{"rotationInterval": "soon"}, []string{"not a duration"}, ""},
		"short interval":       {map[string]string{"rotationInterval": "9s"}, []string{"shorter than 10s"}, ""},
		"stale":                {map[string]string{"staleIfError": "25h"}, []string{"between 0 and 24h"}, ""},
		"all at once":          {map[string]string{"keyvaultName": "k", "tenantID": "a b", "staleIfError": "x"}, []string{"keyvaultName", "tenantID", "staleIfError"}, ""},
		"misspelt":             {map[string]string{"keyvaultname": "x"}, nil, "unknown parameters, which mean nothing: keyvaultname"},
		"no objects":           {map[string]string{"objects": "-"}, nil, "objects is not set"},
		"no array":             {map[string]string{"objects": "arrays: []"}, nil, ""},
		"empty":                {map[string]string{"objects": "{}"}, nil, "no array"},
		"no vault":             {map[string]string{"keyvaultName": "-"}, nil, "keyvaultName is not set"},
		"no tenant":            {map[string]string{"tenantID": "-"}, nil, "tenantID is not set"},
		"idle identity":        {map[string]string{"userAssignedIdentityID": "x"}, nil, "means nothing without useVMManagedIdentity"},
		"objects are mappings": {map[string]string{"objects": "array:\n  - objectName: s\n    objectType: secret\n"}, nil, "put a | behind its dash"},
		"type in capitals":     {map[string]string{"objects": strings.Replace(goodObjects, "secret", "Secret", 1)}, nil, "in lower case"},
	} {
		t.Run(name, func(t *testing.T) {
			parameters := with(tt.parameters)
			admin.t = t
			got := apply(admin, s.shop, v1.SecretProviderClassSpec{Provider: " Azure ", Parameters: parameters})
			mistakes := judge(t, parameters)
			if refused := got.code != http.StatusCreated; refused != (tt.refused != nil) || refused && len(mistakes) == 0 {
				t.Fatalf("answered %d, and the driver says %v: %s", got.code, mistakes, got.body)
			}
			for _, text := range tt.refused {
				if !strings.Contains(got.body, strings.ReplaceAll(strings.ReplaceAll(text, `"`, `\"`), "<client>", `\u003cclient\u003e`)) {
					t.Errorf("%q is not in %s", text, got.body)
				}
			}
			if all := strings.Join(got.warnings, "\n"); !strings.Contains(all, tt.warned) || tt.warned == "" && tt.refused == nil && name != "no array" && all != "" {
				t.Errorf("warnings: %s", all)
			}
			if other := apply(admin, s.shop, v1.SecretProviderClassSpec{Provider: "vault", Parameters: parameters}); other.code != http.StatusCreated || len(other.warnings) > 0 {
				t.Errorf("another provider's class: %d: %s %v", other.code, other.body, other.warnings)
			}
		})
	}
}

func TestSecretObjectsAtKubectlApply(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	admin := newCaller(t, c.Admin())
	data := []v1.SecretObjectData{{ObjectName: "s", Key: "k"}}
	for name, tt := range map[string]struct {
		object v1.SecretObject
		warned string
	}{
		"good":        {v1.SecretObject{SecretName: "s", Type: "Opaque", Data: data}, ""},
		"the least":   {v1.SecretObject{SecretName: "s"}, ""},
		"own type":    {v1.SecretObject{SecretName: "s", Type: "example.com/x", Data: data}, "of a type that the driver does not write: s"},
		"Helm":        {v1.SecretObject{SecretName: "s", Type: "helm.sh/release.v1", Data: data}, "of a type that the driver does not write: s"},
		"no name":     {v1.SecretObject{Data: data}, "secretName that is not a name"},
		"no key":      {v1.SecretObject{SecretName: "s", Data: []v1.SecretObjectData{{ObjectName: "s"}}}, "a key that is not one: s"},
		"TLS by half": {v1.SecretObject{SecretName: "s", Type: "kubernetes.io/tls", Data: []v1.SecretObjectData{{ObjectName: "s", Key: "tls.crt"}}}, "TLS Secrets without tls.crt or tls.key: s"},
		"forbidden":   {v1.SecretObject{SecretName: "s", Type: "kubernetes.io/service-account-token", Data: data}, "of a type that the driver does not write: s"},
	} {
		t.Run(name, func(t *testing.T) {
			admin.t = t
			got := apply(admin, s.shop, v1.SecretProviderClassSpec{Provider: "azure", Parameters: with(nil), SecretObjects: []v1.SecretObject{tt.object}})
			if all := strings.Join(got.warnings, "\n"); got.code != http.StatusCreated || !strings.Contains(all, tt.warned) || tt.warned == "" && all != "" {
				t.Errorf("%d: %s %s", got.code, got.body, all)
			}
		})
	}
}

// TestPoliciesAcceptWhatTheDriverAccepts tries many classes with unusual values.
func TestPoliciesAcceptWhatTheDriverAccepts(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	admin := newCaller(t, c.Admin())
	booleans := []string{"", " ", "1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False", "tRUE", "yes", "no", "on", "\u2003true"}
	durations := []string{"", "0", "+0", "-0", "00", "10s", "9.999s", "10000ms", "9999ms", "1h", "24h", "24h1ns", "-1h", "1d", ".5h", "5.", "5.h", "1e3s", "off", "Off", "OFF ", "1H", "1h 2m", "999999h", "9999999h", "1us", "1µs", "1μs", "ſ"}
	ids := []string{"", "-", "a", "A.b_c-1", "adfs", "a b", "{guid}", strings.Repeat("a", 128), strings.Repeat("a", 129), "ä", "contoso.onmicrosoft.com", "/subscriptions/s/resourcegroups/g/providers/microsoft.managedidentity/userassignedidentities/n", "/SUBSCRIPTIONS/s", "\ta\n"}
	values := map[string][]string{
		"keyvaultName":                 {"", "kv1", "KV-1", "kv", "---", "k_v", strings.Repeat("v", 24), strings.Repeat("v", 25), " kv1 ", "kv1\n", "kv1.vault.azure.net", "ｋｖ１"},
		"keyvaultURI":                  {"", "", "", "https://a.vault.azure.net", "https://A.vault.azure.net/", "https://a.vault.azure.net///", "https://a.vault.azure.net/?", "https://a.vault.azure.net/#", "https://a.vault.azure.net/%2f", "https://a.example.com:/", "https://a.example.com:443/", "http://a.vault.azure.net", "HTTPS://a.vault.azure.net", "https://", "https:///x", "https://u@a.vault.azure.net/", "https://a.vault.azure.net/x", "a.vault.azure.net", "https://a b.vault.azure.net"},
		"cloudName":                    {"", "", "AzurePublicCloud", "azurecloud", "AZUREUSGOVERNMENT", "AzureU\u017fGovernmentCloud", "AzureChinaCloud ", "AzureStackCloud", "AzureGermanCloud", "x"},
		"usePodIdentity":               {"", "", "", "false", "0", "true"},
		"useVMManagedIdentity":         booleans,
		"useAzureTokenProxy":           {"", "", "false", "true", "x"},
		"tenantID":                     ids,
		"tenantId":                     ids,
		"clientID":                     ids,
		"userAssignedIdentityID":       ids,
		"userAssignedIdentityObjectID": {"", "", "", "a", "a b"},
		"rotationInterval":             durations,
		"staleIfError":                 durations,
	}
	names := slices.Sorted(maps.Keys(values))
	random := rand.New(rand.NewPCG(1, 2))
	accepted, refused := 0, 0
	try := func(parameters map[string]string) {
		got := apply(admin, s.shop, v1.SecretProviderClassSpec{Provider: "azure", Parameters: parameters})
		mistakes := judge(t, parameters)
		switch {
		case got.code == http.StatusCreated:
			accepted++
		case len(mistakes) == 0:
			t.Errorf("refused, and the driver takes it: %q: %s", parameters, got.body)
		default:
			refused++
		}
	}
	for _, name := range names {
		for _, value := range values[name] {
			try(with(map[string]string{name: value}))
			try(with(map[string]string{name: value, "keyvaultName": "-", "useVMManagedIdentity": "true"}))
		}
	}
	for range 400 {
		parameters := map[string]string{"objects": goodObjects}
		for _, name := range names {
			if random.IntN(3) == 0 {
				parameters[name] = values[name][random.IntN(len(values[name]))]
			}
		}
		try(parameters)
	}
	if accepted < 100 || refused < 100 {
		t.Errorf("%d accepted and %d refused: too few to mean anything", accepted, refused)
	}
	t.Logf("%d accepted, %d refused", accepted, refused)
}

// TestDocumentedClassesPass: every class in the documentation and the examples is accepted without a warning.
func TestDocumentedClassesPass(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	admin := newCaller(t, c.Admin())
	root, err := binaries.Root()
	must(t, err)
	var files []string
	for _, pattern := range []string{"README.md", "docs/*.md", "deploy/examples/*.yaml", "deploy/examples/*/*.yaml"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		must(t, err)
		files = append(files, found...)
	}
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```")
	classes := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		must(t, err)
		texts := []string{string(data)}
		if strings.HasSuffix(file, ".md") {
			texts = nil
			for _, m := range block.FindAllStringSubmatch(string(data), -1) {
				texts = append(texts, m[1])
			}
		}
		for _, text := range texts {
			for document := range strings.SplitSeq(text, "\n---") {
				var one v1.SecretProviderClass
				if !strings.Contains(document, "kind: SecretProviderClass\n") || yaml.Unmarshal([]byte(document), &one) != nil {
					continue
				}
				classes++
				if got := apply(admin, s.shop, one.Spec); got.code != http.StatusCreated || len(got.warnings) > 0 {
					t.Errorf("%s: %s: %d: %s %v", file, one.Name, got.code, got.body, got.warnings)
				}
			}
		}
	}
	if classes < 3 {
		t.Errorf("%d classes were found", classes)
	}
}

// TestExistingClassesAreNotChecked: an existing class is not checked again until its spec changes.
func TestExistingClassesAreNotChecked(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	policy := s.account + "-classes"
	stored := strings.Replace(fmt.Sprintf(class, "old", s.shop), "keyvaultName: ", "keyvaultName: not_a_name_", 1)
	// The class is older than the policies: the bindings of all releases on this control plane exclude the namespace for a moment.
	c.MustKubectl("", "label", "namespace", s.shop, "judged=no")
	for name := range strings.FieldsSeq(c.MustKubectl("", "get", "validatingadmissionpolicybindings", "-o", "name")) {
		c.MustKubectl("", "patch", name, "--type=merge", "-p", `{"spec":{"matchResources":{"namespaceSelector":{"matchExpressions":[{"key":"judged","operator":"NotIn","values":["no"]}]}}}}`)
	}
	c.Eventually("the policies to ignore the namespace", func() bool { _, err := c.Kubectl(stored, "apply", "-f", "-"); return err == nil })
	c.MustKubectl("", "label", "namespace", s.shop, "judged-")
	c.Eventually("the policies to apply again", func() bool {
		_, err := c.Kubectl(strings.Replace(stored, "name: old", "name: new", 1), "create", "--dry-run=server", "-f", "-")
		return err != nil && strings.Contains(err.Error(), policy)
	})
	c.MustKubectl("", "-n", s.shop, "label", "secretproviderclass", "old", "team=shop")
	if _, err := c.Kubectl("", "-n", s.shop, "patch", "secretproviderclass", "old", "--type=merge", "-p", `{"spec":{"parameters":{"clientID":"x"}}}`); err == nil ||
		!strings.Contains(err.Error(), "not a vault name") {
		t.Errorf("a changed spec: %v", err)
	}
	c.MustKubectl("", "-n", s.shop, "patch", "secretproviderclass", "old", "--type=merge", "-p", `{"spec":{"parameters":{"keyvaultName":"kv1"}}}`)
}

// TestPoliciesKnowTheParameters: the policy does not report a parameter of the driver as unknown.
func TestPoliciesKnowTheParameters(t *testing.T) {
	c := controlplane.Shared(t)
	s := install(t, c)
	all := map[string]string{}
	for _, name := range kvclass.Parameters() {
		all[name] = ""
	}
	got := apply(newCaller(t, c.Admin()), s.shop, v1.SecretProviderClassSpec{Provider: "azure", Parameters: all})
	if got.code != http.StatusCreated || strings.Contains(strings.Join(got.warnings, "\n"), "unknown") {
		t.Errorf("%d: %s %v", got.code, got.body, got.warnings)
	}
}
