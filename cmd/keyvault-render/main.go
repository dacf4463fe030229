// Command keyvault-render makes files from templates and evaluates JMESPath expressions, for keyvault-csi: one request on
// standard input, the answer on standard output. It is no tool for people. Before it reads its request it gives up all
// that it does not need, for good.
package main

import (
	"fmt"
	"os"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/render/engine"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		_, _ = fmt.Fprintln(os.Stdout, version.Read().Text("keyvault-render"))
		return
	}
	err := confine()
	if err == nil {
		err = engine.Run(os.Stdin, os.Stdout)
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "keyvault-render:", err)
		os.Exit(1)
	}
}
