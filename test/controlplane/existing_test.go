package controlplane

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// A cluster is used only if it is named twice, and never because a shell exports KUBECONFIG.
func TestExistingClusterIsConfirmed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	config := clientcmdapi.NewConfig()
	for _, name := range []string{"production", "kind-kind"} {
		config.Clusters[name] = &clientcmdapi.Cluster{Server: "https://" + name + ".example.com"}
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: name}
		config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	}
	config.CurrentContext = "kind-kind"
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		variables map[string]string
		used      bool
		wrong     error
	}{
		"nothing":         {nil, false, nil},
		"KUBECONFIG":      {map[string]string{"KUBECONFIG": path, contextVariable: "kind-kind"}, false, nil},
		"no context":      {map[string]string{kubeconfigVariable: path}, false, errContext},
		"another context": {map[string]string{kubeconfigVariable: path, contextVariable: "production"}, false, errContext},
		"no such file":    {map[string]string{kubeconfigVariable: path + "x", contextVariable: "kind-kind"}, false, os.ErrNotExist},
		"both":            {map[string]string{kubeconfigVariable: path, contextVariable: "kind-kind"}, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, variable := range []string{"KUBECONFIG", kubeconfigVariable, contextVariable} {
				t.Setenv(variable, tc.variables[variable])
			}
			got, err := Existing()
			if !errors.Is(err, tc.wrong) || (got != nil) != tc.used {
				t.Fatalf("got %v, %v", got, err)
			}
			if got != nil && (len(got.Clusters) != 1 || got.Clusters["kind-kind"] == nil) {
				t.Errorf("clusters %v", got.Clusters)
			}
		})
	}
}
