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
	ctx, wait := identity.WithWait(withClaim(ctx, opts))
	f := b.newFetch(opts)
	results := f.objects(ctx)
	var failed []*volume.Error
	for _, r := range results {
		if r.err != nil {
			failed = append(failed, asError(r.err))
		}
	}
	if len(failed) > 0 {
		err := join(failed)
		if opts.Priority == volume.PriorityRefresh && volume.ReasonOf(err) == volume.ReasonThrottled {
			f.holdAnswers()
		}
		return nil, err
	}
	f.bundle.TokenWait = wait.Longest()
	if f.bundle.Detection != "" {
		f.provider.options.Observer.Detected(f.bundle.Detection)
	}
	return f.assemble(ctx, results)
}

// withClaim says how the requests of a fetch are ordered among those that wait for the same vault.
func withClaim(ctx context.Context, opts volume.FetchOptions) context.Context {
	if opts.Priority == volume.PriorityMount {
		return limiter.WithUrgency(ctx, true)
	}
	return limiter.WithHeld(ctx, opts.Held)
}

// holdAnswers keeps what a refresh was answered before it was throttled, for its next try: a class of many objects would be asked for from
// the beginning each time, and never be whole.
func (f *fetch) holdAnswers() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, source := range f.bundle.Sources {
		f.provider.table.hold(source.Key)
	}
}

func (b *binding) newFetch(opts volume.FetchOptions) *fetch {
	return &fetch{binding: b, opts: opts, now: b.provider.options.Clock.Now(), bundle: &volume.Bundle{}}
}

// fetch is one fetch under way.
type fetch struct {
	*binding
	opts volume.FetchOptions
	now  time.Time
	// files counts those of version histories and selections.
	files atomic.Int64
	// catalogs are the lists of all objects that this fetch uses, each asked for once.
	catalogs catalogs

	mu     sync.Mutex
	bundle *volume.Bundle
	// described says what the files are made of, for the metadata; nil where the class wants none.
	described []description
}

// fetched is what came of one object of the class: a version, or several of its history.
type fetched struct {
	object   *class.Object
	versions []answer
	// exact is true where the version was asked for by its id although the object names none.
	exact bool
	// absent is why an optional object has no version.
	absent *volume.Error
	err    error
}

// objects fetches all objects of the class at the same time, in the class's order. A selection is as many objects as it takes.
func (f *fetch) objects(ctx context.Context) []fetched {
	results := make([][]fetched, len(f.class.Objects))
	var work sync.WaitGroup
	for i := range f.class.Objects {
		work.Go(func() { results[i] = f.resolve(ctx, &f.class.Objects[i]) })
	}
	work.Wait()
	return slices.Concat(results...)
}

// resolve fetches one item of the class: of its vault, of its fallback vaults where its own cannot be reached and the class permits it,
// and of what is kept last. A selection is as many objects as it takes.
func (f *fetch) resolve(ctx context.Context, o *class.Object) []fetched {
	if len(o.Fallbacks) > 0 && f.opts.AllowStale {
		return f.withFallbacks(ctx, o)
	}
	return f.once(ctx, o, attempt{stale: f.opts.AllowStale})
}

// once fetches one item of the class from its vault. A panic is an error of this item.
func (f *fetch) once(ctx context.Context, o *class.Object, try attempt) (all []fetched) {
	if o.Selector == nil {
		return []fetched{f.object(ctx, o, try)}
	}
	err := f.provider.safe.Do(ctx, "select "+label(o), func() (err error) {
		all, err = f.selection(ctx, o, try)
		return err
	})
	if err == nil {
		return all
	}
	r := fetched{object: o}
	r.fail(err)
	return []fetched{r}
}

// fail notes why there is no object, which is no error where it is optional.
func (r *fetched) fail(err error) {
	r.versions, r.err = nil, err
	if e, ok := errors.AsType[*volume.Error](err); ok && r.object.Optional && missing(e.Reason) {
		r.absent, r.err = e, nil
	}
}

// missing reports whether an error says that there is no object that could be had.
func missing(reason volume.Reason) bool {
	return reason == volume.ReasonNotFound || reason == volume.ReasonDisabled
}

// object fetches one object of the class from its vault. A panic is an error of this object.
func (f *fetch) object(ctx context.Context, o *class.Object, try attempt) (r fetched) {
	r.object = o
	err := f.provider.safe.Do(ctx, "fetch "+label(o), func() (err error) {
		if o.History > 1 {
			r.versions, err = f.history(ctx, o, try)
			return err
		}
		a, err := f.current(ctx, o, try)
		if err == nil && o.Kind != class.Secret && !a.Object.Enabled && (o.Optional || o.LatestEnabled) {
			// of a secret the vault refuses a disabled version; a key or certificate it gives all the same
			err = &volume.Error{
				Reason:    volume.ReasonDisabled,
				Message:   label(o) + ": it is disabled: enable it in the vault, or name another version",
				RequestID: a.Object.RequestID,
			}
		}
		if err != nil && o.LatestEnabled && volume.ReasonOf(err) == volume.ReasonDisabled {
			newest := *o
			newest.History = 1
			r.exact = true
			r.versions, err = f.history(ctx, &newest, try)
			return err
		}
		r.versions = []answer{a}
		return err
	})
	if err != nil {
		r.fail(err)
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
func (f *fetch) history(ctx context.Context, o *class.Object, try attempt) ([]answer, error) {
	key := f.version(o, "")
	key.List = true
	listed, err := f.source(ctx, o, key, try)
	if err != nil {
		return nil, err
	}
	wanted, err := pick(listed.Versions, o)
	if err != nil {
		return nil, err
	}
	if n := f.files.Add(int64(len(wanted))); n > class.MaxFiles {
		return nil, tooManyFiles("objectVersionHistory")
	}
	answers := make([]answer, len(wanted))
	errs := make([]error, len(wanted))
	var work sync.WaitGroup
	for i, version := range wanted {
		work.Go(func() {
			errs[i] = f.provider.safe.Do(ctx, "fetch "+label(o), func() (err error) {
				answers[i], err = f.source(ctx, o, f.version(o, version), try)
				return err
			})
		})
	}
	work.Wait()
	return answers, errors.Join(errs...)
}

func tooManyFiles(field string) error {
	return &volume.Error{Reason: volume.ReasonInvalidClass, Message: fmt.Sprintf(
		"%s asks for more than %d files in all: write smaller numbers, or split the class", field, class.MaxFiles)}
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

// attempt says how a source is to be had.
type attempt struct {
	// stale permits a last known good answer where the vault cannot be reached and the class wants one.
	stale bool
	// failed is why the vault is not asked at all; nil where it is.
	failed error
	// notBefore is the earliest request whose answer will do, where it is later than that of the fetch.
	notBefore time.Time
}

// source gets the answer of a source from the table, which asks the vault where it has none. Where the vault cannot be
// reached, it is a last known good one if the class permits it.
func (f *fetch) source(ctx context.Context, o *class.Object, key volume.SourceKey, try attempt) (answer, error) {
	err := try.failed
	if err == nil {
		var a answer
		if try.stale && f.class.StaleIfError > 0 && f.provider.table.keeps(key, f.class.StaleIfError) {
			a, err = f.askSoon(ctx, o, key, try.notBefore)
		} else {
			a, err = f.ask(ctx, o, key, try.notBefore, nil)
		}
		if err == nil {
			return a, nil
		}
	}
	a, ok := f.lastGood(key, try, err)
	if !ok {
		return answer{}, err
	}
	f.note(key, a)
	return a, nil
}

// lastGood returns a last known good answer in place of one that failed, where the class permits it, and notes that the bundle holds it.
func (f *fetch) lastGood(key volume.SourceKey, try attempt, cause error) (answer, bool) {
	if !try.stale || f.class.StaleIfError == 0 || !volume.ReasonOf(cause).Transient() {
		return answer{}, false
	}
	a, ok := f.provider.table.lastGood(key, f.class.StaleIfError)
	if ok {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.bundle.Stale, f.bundle.Cause = true, cause
	}
	return a, ok
}

// askSoon is ask for a Pod that can start with a last known good answer: it asks once, and not at all a vault that could not be reached a
// moment ago. A Pod would wait for all tries otherwise, and each of its objects for its own.
func (f *fetch) askSoon(ctx context.Context, o *class.Object, key volume.SourceKey, notBefore time.Time) (answer, error) {
	return f.ask(limiter.WithUrgency(ctx, false), o, key, notBefore, f.passedOver(o, f.own(o)))
}

// ask gets the answer of a source from the table, and notes it. Refused is why the vault is not to be asked; nil where it is.
func (f *fetch) ask(ctx context.Context, o *class.Object, key volume.SourceKey, notBefore time.Time, refused error) (answer, error) {
	a, err := f.get(ctx, o, key, notBefore, refused)
	if err != nil {
		return answer{}, err
	}
	f.note(key, a)
	if a.absent != nil {
		return answer{}, a.absent
	}
	return a, nil
}

// get gets an answer from the table: of an object, or of a list for it.
func (f *fetch) get(ctx context.Context, o *class.Object, key volume.SourceKey, notBefore time.Time, refused error) (answer, error) {
	q := query{
		key:       key,
		name:      o.Name,
		scope:     f.class.Cloud.Scope,
		identity:  f.identity,
		notBefore: f.opts.NotBefore,
		keep:      f.keep(o),
		refresh:   f.opts.Priority == volume.PriorityRefresh,
		optional:  o.Optional,
		refused:   refused,
	}
	if isCatalog(key) {
		q.name, q.optional = "", false // it is not about the object
	}
	if notBefore.After(q.notBefore) {
		q.notBefore = notBefore
	}
	a, err := f.provider.table.get(ctx, q)
	if _, known := errors.AsType[*volume.Error](err); !known && errors.Is(err, context.DeadlineExceeded) {
		err = &volume.Error{
			Reason: volume.ReasonNetwork,
			Cause:  err,
			Message: fmt.Sprintf("%s: no answer within %s: check firewalls and routes "+
				"from the node", label(o), f.provider.options.FetchTimeout),
		}
	}
	if refused == nil && !a.shared && !errors.Is(err, context.Canceled) { // who gives up says nothing of the vault
		f.away(f.own(o), err)
	}
	return a, err
}

// keep returns for how long values are kept beyond the table's own time: for emergencies, and to compare them with the next list.
func (f *fetch) keep(o *class.Object) time.Duration {
	keep := f.class.StaleIfError
	if (f.class.Lists || o.Listed) && f.opts.Interval > 0 {
		keep = max(keep, 3*f.opts.Interval+time.Minute)
	}
	return keep
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
	if o.Selector != nil {
		return fmt.Sprintf("vault %s: %ss matching %q", host(o.VaultURL), o.Kind, o.Selector)
	}
	return fmt.Sprintf("vault %s: %s %q", host(o.VaultURL), o.Kind, o.Name)
}
