//go:build openssl

// openssl reads what the package writes:
//
//	go test -tags openssl ./provider/keystore/
package keystore_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/keystore"
)

// openssl reads the file too, with a password from a file, which it takes as UTF-8.
func TestPKCS12WithOpenSSL(t *testing.T) {
	id := identity(t, newKey(t))
	for _, password := range passwords {
		data, err := keystore.PKCS12(id, password)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		store, word := filepath.Join(dir, "store"), filepath.Join(dir, "word")
		if err := os.WriteFile(store, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(word, []byte(password), 0o600); err != nil {
			t.Fatal(err)
		}
		run := exec.CommandContext(t.Context(), "openssl", "pkcs12", "-in", store, "-passin", "file:"+word, "-nodes") //nolint:gosec // openssl
		run.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		out, err := run.CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", password, err, out)
		}
		if n := bytes.Count(out, []byte("BEGIN CERTIFICATE")); n != 2 || !bytes.Contains(out, []byte("BEGIN PRIVATE KEY")) {
			t.Errorf("%q: %d certificates\n%s", password, n, out)
		}
	}
}
