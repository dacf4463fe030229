//go:build openssl

package cli

import (
	"encoding/base64"
	"os/exec"
	"strings"
	"testing"
)

// OpenSSL reads the keystore that the vault holds, with an empty password, and the one that a template makes, with its password.
func TestKeystores(t *testing.T) {
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
	made := d.class("made", map[string]string{
		"objects":   "array:\n- '{objectName: tls, objectType: secret}'\n",
		"templates": "array:\n- |\n  path: keystore.p12\n  template: '{{ pkcs12 \"tls\" \"changeit\" }}'\n",
	})
	for _, file := range parse(t, d.run(nil, "preview", "-f", made, "-o", "json", "--reveal").stdout)[0].Files {
		if file.Path != "keystore.p12" {
			continue
		}
		if file.ValueBase64 == nil {
			t.Fatal("the keystore of the template is text")
		}
		if data, err = base64.StdEncoding.DecodeString(*file.ValueBase64); err != nil {
			t.Fatal(err)
		}
		d.file("made.p12", string(data))
	}
	if out := openssl(d, "pkcs12", "-in", "made.p12", "-passin", "pass:changeit", "-nokeys"); strings.Count(out, "BEGIN CERTIFICATE") != 2 {
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
