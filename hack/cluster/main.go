//go:build linux

// Command cluster runs Kubernetes on this machine: etcd, the control plane, containerd, runc and kubelet, in namespaces of their own.
//
//	cluster up [--kubernetes VERSION] [DIR]     start it and print the path of a kubeconfig
//	cluster down [DIR]           end it and remove all it has left
//	cluster import ARCHIVE [DIR] give its node a container image
//	cluster busybox NAME [DIR]   give its node an image of this machine's static busybox, under a name
//	cluster exec [DIR] -- COMMAND     run a command in its namespaces
//
// DIR is .cache/cluster where it is not given. VERSION is one of those of hack/tools/cluster/kubernetes*, such as 1.32.13;
// the default is the environment variable KUBERNETES, or else the newest. It needs root and the programs ip, iptables and nsenter.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/test/cluster"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: cluster up [--kubernetes VERSION] [DIR] | down [DIR] | import ARCHIVE [DIR] | busybox NAME [DIR] | exec [DIR] -- COMMAND")

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	verb, args := args[0], args[1:]
	switch {
	case verb == "up":
		return up(ctx, args)
	case verb == "down" && len(args) <= 1:
		node, err := cluster.Load(directory(args))
		if err != nil {
			return err
		}
		return node.Down()
	case verb == "import" && (len(args) == 1 || len(args) == 2):
		node, err := cluster.Load(directory(args[1:]))
		if err != nil {
			return err
		}
		return node.ImportImage(ctx, args[0])
	case verb == "busybox" && (len(args) == 1 || len(args) == 2):
		return busybox(ctx, args[0], directory(args[1:]))
	case verb == "exec":
		return inside(ctx, args)
	case verb == "init" && len(args) == 0:
		return cluster.Init()
	case verb == "supervise" && len(args) == 1:
		return cluster.Supervise(ctx, args[0])
	}
	return errUsage
}

func directory(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return ".cache/cluster"
}

func up(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("cluster up", flag.ContinueOnError)
	version := flags.String("kubernetes", "", "the version of Kubernetes, such as 1.32.13")
	if err := flags.Parse(args); err != nil || flags.NArg() > 1 {
		return errUsage
	}
	start := time.Now()
	node, err := cluster.Up(ctx, cluster.Options{Dir: directory(flags.Args()), Kubernetes: *version, Detach: true})
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "the node is ready after %s\n", time.Since(start).Round(100*time.Millisecond))
	fmt.Fprintf(os.Stderr, "kubectl: %s\n", node.Programs["kubectl"])
	fmt.Fprintf(os.Stderr, "Pods reach this machine at %s\n", node.HostAddress())
	fmt.Printf("export KUBECONFIG=%s\n", node.Kubeconfig())
	return nil
}

func busybox(ctx context.Context, name, dir string) error {
	node, err := cluster.Load(dir)
	if err != nil {
		return err
	}
	image, err := cluster.BusyboxImage(name)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "busybox-")
	if err != nil {
		return fmt.Errorf("busybox: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	archive := filepath.Join(work, "image.tar")
	if err := image.WriteFile(archive); err != nil {
		return err
	}
	return node.ImportImage(ctx, archive)
}

func inside(ctx context.Context, args []string) error {
	var dir []string
	if len(args) > 0 && args[0] != "--" {
		dir, args = args[:1], args[1:]
	}
	if len(args) < 2 || args[0] != "--" {
		return errUsage
	}
	node, err := cluster.Load(directory(dir))
	if err != nil {
		return err
	}
	cmd := node.Command(ctx, args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}
