package driver

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// TestRegistrationSocketIsMadeAgain does to the driver's registration socket what another driver of the same name does.
func TestRegistrationSocketIsMadeAgain(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Now())
	n := startNode(t, func(o *Options) { o.Clock = clk })
	n.step = func() { clk.Step(registrationCheck) }
	dir := t.TempDir()
	socket := filepath.Join(dir, volume.DriverName+"-reg.sock")
	n.restart(func(o *ServeOptions) { o.RegistrationDir = dir })
	other := func() *net.UnixListener {
		t.Helper()
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	remove := func() {
		t.Helper()
		if err := os.Remove(socket); err != nil {
			t.Fatal(err)
		}
	}
	n.registered(socket)

	remove()
	n.registered(socket) // it was removed

	remove()
	dead := other()
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	n.registered(socket) // no process served it

	remove()
	living := other() // the one that started last has the name, as long as it lives
	n.eventually("the driver to say who has its name", func() bool {
		n.step()
		err := n.driver.Ready()
		return err != nil && strings.Contains(err.Error(), "two drivers on this node have the name "+volume.DriverName)
	})
	if info := n.getInfo(socket); info != nil {
		t.Error("the other's socket was taken")
	}
	if err := living.Close(); err != nil { // removes it
		t.Fatal(err)
	}
	n.registered(socket)
	if got := strings.Count(n.log.String(), "has the same name"); got != 1 {
		t.Errorf("logged %d times", got)
	}
}

// A driver that ends takes its own sockets with it, so that kubelet forgets it, and leaves those of a successor that runs already.
func TestSocketsGoWithTheirDriver(t *testing.T) {
	n := startNode(t)
	dir := t.TempDir()
	registered := func(o *ServeOptions) { o.RegistrationDir = dir }
	sockets := []string{filepath.Join(dir, volume.DriverName+"-reg.sock"), filepath.Join(n.dir, "csi.sock")}
	n.restart(registered)
	first := n.stop
	n.start(registered)
	first()
	for _, socket := range sockets {
		if _, err := os.Lstat(socket); err != nil {
			t.Errorf("the successor's socket is gone: %v", err)
		}
	}
	n.eventually("the successor's answer", func() bool { return n.getInfo(sockets[0]).GetName() == volume.DriverName })
	n.stop()
	for _, socket := range sockets {
		if _, err := os.Lstat(socket); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", socket, err)
		}
	}
}

// registered waits until the socket is the driver's, and takes it as kubelet does.
func (n *node) registered(socket string) {
	n.Helper()
	n.eventually("a registration socket that answers", func() bool {
		n.step()
		info := n.getInfo(socket)
		return info != nil && info.GetName() == volume.DriverName
	})
	if n.driver.Ready() == nil {
		n.Error("ready before kubelet has taken the registration")
	}
	n.call(socket, func(c registerapi.RegistrationClient) error {
		_, err := c.NotifyRegistrationStatus(context.Background(), &registerapi.RegistrationStatus{PluginRegistered: true})
		return err
	})
	if err := n.driver.Ready(); err != nil {
		n.Error(err)
	}
}

// getInfo is what the socket answers; nil where it does not.
func (n *node) getInfo(socket string) (info *registerapi.PluginInfo) {
	n.Helper()
	n.call(socket, func(c registerapi.RegistrationClient) error {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		info, _ = c.GetInfo(ctx, &registerapi.InfoRequest{})
		return nil
	})
	return info
}

func (n *node) call(socket string, f func(registerapi.RegistrationClient) error) {
	n.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := f(registerapi.NewRegistrationClient(conn)); err != nil {
		n.Error(err)
	}
}
