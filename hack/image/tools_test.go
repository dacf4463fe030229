package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// packed is a file of an archive.
type packed struct {
	name    string
	mode    os.FileMode
	content []byte
}

// unpack reads an archive.
func unpack(t *testing.T, name string) (files []packed) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	read := func(r io.Reader) []byte {
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	if strings.HasSuffix(name, ".zip") {
		archive, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.File {
			content, err := f.Open()
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, packed{f.Name, f.Mode(), read(content)})
		}
		return files
	}
	plain, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for archive := tar.NewReader(plain); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, packed{header.Name, header.FileInfo().Mode(), read(archive)})
	}
}

// An archive holds what it was given and nothing of where and when it was made.
func TestArchivesAreTheSameEverywhere(t *testing.T) {
	for _, name := range []string{"a.tar.gz", "a.zip"} {
		var sums []string
		for i := range 2 {
			dir := t.TempDir()
			var files []entry
			for _, f := range []string{"LICENSE", plugin} {
				files = append(files, entry{name: f, path: filepath.Join(dir, f), mode: 0o755})
				if err := os.WriteFile(files[len(files)-1].path, []byte("of "+f), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Chtimes(files[len(files)-1].path, time.Time{}, time.Unix(int64(i)*1e9, 0)); err != nil {
					t.Fatal(err)
				}
			}
			sum, err := pack(filepath.Join(dir, name), files, time.Unix(1_800_000_000, 0).In(time.FixedZone("", i*3600)))
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if own := sha256.Sum256(data); hex.EncodeToString(own[:]) != sum {
				t.Errorf("%s: its sum is not %s", name, sum)
			}
			sums = append(sums, sum)
			for j, f := range unpack(t, filepath.Join(dir, name)) {
				if f.name != files[j].name || f.mode != 0o755 || string(f.content) != "of "+f.name {
					t.Errorf("%s: %s %s %q", name, f.name, f.mode, f.content)
				}
			}
		}
		if sums[0] != sums[1] {
			t.Errorf("%s differs", name)
		}
	}
}

// The archive for this machine is made of what is committed, and its program works as kubectl's plugin.
func TestToolsOfThisMachine(t *testing.T) {
	out := t.TempDir()
	platform := runtime.GOOS + "/" + runtime.GOARCH
	if err := run(t.Context(), []string{"-source", "../..", "-tools", "-platforms", platform, "-out", out, "-tag", "1.2.3"}); err != nil {
		t.Fatal(err)
	}
	k := readKrew(t, filepath.Join(out, "keyvault.yaml"))
	checkKrew(t, k, out, []string{platform}, "https://github.com/keyvault-csi/keyvault-csi-driver/releases/download/v1.2.3/")
	program := filepath.Join(out, k.Spec.Platforms[0].Bin)
	var names []string
	for _, f := range unpack(t, filepath.Join(out, path.Base(k.Spec.Platforms[0].URI))) {
		names = append(names, fmt.Sprintf("%s %s", f.mode, f.name))
		if err := os.WriteFile(filepath.Join(out, f.name), f.content, f.mode); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"-rw-r--r-- LICENSE", "-rwxr-xr-x kubectl-keyvault", "-rwxr-xr-x keyvault-render"}; !slices.Equal(names, want) {
		t.Errorf("the archive has %v, want %v", names, want)
	}
	shown, err := exec.CommandContext(t.Context(), program, "--version").CombinedOutput() //nolint:gosec // what was just built
	if err != nil || !strings.HasPrefix(string(shown), "kubectl keyvault version 1.2.3 (commit ") {
		t.Errorf("%v: %s", err, shown)
	}
}

func readKrew(t *testing.T, name string) krewPlugin {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var k krewPlugin
	if err := yaml.UnmarshalStrict(text, &k); err != nil {
		t.Fatal(err)
	}
	return k
}

// checkKrew checks a manifest against the rules of krew and of its index: a license in every archive, one archive for each platform.
func checkKrew(t *testing.T, k krewPlugin, dir string, platforms []string, below string) {
	t.Helper()
	for what, wrong := range map[string]bool{
		"apiVersion":       k.APIVersion != "krew.googlecontainertools.github.com/v1alpha2",
		"kind":             k.Kind != "Plugin",
		"name":             !regexp.MustCompile(`^[\w-]+$`).MatchString(k.Metadata.Name) || "kubectl-"+k.Metadata.Name != plugin,
		"version":          !regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`).MatchString(k.Spec.Version),
		"shortDescription": k.Spec.ShortDescription == "" || len(k.Spec.ShortDescription) > 50 || strings.ContainsAny(k.Spec.ShortDescription, "\r\n."),
		"description":      k.Spec.Description == "",
		"homepage":         !strings.HasPrefix(k.Spec.Homepage, "https://"),
	} {
		if wrong {
			t.Errorf("%s is wrong in %+v", what, k)
		}
	}
	var got []string
	for _, p := range k.Spec.Platforms {
		labels := p.Selector.MatchLabels
		got = append(got, labels["os"]+"/"+labels["arch"])
		data, err := os.ReadFile(filepath.Join(dir, path.Base(p.URI)))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(data); len(labels) != 2 || p.Sha256 != hex.EncodeToString(sum[:]) || !strings.HasPrefix(p.URI, below) {
			t.Errorf("%+v is wrong", p)
		}
		files := unpack(t, filepath.Join(dir, path.Base(p.URI)))
		for _, name := range []string{p.Bin, "LICENSE"} {
			if !slices.ContainsFunc(files, func(f packed) bool { return f.name == name }) {
				t.Errorf("%s has no %s", p.URI, name)
			}
		}
	}
	if !slices.Equal(got, platforms) {
		t.Errorf("archives for %v, want %v", got, platforms)
	}
}

// Every platform has an archive, and krew finds the right one.
func TestKrewManifestOfAllPlatforms(t *testing.T) {
	dir := t.TempDir()
	all, err := parsePlatforms(toolPlatforms)
	if err != nil {
		t.Fatal(err)
	}
	k := newKrewPlugin("1.2.3-rc.1")
	var names []string
	for _, p := range all {
		names = append(names, p.OS+"/"+p.Architecture)
		built := filepath.Join(dir, programName(p))
		if err := os.WriteFile(built, []byte(p.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		archive := archiveName("1.2.3-rc.1", p)
		files := []entry{{name: "LICENSE", path: "../../LICENSE", mode: 0o644}, {name: programName(p), path: built, mode: 0o755}}
		sum, err := pack(filepath.Join(dir, archive), files, time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		k.add(p, "https://example.com/v1.2.3-rc.1/"+archive, sum)
		if extension := path.Ext(archive); (extension == ".zip") != (p.OS == "windows") || strings.HasSuffix(programName(p), ".exe") != (p.OS == "windows") {
			t.Errorf("%s has %s and %s", p, archive, programName(p))
		}
	}
	if len(names) != 6 {
		t.Errorf("%d platforms", len(names))
	}
	checkKrew(t, *k, dir, names, "https://example.com/v1.2.3-rc.1/")
}
