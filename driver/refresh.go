package driver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/tmpfs"
)

// RotateAtAnnotation on a class makes every node refresh the class's volumes at the time that it holds (RFC 3339), or at
// once where that is past.
const RotateAtAnnotation = "keyvault-csi/rotate-at"

// driftRepair is how old the values may be that a group with Secrets brought to its volumes before it asks again itself,
// even if others asked for all its sources, so that its Secrets are put right from fresh values.
const driftRepair = 10 * time.Minute

// refresh asks for a group's bundle and brings it to all its volumes. A failure harms nothing that is mounted.
func (r *rotation) refresh(ctx context.Context, j job) {
	binding, confirmed := r.begin(j)
	if binding == nil {
		for _, event := range confirmed {
			r.d.report(ctx, event)
		}
		return
	}
	start := r.d.clock.Now()
	ref := r.anyOf(j.group)
	ctx, span := r.d.span(ctx, spanRotate, ref)
	bundle, err := r.d.fetch(ctx, ref, binding, volume.FetchOptions{NotBefore: j.due, Priority: volume.PriorityRefresh})
	defer func() { endSpan(span, err) }()
	if ctx.Err() != nil {
		return // the driver stops
	}
	if err != nil {
		r.failed(ctx, j.group, err)
		return
	}
	for _, vol := range r.succeeded(j.group, bundle) {
		r.deliver(ctx, j.group, vol, bundle, start)
	}
	r.done(j.group, bundle)
}

// anyOf returns one of the group's volumes, for who reads a trace: all have the same class and identity.
func (r *rotation) anyOf(g *group) (ref volume.Ref) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, vol := range g.volumes {
		return vol.ref
	}
	return ref
}

// begin returns the binding to ask with. Where others just got the same answer from all sources there is none, and what
// is to be reported instead.
func (r *rotation) begin(j job) (binding volume.Binding, confirmed []report.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := j.group
	g.tried = r.d.clock.Now()
	oldest, ok := r.answered(g, j.due)
	if !ok || !j.regular {
		return g.binding, nil
	}
	g.fetched, g.busy = oldest, false
	r.onTick(g, r.d.clock.Now())
	r.poke()
	for _, vol := range g.volumes {
		confirmed = append(confirmed, report.Event{
			Kind: report.Confirmed, Volume: vol.ref, FetchedAt: oldest, Message: "others asked and got the same",
		})
	}
	return nil, confirmed
}

// answered tells whether every source of the group was asked by another group within the last interval and answered
// what the group holds, and when the oldest of these answers was.
func (r *rotation) answered(g *group, due time.Time) (oldest time.Time, ok bool) {
	if len(g.digests) == 0 || g.failures > 0 {
		return oldest, false
	}
	for _, vol := range g.volumes {
		if vol.written == ([32]byte{}) || vol.failing ||
			len(vol.class.Spec.SecretObjects) > 0 && due.Sub(g.delivered) > driftRepair {
			return oldest, false
		}
	}
	since := due.Add(-r.intervalOf(g.binding) / 2)
	for key, digest := range g.digests {
		s, known := r.sources[key]
		if !known || s.digest != digest || s.at.Before(since) || !s.at.After(g.fetched) {
			return oldest, false
		}
		if oldest.IsZero() || s.at.Before(oldest) {
			oldest = s.at
		}
	}
	return oldest, true
}

// failed keeps everything as it is and plans the next try.
func (r *rotation) failed(ctx context.Context, g *group, err error) {
	var asked time.Duration
	if e, ok := errors.AsType[*volume.Error](err); ok {
		asked = e.RetryAfter
	}
	r.mu.Lock()
	g.busy = false
	g.failures++
	g.reason = volume.ReasonOf(err)
	if interval := r.intervalOf(g.binding); interval > 0 {
		r.soon(g, r.d.clock.Now().Add(r.schedule.retry(g.binding.ScheduleKey(), g.failures, interval, asked)))
	}
	refs := make([]volume.Ref, 0, len(g.volumes))
	for _, vol := range g.volumes {
		vol.failing, vol.trouble = true, err
		refs = append(refs, vol.ref)
	}
	r.poke()
	r.mu.Unlock()
	for _, ref := range refs {
		r.d.report(ctx, report.Event{
			Kind: report.RefreshFailed, Volume: ref, Reason: volume.ReasonOf(err), RequestID: requestID(err),
			Message: "the files stay as they are: " + err.Error(),
		})
	}
}

// succeeded notes the bundle and returns the volumes that it is for.
func (r *rotation) succeeded(g *group, bundle *volume.Bundle) []*mounted {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note(g, bundle)
	r.poke() // other groups may have become due
	return slices.Collect(maps.Values(g.volumes))
}

// done makes the group free for its next refresh.
func (r *rotation) done(g *group, bundle *volume.Bundle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g.busy, g.delivered = false, bundle.FetchedAt
	r.plan(g, bundle)
	r.poke()
}

// deliver brings the bundle to one volume: the files, the Secrets, the reports.
func (r *rotation) deliver(ctx context.Context, g *group, vol *mounted, bundle *volume.Bundle, start time.Time) {
	ask, changed, err := r.store(ctx, g, vol, bundle)
	if err != nil {
		r.d.report(ctx, report.Event{
			Kind: report.RefreshFailed, Volume: ask.ref, Reason: volume.ReasonOf(err),
			Message: "the files stay as they are: " + err.Error(),
		})
		return
	}
	if !ask.current {
		return
	}
	r.d.mirrorNow(ctx, ask.ref, ask.class, bundle)
	event := report.Event{
		Kind: report.Refreshed, Volume: ask.ref, Changed: changed, Bundle: bundle, FetchedAt: bundle.FetchedAt, Identity: ask.identity,
		Duration: r.d.clock.Since(start),
		Message:  "refreshed",
	}
	r.d.report(ctx, event)
	if ask.failing {
		event.Kind, event.Message = report.Recovered, "refreshed again after a failure"
		r.d.report(ctx, event)
	}
	for _, expiring := range r.expiring(vol, bundle) {
		expiring.Volume = ask.ref
		r.d.report(ctx, expiring)
	}
}

// standing is what the rotation knows of a volume at the moment of a delivery.
type standing struct {
	ref      volume.Ref
	class    *v1.SecretProviderClass
	identity string
	// current is false where the volume left the group, or the node, meanwhile.
	current bool
	failing bool
	written [32]byte
	print   [32]byte
}

// store writes the bundle into one volume unless it holds it already. It holds the target's turn meanwhile.
func (r *rotation) store(ctx context.Context, g *group, vol *mounted, bundle *volume.Bundle) (ask standing, changed bool, err error) {
	unlock, err := r.d.targets.lock(ctx, vol.target)
	if err != nil {
		return ask, false, nil // the driver stops
	}
	defer unlock()
	if ask = r.look(g, vol, bundle); !ask.current {
		return ask, false, nil
	}
	if ask.written != ask.print {
		_, span := r.d.span(ctx, spanWrite, ask.ref)
		changed, err = r.write(vol.target, vol.group, bundle)
		endSpan(span, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	vol.failing, vol.trouble = err != nil, err
	if err == nil {
		vol.written, vol.stale, vol.objects = ask.print, false, bundle.Objects
	}
	return ask, changed, err
}

func (r *rotation) look(g *group, vol *mounted, bundle *volume.Bundle) standing {
	r.mu.Lock()
	defer r.mu.Unlock()
	return standing{
		ref: vol.ref, class: vol.class, identity: vol.binding.Identity(),
		current: r.volumes[vol.target] == vol && g.volumes[vol.target] == vol,
		failing: vol.failing || vol.stale,
		written: vol.written, print: fingerprint(g.binding, bundle),
	}
}

func (r *rotation) write(target string, group *int64, bundle *volume.Bundle) (changed bool, err error) {
	state, err := r.d.mounts.State(target)
	if err != nil {
		return false, err
	}
	if state != tmpfs.Complete {
		return false, &volume.Error{
			Reason:  volume.ReasonFilesystem,
			Message: fmt.Sprintf("the volume at %s is %s: kubelet's next call mounts it again", target, state),
		}
	}
	if executable(bundle.Files) {
		if err := r.d.mounts.Mount(target, true); err != nil {
			return false, err
		}
	}
	return r.d.mounts.Write(target, bundle.Files, group)
}
