package provider

import (
	"context"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
)

const (
	// unsettled is how long after a change a value that was read may still be replaced by another one with the same time: Key Vault's times
	// are whole seconds, and may be a second ahead of the Date of its answers.
	unsettled = 2 * time.Second
	// askAgain is after how long an identity that was not allowed to list may try again, and after how long the size of a list is
	// forgotten.
	askAgain = 10 * time.Minute
	// mostCosts bounds what is remembered of lists.
	mostCosts = 4096
	// heldFor is how long a list may take the place of reading a value: an identity that may list and not read any more must not be given it
	// for ever.
	heldFor = time.Hour
	// beyond is more pages, or objects, than there can be.
	beyond = math.MaxInt
)

// catalog is the list of all objects of a kind in a vault.
type catalog struct {
	answer
	byName map[string]*vault.Item // in lower case
	// failed is why the list is a last known good one; nil where it is not.
	failed error
}

// catalogs are the lists that one fetch uses. Each is asked for once.
type catalogs struct {
	mu     sync.Mutex
	listed map[catalogUse]func() (*catalog, error)
}

// catalogUse is a list, and whether it may be a last known good one.
type catalogUse struct {
	key   volume.SourceKey
	stale bool
}

// once returns the list, which the function asks for where it is the first use.
func (c *catalogs) once(use catalogUse, list func() (*catalog, error)) (*catalog, error) {
	c.mu.Lock()
	if c.listed == nil {
		c.listed = map[catalogUse]func() (*catalog, error){}
	}
	get, ok := c.listed[use]
	if !ok {
		get = sync.OnceValues(list)
		c.listed[use] = get
	}
	c.mu.Unlock()
	return get()
}

// catalogKey is the source of the list of all objects of the object's kind in its vault.
func (f *fetch) catalogKey(o *class.Object) volume.SourceKey {
	return volume.SourceKey{Identity: f.identity.Key(), Vault: o.VaultURL, Kind: string(o.Kind), List: true}
}

// catalog lists all objects of the object's kind. The list itself is no source of the bundle: most of what changes in it is of others.
func (f *fetch) catalog(ctx context.Context, o *class.Object, try attempt) (*catalog, error) {
	key := f.catalogKey(o)
	return f.catalogs.once(catalogUse{key, try.stale}, func() (*catalog, error) {
		a, err := answer{}, try.failed
		if err == nil {
			a, err = f.get(ctx, o, key, time.Time{}, nil)
		}
		var failed error
		if err != nil {
			last, ok := f.lastGood(key, try, err)
			if !ok {
				return nil, err
			}
			a, failed = last, err
		}
		c := &catalog{answer: a, failed: failed, byName: make(map[string]*vault.Item, len(a.Items))}
		for i := range a.Items {
			c.byName[strings.ToLower(a.Items[i].Name)] = &a.Items[i]
		}
		return c, nil
	})
}

// current gets the current version of an object: where the class wants lists, and one is worth it, only if the list says that it changed.
func (f *fetch) current(ctx context.Context, o *class.Object, try attempt) (answer, error) {
	key := f.version(o, o.Version)
	if !f.class.Lists || o.Version != "" || try.failed != nil {
		return f.source(ctx, o, key, try)
	}
	c, err := f.compared(ctx, o)
	if err != nil {
		return f.source(ctx, o, key, attempt{stale: try.stale, failed: err})
	}
	return f.listed(ctx, o, c, try)
}

// listed gets an object of which a list, nil where there is none, may say that it did not change.
func (f *fetch) listed(ctx context.Context, o *class.Object, c *catalog, try attempt) (answer, error) {
	key := f.version(o, "")
	if c == nil {
		return f.source(ctx, o, key, try)
	}
	if a, ok := f.provider.table.held(key); ok && unchanged(a, c.byName[strings.ToLower(o.Name)], f.now) {
		a = f.provider.table.confirm(key, a, c.asked, c.Date, f.keep(o))
		f.note(key, a)
		f.provider.options.Observer.Source("listed")
		return a, nil
	}
	try.notBefore = c.asked
	return f.source(ctx, o, key, try)
}

// unchanged reports whether the value that is held is that of the list's entry, which is nil where there is none. The times of both must
// be equal, not ordered, and the value must have been read long enough after them, and not too long ago.
func unchanged(held answer, entry *vault.Item, now time.Time) bool {
	if held.Object == nil || entry == nil || now.Sub(held.got) >= heldFor {
		return false
	}
	latest := entry.Updated
	if entry.Created.After(latest) {
		latest = entry.Created
	}
	return held.Object.Updated.Equal(entry.Updated) && held.Object.Created.Equal(entry.Created) && held.Object.Enabled == entry.Enabled &&
		held.read.Sub(latest) > unsettled
}

// compared returns the list to compare an object with, nil where getting each object costs less or must do.
func (f *fetch) compared(ctx context.Context, o *class.Object) (*catalog, error) {
	if f.opts.Priority == volume.PriorityMount {
		f.detected(volume.DetectionGet) // a Pod that waits needs the values, and a list would be a request more
		return nil, nil
	}
	key, costs := f.catalogKey(o), f.provider.costs
	if why := costs.worthless(key, f.unpinned(o)); why != "" {
		f.detected(why)
		return nil, nil
	}
	c, err := f.catalog(ctx, o, attempt{})
	switch reason := reasonOf(err); {
	case err == nil:
		costs.note(key, c.Pages)
		f.detected(volume.DetectionList)
		return c, nil
	case reason == volume.ReasonPermission:
		costs.refused(key)
		f.detected(volume.DetectionRefused)
		return nil, nil
	case reason == volume.ReasonInvalidClass: // too many
		costs.note(key, beyond)
		f.detected(volume.DetectionCostly)
		return nil, nil
	}
	return nil, err
}

// unpinned counts the class's objects that one list serves.
func (f *fetch) unpinned(like *class.Object) (n int) {
	for i := range f.class.Objects {
		o := &f.class.Objects[i]
		switch {
		case o.VaultURL != like.VaultURL || o.Kind != like.Kind:
		case o.Selector != nil:
			return beyond // the list is needed in any case
		case o.Version == "" && o.History <= 1:
			n++
		}
	}
	return n
}

// detected notes how the fetch found out what changed. That it listed counts most.
func (f *fetch) detected(how volume.Detection) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bundle.Detection != volume.DetectionList {
		f.bundle.Detection = how
	}
}

// costs remembers what lists need, so that one which is refused or not worth it is not asked for at each poll.
type costs struct {
	clock interface{ Now() time.Time }

	mu    sync.Mutex
	known map[volume.SourceKey]cost
}

type cost struct {
	// pages is how many requests the list needed; 0 where it was refused.
	pages int
	at    time.Time
}

// worthless says why a list is not asked for in place of the number of objects; empty where it is.
func (c *costs) worthless(key volume.SourceKey, objects int) volume.Detection {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok := c.known[key]
	switch {
	case !ok || c.clock.Now().Sub(known.at) > askAgain:
		if objects < 2 {
			return volume.DetectionCostly
		}
		return ""
	case known.pages == 0:
		return volume.DetectionRefused
	case known.pages >= objects:
		return volume.DetectionCostly
	}
	return ""
}

func (c *costs) refused(key volume.SourceKey) { c.note(key, 0) }

func (c *costs) note(key volume.SourceKey, pages int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= mostCosts {
		clear(c.known)
	}
	c.known[key] = cost{pages: pages, at: c.clock.Now()}
}
