package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/classfile"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/cloud"
)

// validateFlags are what `keyvault-csi validate` can be told.
type validateFlags struct {
	files        []string
	output       string
	strict       bool
	cloud        string
	cloudDir     string
	allowedHosts []string
	split        bool
}

func newValidateCommand() *cobra.Command {
	var f validateFlags
	c := &cobra.Command{
		Use:   "validate -f FILE...",
		Short: "Check SecretProviderClasses offline: every mistake with file, line and fix",
		Long: `validate reads files, directories (all .yaml, .yml and .json below them) and - (standard input), and
prints everything that is wrong with the SecretProviderClasses in them, as the driver would judge
them: file:line: severity: class: what is wrong: what to write. It talks to nobody.

It exits with 1 if there is an error (with --strict, also a warning), else with 0.`,
		Example: `  keyvault-csi validate -f class.yaml
  keyvault-csi validate -f deploy/ -f - --output json < more.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error { return validate(cmd, append(f.files, args...), &f) },
	}
	flags := c.Flags()
	flags.StringSliceVarP(&f.files, "filename", "f", nil, "`file`, directory or - to check; may be given more than once")
	flags.StringVarP(&f.output, "output", "o", "text", "`text or json`")
	flags.BoolVar(&f.strict, "strict", false, "warnings count as errors")
	flags.StringVar(&f.cloud, "cloud", "AzurePublicCloud", "the `cloud` of classes that name none, as the driver's flag")
	flags.StringVar(&f.cloudDir, "cloud-config-dir", "", "`directory` of custom clouds' files, as the driver's flag")
	flags.StringSliceVar(&f.allowedHosts, "allowed-vault-hosts", nil, "more vault `hosts`, as the driver's flag")
	flags.BoolVar(&f.split, "write-cert-and-key-in-separate-files", false, "as the driver's flag")
	return c
}

func validate(cmd *cobra.Command, files []string, f *validateFlags) error {
	if len(files) == 0 {
		return errors.New("nothing to check: name a file, a directory or - with -f")
	}
	if f.output != "text" && f.output != "json" {
		return fmt.Errorf("--output %q is not known: use text or json", f.output)
	}
	clouds, err := cloud.NewResolver(f.cloud, f.cloudDir)
	if err != nil {
		return fmt.Errorf("--cloud: %w", err)
	}
	options := class.Options{Clouds: clouds, AllowedHosts: f.allowedHosts, SplitCertAndKey: f.split}
	findings, classes := []classfile.Finding{}, 0
	for _, name := range files {
		found, n, err := checkAll(name, cmd.InOrStdin(), options)
		if err != nil {
			return err
		}
		findings, classes = append(findings, found...), classes+n
	}
	if err := printFindings(cmd.OutOrStdout(), f.output, findings); err != nil {
		return err
	}
	failed := 0
	for _, one := range findings {
		if one.Severity == classfile.Error || f.strict && one.Severity == classfile.Warning {
			failed++
		}
	}
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%d classes checked, %d findings\n", classes, len(findings))
	switch {
	case failed > 0:
		return errReported
	case classes == 0:
		return errors.New("no SecretProviderClass was found")
	}
	return nil
}

// checkAll checks a file, all files below a directory, or standard input.
func checkAll(name string, stdin io.Reader, options class.Options) (findings []classfile.Finding, classes int, err error) {
	if name == "-" {
		data, err := io.ReadAll(stdin)
		if err != nil {
			return nil, 0, fmt.Errorf("standard input: %w", err)
		}
		findings, classes = classfile.Check("<stdin>", data, options)
		return findings, classes, nil
	}
	err = filepath.WalkDir(name, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if path != name && !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)) {
			return nil
		}
		data, err := os.ReadFile(path) //nolint:gosec // the person's choice
		if err != nil {
			return err //nolint:wrapcheck // names the file
		}
		found, n := classfile.Check(path, data, options)
		findings, classes = append(findings, found...), classes+n
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read: %w", err)
	}
	return findings, classes, nil
}

func printFindings(w io.Writer, format string, findings []classfile.Finding) error {
	if format == "json" {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(findings); err != nil {
			return fmt.Errorf("output: %w", err)
		}
		return nil
	}
	for _, f := range findings {
		if _, err := fmt.Fprintln(w, f); err != nil {
			return fmt.Errorf("output: %w", err)
		}
	}
	return nil
}
