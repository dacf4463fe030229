package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// billType is the media type of a bill of materials in JSON.
const billType = "application/vnd.cyclonedx+json"

// bill writes the software bill of materials of an image's binaries, and returns it as an artifact that refers to the
// image.
func (b *builder) bill(p program, binaries string, platform v1.Platform, image v1.Image) (v1.Image, error) {
	content, err := b.materials(p, binaries, platform)
	if err != nil {
		return nil, fmt.Errorf("bill of materials: %w", err)
	}
	path := filepath.Join(b.out, fmt.Sprintf("%s-%s.cdx.json", p.name, platform.Architecture))
	if err := os.WriteFile(path, content, 0o644); err != nil { //nolint:gosec // public
		return nil, err
	}
	artifact := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), billType)
	if artifact, err = mutate.AppendLayers(artifact, static.NewLayer(content, billType)); err != nil {
		return nil, err
	}
	subject, err := partial.Descriptor(image)
	if err != nil {
		return nil, err
	}
	return mutate.Subject(artifact, *subject).(v1.Image), nil
}

// materials lists the modules that Go built the binaries from: what is in them, not what go.mod could bring.
func (b *builder) materials(p program, binaries string, platform v1.Platform) ([]byte, error) {
	var self, parts []cyclonedx.Component
	var depends []string
	var digests []byte
	for _, name := range p.files() {
		info, err := buildinfo.ReadFile(filepath.Join(binaries, name))
		if err != nil {
			return nil, err
		}
		content, err := os.ReadFile(filepath.Join(binaries, name)) //nolint:gosec // what was just built
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(content)
		digests = append(digests, sum[:]...)
		self = append(self, b.application(p, name, &info.Main, sum))
		for _, m := range append([]*debug.Module{{Path: "std", Version: info.GoVersion}}, info.Deps...) {
			if m.Replace != nil {
				m = m.Replace
			}
			part := component(m, cyclonedx.ComponentTypeLibrary)
			if !slices.Contains(depends, part.BOMRef) {
				parts, depends = append(parts, part), append(depends, part.BOMRef)
			}
		}
	}
	sum := [sha256.Size]byte(digests[:sha256.Size])
	if len(self) > 1 {
		sum = sha256.Sum256(digests)
		others := self[1:]
		self[0].Components = &others
	}
	bom := cyclonedx.NewBOM()
	bom.SerialNumber = serial(sum)
	bom.Metadata = &cyclonedx.Metadata{Timestamp: b.commit.time.Format(time.RFC3339), Component: &self[0], Properties: &[]cyclonedx.Property{
		{Name: "platform", Value: platform.String()}, {Name: "commit", Value: b.commit.hash},
	}}
	bom.Components = &parts
	bom.Dependencies = &[]cyclonedx.Dependency{{Ref: self[0].BOMRef, Dependencies: &depends}}
	var text bytes.Buffer
	if err := cyclonedx.NewBOMEncoder(&text, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(bom); err != nil {
		return nil, err
	}
	return text.Bytes(), nil
}

// application is one of the project's own programs.
func (b *builder) application(p program, name string, main *debug.Module, sum [sha256.Size]byte) cyclonedx.Component {
	c := component(main, cyclonedx.ComponentTypeApplication)
	c.Name, c.Version, c.Description = name, b.tag, p.description
	if name != p.name {
		c.BOMRef, c.Description = c.BOMRef+"#cmd/"+name, "what "+p.name+" runs for templates"
	}
	c.Hashes = &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}}
	c.Licenses = &cyclonedx.Licenses{{License: &cyclonedx.License{ID: "Apache-2.0"}}}
	return c
}

// serial is a name-based UUID (RFC 9562, version 8) of the binaries' digest: the same for the same bytes.
func serial(sum [sha256.Size]byte) string {
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

func component(m *debug.Module, kind cyclonedx.ComponentType) cyclonedx.Component {
	url := "pkg:golang/" + m.Path
	if m.Version != "" {
		url += "@" + m.Version
	}
	return cyclonedx.Component{Type: kind, Name: m.Path, Version: m.Version, PackageURL: url, BOMRef: url}
}
