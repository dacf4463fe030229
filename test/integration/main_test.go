//go:build integration

package integration

import (
	"os"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
)

func TestMain(m *testing.M) { os.Exit(controlplane.Main(m)) }
