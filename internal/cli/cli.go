// Package cli has the tools of keyvault-csi: what people run beside the driver. Those who write classes check them (validate, check,
// preview); those who run a cluster ask the driver of a node (status, log-level). It knows what the driver knows of Azure and of the
// API server, and acts with the rights of the person who runs it.
package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

// ErrReported is the error of a command that failed and has already printed why.
var ErrReported = errors.New("reported")

// AddTo adds the tools to the binary's root command, and completes the shell completion with examples.
func AddTo(root *cobra.Command, build Build) {
	root.AddCommand(
		newValidateCommand(build),
		newPreviewCommand(build),
		newCheckCommand(build),
		newStatusCommand(),
		newLogLevelCommand(),
		newVersionCommand(build),
	)
	completeVerbs(root)
}
