package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube"
)

// complete registers shell completion of these flags: formats, files, and names from the cluster.
func (f *subjectFlags) complete(c *cobra.Command) {
	CompleteFlag(c, "output", formats()...)
	CompleteClouds(c)
	completeFiles(c, "filename", "yaml", "yml", "json")
	completeFiles(c, "node-publish-secret-file", "yaml", "yml", "json")
	completeFrom(c, "context", func(*cobra.Command) ([]string, error) { return f.callerOptions().Contexts() })
	completeNamespaces(c, f.callerOptions)
	completeFrom(c, "service-account", func(cmd *cobra.Command) ([]string, error) {
		cluster, err := kube.NewCaller(f.callerOptions())
		if err != nil {
			return nil, err
		}
		return cluster.ServiceAccounts(cmd.Context(), cluster.Namespace())
	})
	c.ValidArgsFunction = func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		cluster, err := kube.NewCaller(f.callerOptions())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		namespace, _, named := strings.Cut(typed, "/")
		if !named {
			namespace = cluster.Namespace()
		}
		names, err := cluster.Classes(cmd.Context(), namespace)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		for i := range names {
			names[i] = namespace + "/" + names[i]
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeNamespaces offers the cluster's namespaces.
func completeNamespaces(c *cobra.Command, options func() kube.CallerOptions) {
	completeFrom(c, "namespace", func(cmd *cobra.Command) ([]string, error) { return namespaces(cmd, options) })
}

// namespaces are those of the cluster.
func namespaces(cmd *cobra.Command, options func() kube.CallerOptions) ([]string, error) {
	cluster, err := kube.NewCaller(options())
	if err != nil {
		return nil, err
	}
	return cluster.Namespaces(cmd.Context())
}

// completePods offers the Pods that have a volume of the driver.
func (f *checkFlags) completePods(c *cobra.Command) {
	completeFrom(c, "pod", func(cmd *cobra.Command) (names []string, err error) {
		cluster, err := kube.NewCaller(f.callerOptions())
		if err != nil {
			return nil, err
		}
		err = cluster.Pods(cmd.Context(), cluster.Namespace(), "", f.driverName, func(p kube.MountingPod) { names = append(names, p.Name) })
		return names, err
	})
}

// CompleteFlag offers fixed values of a flag. It panics if the command has no such flag.
func CompleteFlag(c *cobra.Command, flag string, values ...string) {
	mustComplete(c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
}

// CompleteClouds offers the names of the Azure clouds for the flag --cloud.
func CompleteClouds(c *cobra.Command) {
	CompleteFlag(c, "cloud", "AzurePublicCloud", "AzureUSGovernmentCloud", "AzureChinaCloud")
}

// completeFiles offers files with these extensions, and directories.
func completeFiles(c *cobra.Command, flag string, extensions ...string) {
	mustComplete(c.MarkFlagFilename(flag, extensions...))
}

// completeFrom offers what a function returns; nothing if it fails.
func completeFrom(c *cobra.Command, flag string, find func(*cobra.Command) ([]string, error)) {
	mustComplete(c.RegisterFlagCompletionFunc(flag,
		func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			found, err := find(cmd)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return found, cobra.ShellCompDirectiveNoFileComp
		}))
}

// mustComplete panics on the error of a registration, which means that the flag does not exist.
func mustComplete(err error) {
	if err != nil {
		panic(err)
	}
}

// completeVerbs adds cobra's command that prints completion scripts, with examples.
func completeVerbs(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		c.Example = "  source <(keyvault-csi completion bash)"
		for _, shell := range c.Commands() {
			shell.Example = map[string]string{
				"bash":       "  keyvault-csi completion bash > /etc/bash_completion.d/keyvault-csi",
				"zsh":        "  keyvault-csi completion zsh > \"${fpath[1]}/_keyvault-csi\"",
				"fish":       "  keyvault-csi completion fish > ~/.config/fish/completions/keyvault-csi.fish",
				"powershell": "  keyvault-csi completion powershell | Out-String | Invoke-Expression",
			}[shell.Name()]
		}
	}
}
