//go:build !linux

package main

import "github.com/spf13/cobra"

// nodeCommands are none: volumes are mounted on Linux.
func nodeCommands() []*cobra.Command { return nil }
