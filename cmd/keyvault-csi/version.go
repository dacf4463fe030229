package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// build is what the binary knows of itself.
type build struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Time    string `json:"time,omitempty"`
	Dirty   bool   `json:"modified,omitempty"`
	Go      string `json:"go"`
}

// release, commit, committed and modified are set by the linker where an image is built (hack/image): Go itself sees no commit in a
// linked worktree, and would name a version after the tags that a clone happens to have.
var release, commit, committed, modified string

func readBuild() build {
	if release != "" {
		return build{Version: release, Commit: commit, Time: committed, Dirty: modified == "true", Go: runtime.Version()}
	}
	b := build{Version: "unknown"}
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

func newVersionCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "version", Short: "Print the version and how it was built", Args: cobra.NoArgs,
		Example: `  keyvault-csi version
  keyvault-csi version --output text`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output, jsonOutput, textOutput); err != nil {
				return err
			}
			text := readBuild().text()
			if output == jsonOutput {
				line, err := json.Marshal(readBuild())
				if err != nil {
					return fmt.Errorf("version: %w", err)
				}
				text = string(line)
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), text); err != nil {
				return fmt.Errorf("version: %w", err)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&output, "output", "o", jsonOutput, "output `format`: json or text")
	completeFlag(c, "output", jsonOutput, textOutput)
	return c
}

// text is the build for people.
func (b build) text() string {
	commit := b.Commit
	if commit == "" {
		commit = "unknown"
	}
	if b.Dirty {
		commit += ", with changes that are not committed"
	}
	if b.Time != "" {
		commit += ", " + b.Time
	}
	return fmt.Sprintf("keyvault-csi %s (commit %s; %s)", b.Version, commit, b.Go)
}
