package main

import (
	"github.com/spf13/cobra"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/node"
)

// nodeCommands are those that make sense on a node.
func nodeCommands() []*cobra.Command { return node.Commands() }
