package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/identity"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
)

// Fetch implements volume.Binding.
func (b *binding) Fetch(ctx context.Context, opts volume.FetchOptions) (*volume.Bundle, error) {
	ctx, cancel := context.WithTimeout(ctx, b.provider.options.FetchTimeout)
	defer cancel()
	if b.nodeOf != "" { // the right may be gone since Bind
		if err := b.provider.options.NodeIdentity.Check(ctx, b.nodeOf); err != nil {
			return nil, err
		}
	}
	ctx, wait := identity.WithWait(limiter.WithUrgency(ctx, opts.Priority == volume.PriorityMount))
	f := b.newFetch(opts)
	results := f.objects(ctx)
	var failed []*volume.Error
	for _, r := range results {
		if r.err != nil {
			failed = append(failed, asError(r.err))
		}
	}
	if len(failed) > 0 {
		return nil, join(failed)
	}
	f.bundle.TokenWait = wait.Longest()
	return f.assemble(ctx, results)
}

func (b *binding) newFetch(opts volume.FetchOptions) *fetch {
	return &fetch{binding: b, opts: opts, now: b.provider.options.Clock.Now(), bundle: &volume.Bundle{}}
}

// fetch is one fetch under way.
type fetch struct {
	*binding
	opts volume.FetchOptions
	now  time.Time
	// files counts those of version histories.
	files atomic.Int64

	mu     sync.Mutex
	bundle *volume.Bundle
	// described says what the files are made of, for the metadata; nil where the class wants none.
	described []description
}

// fetched is what came of one object of the class: a version, or several of its history.
type fetched struct {
	object   *class.Object
	versions []answer
	// absent is why an optional object has no version.
	absent *volume.Error
	err    error
}

// objects fetches all objects of the class at the same time.
func (f *fetch) objects(ctx context.Context) []fetched {
	results := make([]fetched, len(f.class.Objects))
	var work sync.WaitGroup
	for i := range f.class.Objects {
		work.Go(func() { results[i] = f.object(ctx, &f.class.Objects[i]) })
	}
	work.Wait()
	return results
}

// object fetches one object of the class. A panic is an error of this object.
func (f *fetch) object(ctx context.Context, o *class.Object) (r fetched) {
	r.object = o
	r.err = f.provider.safe.Do(ctx, "fetch "+label(o), func() (err error) {
		if o.History > 1 {
			r.versions, err = f.history(ctx, o)
			return err
		}
		a, err := f.source(ctx, o, f.version(o, o.Version))
		r.versions = []answer{a}
		return err
	})
	if e, ok := errors.AsType[*volume.Error](r.err); ok && o.Optional && (e.Reason == volume.ReasonNotFound || e.Reason == volume.ReasonDisabled) {
		r.absent, r.versions, r.err = e, nil, nil
	}
	return r
}

// version is the source of one version of an object, the newest where it is empty.
func (f *fetch) version(o *class.Object, version string) volume.SourceKey {
	return volume.SourceKey{
		Identity: f.identity.Key(),
		Vault:    o.VaultURL,
		Kind:     string(o.Kind),
		Name:     strings.ToLower(o.Name),
		Version:  version,
	}
}

// history gets the newest enabled versions, the newest first, from the start version on.
func (f *fetch) history(ctx context.Context, o *class.Object) ([]answer, error) {
	key := f.version(o, "")
	key.List = true
	listed, err := f.source(ctx, o, key)
	if err != nil {
		return nil, err
	}
	wanted, err := pick(listed.Versions, o)
	if err != nil {
		return nil, err
	}
	if n := f.files.Add(int64(len(wanted))); n > class.MaxFiles {
		return nil, &volume.Error{Reason: volume.ReasonInvalidClass, Message: fmt.Sprintf(
			"objectVersionHistory asks for more than %d files in all: write smaller numbers, or split the class",
			class.MaxFiles)}
	}
	answers := make([]answer, len(wanted))
	errs := make([]error, len(wanted))
	var work sync.WaitGroup
	for i, version := range wanted {
		work.Go(func() {
			errs[i] = f.provider.safe.Do(ctx, "fetch "+label(o), func() (err error) {
				answers[i], err = f.source(ctx, o, f.version(o, version))
				return err
			})
		})
	}
	work.Wait()
	return answers, errors.Join(errs...)
}

// pick returns the versions to write.
func pick(all []vault.Attributes, o *class.Object) ([]string, error) {
	enabled := make([]vault.Attributes, 0, len(all))
	for _, v := range all {
		if v.Enabled {
			enabled = append(enabled, v)
		}
	}
	slices.SortFunc(enabled, func(a, b vault.Attributes) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.Version, b.Version))
	})
	from := 0
	if o.Version != "" {
		from = slices.IndexFunc(enabled, func(v vault.Attributes) bool { return v.Version == o.Version })
	}
	if from < 0 || len(enabled) == 0 {
		what := "has no enabled version"
		if o.Version != "" {
			what = "has no enabled version " + o.Version + " to start from"
		}
		return nil, &volume.Error{
			Reason:  volume.ReasonNotFound,
			Message: fmt.Sprintf("%s %s: enable it, or correct objectVersion", label(o), what),
		}
	}
	var versions []string
	for _, v := range enabled[from:min(len(enabled), from+o.History)] {
		versions = append(versions, v.Version)
	}
	return versions, nil
}

// source gets the answer of a source from the table, which asks the vault where it has none. Where the vault cannot be
// reached, it is a last known good one if the class permits it.
func (f *fetch) source(ctx context.Context, o *class.Object, key volume.SourceKey) (answer, error) {
	q := query{
		key:       key,
		name:      o.Name,
		scope:     f.class.Cloud.Scope,
		identity:  f.identity,
		notBefore: f.opts.NotBefore,
		keep:      f.class.StaleIfError,
		optional:  o.Optional,
	}
	a, err := f.provider.table.get(ctx, q)
	if err == nil {
		f.note(key, a)
		if a.absent != nil {
			return answer{}, a.absent
		}
		return a, nil
	}
	if _, known := errors.AsType[*volume.Error](err); !known && errors.Is(err, context.DeadlineExceeded) {
		err = &volume.Error{
			Reason: volume.ReasonNetwork,
			Cause:  err,
			Message: fmt.Sprintf("%s: no answer within %s: check firewalls and routes "+
				"from the node", label(o), f.provider.options.FetchTimeout),
		}
	}
	if !f.opts.AllowStale || f.class.StaleIfError == 0 || !volume.ReasonOf(err).Transient() {
		return answer{}, err
	}
	a, ok := f.provider.table.lastGood(key, f.class.StaleIfError)
	if !ok {
		return answer{}, err
	}
	f.note(key, a)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bundle.Stale, f.bundle.Cause = true, err
	return a, nil
}

// ask asks the vault. The table calls it for one of the callers that want the same source. It ends a little before that
// caller gives up, so that the caller gets the cause: which service did not answer.
func (p *Provider) ask(ctx context.Context, q query) (vault.Answer, error) {
	client, err := p.vaults.Client(q.key.Vault, q.scope, q.identity)
	if err != nil {
		return vault.Answer{}, fmt.Errorf("vault %s: %w", host(q.key.Vault), err)
	}
	grace := p.options.FetchTimeout / 10
	limit := p.options.FetchTimeout
	if !q.deadline.IsZero() {
		limit = min(limit, time.Until(q.deadline))
	}
	ctx, cancel := context.WithTimeout(ctx, limit-grace)
	defer cancel()
	return client.Ask(ctx, q.key, q.name)
}

// note remembers a source for the bundle.
func (f *fetch) note(key volume.SourceKey, a answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.ContainsFunc(f.bundle.Sources, func(have volume.Source) bool { return have.Key == key }) {
		source := volume.Source{Key: key, Hash: a.hash, Asked: a.asked, Date: a.Date}
		if a.Object != nil {
			source.Version = a.Object.Version
		}
		f.bundle.Sources = append(f.bundle.Sources, source)
	}
	if f.bundle.FetchedAt.IsZero() || a.asked.Before(f.bundle.FetchedAt) {
		f.bundle.FetchedAt = a.asked
	}
}

// label names an object of a class in messages.
func label(o *class.Object) string {
	return fmt.Sprintf("vault %s: %s %q", host(o.VaultURL), o.Kind, o.Name)
}
