// Command canary fails where a secret value of the tests is in a file: in what a run of the tests printed.
//
//	canary FILE...
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/keyvault-csi/keyvault-csi-driver/test/canary"
)

func main() {
	found := 0
	for _, name := range os.Args[1:] {
		text, err := os.ReadFile(name) //nolint:gosec // what the caller names
		if err != nil {
			fmt.Fprintln(os.Stderr, "canary:", err)
			os.Exit(2)
		}
		number := 0
		for line := range strings.Lines(string(text)) {
			number++
			if where := canary.Find(line); where != "" {
				fmt.Fprintf(os.Stderr, "canary: %s:%d: %s\n", name, number, where)
				found++
			}
		}
	}
	if found > 0 {
		fmt.Fprintf(os.Stderr, "canary: %d lines hold a secret value of the tests\n", found)
		os.Exit(1)
	}
}
