// Package drivertest has what tests of the driver put in the place of Azure and the API server.
package drivertest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Vault is a provider whose objects are a map. A class's parameter "objects" is a comma-separated list of names; each is
// one source, asked as the pod's service account.
type Vault struct {
	clock clock.PassiveClock

	mu    sync.Mutex
	asked map[string]time.Time // by source

	// The fields below are for Locked.

	Values map[string]string
	// Expires holds the expiry of some objects.
	Expires map[string]time.Time
	// Requests counts by source what a real vault would have seen.
	Requests map[string]int
	// At are the times of fetches.
	At []time.Time
	// Refreshes are the options of the fetches that were refreshes.
	Refreshes []volume.FetchOptions
	// Fail is what a fetch ends with; where StaleIfError is true, one that allows it gets the values as last known good ones.
	Fail         error
	StaleIfError bool
	// Hang makes a fetch wait for its context, and HangFor one that asks for the object. Hanging counts them.
	Hang    bool
	HangFor string
	Hanging int
	// Late makes a refresh keep its answer until the channel is received from or closed.
	Late chan struct{}
	// Binds counts the calls of Bind.
	Binds int
	// Slow makes Bind of a class with these objects wait until the channel was received from twice.
	Slow map[string]chan struct{}
	// Panics makes Bind panic, and PanicFor a fetch that asks for the object.
	Panics   bool
	PanicFor string
	Mode     fs.FileMode
}

// NewVault returns an empty vault.
func NewVault(c clock.PassiveClock) *Vault {
	return &Vault{
		clock: c, Values: map[string]string{}, Expires: map[string]time.Time{}, asked: map[string]time.Time{},
		Requests: map[string]int{}, Mode: 0o644,
	}
}

// Set stores a value.
func (v *Vault) Set(name, value string) { v.Locked(func() { v.Values[name] = value }) }

// Locked runs f while nothing else uses the vault.
func (v *Vault) Locked(f func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f()
}

// Total is how many requests a real vault would have seen.
func (v *Vault) Total() (n int) {
	v.Locked(func() {
		for _, c := range v.Requests {
			n += c
		}
	})
	return n
}

// Bind implements volume.Provider.
func (v *Vault) Bind(_ context.Context, req volume.Request) (volume.Binding, error) {
	v.mu.Lock()
	slow := v.Slow[req.Parameters["objects"]]
	v.mu.Unlock()
	if slow != nil {
		slow <- struct{}{}
		slow <- struct{}{}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.Binds++
	if v.Panics {
		panic("secret-canary")
	}
	if bad := req.Parameters["invalid"]; bad != "" {
		return nil, &volume.Error{Reason: volume.ReasonInvalidClass, Message: "invalid: " + bad}
	}
	b := &binding{vault: v, identity: req.Pod.Namespace + "/" + req.Pod.ServiceAccount}
	params := maps.Clone(req.Parameters)
	maps.Copy(params, req.Attributes)
	b.names = strings.Split(params["objects"], ",")
	if text, ok := params["rotationInterval"]; ok {
		interval, err := time.ParseDuration(text)
		if err != nil {
			return nil, &volume.Error{Reason: volume.ReasonInvalidClass, Message: err.Error()}
		}
		b.interval = &interval
	}
	keys := slices.Sorted(maps.Keys(params))
	for _, k := range keys {
		b.key += k + "=" + params[k] + ";"
	}
	b.key += b.identity
	return b, nil
}

type binding struct {
	vault    *Vault
	identity string
	key      string
	names    []string
	interval *time.Duration
}

func (b *binding) Key() string         { return b.key }
func (b *binding) ScheduleKey() string { return b.identity }
func (b *binding) Identity() string    { return b.identity }
func (b *binding) Warnings() []string  { return nil }

func (b *binding) RotationInterval() (time.Duration, bool) {
	if b.interval == nil {
		return 0, false
	}
	return *b.interval, true
}

func (b *binding) Fetch(ctx context.Context, opts volume.FetchOptions) (*volume.Bundle, error) {
	bundle, late, err := b.fetch(ctx, opts)
	if err == nil && late != nil && opts.Priority == volume.PriorityRefresh {
		late <- struct{}{}
	}
	return bundle, err
}

func (b *binding) fetch(ctx context.Context, opts volume.FetchOptions) (_ *volume.Bundle, late chan struct{}, err error) {
	v := b.vault
	v.mu.Lock()
	if v.Hang || v.HangFor != "" && slices.Contains(b.names, v.HangFor) {
		v.Hanging++
		v.mu.Unlock()
		<-ctx.Done()
		return nil, nil, &volume.Error{Reason: volume.ReasonNetwork, Message: "no answer", Cause: ctx.Err()}
	}
	defer v.mu.Unlock()
	now := v.clock.Now()
	v.At = append(v.At, now)
	if opts.Priority == volume.PriorityRefresh {
		v.Refreshes = append(v.Refreshes, opts)
	}
	if v.PanicFor != "" && slices.Contains(b.names, v.PanicFor) {
		panic("secret-canary")
	}
	bundle := &volume.Bundle{FetchedAt: now}
	if v.Fail != nil {
		v.Requests["failed"]++
		if !v.StaleIfError || !opts.AllowStale {
			return nil, nil, v.Fail
		}
		bundle.Stale, bundle.Cause = true, v.Fail
	}
	for _, name := range b.names {
		key := b.identity + " " + name
		if at, ok := v.asked[key]; !ok || at.Before(opts.NotBefore) {
			v.asked[key] = now
			v.Requests[key]++
		}
		value, ok := v.Values[name]
		if !ok {
			return nil, nil, &volume.Error{Reason: volume.ReasonNotFound, Message: fmt.Sprintf("vault \"v\": secret %q was not found", name)}
		}
		if at := v.asked[key]; at.Before(bundle.FetchedAt) {
			bundle.FetchedAt = at
		}
		bundle.Files = append(bundle.Files, volume.File{Path: name, Mode: v.Mode, Data: []byte(value)})
		bundle.Objects = append(bundle.Objects, volume.Object{ID: "secret/" + name, Version: value, Path: name, Expires: v.Expires[name]})
		bundle.Sources = append(bundle.Sources, volume.Source{
			Key:   volume.SourceKey{Identity: b.identity, Name: name},
			Hash:  sha256.Sum256([]byte(value)),
			Asked: v.asked[key],
		})
	}
	return bundle, v.Late, nil
}

// Classes is a map of classes that reports its edits.
type Classes struct {
	mu      sync.Mutex
	byName  map[string]*v1.SecretProviderClass
	changed func(namespace, name string)
	unready error
}

// Get implements driver.Classes.
func (c *Classes) Get(_ context.Context, namespace, name string) (*v1.SecretProviderClass, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if class, ok := c.byName[namespace+"/"+name]; ok {
		return class, nil
	}
	return nil, &volume.Error{
		Reason:  volume.ReasonClassNotFound,
		Message: fmt.Sprintf("failed to get secretproviderclass %s/%s: not found", namespace, name),
	}
}

// Watch implements driver.Classes.
func (c *Classes) Watch(ctx context.Context, changed func(namespace, name string)) error {
	c.mu.Lock()
	c.changed = changed
	c.mu.Unlock()
	<-ctx.Done()
	return nil
}

// Ready implements driver.Classes.
func (c *Classes) Ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unready
}

// SetReady sets what Ready returns.
func (c *Classes) SetReady(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unready = err
}

// Watched reports whether Watch was called.
func (c *Classes) Watched() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed != nil
}

// Delete removes a class, and reports it.
func (c *Classes) Delete(name string) {
	c.mu.Lock()
	delete(c.byName, "ns/"+name)
	changed := c.changed
	c.mu.Unlock()
	if changed != nil {
		changed("ns", name)
	}
}

// Put stores a class made of parameters, and reports it.
func (c *Classes) Put(name string, params map[string]string, edit ...func(*v1.SecretProviderClass)) {
	class := &v1.SecretProviderClass{}
	class.Namespace, class.Name = "ns", name
	class.Spec.Provider, class.Spec.Parameters = "azure", params
	for _, f := range edit {
		f(class)
	}
	c.mu.Lock()
	if c.byName == nil {
		c.byName = map[string]*v1.SecretProviderClass{}
	}
	c.byName["ns/"+name] = class
	changed := c.changed
	c.mu.Unlock()
	if changed != nil {
		changed("ns", name)
	}
}

// Recorder keeps events.
type Recorder struct {
	mu     sync.Mutex
	events []report.Event
}

// Report implements report.Reporter.
func (r *Recorder) Report(_ context.Context, e report.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// Of returns the events of a kind.
func (r *Recorder) Of(kind report.Kind) (found []report.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Kind() == kind {
			found = append(found, e)
		}
	}
	return found
}

// Secrets counts what is applied.
type Secrets struct {
	mu      sync.Mutex
	applied []string
	// Hang makes Apply wait for its context.
	Hang bool
}

// Apply implements refresh.Secrets.
func (m *Secrets) Apply(ctx context.Context, ref volume.Ref, _ *v1.SecretProviderClass, _ *volume.Bundle) {
	m.mu.Lock()
	hang := m.Hang
	m.mu.Unlock()
	if hang {
		<-ctx.Done()
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.applied = append(m.applied, ref.Pod.Name)
}

// Applied counts the calls of Apply that did not hang, by Pod.
func (m *Secrets) Applied() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	counts := map[string]int{}
	for _, pod := range m.applied {
		counts[pod]++
	}
	return counts
}

// Forget implements refresh.Secrets.
func (m *Secrets) Forget(volume.Ref) {}
