package cli

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
)

const (
	// pluginProgram is the name of the program by which kubectl finds it as a plugin.
	pluginProgram = "kubectl-keyvault"
	// pluginCommand is what people write.
	pluginCommand = "kubectl keyvault"
)

// completionProgram is what kubectl runs to complete the plugin's arguments, as an executable kubectl_complete-keyvault in PATH.
const completionProgram = `#!/usr/bin/env sh
exec kubectl keyvault __complete "$@"
`

// commandLine is one of this program in a text. What runs in the driver's container (kubectl exec ... -- keyvault-csi status) is the driver's.
var commandLine = regexp.MustCompile(`(-- )?\bkeyvault-csi (check|explain|preview|status|support-bundle|validate|version)\b`)

// IsPlugin reports whether a program was started as kubectl's plugin: by its name, the first argument of a process.
func IsPlugin(program string) bool {
	return strings.TrimSuffix(filepath.Base(program), ".exe") == pluginProgram
}

// NewPlugin returns the tools as the command `kubectl keyvault`: those for people who have a kubeconfig, and none for nodes.
func NewPlugin(build version.Build) *cobra.Command {
	root := &cobra.Command{
		Use:   pluginProgram,
		Short: "Find out why Azure Key Vault secrets are not mounted, and check classes before they are applied",
		Long: `kubectl keyvault has the tools of keyvault-csi, the Azure Key Vault CSI driver: validate finds mistakes in classes and
workloads offline, check finds what prevents a mount, status shows what is stale, failing or expiring in the cluster, and preview
shows what a Pod would see.`,
		Example: `  keyvault-csi check -A
  keyvault-csi status -A
  keyvault-csi validate -f class.yaml`,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: pluginCommand},
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       build.String(),
	}
	root.CompletionOptions.DisableDefaultCmd = true // its scripts complete a program, not a plugin
	root.AddCommand(append(tools(build), newPluginCompletion())...)
	for _, c := range append(root.Commands(), root) {
		c.Example, c.Long = asPlugin(c.Example), asPlugin(c.Long)
		if run := c.RunE; run != nil {
			c.RunE = func(cmd *cobra.Command, args []string) error { return errorAsPlugin(run(cmd, args)) }
		}
	}
	return root
}

// isPlugin reports whether a command is one of the plugin.
func isPlugin(c *cobra.Command) bool { return c.Root().Name() == pluginProgram }

// pluginError is an error whose text names the plugin's commands.
type pluginError struct {
	error

	text string
}

func (e pluginError) Error() string { return e.text }

// Unwrap returns the error as it was.
func (e pluginError) Unwrap() error { return e.error }

func errorAsPlugin(err error) error {
	if err == nil {
		return nil
	}
	return pluginError{error: err, text: asPlugin(err.Error())}
}

// stepsAsPlugin lets the messages of steps name the commands that the person has.
func stepsAsPlugin(c *cobra.Command, steps []checkup) {
	if !isPlugin(c) {
		return
	}
	for i := range steps {
		steps[i].Message = asPlugin(steps[i].Message)
	}
}

// asPlugin is a text whose command lines are those of the plugin.
func asPlugin(text string) string {
	return commandLine.ReplaceAllStringFunc(text, func(line string) string {
		if strings.HasPrefix(line, "-- ") {
			return line
		}
		return strings.Replace(line, "keyvault-csi", pluginCommand, 1)
	})
}

func newPluginCompletion() *cobra.Command {
	return &cobra.Command{
		Use: "completion", Short: "Print the program by which kubectl completes this plugin's arguments", Args: cobra.NoArgs,
		Long: `Print a program that kubectl runs to complete the arguments of this plugin in bash, zsh, fish and PowerShell. It must be an
executable kubectl_complete-keyvault in a directory of PATH, and kubectl's own completion must be set up.`,
		Example: `  kubectl keyvault completion > ~/.local/bin/kubectl_complete-keyvault
  chmod +x ~/.local/bin/kubectl_complete-keyvault`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := fmt.Fprint(cmd.OutOrStdout(), completionProgram); err != nil {
				return fmt.Errorf("completion: %w", err)
			}
			return nil
		},
	}
}
