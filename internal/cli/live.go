package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/cli/classfile"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
)

// liveFlags select the classes that `validate --live` checks.
type liveFlags struct {
	live          bool
	kubeconfig    string
	context       string
	namespace     string
	allNamespaces bool

	build version.Build
}

func (f *liveFlags) register(c *cobra.Command) {
	flags := c.Flags()
	flags.BoolVar(&f.live, "live", false, "check what is in the cluster; arguments are names of classes")
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "with --live: kubeconfig `file`; empty: as kubectl finds it")
	flags.StringVar(&f.context, "context", "", "with --live: the kubeconfig's `context`; empty: the current one")
	flags.StringVarP(&f.namespace, "namespace", "n", "", "with --live: the `namespace`; empty: the context's")
	flags.BoolVarP(&f.allNamespaces, "all-namespaces", "A", false, "with --live: the classes of all namespaces")
	completeFrom(c, "context", func(*cobra.Command) ([]string, error) { return f.caller().Contexts() })
	completeNamespaces(c, f.caller)
}

func (f *liveFlags) caller() kube.CallerOptions {
	return kube.CallerOptions{
		Kubeconfig: f.kubeconfig, Context: f.context, Namespace: f.namespace, UserAgent: userAgent(f.build),
	}
}

func (f *liveFlags) check(files, names []string) error {
	switch {
	case !f.live && (f.kubeconfig != "" || f.context != "" || f.namespace != "" || f.allNamespaces):
		return errors.New(
			"--kubeconfig, --context, --namespace and --all-namespaces need --live: files are checked offline",
		)
	case f.live && len(files) > 0 && f.allNamespaces:
		return errors.New("--all-namespaces and -f are mutually exclusive: with -f and --live, the cluster is asked for what the files name")
	case f.allNamespaces && (f.namespace != "" || len(names) > 0):
		return errors.New("--all-namespaces and --namespace or names are mutually exclusive")
	}
	return nil
}

// mostLiveWorkloads bounds the workloads that are kept until their classes are known.
const mostLiveWorkloads = 20_000

// validate checks classes of the cluster: those named, or all of the namespace or of the cluster, with the workloads that mount them. Kinds of workloads that
// the person may not list are returned.
func (f *liveFlags) validate(
	ctx context.Context,
	cluster *kube.Caller,
	names []string,
	driver string,
	set *classfile.Set,
	shown *progress,
) (findings []classfile.Finding, denied []string, err error) {
	shown.begin("reading classes")
	take := func(c *v1.SecretProviderClass) error {
		if set.Classes%progressEvery == 0 {
			shown.begin(count(set.Classes, "class"))
		}
		return addLive(c, set)
	}
	err = f.each(ctx, cluster, names, take) // what could be read is worth its findings
	if err == nil && len(names) == 0 {
		shown.begin("reading workloads")
		denied, err = cluster.EachWorkload(ctx, f.from(cluster), driver, func(object []byte) error {
			if set.Workloads == mostLiveWorkloads {
				return fmt.Errorf("only the first %d workloads were checked: name a namespace with -n", mostLiveWorkloads)
			}
			set.Add("", object, false)
			return nil
		})
	}
	findings = set.Finish(ctx, cluster)
	if set.Workloads > 0 { // what is wrong with one object is found in several steps
		slices.SortStableFunc(findings, func(a, b classfile.Finding) int { return cmp.Compare(a.Subject(), b.Subject()) })
	}
	for i := range findings {
		findings[i].Line = 0
	}
	return findings, denied, err
}

// from is the namespace to look at; empty for all.
func (f *liveFlags) from(cluster *kube.Caller) string {
	if f.allNamespaces {
		return ""
	}
	return cluster.Namespace()
}

// each gives the named classes, or all of the namespace or of the cluster.
func (f *liveFlags) each(ctx context.Context, cluster *kube.Caller, names []string, take func(*v1.SecretProviderClass) error) error {
	for _, name := range names {
		found, err := cluster.Class(ctx, cluster.Namespace(), name)
		if err != nil {
			return err //nolint:wrapcheck // says all
		}
		if err := take(found); err != nil {
			return err
		}
	}
	if len(names) > 0 {
		return nil
	}
	return cluster.EachClass(ctx, f.from(cluster), take) //nolint:wrapcheck // says all
}

// progressEvery is after how many classes the count on the terminal changes.
const progressEvery = 100

// addLive checks a class like a file. Its findings name the class instead of file and line.
func addLive(c *v1.SecretProviderClass, set *classfile.Set) error {
	c.APIVersion, c.Kind = "secrets-store.csi.x-k8s.io/v1", "SecretProviderClass"
	c.Status, c.ManagedFields = v1.SecretProviderClassStatus{}, nil
	text, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("secretproviderclass %s/%s: %w", c.Namespace, c.Name, err)
	}
	set.Add("", text, true)
	return nil
}
