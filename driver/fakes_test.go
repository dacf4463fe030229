package driver

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

// vault is a provider whose objects are a map. A class's parameter "objects" is a comma-separated list of names; each is
// one source, asked as the pod's service account.
type vault struct {
	clock clock.Clock

	mu     sync.Mutex
	values map[string]string
	// expires holds the end of some objects.
	expires map[string]time.Time
	asked   map[string]time.Time // by source
	// requests counts by source what a real vault would have seen.
	requests map[string]int
	at       []time.Time
	fail     error
	// hang makes a fetch wait for its context.
	hang    bool
	hanging int
	binds   int
	// slow makes Bind of a class with these objects wait until somebody has received twice from the channel.
	slow   map[string]chan struct{}
	panics bool
	mode   fs.FileMode
}

func newVault(c clock.Clock) *vault {
	return &vault{
		clock: c, values: map[string]string{}, expires: map[string]time.Time{}, asked: map[string]time.Time{},
		requests: map[string]int{}, mode: 0o644,
	}
}

func (v *vault) set(name, value string) { v.locked(func() { v.values[name] = value }) }

func (v *vault) locked(f func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f()
}

func (v *vault) total() (n int) {
	v.locked(func() {
		for _, c := range v.requests {
			n += c
		}
	})
	return n
}

func (v *vault) Bind(_ context.Context, req volume.Request) (volume.Binding, error) {
	v.mu.Lock()
	slow := v.slow[req.Parameters["objects"]]
	v.mu.Unlock()
	if slow != nil {
		slow <- struct{}{}
		slow <- struct{}{}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.binds++
	if v.panics {
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
	vault    *vault
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
	v := b.vault
	v.mu.Lock()
	if v.hang {
		v.hanging++
		v.mu.Unlock()
		<-ctx.Done()
		return nil, &volume.Error{Reason: volume.ReasonNetwork, Message: "no answer", Cause: ctx.Err()}
	}
	defer v.mu.Unlock()
	now := v.clock.Now()
	v.at = append(v.at, now)
	if v.fail != nil {
		v.requests["failed"]++
		return nil, v.fail
	}
	bundle := &volume.Bundle{FetchedAt: now}
	for _, name := range b.names {
		key := b.identity + " " + name
		if at, ok := v.asked[key]; !ok || at.Before(opts.NotBefore) {
			v.asked[key] = now
			v.requests[key]++
		}
		value, ok := v.values[name]
		if !ok {
			return nil, &volume.Error{Reason: volume.ReasonNotFound, Message: fmt.Sprintf("vault \"v\": secret %q was not found", name)}
		}
		if at := v.asked[key]; at.Before(bundle.FetchedAt) {
			bundle.FetchedAt = at
		}
		bundle.Files = append(bundle.Files, volume.File{Path: name, Mode: v.mode, Data: []byte(value)})
		bundle.Objects = append(bundle.Objects, volume.Object{ID: "secret/" + name, Version: value, Path: name, Expires: v.expires[name]})
		bundle.Sources = append(bundle.Sources, volume.Source{Key: volume.SourceKey{Identity: b.identity, Name: name}, Hash: sha256.Sum256([]byte(value))})
	}
	return bundle, nil
}

// classes is a map of classes that tells of its edits.
type classes struct {
	mu      sync.Mutex
	byName  map[string]*v1.SecretProviderClass
	changed func(namespace, name string)
	ready   error
}

func (c *classes) Get(_ context.Context, namespace, name string) (*v1.SecretProviderClass, error) {
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

func (c *classes) Watch(ctx context.Context, changed func(namespace, name string)) error {
	c.mu.Lock()
	c.changed = changed
	c.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (c *classes) Ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready
}

// put stores a class made of parameters, and tells of it.
func (c *classes) put(name string, params map[string]string, edit ...func(*v1.SecretProviderClass)) {
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

// recorder keeps events.
type recorder struct {
	mu     sync.Mutex
	events []report.Event
}

func (r *recorder) Report(e report.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) of(kind report.Kind) (found []report.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

// mirrors counts what it is told.
type mirrors struct {
	mu      sync.Mutex
	applied []string
}

func (m *mirrors) Apply(_ context.Context, ref volume.Ref, _ *v1.SecretProviderClass, _ *volume.Bundle) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.applied = append(m.applied, ref.Pod.Name)
}

func (m *mirrors) Forget(volume.Ref) {}
