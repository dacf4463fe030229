package provider

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// description is what the metadata says of one file. It holds no value.
type description struct {
	Path string `json:"path"`
	// Template is true for a file that a template made; it has none of what follows.
	Template bool   `json:"template,omitempty"`
	Vault    string `json:"vault,omitempty"`
	// Kind is spelled as objectType is.
	Kind      string            `json:"kind,omitempty"`
	Name      string            `json:"name,omitempty"`
	Version   string            `json:"version,omitempty"`
	Created   *time.Time        `json:"created,omitempty"`
	Updated   *time.Time        `json:"updated,omitempty"`
	NotBefore *time.Time        `json:"notBefore,omitempty"`
	Expires   *time.Time        `json:"expires,omitempty"`
	Tags      map[string]string `json:"tags,omitempty"`
	// ContentType is a secret's.
	ContentType string     `json:"contentType,omitempty"`
	FetchedAt   *time.Time `json:"fetchedAt,omitempty"`
	Stale       bool       `json:"stale,omitempty"`
}

// metadataDocument is the content of the metadata file.
type metadataDocument struct {
	Files []description `json:"files"`
}

// describe notes what the files of an object are made of, where the class wants metadata.
func (f *fetch) describe(made rendered, a answer) {
	if f.class.MetadataFile == "" {
		return
	}
	for _, file := range made.files {
		f.described = append(f.described, description{
			Path:        file.Path,
			Vault:       made.object.Vault,
			Kind:        file.Source.Kind,
			Name:        made.name,
			Version:     a.Object.Version,
			Created:     moment(a.Object.Created),
			Updated:     moment(a.Object.Updated),
			NotBefore:   moment(made.object.NotBefore),
			Expires:     moment(made.object.Expires),
			Tags:        a.Object.Tags,
			ContentType: a.Object.ContentType,
			FetchedAt:   moment(a.asked),
			Stale:       a.stale,
		})
	}
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

// metadata makes the file that describes the bundle's files. A file that differs in fetchedAt alone may stay as it is.
func (f *fetch) metadata() volume.File {
	document := metadataDocument{Files: make([]description, 0, len(f.bundle.Files))}
	byPath := map[string]description{}
	for _, d := range f.described {
		byPath[d.Path] = d
	}
	for _, file := range f.bundle.Files {
		d, ok := byPath[file.Path]
		if !ok {
			d = description{Path: file.Path, Template: file.Template}
		}
		document.Files = append(document.Files, d)
	}
	made := newFile(f.class.Files, f.class.MetadataFile, document.encode())
	made.Same = document.sameButForTimes
	return made
}

func (m metadataDocument) encode() []byte {
	text, _ := json.MarshalIndent(m, "", "  ") // plain values: it cannot fail
	return append(text, '\n')
}

// sameButForTimes reports whether the content of a metadata file says what m says, fetchedAt aside. The content may be anything.
func (m metadataDocument) sameButForTimes(current []byte) bool {
	var other metadataDocument
	if json.Unmarshal(current, &other) != nil || len(other.Files) != len(m.Files) {
		return false
	}
	with := metadataDocument{Files: make([]description, len(m.Files))}
	for i, d := range m.Files {
		d.FetchedAt = other.Files[i].FetchedAt
		with.Files[i] = d
	}
	return bytes.Equal(with.encode(), current)
}
