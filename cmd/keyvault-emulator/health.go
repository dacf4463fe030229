package main

import (
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

func healthCommand() *cobra.Command {
	var listen string
	c := &cobra.Command{
		Use:   "health",
		Short: "Ask the emulator on this machine whether it serves",
		Long: `health asks the emulator that listens on the address for /healthz, and ends with 1 where it does not answer within
five seconds. It is for health checks of containers: the image has no other program.`,
		Example: `  keyvault-emulator health --listen 127.0.0.1:8200

  # in a compose.yaml
  healthcheck:
    test: [CMD, /keyvault-emulator, health, --listen=:8200]`,
		Args: cobra.NoArgs, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			url, err := proxyURL(listen)
			if err != nil {
				return err
			}
			transport := &http.Transport{} // without the proxy of the environment, which may be the emulator
			defer transport.CloseIdleConnections()
			request, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, url+"/healthz", http.NoBody)
			if err != nil {
				return fmt.Errorf("health: %w", err)
			}
			answer, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Do(request)
			if err != nil {
				return fmt.Errorf("no emulator answers: %w", err)
			}
			defer func() { _ = answer.Body.Close() }()
			if answer.StatusCode != http.StatusOK {
				return fmt.Errorf("%s/healthz is answered with %s: is it an emulator?", url, answer.Status)
			}
			return nil
		},
	}
	c.Flags().StringVar(&listen, "listen", defaultListen, "`address` that the emulator listens on")
	return c
}
