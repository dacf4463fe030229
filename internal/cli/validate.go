package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/cli/classfile"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/nodeidentity"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
)

// validateFlags are the flags of `keyvault-csi validate`.
type validateFlags struct {
	files        []string
	output       string
	strict       bool
	cloud        string
	cloudDir     string
	allowedHosts []string
	split        bool
	secretTypes  []string
	nodeIdentity nodeidentity.Flags
	live         liveFlags
}

func newValidateCommand(build Build) *cobra.Command {
	f := validateFlags{live: liveFlags{build: build}}
	c := &cobra.Command{
		Use:   "validate -f FILE... | --live [NAME...]",
		Short: "Check SecretProviderClasses: every mistake with file, line and fix",
		Long: `validate reads files, directories (all .yaml, .yml and .json below them) and - (standard input), and
prints every mistake that the driver would find in their SecretProviderClasses, as
file:line: severity: class: what is wrong: what to write. It makes no network request.

With --live it reads the classes of a cluster instead, with your own rights (get and list
secretproviderclasses), and prints namespace/name: severity: what is wrong: what to write. Classes of
other providers are ignored.

It exits with 1 if there is an error (with --strict, also a warning), else with 0.`,
		Example: `  keyvault-csi validate -f class.yaml
  keyvault-csi validate -f deploy/ -f - --output json < more.yaml
  keyvault-csi validate --live --all-namespaces`,
		RunE: func(cmd *cobra.Command, args []string) error { return validate(cmd, args, &f) },
	}
	flags := c.Flags()
	flags.StringSliceVarP(&f.files, "filename", "f", nil,
		"`file`, directory or - to check; may be given more than once")
	flags.StringVarP(&f.output, "output", "o", textOutput, "output `format`: text or json")
	flags.BoolVar(&f.strict, "strict", false, "warnings count as errors")
	flags.StringVar(&f.cloud, "cloud", "AzurePublicCloud",
		"the `cloud` of classes that do not set one, as in the driver's flag")
	flags.StringVar(&f.cloudDir, "cloud-config-dir", "", "`directory` of custom clouds' files, as in the driver's flag")
	flags.StringSliceVar(&f.allowedHosts, "allowed-vault-hosts", nil,
		"additional vault `hosts`, as in the driver's flag")
	flags.BoolVar(&f.split, "write-cert-and-key-in-separate-files", false, "as in the driver's flag")
	flags.StringSliceVar(&f.secretTypes, "secret-types", nil,
		"additional `types` of Secrets that the driver writes, as in the driver's flag")
	f.nodeIdentity.Register(flags, ", as in the driver's flag")
	CompleteFlag(c, "output", textOutput, jsonOutput)
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
	if err := f.live.check(f.files, args); err != nil {
		return err
	}
	if err := checkOutput(f.output, textOutput, jsonOutput); err != nil {
		return err
	}
	clouds, err := cloud.NewResolver(f.cloud, f.cloudDir)
	if err != nil {
		return fmt.Errorf("--cloud: %w", err)
	}
	nodeIdentity, err := f.nodeIdentity.Rule()
	if err != nil {
		return err
	}
	rules := classfile.Rules{SecretTypes: f.secretTypes, NodeIdentity: nodeIdentity}
	options := class.Options{Clouds: clouds, AllowedHosts: f.allowedHosts, SplitCertAndKey: f.split}
	var findings []classfile.Finding
	var classes int
	if f.live.live {
		findings, classes, err = f.live.validate(cmd.Context(), args, options, rules, newProgress(cmd.ErrOrStderr()))
	} else {
		findings, classes, err = validateFiles(append(f.files, args...), cmd.InOrStdin(), options, rules)
	}
	if err != nil && classes == 0 {
		return err
	}
	if err := printFindings(cmd.OutOrStdout(), f.output, findings); err != nil {
		return err
	}
	failed := slices.ContainsFunc(findings, func(one classfile.Finding) bool {
		return one.Severity == classfile.Error || f.strict && one.Severity == classfile.Warning
	})
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s checked, %s\n", count(classes, "class"), count(len(findings), "finding"))
	switch {
	case err != nil: // some classes could be read
		return fmt.Errorf("not all classes were checked: %w", err)
	case failed:
		return ErrReported
	case classes == 0:
		return errors.New("no SecretProviderClass was found")
	}
	return nil
}

// validateFiles checks files, directories and standard input.
func validateFiles(
	files []string,
	stdin io.Reader,
	o class.Options,
	rules classfile.Rules,
) (findings []classfile.Finding, classes int, err error) {
	if len(files) == 0 {
		return nil, 0, errors.New("nothing to check: name a file, a directory or - with -f, or set --live")
	}
	findings = []classfile.Finding{}
	for _, name := range files {
		err := readClassFiles(name, stdin, func(path string, data []byte) error {
			found, n := classfile.Check(path, data, o, rules)
			findings, classes = append(findings, found...), classes+n
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
	}
	return findings, classes, nil
}

func printFindings(w io.Writer, format string, findings []classfile.Finding) error {
	if format == jsonOutput {
		return printValue(w, jsonOutput, findings)
	}
	for _, f := range findings {
		if _, err := fmt.Fprintln(w, f); err != nil {
			return fmt.Errorf("output: %w", err)
		}
	}
	return nil
}
