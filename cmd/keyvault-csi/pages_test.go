package main

import (
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/commands"
)

func TestEveryCommandExplainsItself(t *testing.T) {
	t.Setenv("KUBE_NODE_NAME", "") // a flag's default
	commands.Check(t, newRootCommand())
}
