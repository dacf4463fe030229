package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"sigs.k8s.io/yaml"
)

// plugin is the name of the program in the archives of the tools, by which kubectl finds it as `kubectl keyvault`.
const plugin = "kubectl-keyvault"

// toolPlatforms are those that the tools are published for.
const toolPlatforms = "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64,windows/amd64,windows/arm64"

// entry is a file of an archive.
type entry struct {
	name, path string
	mode       os.FileMode
}

// tools writes an archive of the tools for each platform, and keyvault.yaml, from which krew installs them as a plugin of kubectl.
// Releases is the URL below which the archives of each version are.
func (b *builder) tools(ctx context.Context, releases string) error {
	work, err := os.MkdirTemp("", "tools-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err := os.MkdirAll(b.out, 0o755); err != nil { //nolint:gosec // public
		return err
	}
	k := newKrewPlugin(b.tag)
	for _, platform := range b.platforms {
		files, err := b.toolFiles(ctx, filepath.Join(work, platform.OS+platform.Architecture), platform)
		if err != nil {
			return err
		}
		name := archiveName(b.tag, platform)
		sum, err := pack(filepath.Join(b.out, name), files, b.commit.time)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		k.add(platform, releases+"/v"+b.tag+"/"+name, sum)
		_, _ = fmt.Fprintf(b.report, "%s: %s\n", filepath.Join(b.out, name), platform)
	}
	text, err := yaml.Marshal(k)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.out, "keyvault.yaml"), text, 0o644) //nolint:gosec // public
}

// toolFiles builds the tools for a platform into a directory. On Linux they make templates with keyvault-render.
func (b *builder) toolFiles(ctx context.Context, dir string, platform v1.Platform) ([]entry, error) {
	name := programName(platform)
	if err := b.compile(ctx, "./cmd/keyvault-csi", filepath.Join(dir, name), platform); err != nil {
		return nil, err
	}
	files := []entry{
		{name: "LICENSE", path: filepath.Join(b.source, "LICENSE"), mode: 0o644},
		{name: name, path: filepath.Join(dir, name), mode: 0o755},
	}
	if platform.OS != "linux" {
		return files, nil
	}
	const render = "keyvault-render"
	if err := b.compile(ctx, "./cmd/"+render, filepath.Join(dir, render), platform); err != nil {
		return nil, err
	}
	return append(files, entry{name: render, path: filepath.Join(dir, render), mode: 0o755}), nil
}

func programName(platform v1.Platform) string {
	if platform.OS == "windows" {
		return plugin + ".exe"
	}
	return plugin
}

func archiveName(version string, platform v1.Platform) string {
	extension := ".tar.gz"
	if platform.OS == "windows" {
		extension = ".zip"
	}
	return fmt.Sprintf("%s_%s_%s_%s%s", plugin, version, platform.OS, platform.Architecture, extension)
}

// pack writes an archive, a zip or a compressed tar by its name, with nothing of this machine in it, and returns its SHA-256.
func pack(path string, files []entry, modified time.Time) (sum string, err error) {
	file, err := os.Create(path) //nolint:gosec // below the directory of the flag
	if err != nil {
		return "", err
	}
	defer func() {
		if closed := file.Close(); err == nil {
			err = closed
		}
	}()
	hash := sha256.New()
	write := packTar
	if filepath.Ext(path) == ".zip" {
		write = packZip
	}
	if err := write(io.MultiWriter(file, hash), files, modified); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func packTar(w io.Writer, files []entry, modified time.Time) error {
	compressed, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(compressed)
	for _, f := range files {
		content, err := os.ReadFile(f.path)
		if err != nil {
			return err
		}
		err = archive.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: f.name, Size: int64(len(content)), Mode: int64(f.mode), ModTime: modified, Format: tar.FormatUSTAR,
		})
		if err != nil {
			return err
		}
		if _, err := archive.Write(content); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return compressed.Close()
}

func packZip(w io.Writer, files []entry, modified time.Time) error {
	archive := zip.NewWriter(w)
	for _, f := range files {
		content, err := os.ReadFile(f.path)
		if err != nil {
			return err
		}
		header := &zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: modified.UTC()}
		header.SetMode(f.mode)
		to, err := archive.CreateHeader(header)
		if err != nil {
			return err
		}
		if _, err := to.Write(content); err != nil {
			return err
		}
	}
	return archive.Close()
}
