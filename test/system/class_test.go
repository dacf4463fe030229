package system

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// TestOwnersAndModes: the owner, group and mode of files are those of the object, then of the class; the Pod's fsGroup goes before the
// class's group and after the object's.
func TestOwnersAndModes(t *testing.T) {
	t.Parallel()
	probe := filepath.Join(t.TempDir(), "probe")
	must(t, os.WriteFile(probe, nil, 0o600))
	mayGive := os.Chown(probe, 1001, 3000) == nil
	if !mayGive {
		t.Log("this process may not give files away: with its own ids alone")
	}
	n := kubelet.Start(t, kubelet.Seed, "--rotation-interval", "1s", "--cache-ttl", "0s")
	id := func(wanted string) string {
		if !mayGive {
			return ""
		}
		return wanted
	}
	n.Secret("a", "1")
	n.Secret("b", "2")
	n.Class("c", map[string]string{
		"filePermission": "0440", "fileOwner": id("1000"), "fileGroup": id("2000"), "metadataFile": "about.json",
		"objects": "array:\n- '{objectName: a, objectType: secret}'\n" +
			"- '{objectName: b, objectType: secret, filePermission: \"0400\", fileOwner: " + id("1001") + ", fileGroup: " + id("2001") + "}'\n",
	})
	must(t, n.Publish("plain", "c"))
	must(t, n.Publish("grouped", "c", func(r *csi.NodePublishVolumeRequest) {
		r.VolumeCapability.GetMount().VolumeMountGroup = id("3000")
	}))
	for _, tc := range []struct {
		pod, file    string
		mode         os.FileMode
		owner, group uint32
	}{
		{"plain", "a", 0o440, 1000, 2000},
		{"plain", "b", 0o400, 1001, 2001},
		{"plain", "about.json", 0o440, 1000, 2000},
		{"grouped", "a", 0o440, 1000, 3000},
		{"grouped", "b", 0o400, 1001, 2001},
	} {
		info, err := os.Stat(filepath.Join(n.Target(tc.pod), tc.file))
		must(t, err)
		stat, _ := info.Sys().(*syscall.Stat_t)
		if !mayGive {
			tc.owner, tc.group = uint32(os.Geteuid()), uint32(os.Getegid()) //nolint:gosec // ids are small
		}
		if info.Mode().Perm() != tc.mode || stat.Uid != tc.owner || stat.Gid != tc.group {
			t.Errorf("%s of %s: mode %o, owner %d, group %d, want %o, %d, %d", tc.file, tc.pod, info.Mode().Perm(), stat.Uid, stat.Gid,
				tc.mode, tc.owner, tc.group)
		}
	}
	// files of others can be compared and replaced, also after a restart
	n.Stop(syscall.SIGTERM)
	n.Run()
	must(t, n.Publish("plain", "c"))
	n.Secret("b", "3")
	n.Eventually("the new value", func() bool { return n.Read("plain", "b") == "3" })
	if strings.Contains(n.Log(), "the files stay as they are") {
		t.Errorf("a refresh failed:\n%s", n.Log())
	}
}

// exists reports whether the volume of the Pod a has the file.
func exists(n *kubelet.Node, file string) bool {
	_, err := os.Stat(filepath.Join(n.Target("a"), file))
	return err == nil
}

// TestOptionalObjects: an optional object that is missing or disabled does not hold a Pod up; its file comes and goes with it.
func TestOptionalObjects(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed, "--rotation-interval", "1s", "--cache-ttl", "0s")
	n.Secret("db", "1")
	n.Secret("off", "x")
	must(t, n.Emulator.Disable(kubelet.Vault, "secrets", "off", "", true))
	n.Class("c", map[string]string{"objects": "array:\n- '{objectName: db, objectType: secret}'\n" +
		"- '{objectName: extra, objectType: secret, optional: true}'\n" +
		"- '{objectName: off, objectType: secret, optional: \"true\", objectAlias: dir/off}'\n" +
		"- '{objectName: history, objectType: secret, optional: true, objectVersionHistory: 2}'\n" +
		"- '{objectName: key, objectType: key, optional: true}'\n"})
	must(t, n.Publish("a", "c"))
	if n.Read("a", "db") != "1" || exists(n, "extra") || exists(n, "dir") || exists(n, "history") || exists(n, "key") {
		t.Error("not only db is there")
	}
	n.Secret("extra", "here")
	must(t, n.Emulator.Disable(kubelet.Vault, "secrets", "off", "", false))
	n.Secret("history", "h")
	n.Eventually("the files of what exists now", func() bool {
		return exists(n, "extra") && exists(n, "dir/off") && exists(n, "history/0")
	})
	if got := n.Read("a", "extra"); got != "here" {
		t.Errorf("extra is %q", got)
	}
	must(t, n.Emulator.Delete(kubelet.Vault, "secrets", "extra", true))
	n.Eventually("extra to go", func() bool { return !exists(n, "extra") })
	if n.Read("a", "db") != "1" || strings.Contains(n.Log(), "the files stay as they are") {
		t.Errorf("an optional object that goes is a failure:\n%s", n.Log())
	}
	// of a key the vault gives a disabled version all the same: optional means the same for it
	must(t, n.Emulator.SetKey(kubelet.Vault, emulator.Key{Name: "key", Type: "RSA"}))
	n.Eventually("the key", func() bool { return exists(n, "key") })
	must(t, n.Emulator.Disable(kubelet.Vault, "keys", "key", "", true))
	n.Eventually("the key to go", func() bool { return !exists(n, "key") })
	// the object that is not optional is as strict as ever
	n.Class("strict", map[string]string{"objects": "array:\n- '{objectName: extra, objectType: secret}'\n"})
	if err := n.Publish("b", "strict"); err == nil || !strings.Contains(err.Error(), `secret "extra": it was not found`) {
		t.Errorf("%v", err)
	}
}

// described is one entry of a metadata file.
type described struct {
	Path, Vault, Kind, Name, Version, ContentType string
	Created, Updated, Expires, FetchedAt          time.Time
	Tags                                          map[string]string
	Stale                                         bool
}

// readMetadata returns the entries of a Pod's metadata file by path.
func readMetadata(t *testing.T, n *kubelet.Node, pod string) map[string]described {
	t.Helper()
	var document struct{ Files []described }
	must(t, json.Unmarshal([]byte(n.Read(pod, "about/metadata.json")), &document))
	all := map[string]described{}
	for _, d := range document.Files {
		all[d.Path] = d
	}
	return all
}

// TestMetadataFile: it says of each file what the vault says of its object, and never a value. A change of tags is a new generation,
// and another poll alone is not.
func TestMetadataFile(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed+"  certificates:\n  - {name: web, chain: 1}\n", "--rotation-interval", "1s", "--cache-ttl", "0s")
	expires := time.Now().Add(100 * 24 * time.Hour).UTC().Truncate(time.Second)
	set := func(tags map[string]string) string {
		version, err := n.Emulator.SetSecret(kubelet.Vault, emulator.Secret{
			Name: "db", Value: "canary-value", Version: strings.Repeat("ab", 16), ContentType: "text/plain", Expires: expires, Tags: tags,
		})
		must(t, err)
		return version
	}
	version := set(map[string]string{"team": "shop"})
	n.Class("c", map[string]string{
		"metadataFile": "about/metadata.json",
		"objects": "array:\n- '{objectName: db, objectType: secret, objectAlias: dir/password}'\n" +
			"- '{objectName: web, objectType: secret, writeCertAndKeyInSeparateFiles: true}'\n",
	})
	must(t, n.Publish("a", "c"))
	all := readMetadata(t, n, "a")
	db := all["dir/password"]
	if db.Vault != "contoso.vault.azure.net" || db.Kind != "secret" || db.Name != "db" || db.Version != version || db.ContentType != "text/plain" ||
		!db.Expires.Equal(expires) || db.Tags["team"] != "shop" || db.Created.IsZero() || db.Updated.IsZero() || db.FetchedAt.IsZero() || db.Stale {
		t.Errorf("%+v", db)
	}
	if len(all) != 4 || all["web.key"].Name != "web" || all["web.crt"].Kind != "secret" || all["web"].Expires.IsZero() {
		t.Errorf("%+v", all)
	}
	if strings.Contains(n.Read("a", "about/metadata.json"), "canary") {
		t.Error("a value is in the metadata")
	}
	generation := func() string {
		name, err := os.Readlink(filepath.Join(n.Target("a"), "..data"))
		must(t, err)
		return name
	}
	before := generation()
	n.Emulator.ResetRequests()
	n.Eventually("three polls", func() bool { return len(n.Emulator.Requests()) >= 6 })
	if now := generation(); now != before {
		t.Errorf("a poll without a change made generation %s of %s", now, before)
	}
	n.Stop(syscall.SIGTERM)
	n.Run() // an adopted volume is compared with what it holds
	n.Emulator.ResetRequests()
	must(t, n.Publish("a", "c"))
	n.Eventually("a poll after the restart", func() bool { return len(n.Emulator.Requests()) >= 4 })
	if now := generation(); now != before {
		t.Errorf("a restart without a change made generation %s of %s", now, before)
	}
	set(map[string]string{"team": "other"})
	n.Eventually("the new tag", func() bool { return readMetadata(t, n, "a")["dir/password"].Tags["team"] == "other" })
}

// TestTrustBundle: objectFormat ca writes the issuers of a certificate, without its leaf and key.
func TestTrustBundle(t *testing.T) {
	t.Parallel()
	n := kubelet.Start(t, kubelet.Seed+`  certificates:
  - {name: pfx, subject: a.example.com, chain: 2}
  - {name: pem, contentType: application/x-pem-file, chain: 1, keyType: EC}
  - {name: alone, chain: 0}
`)
	n.Class("c", map[string]string{"objects": "array:\n- '{objectName: pfx, objectType: secret, objectFormat: ca, objectAlias: ca.pem}'\n" +
		"- '{objectName: pem, objectType: secret, objectFormat: CA}'\n- '{objectName: pfx, objectType: secret, objectAlias: whole}'\n" +
		"- '{objectName: alone, objectType: secret, objectFormat: ca}'\n"})
	must(t, n.Publish("a", "c"))
	ca, whole := blocks(t, n.Read("a", "ca.pem")), blocks(t, n.Read("a", "whole"))
	if len(ca) != 2 || len(whole) != 4 {
		t.Fatalf("%d blocks of %d", len(ca), len(whole))
	}
	for i, b := range ca {
		if b.Type != "CERTIFICATE" || string(b.Bytes) != string(whole[i+2].Bytes) {
			t.Errorf("block %d is %s", i, b.Type)
		}
	}
	if got := blocks(t, n.Read("a", "pem")); len(got) != 1 || got[0].Type != "CERTIFICATE" {
		t.Errorf("%d blocks", len(got))
	}
	if got := blocks(t, n.Read("a", "alone")); len(got) != 1 || got[0].Type != "CERTIFICATE" {
		t.Errorf("a self-signed certificate is its own issuer: %d blocks", len(got))
	}
	n.Secret("text", "no certificate")
	n.Class("none", map[string]string{"objects": "array:\n- '{objectName: text, objectType: secret, objectFormat: ca}'\n"})
	if err := n.Publish("b", "none"); err == nil || !strings.Contains(err.Error(), "there is no certificate in it") {
		t.Errorf("%v", err)
	}
}
