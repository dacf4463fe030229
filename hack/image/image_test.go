package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// imagesOf checks out what is committed to a directory of its own, and builds the driver's images there.
func imagesOf(t *testing.T, source string, git ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), "git", append(git, source)...) //nolint:gosec // a directory of the test
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := run(t.Context(), []string{"-source", source, "-only", "keyvault-csi"}); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(source, "bin/image")
}

// sums returns the digest of each file below a directory.
func sums(t *testing.T, dir string) map[string][sha256.Size]byte {
	t.Helper()
	found := map[string][sha256.Size]byte{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path) //nolint:gosec // a directory of the test
		found[strings.TrimPrefix(path, dir)] = sha256.Sum256(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// The chart's default images are those that are built by default, so that a node that imported them needs no registry.
func TestTheChartNamesTheseImages(t *testing.T) {
	values, err := os.ReadFile("../../deploy/chart/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		if want := "repository: " + defaultRepository + "/" + p.name + "\n"; !strings.Contains(string(values), want) {
			t.Errorf("values.yaml lacks %q", want)
		}
	}
}

func TestTheSameCommitGivesTheSameBytes(t *testing.T) {
	clone := filepath.Join(t.TempDir(), "clone")
	one := imagesOf(t, clone, "clone", "--quiet", "--no-hardlinks", "../..")
	two := imagesOf(t, filepath.Join(t.TempDir(), "elsewhere/worktree"), "-C", clone, "worktree", "add", "--quiet", "--detach")
	first, second := sums(t, one), sums(t, two)
	if len(first) < 10 || len(first) != len(second) {
		t.Errorf("%d files, and %d", len(first), len(second))
	}
	for path, sum := range first {
		if second[path] != sum {
			t.Errorf("%s differs", path)
		}
	}
	checkLayout(t, filepath.Join(one, "keyvault-csi"))
}

// checkLayout looks at what a registry, a runtime and a scanner would be given.
func checkLayout(t *testing.T, path string) {
	t.Helper()
	whole, err := layout.ImageIndexFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(whole); err != nil {
		t.Error(err)
	}
	manifest, err := whole.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 3 || manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"] == "" {
		t.Fatalf("the layout names %v: not an index and two bills", manifest.Manifests)
	}
	index, err := whole.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	platforms, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for i, d := range platforms.Manifests {
		image, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if machine := checkImage(t, image); machine != machines[d.Platform.Architecture] {
			t.Errorf("%s: a binary for %s", d.Platform, machine)
		}
		delete(machines, d.Platform.Architecture)
		bill, err := whole.Image(manifest.Manifests[i+1].Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkBill(t, bill, d.Digest)
	}
	if len(machines) != 0 {
		t.Errorf("no image for %v", machines)
	}
}

// checkImage looks at an image, and returns the machine that its files are for.
func checkImage(t *testing.T, image v1.Image) elf.Machine {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	labels := config.Config.Labels
	for _, name := range []string{"title", "description", "version", "revision", "created", "source", "licenses"} {
		if labels["org.opencontainers.image."+name] == "" {
			t.Errorf("label %s is missing", name)
		}
	}
	if len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/keyvault-csi" || len(config.Config.Env) != 0 {
		t.Errorf("entry point %v, environment %v", config.Config.Entrypoint, config.Config.Env)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = content.Close() }()
	archive := tar.NewReader(content)
	var machine elf.Machine
	for _, name := range []string{"keyvault-csi", "keyvault-render"} {
		machine = checkFile(t, archive, name, labels["org.opencontainers.image.created"])
	}
	if header, err := archive.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("a file more: %v, %v", header, err)
	}
	return machine
}

// checkFile looks at the next file of an image.
func checkFile(t *testing.T, archive *tar.Reader, name, created string) elf.Machine {
	t.Helper()
	header, err := archive.Next()
	if err != nil {
		t.Fatal(err)
	}
	if header.Name != name || header.Mode != 0o555 || header.Uid != 0 || header.Gid != 0 ||
		header.ModTime.UTC().Format("2006-01-02T15:04:05Z") != created {
		t.Errorf("file %+v", header)
	}
	binary, err := io.ReadAll(archive)
	if err != nil {
		t.Fatal(err)
	}
	program, err := elf.NewFile(bytes.NewReader(binary))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range program.Progs {
		if part.Type == elf.PT_INTERP {
			t.Errorf("%s is not static", name)
		}
	}
	if program.Section(".symtab") != nil || program.Section(".debug_info") != nil {
		t.Errorf("%s is not stripped", name)
	}
	return program.Machine
}

// checkBill looks at a bill of materials and at what it says that it is of.
func checkBill(t *testing.T, bill v1.Image, of v1.Hash) {
	t.Helper()
	manifest, err := bill.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if manifest.Subject == nil || manifest.Subject.Digest != of {
		t.Errorf("the bill is of %v, not of %s", manifest.Subject, of)
	}
	layers, err := bill.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	content, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = content.Close() }()
	var bom cyclonedx.BOM
	if err := json.NewDecoder(content).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, c := range *bom.Components {
		found[c.Name] = c.Version
	}
	for _, name := range []string{"std", "google.golang.org/grpc", "k8s.io/client-go", "github.com/Azure/azure-sdk-for-go/sdk/azidentity",
		"github.com/go-task/slim-sprig/v3"} {
		if found[name] == "" {
			t.Errorf("%s is not in the bill", name)
		}
	}
	if _, ok := found["github.com/google/go-containerregistry"]; ok {
		t.Error("the bill lists what builds the image")
	}
}
