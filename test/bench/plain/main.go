// Command plain is what `make bench` compares the driver with: a program of this project that asks Entra ID and Key Vault as
// the Azure provider for the Secrets Store CSI Driver does. For each volume it makes a new credential and a new client,
// and gets one object after another. Nothing is shared between Pods and nothing is kept, apart from the process-wide
// connections of the Azure SDK. It answers the same calls as the driver, and reads the same classes. It does less than what people run:
// it mounts nothing, validates nothing, talks to no API server, and there is no second process between kubelet and it.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/keyvault-csi/keyvault-csi-driver/test/bench/plain/server"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: plain SOCKET CLASS-DIRECTORY")
		os.Exit(2)
	}
	if err := run(os.Args[1], &server.Server{Classes: os.Args[2]}); err != nil {
		fmt.Fprintln(os.Stderr, "plain:", err)
		os.Exit(1)
	}
}

// run serves until it gets SIGTERM.
func run(socket string, s *server.Server) error {
	listener, err := net.Listen("unix", socket) //nolint:noctx // it ends with the process
	if err != nil {
		return err
	}
	calls := grpc.NewServer()
	csi.RegisterNodeServer(calls, s)
	csi.RegisterIdentityServer(calls, probe{})
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, calls.GracefulStop)
	return calls.Serve(listener)
}

type probe struct {
	csi.UnimplementedIdentityServer
}

func (probe) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}
