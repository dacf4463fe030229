package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
)

const (
	// outageLasts is for how long a vault that could not be reached is passed over by objects that have fallback vaults.
	outageLasts = 30 * time.Second
	// mostOutages bounds what is remembered of them.
	mostOutages = 4096
)

// withFallbacks fetches an object for a Pod that waits: of its vault, else of the fallback vaults in their order, else of what is kept
// last. A vault that cannot be reached is asked once and then passed over for a while, so that it costs no time-out for each Pod.
func (f *fetch) withFallbacks(ctx context.Context, o *class.Object) []fetched {
	quick := limiter.WithUrgency(ctx, false) // what fails is not tried again
	first := f.once(quick, o, attempt{failed: f.passedOver(o, o.VaultURL)})
	cause := failureOf(first)
	if !f.away(o.VaultURL, cause) {
		return first
	}
	for _, vaultURL := range o.Fallbacks {
		other := *o
		other.VaultURL = vaultURL
		all := f.once(quick, &other, attempt{failed: f.passedOver(&other, vaultURL)})
		err := failureOf(all)
		if f.away(vaultURL, err) || err != nil || slices.ContainsFunc(all, func(r fetched) bool { return r.absent != nil }) {
			continue // what a fallback refuses or lacks says nothing about the object's own vault
		}
		f.fellBack(vaultURL, cause)
		return all
	}
	return f.once(ctx, o, attempt{stale: true, failed: cause})
}

// failureOf returns the first error of an item of the class; nil where there is none.
func failureOf(all []fetched) error {
	for _, r := range all {
		if r.err != nil {
			return r.err
		}
	}
	return nil
}

// away reports whether a vault could not be reached or throttles, and notes it for others. Where it is the identity that has no token, the
// vault was not asked: that says nothing to others.
//
// The key says for whom: a vault's URL for all that have fallback vaults, and that of own for one identity.
func (f *fetch) away(key string, err error) bool {
	if e, ok := errors.AsType[*volume.Error](err); ok && e.OfIdentity {
		return e.Reason.Transient()
	}
	if err == nil || !volume.ReasonOf(err).Transient() {
		f.provider.outages.over(key)
		return false
	}
	f.provider.outages.begin(key, volume.ReasonOf(err))
	return true
}

// passedOver returns why the object's vault is not asked; nil where it is. The error is about this object: what failed a moment ago may
// have been another's.
func (f *fetch) passedOver(o *class.Object, key string) error {
	reason := f.provider.outages.of(key)
	if reason == "" {
		return nil
	}
	return &volume.Error{Reason: reason, Message: fmt.Sprintf("%s: the vault could not be reached a moment ago (%s): it is asked again within %s",
		label(o), reason, outageLasts)}
}

// own is the key of what this identity found of the object's vault. What others are refused or wait for makes no Pod start with old values.
func (f *fetch) own(o *class.Object) string { return o.VaultURL + " " + f.identity.Key() }

// fellBack notes that the bundle holds something of a fallback vault.
func (f *fetch) fellBack(vaultURL string, cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bundle.Fallback, f.bundle.Cause = host(vaultURL), cause
	f.provider.options.Observer.Fallback()
}

// outages remembers vaults that could not be reached a moment ago.
type outages struct {
	clock interface{ Now() time.Time }

	mu    sync.Mutex
	known map[string]outage
}

type outage struct {
	reason volume.Reason
	until  time.Time
}

// of returns why a vault is passed over; empty where it is not.
func (x *outages) of(key string) volume.Reason {
	x.mu.Lock()
	defer x.mu.Unlock()
	if known, ok := x.known[key]; ok && x.clock.Now().Before(known.until) {
		return known.reason
	}
	return ""
}

// begin notes an outage. One that is known does not become longer: the vault is asked again when its time is up.
func (x *outages) begin(key string, reason volume.Reason) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := x.clock.Now()
	if known, ok := x.known[key]; ok && now.Before(known.until) {
		return
	}
	if len(x.known) >= mostOutages {
		clear(x.known)
	}
	x.known[key] = outage{reason: reason, until: now.Add(outageLasts)}
}

// over notes that a vault answers.
func (x *outages) over(key string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.known, key)
}
