package node

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/admin"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
)

func newLogLevelCommand() *cobra.Command {
	var addr string
	c := &cobra.Command{
		Use:   "log-level [VERBOSITY]",
		Short: "Show or change how much the driver on this node logs",
		Long: fmt.Sprintf(
			`log-level shows the verbosity of the driver on this node, or changes it at once: 0 is normal, 1 to %d log
more and more. The change lasts until the driver restarts. The driver logs no secret at any verbosity.`,
			logging.MostVerbose,
		),
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
			text, err := admin.Ask(cmd.Context(), addr, method, admin.LogLevelPath, body)
			if err != nil {
				return err
			}
			if _, err := cmd.OutOrStdout().Write(text); err != nil {
				return fmt.Errorf("output: %w", err)
			}
			return nil
		},
	}
	c.Flags().StringVar(&addr, "admin-addr", admin.DefaultAddress, "`address` of the driver's --admin-addr")
	return c
}
