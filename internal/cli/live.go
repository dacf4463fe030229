package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/cli/classfile"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

// liveFlags select the classes that `validate --live` checks.
type liveFlags struct {
	live          bool
	kubeconfig    string
	context       string
	namespace     string
	allNamespaces bool

	build Build
}

func (f *liveFlags) register(c *cobra.Command) {
	flags := c.Flags()
	flags.BoolVar(&f.live, "live", false, "check what is in the cluster; arguments are names of classes")
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "with --live: kubeconfig `file`; empty: as kubectl finds it")
	flags.StringVar(&f.context, "context", "", "with --live: the kubeconfig's `context`; empty: the current one")
	flags.StringVarP(&f.namespace, "namespace", "n", "", "with --live: the `namespace`; empty: the context's")
	flags.BoolVarP(&f.allNamespaces, "all-namespaces", "A", false, "with --live: the classes of all namespaces")
	completeFrom(c, "context", func(*cobra.Command) ([]string, error) { return f.caller().Contexts() })
}

func (f *liveFlags) caller() kube.CallerOptions {
	return kube.CallerOptions{
		Kubeconfig: f.kubeconfig, Context: f.context, Namespace: f.namespace, UserAgent: f.build.userAgent(),
	}
}

func (f *liveFlags) check(files, names []string) error {
	switch {
	case !f.live && (f.kubeconfig != "" || f.context != "" || f.namespace != "" || f.allNamespaces):
		return errors.New(
			"--kubeconfig, --context, --namespace and --all-namespaces need --live: files are checked offline",
		)
	case f.live && len(files) > 0:
		return errors.New("--live and -f are mutually exclusive: check the cluster or files")
	case f.allNamespaces && (f.namespace != "" || len(names) > 0):
		return errors.New("--all-namespaces and --namespace or names are mutually exclusive")
	}
	return nil
}

// validate checks classes of the cluster: those named, or all of the namespace or of the cluster.
func (f *liveFlags) validate(
	ctx context.Context,
	names []string,
	o class.Options,
	rules classfile.Rules,
	shown *progress,
) (findings []classfile.Finding, classes int, err error) {
	findings = []classfile.Finding{}
	cluster, err := kube.NewCaller(f.caller())
	if err != nil {
		return nil, 0, err
	}
	defer shown.end()
	shown.begin("reading classes")
	take := func(c *v1.SecretProviderClass) error {
		found, err := checkLive(c, o, rules)
		findings, classes = append(findings, found...), classes+1
		if classes%progressEvery == 0 {
			shown.begin(count(classes, "class"))
		}
		return err
	}
	for _, name := range names {
		found, err := cluster.Class(ctx, cluster.Namespace(), name)
		if err != nil {
			return findings, classes, err // what could be read is worth its findings
		}
		if err := take(found); err != nil {
			return findings, classes, err
		}
	}
	if len(names) == 0 {
		namespace := cluster.Namespace()
		if f.allNamespaces {
			namespace = ""
		}
		if err := cluster.EachClass(ctx, namespace, take); err != nil {
			return findings, classes, err
		}
	}
	return findings, classes, nil
}

// progressEvery is after how many classes the count on the terminal changes.
const progressEvery = 100

// checkLive checks a class like a file. Its findings name the class instead of file and line.
func checkLive(c *v1.SecretProviderClass, o class.Options, rules classfile.Rules) ([]classfile.Finding, error) {
	if !class.Served(c.Spec.Provider) {
		return []classfile.Finding{{
			Severity: classfile.Note, Class: c.Namespace + "/" + c.Name,
			Message: fmt.Sprintf("spec.provider %q is another driver's: the class is ignored", c.Spec.Provider),
		}}, nil
	}
	c.APIVersion, c.Kind = "secrets-store.csi.x-k8s.io/v1", "SecretProviderClass"
	c.Status = v1.SecretProviderClassStatus{}
	text, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("secretproviderclass %s/%s: %w", c.Namespace, c.Name, err)
	}
	findings, _ := classfile.Check("", text, o, rules)
	for i := range findings {
		findings[i].Line = 0
	}
	return findings, nil
}
