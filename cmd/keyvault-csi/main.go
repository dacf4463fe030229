// Command keyvault-csi mounts Azure Key Vault objects into pods: the CSI driver, and tools for authors of classes.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificate authorities of its own

	"github.com/keyvault-csi/keyvault-csi-driver/internal/cli"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	root := newRootCommand()
	if cli.IsPlugin(os.Args[0]) {
		root = cli.NewPlugin(version.Read())
	}
	err := root.ExecuteContext(ctx)
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT) // a second signal must not turn a clean end into a failure
	stop()
	if err != nil {
		if !errors.Is(err, cli.ErrReported) {
			_, _ = fmt.Fprintln(os.Stderr, root.DisplayName()+":", strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		os.Exit(cli.ExitCode(err))
	}
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "keyvault-csi",
		Short: "Azure Key Vault secrets, keys and certificates as files in pods",
		Long: `keyvault-csi mounts secrets, keys and certificates of Azure Key Vault into pods as files. It is the CSI
driver that runs on each node, and the tools for authors of SecretProviderClasses: validate finds
mistakes in classes offline, check finds what prevents a mount, and preview shows what a pod would see.`,
		Example: `  keyvault-csi validate -f class.yaml
  keyvault-csi check -f class.yaml
  keyvault-csi preview -f class.yaml
  keyvault-csi help driver`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.Read().String(),
	}
	root.AddCommand(nodeCommands()...)
	cli.AddTo(root, version.Read())
	return root
}
