// Package node is what keyvault-csi does on a node, which is Linux: the driver with all its parts, and the command that talks
// to it. The tools, which run on other systems too, are in package cli.
package node

import "github.com/spf13/cobra"

// Commands returns the commands driver and log-level.
func Commands() []*cobra.Command { return []*cobra.Command{newDriverCommand(), newLogLevelCommand()} }
