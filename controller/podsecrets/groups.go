package podsecrets

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/keyvault-csi/keyvault-csi-driver/controller/timing"
	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/span"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const (
	// fetchBudget bounds one sync.
	fetchBudget = 100 * time.Second
	// lookAgain is how long a group is fetched for after one of its Pods was last seen to run.
	lookAgain = 10 * time.Minute
	// mostLooks bounds the Pods that are read at one sync.
	mostLooks = 10
)

// reconcileGroup syncs a group where it is due, and says when to look again. Its errors are those of the API server alone.
func (p *podSecrets) reconcileGroup(ctx context.Context, key groupKey) (reconcile.Result, error) {
	if err := p.await(ctx); err != nil {
		return reconcile.Result{}, err
	}
	release, wait := p.places.Take(key.namespace, key.String()+key.attributes)
	if release == nil {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	defer release()
	g := p.store.look(key)
	if g == nil {
		return reconcile.Result{}, nil
	}
	now := p.options.Clock.Now()
	if len(g.refs) == 0 {
		// It is kept for as long as the next fetch would have to wait: whoever makes Pods come and go gets no fetch more by it.
		if wait := g.group.timing.Pause(now); wait > 0 {
			return reconcile.Result{RequeueAfter: wait}, nil
		}
		p.store.dropIfEmpty(key)
		return reconcile.Result{}, nil
	}
	used, err := p.class(ctx, key.namespace, key.class)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !writesSecrets(used) { // an edit of the class comes back to it; the Secrets stay as they are
		for _, ref := range g.refs {
			p.syncer.Forget(ref)
		}
		return reconcile.Result{}, nil
	}
	of := timing.ClassAt(used, now)
	asked := fmt.Sprintf("%s %d", of.Asked, g.revision)
	if !g.group.timing.Started() && g.revision == 0 {
		g.group.timing.Resume(now, asked, key.String()+key.attributes)
	}
	if due, wait := g.group.timing.Begin(now, asked); !due {
		return reconcile.Result{RequeueAfter: of.Wait(wait, now)}, nil
	}
	p.sync(ctx, key, g, used, asked)
	now = p.options.Clock.Now()
	return reconcile.Result{RequeueAfter: of.Wait(g.group.timing.Wait(now), now)}, nil
}

// sync fetches for a group, hands the bundle to the syncer, and plans the next time.
func (p *podSecrets) sync(ctx context.Context, key groupKey, g *snapshot, used *v1.SecretProviderClass, asked string) {
	ctx, cancel := context.WithTimeout(ctx, fetchBudget)
	defer cancel()
	ctx, traced := p.startSpan(ctx, key, g)
	defer traced.End()
	var binding volume.Binding
	err := p.safe.Do(ctx, "sync the Secrets of Pods", func() (err error) {
		if !p.anyRuns(ctx, g) {
			return nil
		}
		binding, err = p.fetch(ctx, key, g, used)
		return err
	})
	now := p.options.Clock.Now()
	scheduleKey, interval := key.String(), p.options.Interval
	if binding != nil {
		scheduleKey = binding.ScheduleKey()
		if own, ok := binding.RotationInterval(); ok {
			interval = own
		}
	}
	p.reportFetch(ctx, key, g, err)
	if err != nil {
		p.store.failed(g)
		span.Fail(traced, err)
		var asks time.Duration
		if e, ok := errors.AsType[*volume.Error](err); ok {
			asks = e.RetryAfter
		}
		g.group.timing.Failed(now, asked, scheduleKey, interval, asks)
		return
	}
	p.store.done(g)
	g.group.timing.Succeeded(now, asked, scheduleKey, interval)
}

// fetch returns the binding also where the fetch fails, as far as there is one.
func (p *podSecrets) fetch(ctx context.Context, key groupKey, g *snapshot, used *v1.SecretProviderClass) (volume.Binding, error) {
	as := volume.Pod{Namespace: key.namespace, ServiceAccount: key.account}
	request, err := p.options.Accounts.Request(ctx, as, used, g.attributes)
	if err != nil {
		return nil, err //nolint:wrapcheck // says all
	}
	binding, err := p.options.Provider.Bind(ctx, request)
	if err != nil {
		return nil, err //nolint:wrapcheck // says all
	}
	now := p.options.Clock.Now()
	o := volume.FetchOptions{
		NotBefore: now.Add(-p.options.CacheTTL), Priority: volume.PriorityRefresh, AllowStale: true, Interval: p.options.Interval,
	}
	if own, ok := binding.RotationInterval(); ok {
		o.Interval = own
	}
	if g.waiting {
		o.Priority = volume.PriorityMount
	}
	for _, least := range []time.Time{g.notBefore, p.refreshes.Of(used, now)} {
		if least.After(o.NotBefore) {
			o.NotBefore = least
		}
	}
	bundle, err := binding.Fetch(ctx, o)
	if err != nil {
		return binding, err //nolint:wrapcheck // says all
	}
	p.deliver(key, g, used, binding, bundle)
	for _, ref := range g.refs {
		if bundle.Stale {
			p.syncer.Apply(ctx, ref, used, bundle) // owners alone: there is nothing to write later
		} else {
			p.syncer.Enqueue(ctx, ref, used, bundle)
		}
		if !p.store.has(key, ref) { // it went meanwhile
			p.syncer.Forget(ref)
		}
	}
	return binding, nil
}

// anyRuns reports whether one of the group's Pods still runs, as far as is known. Pods that have ended are taken out.
func (p *podSecrets) anyRuns(ctx context.Context, g *snapshot) bool {
	now := p.options.Clock.Now()
	if now.Sub(g.seenAt) < lookAgain {
		return true
	}
	for looks, ref := range g.refs {
		if looks == mostLooks {
			return true // the next ones are looked at the next time
		}
		name, uid := types.NamespacedName{Namespace: ref.Pod.Namespace, Name: ref.Pod.Name}, types.UID(ref.Pod.UID)
		found, err := p.pod(ctx, name)
		if err != nil {
			p.options.Log.WarnContext(ctx, "whether a Pod still runs is not known: its Secrets are synced", logkeys.Pod, name.String(), logkeys.Error, err)
			return true
		}
		if found != nil && found.UID == uid && !ended(found) {
			p.store.seen(name, uid, now)
			return true
		}
		p.dropped(p.store.end(name, uid))
	}
	return false
}

// refetch is asked for by the syncer where a Secret was made from newer values than those of the volume.
func (p *podSecrets) refetch(ref volume.Ref) {
	p.wake(p.store.again(ref, p.options.Clock.Now())...)
}
