//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
)

// TestGitOpsExamples applies the examples for Argo CD and Flux to an API server that has their CustomResourceDefinitions, with unknown fields
// refused, and installs the chart with the values, release name and namespace that they have, as these tools would: Flux by Helm, Argo CD by
// a server-side apply of what Helm renders.
func TestGitOpsExamples(t *testing.T) {
	c := controlplane.Start(t, controlplane.Options{})
	root, err := binaries.Root()
	must(t, err)
	c.MustKubectl("", "apply", "--server-side", "-f", binaries.GitOps(t))
	for _, name := range []string{"applications.argoproj.io", "helmreleases.helm.toolkit.fluxcd.io", "ocirepositories.source.toolkit.fluxcd.io"} {
		c.MustKubectl("", "wait", "--for=condition=Established", "crd/"+name, "--timeout=60s")
	}
	for _, namespace := range []string{"argocd", "flux-system", "shop"} {
		c.MustKubectl("", "create", "namespace", namespace)
	}
	read := func(path string) []map[string]any {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(root, path))
		must(t, err)
		c.Eventually(path, func() bool { // new kinds take a moment
			_, err := c.Kubectl(string(data), "apply", "--server-side", "--validate=strict", "-f", "-")
			if err != nil {
				t.Log(err)
			}
			return err == nil
		})
		var documents []map[string]any
		for document := range strings.SplitSeq(string(data), "\n---\n") {
			var one map[string]any
			must(t, yaml.UnmarshalStrict([]byte(document), &one))
			documents = append(documents, one)
		}
		return documents
	}
	at := func(object map[string]any, path ...string) any {
		t.Helper()
		var value any = object
		for _, name := range path {
			below, ok := value.(map[string]any)
			if !ok {
				t.Fatalf("%v has no %s", object["kind"], strings.Join(path, "."))
			}
			value = below[name]
		}
		return value
	}
	chart := map[string]any{}
	data, err := os.ReadFile(filepath.Join(root, "deploy/chart/Chart.yaml"))
	must(t, err)
	must(t, yaml.Unmarshal(data, &chart))
	version := chart["version"]

	flux := read("deploy/examples/flux/release.yaml")
	argo := read("deploy/examples/argocd/application.yaml")[0]
	if at(flux[0], "spec", "ref", "tag") != version || at(argo, "spec", "source", "targetRevision") != version {
		t.Errorf("the examples install other versions than %v", version)
	}
	values := func(value any) string {
		t.Helper()
		data, err := yaml.Marshal(value)
		must(t, err)
		path := filepath.Join(t.TempDir(), "values.yaml")
		must(t, os.WriteFile(path, data, 0o600))
		return path
	}
	// the kinds of the Prometheus Operator, which the examples switch on
	for plural, kind := range map[string]string{"podmonitors": "PodMonitor", "prometheusrules": "PrometheusRule"} {
		c.ApplyYAML(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ` + plural + `.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  names: {kind: ` + kind + `, plural: ` + plural + `}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`)
		c.MustKubectl("", "wait", "--for=condition=Established", "crd/"+plural+".monitoring.coreos.com", "--timeout=60s")
	}

	name, namespace := at(argo, "spec", "source", "helm", "releaseName").(string), at(argo, "spec", "destination", "namespace").(string)
	settings := values(at(argo, "spec", "source", "helm", "valuesObject"))
	rendered, err := helm(t, c, "template", name, "deploy/chart", "--namespace", namespace, "--include-crds", "-f", settings,
		"--kube-version", c.Version(), "--api-versions", "monitoring.coreos.com/v1")
	if err != nil {
		t.Fatal(rendered)
	}
	for range 2 { // the second time nothing changes, or Argo CD would sync for ever
		c.Eventually("what Argo CD applies", func() bool {
			out, err := c.Kubectl(rendered, "apply", "--server-side", "--field-manager=argocd-controller", "-f", "-")
			if err != nil {
				t.Log(out, err)
			}
			return err == nil
		})
	}
	generation := c.MustKubectl("", "-n", namespace, "get", "daemonset", name, "-o", "jsonpath={.metadata.generation}")
	if generation != "1" {
		t.Errorf("the second apply made generation %s of the DaemonSet", generation)
	}
	c.MustKubectl(rendered, "delete", "-f", "-", "--wait=false")

	c.Eventually("the objects to go", func() bool {
		out, err := c.Kubectl("", "get", "csidriver,validatingadmissionpolicy,clusterrole", "-l", "app.kubernetes.io/instance="+name, "-o", "name")
		return err == nil && strings.TrimSpace(out) == ""
	})
	name, namespace = at(flux[1], "spec", "releaseName").(string), at(flux[1], "spec", "targetNamespace").(string)
	if out, err := helm(t, c, "install", name, "deploy/chart", "--namespace", namespace, "-f", values(at(flux[1], "spec", "values"))); err != nil {
		t.Fatal(out)
	}
	c.MustKubectl("", "-n", namespace, "get", "daemonset/"+name, "podmonitor/"+name, "prometheusrule/"+name)
}
