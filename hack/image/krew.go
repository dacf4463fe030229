package main

import v1 "github.com/google/go-containerregistry/pkg/v1"

// krewPlugin is the manifest of a plugin of kubectl as krew reads it, the plugin manager of kubectl
// (https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest).
type krewPlugin struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   krewName `json:"metadata"`
	Spec       krewSpec `json:"spec"`
}

type krewName struct {
	Name string `json:"name"`
}

type krewSpec struct {
	Version          string         `json:"version"`
	Homepage         string         `json:"homepage"`
	ShortDescription string         `json:"shortDescription"`
	Description      string         `json:"description"`
	Platforms        []krewPlatform `json:"platforms"`
}

type krewPlatform struct {
	Selector krewSelector `json:"selector"`
	URI      string       `json:"uri"`
	Sha256   string       `json:"sha256"`
	Bin      string       `json:"bin"`
}

type krewSelector struct {
	MatchLabels map[string]string `json:"matchLabels"`
}

func newKrewPlugin(version string) *krewPlugin {
	return &krewPlugin{
		APIVersion: "krew.googlecontainertools.github.com/v1alpha2",
		Kind:       "Plugin",
		Metadata:   krewName{Name: "keyvault"},
		Spec: krewSpec{
			Version:          "v" + version,
			Homepage:         project,
			ShortDescription: "Diagnose Azure Key Vault secrets in Pods",
			Description: `Tools of keyvault-csi, the Azure Key Vault CSI driver. They find mistakes in
SecretProviderClasses and in the workloads that mount them before they are
applied, find out why a mount fails (identity, role, network, class), show what
is stale, failing or expiring in the cluster, and show what a Pod would see.
No secret value is printed unless it is asked for.
`,
			Platforms: []krewPlatform{},
		},
	}
}

// add adds the archive of a platform, whose files are all installed.
func (k *krewPlugin) add(platform v1.Platform, uri, sum string) {
	k.Spec.Platforms = append(k.Spec.Platforms, krewPlatform{
		Selector: krewSelector{MatchLabels: map[string]string{"os": platform.OS, "arch": platform.Architecture}},
		URI:      uri,
		Sha256:   sum,
		Bin:      programName(platform),
	})
}
