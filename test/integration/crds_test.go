//go:build integration

package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
)

// TestObjectsThatExistStayValid: nothing is required of an object, of either version, and what is unknown is pruned.
func TestObjectsThatExistStayValid(t *testing.T) {
	c := controlplane.Shared(t)
	c.ApplyCRDs()
	namespace := c.Namespace()
	admin := newCaller(t, c.Admin())
	for i, body := range []string{
		`{}`, `"spec":null`, `"spec":{}`, `"spec":{"provider":"","parameters":{}}`, `"spec":{"provider":"vault","parameters":{"any thing":""}}`,
		`"spec":{"secretObjects":[]}`, `"spec":{"secretObjects":[{}]}`, `"spec":{"secretObjects":[{"secretName":"Not A Name","type":"x y","data":[{}],"labels":{"not a label!":"x"}}]}`,
		`"spec":{"provider":"azure","unknown":{"deep":[1]}},"status":{"odd":1}`, `"status":{}`,
		`"spec":{"secretObjects":[{"secretName":"a","data":[{"key":"k","objectName":"a"},{"key":"k","objectName":"a"}]},{"secretName":"a"}]}`,
	} {
		for _, version := range []string{"v1", "v1alpha1"} {
			name := fmt.Sprintf("odd-%d-%s", i, version)
			path := "/apis/secrets-store.csi.x-k8s.io/" + version + "/namespaces/" + namespace + "/secretproviderclasses"
			object := strings.ReplaceAll(`{"apiVersion":"secrets-store.csi.x-k8s.io/`+version+`","kind":"SecretProviderClass","metadata":{"name":"`+name+`"},`+body+`}`, `,{}}`, `}`)
			got := admin.do(http.MethodPost, path, "json", object)
			if got.code != http.StatusCreated || strings.Contains(got.body, "unknown") || strings.Contains(got.body, `"odd"`) {
				t.Errorf("%s %s: %d: %s", version, body, got.code, got.body)
			}
			if deprecated := strings.Contains(strings.Join(got.warnings, ""), "use secrets-store.csi.x-k8s.io/v1"); deprecated != (version == "v1alpha1") {
				t.Errorf("%s: warnings %v", version, got.warnings)
			}
			for _, other := range []string{"v1", "v1alpha1"} {
				if got := admin.do(http.MethodGet, strings.Replace(path, "/"+version+"/", "/"+other+"/", 1)+"/"+name, "", ""); got.code != http.StatusOK {
					t.Errorf("%s read as %s: %d: %s", name, other, got.code, got.body)
				}
			}
			if got := admin.do("PATCH", path+"/"+name, "merge-patch+json", `{"metadata":{"labels":{"touched":"yes"}}}`); got.code != http.StatusOK {
				t.Errorf("%s touched: %d: %s", name, got.code, got.body)
			}
		}
	}
	status := "/apis/secrets-store.csi.x-k8s.io/v1alpha1/namespaces/" + namespace + "/secretproviderclasspodstatuses"
	got := admin.do(http.MethodPost, status, "json", `{"apiVersion":"secrets-store.csi.x-k8s.io/v1alpha1","kind":"SecretProviderClassPodStatus","metadata":{"name":"x"},`+
		`"status":{"podName":"p","secretProviderClassName":"c","mounted":true,"targetPath":"/t","objects":[{"id":"a","version":"b"}]}}`)
	if got.code != http.StatusCreated || !strings.Contains(got.body, `"targetPath":"/t"`) || !strings.Contains(strings.Join(got.warnings, ""), "use secrets-store.csi.x-k8s.io/v1") {
		t.Errorf("a v1alpha1 status object: %d %v: %s", got.code, got.warnings, got.body)
	}
	if out := c.MustKubectl("", "get", "crd", "secretproviderclasses.secrets-store.csi.x-k8s.io", "-o", "jsonpath={.status.storedVersions}"); out != `["v1"]` {
		t.Errorf("stored versions: %s", out)
	}
}

// TestNoShortNames: the second column of `kubectl api-resources` is the version, as scripts of the Secrets Store CSI Driver read it.
func TestNoShortNames(t *testing.T) {
	c := controlplane.Shared(t)
	c.ApplyCRDs()
	for line := range strings.Lines(c.MustKubectl("", "api-resources", "--api-group=secrets-store.csi.x-k8s.io", "--no-headers")) {
		columns := strings.Fields(line)
		if len(columns) != 4 || columns[1] != "secrets-store.csi.x-k8s.io/v1" {
			t.Errorf("columns %q", columns)
		}
	}
	for _, version := range []string{"v1", "v1alpha1"} {
		resources, err := c.Client().Discovery().ServerResourcesForGroupVersion("secrets-store.csi.x-k8s.io/" + version)
		if err != nil {
			t.Fatal(err)
		}
		if len(resources.APIResources) < 2 {
			t.Errorf("%s: resources %v", version, resources.APIResources)
		}
		for _, resource := range resources.APIResources {
			if len(resource.ShortNames) > 0 {
				t.Errorf("%s %s: short names %q", version, resource.Name, resource.ShortNames)
			}
		}
	}
}

// TestWhatKubectlShows: columns and field docs.
func TestWhatKubectlShows(t *testing.T) {
	c := controlplane.Shared(t)
	c.ApplyCRDs()
	namespace := c.Namespace()
	c.ApplyYAML(fmt.Sprintf(class, "web", namespace))
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"-n", namespace, "get", "secretproviderclass"}, []string{"PROVIDER", "VAULT", "AGE", "azure", "contoso"}},
		{[]string{"-n", namespace, "get", "secretproviderclass", "-o", "wide"}, []string{"CLIENT", "TENANT", "INTERVAL"}},
		{[]string{"-n", namespace, "get", "secretproviderclasspodstatus"}, nil},
		{[]string{"explain", "secretproviderclass"}, []string{"which secrets, keys and certificates of which Azure Key Vault", "VERSION:", "v1"}},
		{[]string{"explain", "secretproviderclass.spec.parameters"}, []string{"keyvaultName", "userAssignedIdentityID", "objectAlias"}},
		{[]string{"explain", "secretproviderclass.spec.secretObjects.type"}, []string{"Opaque"}},
		{[]string{"explain", "secretproviderclasspodstatus.status.objects.version"}, []string{"the version that is mounted"}},
	} {
		out := c.MustKubectl("", tt.args...)
		for _, want := range tt.want {
			if !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
				t.Errorf("kubectl %v lacks %q:\n%s", tt.args, want, out)
			}
		}
	}
}
