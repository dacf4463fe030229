package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/identity"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
)

// mostTold bounds how many failed objects one error line names.
const mostTold = 3

// Fetch implements volume.Binding.
func (b *binding) Fetch(ctx context.Context, opts volume.FetchOptions) (*volume.Bundle, error) {
	ctx, cancel := context.WithTimeout(ctx, b.provider.options.FetchTimeout)
	defer cancel()
	f := &fetch{
		binding: b, opts: opts, now: b.provider.options.Clock.Now(), bundle: &volume.Bundle{},
	}
	ctx, wait := identity.WithWait(limiter.WithUrgency(ctx, opts.Priority == volume.PriorityMount))
	results := make([]fetched, len(b.class.Objects))
	var work sync.WaitGroup
	for i := range b.class.Objects {
		work.Go(func() { results[i] = f.object(ctx, &b.class.Objects[i]) })
	}
	work.Wait()
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
	return f.assemble(results)
}

// fetch is one fetch under way.
type fetch struct {
	*binding
	opts volume.FetchOptions
	now  time.Time

	mu     sync.Mutex
	bundle *volume.Bundle
}

// fetched is what came of one object of the class: a version, or several of its history.
type fetched struct {
	object   *class.Object
	versions []answer
	err      error
}

func (f *fetch) object(ctx context.Context, o *class.Object) fetched {
	if o.History > 1 {
		versions, err := f.history(ctx, o)
		return fetched{object: o, versions: versions, err: err}
	}
	a, err := f.one(ctx, o, o.Version)
	return fetched{object: o, versions: []answer{a}, err: err}
}

// one gets one version.
func (f *fetch) one(ctx context.Context, o *class.Object, version string) (answer, error) {
	s := volume.SourceKey{Identity: f.identity.Key(), Vault: o.VaultURL, Kind: string(o.Kind), Name: strings.ToLower(o.Name), Version: version}
	return f.ask(ctx, s, func(ctx context.Context, client *vault.Client) (a answer, err error) {
		a.object, err = client.Get(ctx, o.Kind, o.Name, version)
		return a, err
	})
}

// history gets the newest enabled versions, the newest first, from the start version on.
func (f *fetch) history(ctx context.Context, o *class.Object) ([]answer, error) {
	s := volume.SourceKey{Identity: f.identity.Key(), Vault: o.VaultURL, Kind: string(o.Kind), Name: strings.ToLower(o.Name), List: true}
	listed, err := f.ask(ctx, s, func(ctx context.Context, client *vault.Client) (a answer, err error) {
		a.versions, err = client.Versions(ctx, o.Kind, o.Name)
		return a, err
	})
	if err != nil {
		return nil, err
	}
	wanted, err := pick(listed.versions, o)
	if err != nil {
		return nil, err
	}
	answers := make([]answer, len(wanted))
	errs := make([]error, len(wanted))
	var work sync.WaitGroup
	for i, version := range wanted {
		work.Go(func() { answers[i], errs[i] = f.one(ctx, o, version) })
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
		return nil, &volume.Error{Reason: volume.ReasonNotFound, Message: fmt.Sprintf("vault %s: %s %q %s: enable it, or correct objectVersion",
			host(o.VaultURL), o.Kind, o.Name, what)}
	}
	var versions []string
	for _, v := range enabled[from:min(len(enabled), from+o.History)] {
		versions = append(versions, v.Version)
	}
	return versions, nil
}

// ask gets a source from the table or the vault, or, where that cannot be reached, a last known good answer.
func (f *fetch) ask(ctx context.Context, s volume.SourceKey, request func(context.Context, *vault.Client) (answer, error)) (answer, error) {
	a, err := f.provider.table.get(ctx, s, f.opts.NotBefore, f.class.StaleIfError, func(ctx context.Context) (answer, error) {
		client, err := f.provider.vaults.Client(s.Vault, f.class.Cloud.Scope, f.identity)
		if err != nil {
			return answer{}, err
		}
		// a shared request must end even if a caller comes again and again
		ctx, cancel := context.WithTimeout(ctx, f.provider.options.FetchTimeout)
		defer cancel()
		return request(ctx, client)
	})
	if err == nil {
		f.note(s, a)
		return a, nil
	}
	if ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded) {
		err = &volume.Error{Reason: volume.ReasonNetwork, Message: fmt.Sprintf("vault %s: %s %q: no answer within %s: check firewalls and routes "+
			"from the node", host(s.Vault), s.Kind, s.Name, f.provider.options.FetchTimeout)}
	}
	if f.opts.AllowStale && f.class.StaleIfError > 0 && outage(volume.ReasonOf(err)) {
		if a, ok := f.provider.table.lastGood(s, f.class.StaleIfError); ok {
			f.note(s, a)
			f.mu.Lock()
			defer f.mu.Unlock()
			f.bundle.Stale, f.bundle.Cause = true, err
			return a, nil
		}
	}
	return a, err
}

// outage tells whether an error says that a service cannot be reached, and not that it refuses.
func outage(reason volume.Reason) bool {
	switch reason {
	case volume.ReasonDNS, volume.ReasonProxy, volume.ReasonNetwork, volume.ReasonUnavailable, volume.ReasonThrottled:
		return true
	case volume.ReasonInvalidClass, volume.ReasonInvalidRequest, volume.ReasonClassNotFound, volume.ReasonIdentity, volume.ReasonPermission, volume.ReasonFirewall,
		volume.ReasonNotFound, volume.ReasonDisabled, volume.ReasonInvalidContent, volume.ReasonNotReady, volume.ReasonFilesystem, volume.ReasonInternal, volume.ReasonTokenExpired:
	}
	return false
}

// note remembers a source for the bundle.
func (f *fetch) note(s volume.SourceKey, a answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.ContainsFunc(f.bundle.Sources, func(have volume.Source) bool { return have.Key == s }) {
		source := volume.Source{Key: s, Hash: a.digest, Asked: a.at, Date: a.date}
		if a.object != nil {
			source.Version = a.object.Version
		}
		f.bundle.Sources = append(f.bundle.Sources, source)
	}
	if f.bundle.FetchedAt.IsZero() || a.at.Before(f.bundle.FetchedAt) {
		f.bundle.FetchedAt = a.at
	}
}

// assemble makes the bundle's files, in the class's order.
func (f *fetch) assemble(results []fetched) (*volume.Bundle, error) {
	var failed []*volume.Error
	for _, r := range results {
		for i, a := range r.versions {
			c, object, err := f.render(r.object, i, a)
			if err != nil {
				failed = append(failed, err)
				continue
			}
			f.bundle.Files = append(f.bundle.Files, c.files...)
			f.bundle.Objects = append(f.bundle.Objects, object)
			for _, w := range c.warnings {
				f.bundle.Warnings = append(f.bundle.Warnings, fmt.Sprintf("%s %q: %s", r.object.Kind, r.object.Name, w))
			}
			f.bundle.Warnings = append(f.bundle.Warnings, f.validity(r.object, a.object)...)
		}
	}
	if len(failed) > 0 {
		return nil, join(failed)
	}
	if err := volume.CheckFiles(f.bundle.Files); err != nil {
		return nil, &volume.Error{Reason: volume.ReasonInvalidClass, Cause: err,
			Message: "objects clash: " + strings.ReplaceAll(err.Error(), "\n", "; ") + ": give one of them another objectAlias"}
	}
	if len(f.class.Objects) == 0 {
		f.bundle.FetchedAt = f.now
	}
	// they came in the order of the answers
	slices.SortFunc(f.bundle.Sources, func(a, b volume.Source) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	return f.bundle, nil
}

// render turns the index-th version of an object into its files.
func (f *fetch) render(o *class.Object, index int, a answer) (contents, volume.Object, *volume.Error) {
	file, id := place(o.Path, string(o.Kind)+"/"+o.Name, o.History, index)
	c, err := f.contents(o, a.object, file)
	if err != nil {
		return c, volume.Object{}, &volume.Error{Reason: volume.ReasonInvalidContent, Cause: err, RequestID: a.object.RequestID,
			Message: fmt.Sprintf("vault %s: %s %q: %v", host(o.VaultURL), o.Kind, o.Name, err)}
	}
	return c, volume.Object{
		ID: id, Version: a.object.Version, Path: file, Vault: host(o.VaultURL), RequestID: a.object.RequestID,
		Cached: a.shared, NotBefore: a.object.NotBefore, Expires: earlier(a.object.Expires, c.notAfter),
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
		return []string{fmt.Sprintf("%s %q is valid only from %s on", o.Kind, o.Name, got.NotBefore.UTC().Format(time.RFC3339))}
	case !got.Expires.IsZero() && !f.now.Before(got.Expires):
		return []string{fmt.Sprintf("%s %q expired at %s", o.Kind, o.Name, got.Expires.UTC().Format(time.RFC3339))}
	}
	return nil
}

// join makes one line of the failures of several objects, each cause once, the worst reason first.
func join(failed []*volume.Error) error {
	// what a person must mend goes before what may pass
	slices.SortStableFunc(failed, func(a, b *volume.Error) int {
		return cmp.Compare(btoi(outage(a.Reason)), btoi(outage(b.Reason)))
	})
	var lines []string
	var wait time.Duration
	for _, e := range failed {
		if !slices.Contains(lines, e.Message) {
			lines = append(lines, e.Message)
		}
		wait = max(wait, e.RetryAfter)
	}
	message := strings.Join(lines[:min(len(lines), mostTold)], "; ")
	if more := len(lines) - mostTold; more > 0 {
		message += fmt.Sprintf("; and %d more objects failed", more)
	}
	return &volume.Error{Reason: failed[0].Reason, Message: message, RetryAfter: wait, RequestID: failed[0].RequestID, Cause: failed[0]}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func host(vaultURL string) string {
	if u, err := url.Parse(vaultURL); err == nil {
		return u.Host
	}
	return vaultURL
}
