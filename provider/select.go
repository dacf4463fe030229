package provider

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
)

// selection fetches all objects that a selector takes, in the order of their names.
func (f *fetch) selection(ctx context.Context, o *class.Object, try attempt) ([]fetched, error) {
	c, err := f.catalog(ctx, o, try)
	if err != nil {
		return nil, err
	}
	f.detected(volume.DetectionList)
	names := matching(c.Items, o)
	f.noteSelection(o, names, c)
	switch limit := o.Selector.Limit; {
	case len(names) == 0:
		return nil, &volume.Error{Reason: volume.ReasonNotFound, Message: label(o) + ": none of them exists and is enabled: create or enable " +
			"one, correct objectSelector, or set optional"}
	case len(names) > limit:
		return nil, &volume.Error{Reason: volume.ReasonInvalidClass, Message: fmt.Sprintf(
			"%s: there are %d of them, and the limit is %d: write a larger limit, at most 1000, or a selector that takes fewer",
			label(o), len(names), limit)}
	}
	if n := f.files.Add(int64(len(names))); n > class.MaxFiles {
		return nil, tooManyFiles("objectSelector")
	}
	if c.failed != nil {
		try.failed = c.failed
	}
	all := make([]fetched, len(names))
	var work sync.WaitGroup
	for i, name := range names {
		work.Go(func() { all[i] = f.selected(ctx, o.Of(name), c, try) })
	}
	work.Wait()
	// one that was deleted or disabled since it was listed is as if it had not been
	return slices.DeleteFunc(all, func(r fetched) bool { return r.absent != nil || r.err != nil && missing(volume.ReasonOf(r.err)) }), nil
}

// selected fetches one object that a selection took. A panic is an error of this object.
func (f *fetch) selected(ctx context.Context, o *class.Object, c *catalog, try attempt) (r fetched) {
	r.object = o
	err := f.provider.safe.Do(ctx, "fetch "+label(o), func() error {
		a, err := f.listed(ctx, o, c, try)
		r.versions = []answer{a}
		return err
	})
	if err != nil {
		r.fail(err)
	}
	return r
}

// matching returns the names of the objects that the selector takes, sorted. Expired ones are among them: a running Pod must not lose a
// file at the second of its expiry.
func matching(items []vault.Item, o *class.Object) (names []string) {
	for _, item := range items {
		if item.Enabled && (!item.Managed || o.Selector.Managed) && o.Selector.Matches(item.Name, item.Tags) {
			names = append(names, item.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// noteSelection notes which objects were taken as a source of the bundle: it changes when an object comes or goes.
func (f *fetch) noteSelection(o *class.Object, names []string, c *catalog) {
	key := f.catalogKey(o)
	key.Selection = o.Selector.Key()
	a := answer{asked: c.asked, hash: f.provider.table.digest(strings.Join(names, "\x00"))}
	a.Date = c.Date
	f.note(key, a)
}
