package main

import (
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/docs/pages"
)

func TestEveryCommandExplainsItself(t *testing.T) {
	t.Setenv("KUBE_NODE_NAME", "") // a flag's default
	pages.CheckCommands(t, newRootCommand())
}
