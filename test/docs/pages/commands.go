package pages

import (
	"flag"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// pagesFlag is for hack/generate, which writes docs/cli or compares it.
var pagesFlag = flag.String("pages", "", "directory to write the commands' pages to")

// tree returns the command and those below it, without help.
func tree(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		if sub.Name() != "help" && !sub.Hidden {
			all = append(all, tree(sub)...)
		}
	}
	return all
}

// CheckCommands fails if a command has no description or no example. With the flag -pages it writes the pages of the
// commands.
func CheckCommands(t *testing.T, root *cobra.Command) {
	t.Helper()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	root.DisableAutoGenTag = true
	for _, c := range tree(root) {
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s has no description or no example", c.CommandPath())
		}
	}
	if *pagesFlag == "" {
		return
	}
	if err := doc.GenMarkdownTree(root, *pagesFlag); err != nil {
		t.Fatal(err)
	}
}
