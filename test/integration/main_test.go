//go:build integration

package integration

import (
	"os"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

type run func() int

// Run implements what Main takes.
func (f run) Run() int { return f() }

func TestMain(m *testing.M) {
	os.Exit(controlplane.Main(run(func() int { return kubelet.Main(m) })))
}
