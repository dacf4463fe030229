package cli

import (
	"encoding/json"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Build describes this binary.
type Build struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Time    string `json:"time,omitempty"`
	Dirty   bool   `json:"modified,omitempty"`
	Go      string `json:"go"`
}

// ReadBuild returns what Go recorded in this binary.
func ReadBuild() Build {
	b := Build{Version: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Version, b.Go = info.Main.Version, info.GoVersion
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Dirty = s.Value == "true"
		}
	}
	return b
}

// userAgent is the tools' User-Agent for the API server.
func (b Build) userAgent() string { return "keyvault-csi/" + b.Version }

func newVersionCommand(build Build) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "version", Short: "Print the version and how it was built", Args: cobra.NoArgs,
		Example: `  keyvault-csi version
  keyvault-csi version --output text`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output, jsonOutput, yamlOutput, textOutput, tableOutput, wideOutput); err != nil {
				return err
			}
			text := build.text()
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

// text is the build as one line of text.
func (b Build) text() string {
	commit := b.Commit
	if commit == "" {
		commit = "unknown"
	}
	if b.Dirty {
		commit += ", with uncommitted changes"
	}
	if b.Time != "" {
		commit += ", " + b.Time
	}
	return fmt.Sprintf("keyvault-csi %s (commit %s; %s)", b.Version, commit, b.Go)
}
