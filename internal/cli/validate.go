package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/cli/classfile"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/nodeidentity"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
)

// validateFlags are the flags of `keyvault-csi validate`.
type validateFlags struct {
	files        []string
	output       string
	strict       bool
	allowEmpty   bool
	cloud        string
	cloudDir     string
	allowedHosts []string
	split        bool
	secretTypes  []string
	driverName   string
	annotations  bool
	nodeIdentity nodeidentity.Flags
	live         liveFlags

	build version.Build
}

func newValidateCommand(build version.Build) *cobra.Command {
	f := validateFlags{live: liveFlags{build: build}, build: build}
	c := &cobra.Command{
		Use:   "validate -f FILE... | --live [NAME...]",
		Short: "Check SecretProviderClasses and workloads: every mistake with file, line and fix",
		Long: `validate reads files, directories (all .yaml, .yml and .json below them) and - (standard input), and
prints every mistake in their SecretProviderClasses, and in the workloads that mount them, as
file:line: severity: object: what is wrong: what to write. It makes no network request.

Workloads are Pods, Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs and Lists of them. Their
csi volumes are compared with the classes, ServiceAccounts and Secrets of the same files. With -f and --live,
classes and service accounts that no file has are read from the cluster. In directories, what has nothing to do
with classes is ignored: Kustomizations, Helm charts, other objects and other files.

With --live and no file it reads the classes of a cluster and the workloads that mount them, with your own
rights, and prints namespace/name: severity: what is wrong: what to write. Classes of other providers are
ignored, and so are kinds of workloads that you may not list: they are named. Secrets are not read. With
names, it reads these classes alone.

Errors prevent a mount, or are rejected by the API server. Warnings are probably not intended: what the driver mounts is at
most a warning. Notes are information and not findings.

The formats are text, json, yaml, sarif (SARIF 2.1.0, for code scanning) and github (annotations of pull
requests); table and wide are text.

It exits with 0 if there is no error (with --strict, also no warning), with 1 if there is one, and with 2 if
not everything could be checked: wrong flags, a file that cannot be read, no class and no workload, or no
answer of the cluster. Kinds of workloads that you may not list do not change the exit code.`,
		Example: `  keyvault-csi validate -f class.yaml
  keyvault-csi validate -f deploy/ --strict
  kustomize build overlays/prod | keyvault-csi validate -f -
  keyvault-csi validate -f deploy/ --output sarif > keyvault-csi.sarif
  keyvault-csi validate --live --all-namespaces`,
		RunE: func(cmd *cobra.Command, args []string) error { return validate(cmd, args, &f) },
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return unusable{err} })
	flags := c.Flags()
	flags.StringSliceVarP(&f.files, "filename", "f", nil,
		"`file`, directory or - to check; may be given more than once")
	flags.StringVarP(&f.output, "output", "o", textOutput, "output `format`: text (or table, wide), json, yaml, sarif or github")
	flags.BoolVar(&f.strict, "strict", false, "warnings count as errors")
	flags.BoolVar(&f.allowEmpty, "allow-empty", false,
		"treat files as those of a directory: what has nothing to do with classes is ignored, and it is no error if nothing is left")
	flags.StringVar(&f.cloud, "cloud", "AzurePublicCloud",
		"the `cloud` of classes that do not set one, as in the driver's flag")
	flags.StringVar(&f.cloudDir, "cloud-config-dir", "", "`directory` of custom clouds' files, as in the driver's flag")
	flags.StringSliceVar(&f.allowedHosts, "allowed-vault-hosts", nil,
		"additional vault `hosts`, as in the driver's flag")
	flags.BoolVar(&f.split, "write-cert-and-key-in-separate-files", false, "as in the driver's flag")
	flags.BoolVar(&f.annotations, "service-account-annotations", false, "as in the driver's flag")
	flags.StringVar(&f.driverName, "driver-name", volume.DriverName, "`name` of the CSI driver in workloads, as in the driver's flag")
	flags.StringSliceVar(&f.secretTypes, "secret-types", nil,
		"additional `types` of Secrets that the driver writes, as in the driver's flag")
	f.nodeIdentity.Register(flags, ", as in the driver's flag")
	CompleteFlag(c, "output", findingFormats()...)
	CompleteFlag(c, "node-identity", nodeidentity.Modes()...)
	completeFiles(c, "filename", "yaml", "yml", "json")
	CompleteClouds(c)
	f.live.register(c)
	c.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"yaml", "yml", "json"}, cobra.ShellCompDirectiveFilterFileExt
	}
	return c
}

func validate(cmd *cobra.Command, args []string, f *validateFlags) error {
	set, err := f.check(args)
	if err != nil {
		return unusable{err}
	}
	shown := newProgress(cmd.ErrOrStderr())
	defer shown.end()
	var cluster *kube.Caller
	if f.live.live {
		if cluster, err = kube.NewCaller(f.live.caller()); err != nil {
			return unusable{err}
		}
	}
	files := f.files
	if !f.live.live || len(files) > 0 {
		files = append(files, args...)
	}
	var findings []classfile.Finding
	var denied []string
	switch {
	case f.live.live && len(files) == 0:
		findings, denied, err = f.live.validate(cmd.Context(), cluster, args, f.driverName, set, shown)
	default:
		err = validateFiles(files, cmd.InOrStdin(), f.allowEmpty, set)
		if cluster != nil {
			shown.begin("asking the cluster")
			findings = set.Finish(cmd.Context(), cluster)
		} else {
			findings = set.Finish(cmd.Context(), nil)
		}
	}
	shown.end()
	if err != nil && set.Classes+set.Workloads == 0 {
		return unusable{err}
	}
	if err := printFindings(cmd.OutOrStdout(), f.output, f.build.Version, findings); err != nil {
		return err
	}
	if len(denied) > 0 {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "not checked, because you may not list them:", strings.Join(denied, ", "))
	}
	return f.outcome(cmd.ErrOrStderr(), set, findings, err)
}

// check returns the set to fill, or every mistake of the flags.
func (f *validateFlags) check(args []string) (*classfile.Set, error) {
	if err := f.live.check(f.files, args); err != nil {
		return nil, err
	}
	if err := checkOutput(f.output, findingFormats()...); err != nil {
		return nil, err
	}
	if len(f.files)+len(args) == 0 && !f.live.live {
		return nil, errors.New("nothing to check: name a file, a directory or - with -f, or set --live")
	}
	clouds, err := cloud.NewResolver(f.cloud, f.cloudDir)
	if err != nil {
		return nil, fmt.Errorf("--cloud: %w", err)
	}
	nodeIdentity, err := f.nodeIdentity.Rule()
	if err != nil {
		return nil, err //nolint:wrapcheck // names the flag
	}
	return classfile.NewSet(
		class.Options{Clouds: clouds, AllowedHosts: f.allowedHosts, SplitCertAndKey: f.split},
		classfile.Rules{
			SecretTypes:  f.secretTypes,
			NodeIdentity: nodeIdentity,
			DriverName:   f.driverName,
			Annotations:  f.annotations,
			Live:         f.live.live && len(f.files) == 0,
			Lint:         true,
		},
	), nil
}

// outcome prints the summary, and returns the error that decides the exit code.
func (f *validateFlags) outcome(w io.Writer, set *classfile.Set, findings []classfile.Finding, err error) error {
	counts := map[classfile.Severity]int{}
	for _, one := range findings {
		counts[one.Severity]++
	}
	summary := count(set.Classes, "class")
	if set.Workloads > 0 {
		summary += " and " + count(set.Workloads, "workload")
	}
	summary += " checked, " + count(counts[classfile.Error]+counts[classfile.Warning], "finding")
	var parts []string
	for _, s := range []classfile.Severity{classfile.Error, classfile.Warning} {
		if counts[s] > 0 {
			parts = append(parts, count(counts[s], string(s)))
		}
	}
	if len(parts) > 0 {
		summary += " (" + strings.Join(parts, ", ") + ")"
	}
	if counts[classfile.Note] > 0 {
		summary += ", " + count(counts[classfile.Note], "note")
	}
	_, _ = fmt.Fprintln(w, summary)
	switch {
	case err != nil: // some classes could be read
		return unusable{fmt.Errorf("not everything was checked: %w", err)}
	case counts[classfile.Error] > 0 || f.strict && counts[classfile.Warning] > 0:
		return ErrReported
	case set.Classes+set.Workloads == 0 && !f.allowEmpty:
		return unusable{errors.New("no SecretProviderClass was found, and no workload that mounts one: check what is named, or set --allow-empty")}
	}
	return nil
}

// validateFiles adds files, directories and standard input to the set. What cannot be read does not hide the others.
func validateFiles(files []string, stdin io.Reader, quiet bool, set *classfile.Set) error {
	var wrong []error
	for _, name := range files {
		wrong = append(wrong, readClassFiles(name, stdin, func(path string, data []byte, named bool) error {
			set.Add(path, data, named && !quiet)
			return nil
		}))
	}
	return errors.Join(wrong...)
}
