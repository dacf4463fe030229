// Command keyvault-emulator answers as Azure Key Vault, Entra ID and the instance metadata service do, as a forward
// proxy.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

func command() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "keyvault-emulator",
		Short: "Azure Key Vault, Entra ID and the instance metadata service on this machine",
		Long: `keyvault-emulator is an HTTP forward proxy that answers for Azure's hosts itself: every
vault of its seed (https://NAME.vault.azure.net), the Entra ID authorities, and the instance
metadata service. Every other host is refused. Unmodified Azure clients of any language use it
under the real host names, over real TLS with certificates of the emulator's own authority.

It verifies what Azure verifies: client assertions against the issuers' keys, client secrets,
access tokens and permissions. docs/emulator.md describes the seed file and the control API.`,
		Example: `  keyvault-emulator --listen 127.0.0.1:8200 --seed seed.yaml --tls-dir /tmp/emulator

  # any Azure client, in another terminal
  eval "$(keyvault-emulator env --tls-dir /tmp/emulator)"
  curl https://contoso.vault.azure.net/secrets/db?api-version=7.6     # 401: no token yet

  # the control API
  curl http://127.0.0.1:8200/requests
  curl -d '{"kind":"throttle","retryAfter":5,"count":3}' http://127.0.0.1:8200/faults`,
		Args: cobra.NoArgs, SilenceUsage: true, Version: version.Read().String(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logging.New(cmd.ErrOrStderr(), f.logFormat, slog.LevelInfo)
			if err != nil {
				return err
			}
			o, err := f.options(cmd.Context(), log)
			if err != nil {
				return err
			}
			server, err := emulator.New(o)
			if err != nil {
				return f.nameSeed(err)
			}
			return run(cmd, server, f.watch(server, log), f.listen, f.tlsDir)
		},
	}
	f.register(c.Flags())
	c.AddCommand(envCommand(), healthCommand())
	c.CompletionOptions.HiddenDefaultCmd = true
	return c
}

// authorityFile is the name of the authority's certificate in --tls-dir.
const authorityFile = "ca.pem"

func run(cmd *cobra.Command, server *emulator.Server, watch *seedWatch, listen, tlsDir string) error {
	if tlsDir != "" {
		if err := os.MkdirAll(tlsDir, 0o755); err != nil { //nolint:gosec // a certificate is public
			return fmt.Errorf("tls directory: %w", err)
		}
		if err := os.WriteFile(filepath.Join(tlsDir, authorityFile), server.CAPEM(), 0o644); err != nil { //nolint:gosec // public
			return fmt.Errorf("authority: %w", err)
		}
	}
	if err := server.Start(listen); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(cmd.OutOrStdout(), "keyvault-emulator listens on %s\n", server.Address())
	watch.run(cmd.Context())
	if err := server.Close(); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}
