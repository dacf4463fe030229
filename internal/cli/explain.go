package cli

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

func newExplainCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "explain [NAME...]",
		Short: "Describe the parameters and object fields of a SecretProviderClass",
		Long: `explain prints the type, the default and the meaning of parameters and object fields of a
SecretProviderClass with provider: azure. Without a name it lists all of them. It makes no network request.`,
		Example: `  keyvault-csi explain
  keyvault-csi explain objectSelector rotationInterval`,
		RunE: func(cmd *cobra.Command, args []string) error { return explainAs(cmd.OutOrStdout(), args, output) },
	}
	c.Flags().StringVarP(&output, "output", "o", tableOutput, "output `format`: table, wide, json or yaml")
	CompleteFlag(c, "output", formats()...)
	c.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return fieldNames(), cobra.ShellCompDirectiveNoFileComp
	}
	return c
}

// fieldNames returns the names of all fields of a class, each once.
func fieldNames() []string {
	var names []string
	for _, f := range class.Reference() {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// explained is a parameter or a field, as JSON.
type explained struct {
	Name    string `json:"name"`
	Place   string `json:"place"`
	Type    string `json:"type"`
	Default string `json:"default,omitempty"`
	Since   string `json:"since"`
	Meaning string `json:"meaning"`
}

func explainAs(out io.Writer, names []string, format string) error {
	if err := checkOutput(format, formats()...); err != nil {
		return err
	}
	if isTable(format) {
		return explain(out, names)
	}
	all := []explained{}
	if len(names) == 0 {
		names = fieldNames()
	}
	for _, name := range names {
		fields := class.Find(name)
		if len(fields) == 0 {
			return fmt.Errorf("%.80q is no parameter or field of a class%s", name, didYouMean(name))
		}
		for _, f := range fields {
			all = append(all, explained{Name: f.Name, Place: string(f.Place), Type: f.Type, Default: f.Default, Since: f.Since, Meaning: f.Meaning})
		}
	}
	return printValue(out, format, all)
}

func explain(out io.Writer, names []string) error {
	if len(names) == 0 {
		return listFields(out)
	}
	var found []class.Field
	for _, name := range names {
		fields := class.Find(name)
		if len(fields) == 0 {
			return fmt.Errorf("%.80q is no parameter or field of a class%s", name, didYouMean(name))
		}
		found = append(found, fields...)
	}
	for i, f := range found {
		if i > 0 {
			if _, err := fmt.Fprintln(out); err != nil {
				return err //nolint:wrapcheck // writing to the terminal
			}
		}
		if _, err := fmt.Fprintf(out, "%s (%s of %s, since %s)\n  default: %s\n  %s\n", f.Name, f.Type, f.Place, f.Since,
			cmp.Or(plainText(f.Default), "none"), plainText(f.Meaning)); err != nil {
			return err //nolint:wrapcheck // writing to the terminal
		}
	}
	return nil
}

func didYouMean(name string) string {
	if near := class.Nearest(name, fieldNames()); near != "" {
		return ": did you mean " + near + "?"
	}
	return ": `keyvault-csi explain` lists all of them"
}

func listFields(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "PLACE\tNAME\tTYPE\tDEFAULT")
	for _, f := range class.Reference() {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", f.Place, f.Name, f.Type, cmp.Or(plainText(f.Default), "-"))
	}
	return table.Flush() //nolint:wrapcheck // writing to the terminal
}

var markdownLink = regexp.MustCompile(`\[([^\]]*)\]\(([^)]*)\)`)

// plainText removes the marks of Markdown. Links to other pages keep their text alone.
func plainText(text string) string {
	text = markdownLink.ReplaceAllStringFunc(text, func(link string) string {
		parts := markdownLink.FindStringSubmatch(link)
		if strings.HasPrefix(parts[2], "https://") {
			return parts[1] + " (" + parts[2] + ")"
		}
		return parts[1]
	})
	return strings.ReplaceAll(text, "`", "")
}
