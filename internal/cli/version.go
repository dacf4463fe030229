package cli

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
)

// userAgent is the tools' User-Agent for the API server.
func userAgent(b version.Build) string { return "keyvault-csi/" + b.Version }

func newVersionCommand(build version.Build) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "version", Short: "Print the version and how it was built", Args: cobra.NoArgs,
		Example: `  keyvault-csi version
  keyvault-csi version --output text`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output, jsonOutput, yamlOutput, textOutput, tableOutput, wideOutput); err != nil {
				return err
			}
			text := build.Text(cmd.Root().DisplayName())
			switch output {
			case jsonOutput:
				line, err := json.Marshal(build)
				if err != nil {
					return fmt.Errorf("version: %w", err)
				}
				text = string(line)
			case yamlOutput:
				return printValue(cmd.OutOrStdout(), yamlOutput, build)
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), text); err != nil {
				return fmt.Errorf("version: %w", err)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&output, "output", "o", jsonOutput, "output `format`: json, yaml or text (or table, wide)")
	CompleteFlag(c, "output", jsonOutput, yamlOutput, textOutput, tableOutput, wideOutput)
	return c
}
