//go:build integration

package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/controlplane"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// TestRecipesOfTheController applies what docs/controller.md has as recipes, and waits for their Secrets.
func TestRecipesOfTheController(t *testing.T) {
	t.Parallel()
	root, err := binaries.Root()
	must(t, err)
	page, err := os.ReadFile(filepath.Join(root, "docs/controller.md"))
	must(t, err)
	_, recipes, ok := strings.Cut(string(page), "\n## Recipes\n")
	if !ok {
		t.Fatal("docs/controller.md has no recipes")
	}
	recipes, _, _ = strings.Cut(recipes, "\n## ")
	s := newController(t, controlplane.Shared(t))
	const docker = `{"auths":{"registry.example":{"auth":"Y2FuYXJ5"}}}`
	s.set("db-password", canaryValue+"p")
	s.set("docker-config", docker)
	must(t, s.vault.SetCertificate(kubelet.Vault, emulator.Certificate{Name: "shop-tls", Subject: "shop.example"}))
	count := 0
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(recipes, -1) {
		s.MustKubectl(block[1], "-n", s.shop, "apply", "--server-side", "--validate=strict", "-f", "-")
		count++
	}
	if count != 3 {
		t.Fatalf("%d recipes", count)
	}
	s.Eventually("the password", func() bool { return s.holds("report-db", "password", canaryValue+"p") })
	s.Eventually("the pull secret", func() bool { return s.holds("registry", ".dockerconfigjson", docker) })
	s.Eventually("the certificate", func() bool { return s.secret("shop-tls") != nil })
	tls := s.secret("shop-tls")
	if tls.Type != "kubernetes.io/tls" || !strings.HasPrefix(string(tls.Data["tls.crt"]), "-----BEGIN CERTIFICATE-----") ||
		!strings.Contains(string(tls.Data["tls.key"]), "PRIVATE KEY-----") || strings.Contains(string(tls.Data["tls.crt"]), "PRIVATE KEY") {
		t.Errorf("%s with the keys %v", tls.Type, len(tls.Data))
	}
	var job struct {
		Spec struct{ Schedule string }
	}
	must(t, json.Unmarshal([]byte(s.get("cronjob", "report", "-o", "json")), &job))
	if job.Spec.Schedule == "" {
		t.Error("no CronJob")
	}
}
