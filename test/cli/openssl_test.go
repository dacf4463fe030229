//go:build openssl

package cli

import (
	"encoding/base64"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/docs/pages"
)

// The keystore of the recipe opens with an empty password, and the recipe's commands work on what the class writes.
func TestKeystoreOfTheRecipe(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	pfx := d.class("pfx", map[string]string{"objects": "array:\n- '{objectName: tls, objectType: secret, objectFormat: pfx, objectEncoding: base64}'\n"})
	keystore := parse(t, d.run(nil, "preview", "-f", pfx, "-o", "json", "--reveal").stdout)[0].Files[0].ValueBase64
	if keystore == nil {
		t.Fatal("the keystore is text")
	}
	data, err := base64.StdEncoding.DecodeString(*keystore)
	if err != nil {
		t.Fatal(err)
	}
	d.file("keystore.p12", string(data))
	openssl(d, "pkcs12", "-in", "keystore.p12", "-passin", "pass:", "-nodes")
	pem := parse(t, d.run(nil, "preview", "-f", d.class("pem", nil, "tls"), "-o", "json", "--reveal").stdout)[0].Files[0].Value
	d.file("server.pem", *pem)
	run := 0
	for _, c := range pages.Commands(t) {
		if filepath.Base(c.Page) == "recipes.md" && c.Words[0] == "openssl" {
			openssl(d, c.Words[1:]...)
			run++
		}
	}
	if run == 0 {
		t.Error("the recipe has no command")
	}
	if out := openssl(d, "pkcs12", "-in", "keystore.p12", "-passin", "pass:changeit", "-nokeys"); strings.Count(out, "BEGIN CERTIFICATE") != 2 {
		t.Error(out)
	}
}

func openssl(d *session, args ...string) string {
	d.Helper()
	c := exec.CommandContext(d.Context(), "openssl", args...) //nolint:gosec // the test's own command
	c.Dir = d.dir
	out, err := c.CombinedOutput()
	if err != nil {
		d.Errorf("openssl %v: %v\n%s", args, err, out)
	}
	return string(out)
}
