package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
)

// askTimeout bounds a question to the driver on this node.
const askTimeout = 10 * time.Second

// askAdmin sends one request to the admin listener and returns the answer's body.
func askAdmin(ctx context.Context, addr, method, path, body string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+loopback(addr)+path, strings.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("--admin-addr: %w", err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy on the way to this node
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the driver does not answer on %s: run this in the driver's container, and look at the driver's --admin-addr: %w",
			loopback(addr), err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("the driver's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the driver answered %d: %s", resp.StatusCode, strings.TrimSpace(string(text)))
	}
	return text, nil
}

func newLogLevelCommand() *cobra.Command {
	var addr string
	c := &cobra.Command{
		Use:   "log-level [VERBOSITY]",
		Short: "Show or change how much the driver on this node logs",
		Long: fmt.Sprintf(`log-level shows the verbosity of the driver on this node, or changes it at once: 0 is normal, 1 to %d tell
ever more. It lasts until the driver ends. No verbosity makes the driver log a secret.`, logging.MostVerbose),
		Example: `  kubectl -n kube-system exec keyvault-csi-x7k2p -- keyvault-csi log-level 6
  keyvault-csi log-level 0`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			method, body := http.MethodGet, ""
			if len(args) == 1 {
				if _, err := strconv.Atoi(args[0]); err != nil {
					return fmt.Errorf("verbosity %q is not a number from 0 to %d", args[0], logging.MostVerbose)
				}
				method, body = http.MethodPut, args[0]
			}
			text, err := askAdmin(cmd.Context(), addr, method, logLevelPath, body)
			if err != nil {
				return err
			}
			if _, err := cmd.OutOrStdout().Write(text); err != nil {
				return fmt.Errorf("output: %w", err)
			}
			return nil
		},
	}
	c.Flags().StringVar(&addr, "admin-addr", defaultAdminAddr, "the driver's admin `address`, as its flag")
	return c
}
