// Package cli has the tools of keyvault-csi: for authors of classes (validate, check, preview) and for operators (status,
// support-bundle). They use the same packages as the driver, with the credentials of the person who runs them, and run on Linux,
// macOS and Windows: nothing that mounts may be imported here.
package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
)

// ErrReported is the error of a command that failed and has already printed why.
var ErrReported = errors.New("reported")

// unusable is the error of a command that could not do what it was asked for, as distinct from one that found something.
type unusable struct{ error }

// Unwrap returns the cause.
func (e unusable) Unwrap() error { return e.error }

// ExitCode is the exit code of the program after an error of its commands.
func ExitCode(err error) int {
	var e unusable
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return 2
	}
	return 1
}

// tools are the commands that people have everywhere.
func tools(build version.Build) []*cobra.Command {
	return []*cobra.Command{
		newValidateCommand(build),
		newPreviewCommand(build),
		newCheckCommand(build),
		newStatusCommand(build),
		newSupportCommand(build),
		newVersionCommand(build),
		newExplainCommand(),
	}
}

// AddTo adds the commands to the root command, and examples to its shell completion.
func AddTo(root *cobra.Command, build version.Build) {
	root.AddCommand(tools(build)...)
	completeVerbs(root)
}
