// Package commands checks what the commands of a binary say about themselves, and makes their pages for hack/generate.
package commands

import (
	"flag"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// pages is for hack/generate, which compares them with docs/cli or writes them there.
var pages = flag.String("pages", "", "directory to write the commands' pages to")

// All returns the command and those below it, without help.
func All(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		if sub.Name() != "help" && !sub.Hidden {
			all = append(all, All(sub)...)
		}
	}
	return all
}

// Check fails where a command has no description or no example.
func Check(t *testing.T, root *cobra.Command) {
	t.Helper()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	root.DisableAutoGenTag = true
	for _, c := range All(root) {
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s has no description or no example", c.CommandPath())
		}
	}
	if *pages == "" {
		return
	}
	if err := doc.GenMarkdownTree(root, *pages); err != nil {
		t.Fatal(err)
	}
}
