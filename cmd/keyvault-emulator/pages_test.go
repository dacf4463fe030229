package main

import (
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/commands"
)

func TestEveryCommandExplainsItself(t *testing.T) { commands.Check(t, command()) }
