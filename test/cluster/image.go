package cluster

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
)

// Image is a container image of one layer.
type Image struct {
	// Name is such as localhost/pause:1.
	Name       string
	Entrypoint []string
	// Files are the contents of executable files by path without a leading slash, Links the targets of symbolic links.
	Files map[string][]byte
	Links map[string]string
	// Dirs are empty directories that everybody may write to.
	Dirs []string
}

// Write writes the image as an archive in the form of `docker save`, which every container runtime imports.
func (i Image) Write(w io.Writer) error {
	layer, err := i.layer()
	if err != nil {
		return err
	}
	digest := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": i.Entrypoint, "Env": []string{"PATH=/bin"}, "WorkingDir": "/"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(digest[:])}},
	})
	if err != nil {
		return fmt.Errorf("image %s: %w", i.Name, err)
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{i.Name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return fmt.Errorf("image %s: %w", i.Name, err)
	}
	archive := tar.NewWriter(w)
	return errors.Join(add(archive, "config.json", config), add(archive, "layer.tar", layer), add(archive, "manifest.json", manifest), archive.Close())
}

// WriteFile is Write to a file.
func (i Image) WriteFile(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("image %s: %w", i.Name, err)
	}
	return errors.Join(i.Write(file), file.Close())
}

func (i Image) layer() ([]byte, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	var errs []error
	for _, path := range i.Dirs {
		errs = append(errs, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: path + "/", Mode: 0o1777}))
	}
	for _, path := range slices.Sorted(maps.Keys(i.Files)) {
		errs = append(errs, add(w, path, i.Files[path]))
	}
	for _, path := range slices.Sorted(maps.Keys(i.Links)) {
		errs = append(errs, w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: path, Linkname: i.Links[path], Mode: 0o777}))
	}
	if err := errors.Join(append(errs, w.Close())...); err != nil {
		return nil, fmt.Errorf("image %s: %w", i.Name, err)
	}
	return layer.Bytes(), nil
}

func add(w *tar.Writer, path string, data []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(data))}); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}
