// Command keyvault-csi mounts Azure Key Vault objects into pods: the CSI driver, and tools for those who write classes.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificate authorities of its own
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := newRootCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		if !errors.Is(err, errReported) {
			_, _ = fmt.Fprintln(os.Stderr, "keyvault-csi:", err)
		}
		os.Exit(1)
	}
}

// errReported ends the process with a failure that the verb has told already.
var errReported = errors.New("reported")

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "keyvault-csi",
		Short:         "Azure Key Vault secrets, keys and certificates as files in pods",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newDriverCommand(), newValidateCommand(), newVersionCommand())
	return root
}
