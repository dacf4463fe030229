package provider

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
)

// assemble makes the bundle's files, in the class's order.
func (f *fetch) assemble(ctx context.Context, results []fetched) (*volume.Bundle, error) {
	var failed []*volume.Error
	for _, r := range results {
		if r.absent != nil {
			f.bundle.Absent = append(f.bundle.Absent, r.object.Paths()...)
		}
		for i, a := range r.versions {
			made, err := f.render(ctx, r.object, i, a, r.exact)
			if err != nil {
				failed = append(failed, asError(err))
				continue
			}
			f.bundle.Files = append(f.bundle.Files, made.files...)
			f.bundle.Absent = append(f.bundle.Absent, made.absent...)
			f.bundle.Objects = append(f.bundle.Objects, made.object)
			f.describe(made, a)
			for _, w := range made.warnings {
				f.bundle.Warnings = append(f.bundle.Warnings, fmt.Sprintf("%s %q: %s", r.object.Kind, r.object.Name, w))
			}
			f.bundle.Warnings = append(f.bundle.Warnings, f.validity(r.object, a.Object)...)
		}
	}
	if len(failed) > 0 {
		return nil, join(failed)
	}
	if err := f.templates(ctx); err != nil {
		return nil, err
	}
	if f.class.MetadataFile != "" {
		f.bundle.Files = append(f.bundle.Files, f.metadata())
	}
	if err := volume.CheckFiles(f.bundle.Files); err != nil {
		return nil, &volume.Error{
			Reason: volume.ReasonInvalidClass,
			Cause:  err,
			Message: "objects clash: " + strings.ReplaceAll(err.Error(), "\n",
				"; ") + ": give one of them another objectAlias",
		}
	}
	if f.bundle.FetchedAt.IsZero() {
		f.bundle.FetchedAt = f.now
	}
	// they came in the order of the answers
	slices.SortFunc(f.bundle.Sources,
		func(a, b volume.Source) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	return f.bundle, nil
}

// rendered is what one version of an object makes.
type rendered struct {
	// name is the object's, as the class spells it.
	name     string
	files    []volume.File
	absent   []string
	object   volume.Object
	warnings []string
}

// render turns the index-th version of an object into its files. Exact is true where it was asked for by its id. A panic is an error of
// this object.
func (f *fetch) render(ctx context.Context, o *class.Object, index int, a answer, exact bool) (made rendered, err error) {
	file, id := place(o.Path, string(o.Kind)+"/"+o.Name, o.History, index)
	var c contents
	err = f.provider.safe.Do(ctx, "make files of "+label(o), func() (err error) {
		if c, err = f.contents(ctx, o, a.Object, file); err != nil {
			return contentError(o, a.Object.RequestID, err)
		}
		return nil
	})
	if err != nil {
		return rendered{}, err
	}
	key := f.version(o, o.Version)
	if o.History > 1 || exact {
		key = f.version(o, a.Object.Version)
	}
	for i := range c.files {
		c.files[i].Source = key
	}
	if o.Extract != nil && len(c.files) > 0 {
		file = c.files[0].Path
	}
	return rendered{
		name:     o.Name,
		files:    c.files,
		absent:   c.absent,
		warnings: c.warnings,
		object: volume.Object{
			ID:        id,
			Version:   a.Object.Version,
			Path:      file,
			Vault:     host(o.VaultURL),
			RequestID: a.Object.RequestID,
			Cached:    a.shared,
			NotBefore: a.Object.NotBefore,
			Expires:   earlier(a.Object.Expires, c.notAfter),
		},
	}, nil
}

// place is the file and the id of the index-th version of an object.
func place(file, id string, history, index int) (string, string) {
	if history <= 1 {
		return file, id
	}
	return path.Join(file, strconv.Itoa(index)), id + "/" + strconv.Itoa(index)
}

// validity warns of an object outside its own time: the vault gives it all the same.
func (f *fetch) validity(o *class.Object, got *vault.Object) []string {
	switch {
	case !got.NotBefore.IsZero() && f.now.Before(got.NotBefore):
		return []string{
			fmt.Sprintf("%s %q is valid only from %s on", o.Kind, o.Name, got.NotBefore.UTC().Format(time.RFC3339)),
		}
	case !got.Expires.IsZero() && !f.now.Before(got.Expires):
		return []string{fmt.Sprintf("%s %q expired at %s", o.Kind, o.Name, got.Expires.UTC().Format(time.RFC3339))}
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
