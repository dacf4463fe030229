package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// project is where the source is, for the images' labels.
const project = "https://github.com/keyvault-csi/keyvault-csi-driver"

// builder builds images into a directory.
type builder struct {
	source, out, repository, tag string

	platforms []v1.Platform
	commit    commit
	// report gets a line for each file that was written.
	report io.Writer
}

// build writes the files of one program.
func (b *builder) build(ctx context.Context, p program) error {
	work, err := os.MkdirTemp("", "image-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err := os.MkdirAll(b.out, 0o755); err != nil { //nolint:gosec // public
		return err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var bills []v1.Image
	for _, platform := range b.platforms {
		binaries := filepath.Join(work, platform.Architecture)
		for _, name := range p.files() {
			if err := b.compile(ctx, "./cmd/"+name, filepath.Join(binaries, name), platform); err != nil {
				return err
			}
		}
		image, err := b.image(p, binaries, platform)
		if err != nil {
			return err
		}
		bill, err := b.bill(p, binaries, platform, image)
		if err != nil {
			return err
		}
		bills = append(bills, bill)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &platform}})
		if err := b.archive(p, image, platform); err != nil {
			return err
		}
	}
	return b.layout(p, mutate.Annotations(index, b.labels(p)).(v1.ImageIndex), bills)
}

// image holds the binaries of a directory, which are read-only, and nothing else.
func (b *builder) image(p program, binaries string, platform v1.Platform) (v1.Image, error) {
	layer, err := layerOf(p.files(), binaries, b.commit.time)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.Append(image, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: b.commit.time}, CreatedBy: "hack/image", Comment: p.pkg},
	})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = platform.OS, platform.Architecture, platform.Variant
	config.Created = v1.Time{Time: b.commit.time}
	config.Config = v1.Config{User: "0:0", WorkingDir: "/", Entrypoint: []string{"/" + p.name}, Labels: b.labels(p)}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, err
	}
	return mutate.Annotations(image, b.labels(p)).(v1.Image), nil
}

// labels are those that the image specification defines.
func (b *builder) labels(p program) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":         p.title,
		"org.opencontainers.image.description":   p.description,
		"org.opencontainers.image.version":       b.tag,
		"org.opencontainers.image.revision":      b.commit.hash,
		"org.opencontainers.image.created":       b.commit.time.Format(time.RFC3339),
		"org.opencontainers.image.source":        project,
		"org.opencontainers.image.licenses":      "Apache-2.0",
		"org.opencontainers.image.documentation": project + "/blob/main/README.md",
	}
}

// layerOf is a layer with files of a directory: owned by root, executable, and without any privilege of their own.
func layerOf(names []string, dir string, modified time.Time) (v1.Layer, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(dir, name)) //nolint:gosec // what was just built
		if err != nil {
			return nil, err
		}
		err = w.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o555, ModTime: modified, Format: tar.FormatUSTAR,
		})
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithCompressionLevel(gzip.BestCompression), tarball.WithMediaType(types.OCILayer),
		tarball.WithCompressedCaching)
}

// archive writes an image as docker-archive, with its name.
func (b *builder) archive(p program, image v1.Image, platform v1.Platform) error {
	tag, err := name.NewTag(b.reference(p), name.WeakValidation)
	if err != nil {
		return err
	}
	path := filepath.Join(b.out, fmt.Sprintf("%s-%s.tar", p.name, platform.Architecture))
	if err := tarball.WriteToFile(path, tag, image); err != nil {
		return err
	}
	manifest, err := image.Manifest()
	if err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	size := manifest.Config.Size
	for _, layer := range manifest.Layers {
		size += layer.Size
	}
	_, _ = fmt.Fprintf(b.report, "%s: %s, %.1f MB to pull, %s\n", path, platform, float64(size)/1e6, digest)
	return nil
}

func (b *builder) reference(p program) string { return b.repository + "/" + p.name + ":" + b.tag }

// layout writes the index of all platforms, and the bills beside it.
func (b *builder) layout(p program, index v1.ImageIndex, bills []v1.Image) error {
	path := filepath.Join(b.out, p.name)
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	whole, err := layout.Write(path, mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err != nil {
		return err
	}
	err = whole.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": b.tag}))
	if err != nil {
		return err
	}
	for _, bill := range bills {
		if err := whole.AppendImage(bill); err != nil {
			return err
		}
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(b.report, "%s: all platforms, %s@%s\n", path, b.reference(p), digest)
	return nil
}
