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

// bill writes the software bill of materials of a binary, and returns it as an artifact that refers to the binary's
// image.
func (b *builder) bill(p program, binary string, platform v1.Platform, image v1.Image) (v1.Image, error) {
	content, err := b.materials(p, binary, platform)
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

// materials lists the modules that Go built the binary from: what is in it, not what its go.mod could bring.
func (b *builder) materials(p program, binary string, platform v1.Platform) ([]byte, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(binary) //nolint:gosec // what was just built
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(content)
	self := component(&info.Main, cyclonedx.ComponentTypeApplication)
	self.Name, self.Version, self.Description = p.name, b.tag, p.description
	self.Hashes = &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}}
	self.Licenses = &cyclonedx.Licenses{{License: &cyclonedx.License{ID: "Apache-2.0"}}}

	std := component(&debug.Module{Path: "std", Version: info.GoVersion}, cyclonedx.ComponentTypeLibrary)
	parts, depends := []cyclonedx.Component{std}, []string{std.BOMRef}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		parts = append(parts, component(m, cyclonedx.ComponentTypeLibrary))
		depends = append(depends, parts[len(parts)-1].BOMRef)
	}
	bom := cyclonedx.NewBOM()
	bom.SerialNumber = serial(sum)
	bom.Metadata = &cyclonedx.Metadata{Timestamp: b.commit.time.Format(time.RFC3339), Component: &self, Properties: &[]cyclonedx.Property{
		{Name: "platform", Value: platform.String()}, {Name: "commit", Value: b.commit.hash},
	}}
	bom.Components = &parts
	bom.Dependencies = &[]cyclonedx.Dependency{{Ref: self.BOMRef, Dependencies: &depends}}
	var text bytes.Buffer
	if err := cyclonedx.NewBOMEncoder(&text, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(bom); err != nil {
		return nil, err
	}
	return text.Bytes(), nil
}

// serial is a name-based UUID (RFC 9562, version 8) of the binary's digest: the same for the same bytes.
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
