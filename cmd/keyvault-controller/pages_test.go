package main

import (
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/docs/pages"
)

func TestEveryCommandExplainsItself(t *testing.T) { pages.CheckCommands(t, newRootCommand()) }
