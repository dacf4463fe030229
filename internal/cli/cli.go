// Package cli has the commands of keyvault-csi other than the driver: for authors of classes (validate, check, preview)
// and for operators of a node (status, log-level). They use the same packages as the driver, with the credentials of
// the person who runs them.
package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

// ErrReported is the error of a command that failed and has already printed why.
var ErrReported = errors.New("reported")

// AddTo adds the commands to the root command, and examples to its shell completion.
func AddTo(root *cobra.Command, build Build) {
	root.AddCommand(newValidateCommand(build), newPreviewCommand(build), newCheckCommand(build), newStatusCommand(build),
		newLogLevelCommand(), newVersionCommand(build), newExplainCommand())
	completeVerbs(root)
}
