//go:build java

// keytool of a Java runtime reads what the package writes:
//
//	go test -tags java ./provider/keystore/
package keystore_test

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/keystore"
)

// keytool, Java's own reader, opens all four kinds of stores and gives the certificates that were put in; for a key, it
// opens the key itself too, by changing the store's type.
func TestStoresWithKeytool(t *testing.T) {
	id := identity(t, newKey(t))
	for kind, make := range map[string]func(password string) ([]byte, error){
		"jks":          func(p string) ([]byte, error) { return keystore.JKS("Web", id, p) },
		"pkcs12":       func(p string) ([]byte, error) { return keystore.PKCS12(id, p) },
		"jks trust":    func(p string) ([]byte, error) { return keystore.JKSTrustStore(id.Chain, p) },
		"pkcs12 trust": func(p string) ([]byte, error) { return keystore.PKCS12TrustStore(id.Chain, p) },
	} {
		for _, password := range []string{`a "b' $c \\ d`, "pässwörd €"} {
			if strings.HasPrefix(kind, "pkcs12") && strings.ContainsRune(password, 'ä') {
				continue // Java opens no PKCS#12 with it: "Password is not ASCII" (PBEKey), whoever wrote the file
			}
			t.Run(kind+" "+password, func(t *testing.T) {
				data, err := make(password)
				if err != nil {
					t.Fatal(err)
				}
				dir := t.TempDir()
				store, word := filepath.Join(dir, "store"), filepath.Join(dir, "word")
				write(t, store, data)
				write(t, word, []byte(password))
				java := func(args ...string) []byte {
					t.Helper()
					run := exec.CommandContext(t.Context(), "keytool", append([]string{"-J-Dfile.encoding=UTF-8"}, args...)...) //nolint:gosec // keytool
					run.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
					out, err := run.CombinedOutput()
					if err != nil {
						t.Fatalf("%v\n%s", err, out)
					}
					return out
				}
				storeType := strings.Fields(kind)[0]
				listed := java("-list", "-rfc", "-keystore", store, "-storetype", storeType, "-storepass:file", word)
				var got []string
				for block, rest := pem.Decode(listed); block != nil; block, rest = pem.Decode(rest) {
					got = append(got, string(block.Bytes))
				}
				if len(got) != 2 || !slices.Contains(got, string(id.Chain[0].Raw)) || !slices.Contains(got, string(id.Chain[1].Raw)) {
					t.Errorf("%d certificates came back\n%s", len(got), listed)
				}
				if strings.HasSuffix(kind, "trust") {
					if n := bytes.Count(listed, []byte("trustedCertEntry")); n != 2 {
						t.Errorf("%d trusted certificates\n%s", n, listed)
					}
					return
				}
				if kind == "jks" && !bytes.Contains(listed, []byte("Jan 2, 2026")) {
					t.Errorf("the entry has another date\n%s", listed)
				}
				converted := filepath.Join(dir, "converted")
				java("-importkeystore", "-srckeystore", store, "-srcstoretype", storeType, "-srcstorepass:file", word,
					"-destkeystore", converted, "-deststoretype", "pkcs12", "-deststorepass", "changeit", "-noprompt")
				again, err := os.ReadFile(converted)
				if err != nil {
					t.Fatal(err)
				}
				key, _, _, err := pkcs12.DecodeChain(again, "changeit")
				if err != nil || !id.Key.(*ecdsa.PrivateKey).Equal(key) {
					t.Errorf("the key that Java read is another: %v", err)
				}
			})
		}
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
