package controlplane

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// The environment variables that hand an existing cluster to the tests. Both are needed, and neither is one that shells
// export for other purposes: tests install CustomResourceDefinitions, roles and admission policies, and must never do
// so in a cluster by accident.
const (
	// kubeconfigVariable names a kubeconfig file with an administrator's rights.
	kubeconfigVariable = "E2E_KUBECONFIG"
	// contextVariable repeats the name of the file's current context.
	contextVariable = "E2E_CONTEXT"
)

// errContext is the error of a kubeconfig whose current context is not confirmed.
var errContext = errors.New(
	"the cluster is used only if " + contextVariable + " names the current context of " + kubeconfigVariable,
)

// Existing is the cluster of E2E_KUBECONFIG; nil without that variable. It is an error if its current context is not
// also in E2E_CONTEXT.
func Existing() (*clientcmdapi.Config, error) {
	path := os.Getenv(kubeconfigVariable)
	if path == "" {
		return nil, nil
	}
	config, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kubeconfigVariable, err)
	}
	if confirmed := os.Getenv(contextVariable); config.CurrentContext == "" || config.CurrentContext != confirmed {
		return nil, fmt.Errorf("%w: that is %q, and %q is confirmed", errContext, config.CurrentContext, confirmed)
	}
	if err := clientcmdapi.MinifyConfig(config); err != nil {
		return nil, fmt.Errorf("%s: %w", kubeconfigVariable, err)
	}
	if err := clientcmdapi.FlattenConfig(config); err != nil {
		return nil, fmt.Errorf("%s: %w", kubeconfigVariable, err)
	}
	return config, nil
}

// UseExisting is a Plane for the cluster of E2E_KUBECONFIG, with files of its own in dir.
func UseExisting(config *clientcmdapi.Config, dir string) (*Plane, error) {
	p := &Plane{Config: Config{Dir: dir}, existing: config, programs: Programs{}}
	if err := os.MkdirAll(p.path("keys"), 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	kubectl, err := exec.LookPath("kubectl")
	if err != nil {
		return nil, fmt.Errorf("a cluster of %s needs kubectl: %w", kubeconfigVariable, err)
	}
	p.programs["kubectl"] = kubectl
	return p, clientcmd.WriteToFile(*config, p.Kubeconfig("admin"))
}

// user is a client of the existing cluster: the administrator, who impersonates the user of a name, where that is
// given.
func (p *Plane) user(name string, groups ...string) *clientcmdapi.AuthInfo {
	info := p.existing.AuthInfos[p.existing.Contexts[p.existing.CurrentContext].AuthInfo].DeepCopy()
	if name != "" {
		info.Impersonate, info.ImpersonateGroups = name, append([]string{"system:authenticated"}, groups...)
	}
	return info
}

// NeedsOwn skips a test in a cluster of E2E_KUBECONFIG that needs more than that: it says what.
func (c *ControlPlane) NeedsOwn(what string) {
	c.Helper()
	if c.existing != nil {
		c.Skipf("the cluster of %s is not this test's own: %s", kubeconfigVariable, what)
	}
}

// needsOwn is NeedsOwn for tests that start a control plane.
func needsOwn(t testing.TB, what string) {
	t.Helper()
	config, err := Existing()
	if err != nil {
		t.Fatal(err)
	}
	if config != nil {
		t.Skipf("the cluster of %s is not this test's own: %s", kubeconfigVariable, what)
	}
}

// madeNode notes a Node that tests have made in the existing cluster.
func (p *Plane) madeNode(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nodes = append(p.nodes, name)
}

// deleteNodes deletes the Nodes that tests have made in the existing cluster: no kubelet runs them.
func (p *Plane) deleteNodes() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range p.nodes {
		_, _ = p.Kubectl(p.Kubeconfig("admin"), "", "delete", "node", name, "--ignore-not-found")
	}
}
