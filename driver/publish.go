package driver

import (
	"context"
	"io/fs"
	"time"

	"go.opentelemetry.io/otel/trace"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/tmpfs"
)

// publish brings one volume up, or, where it stands already, takes the newest token and class. The caller holds the
// target's turn.
func (d *Driver) publish(ctx context.Context, args publishArguments) error {
	state, err := d.mounts.State(args.ref.TargetPath)
	if err != nil {
		return err
	}
	if state == tmpfs.Complete {
		d.republish(ctx, args)
		return nil
	}
	ctx, span := d.span(ctx, spanPublish, args.ref)
	start := d.clock.Now()
	vol, err := d.bindTraced(ctx, args)
	if err == nil {
		err = d.fill(ctx, vol, start)
	}
	endSpan(span, err)
	if err != nil {
		return &tracedError{error: err, trace: traceID(ctx)}
	}
	return nil
}

// republish takes what kubelet says anew of a volume that stands. The pod runs on its last files: an error would let older
// kubelets delete them.
func (d *Driver) republish(ctx context.Context, args publishArguments) {
	vol, err := d.bind(ctx, args)
	if err != nil {
		d.rotation.misbound(args.ref.TargetPath, err)
		d.report(ctx, report.Event{
			Kind: report.RefreshFailed, Volume: args.ref, Reason: volume.ReasonOf(err), Message: err.Error(),
		})
		return
	}
	d.rotation.republished(ctx, vol)
}

// bindTraced is bind with a span.
func (d *Driver) bindTraced(ctx context.Context, args publishArguments) (*mounted, error) {
	ctx, span := d.span(ctx, spanClass, args.ref)
	vol, err := d.bind(ctx, args)
	endSpan(span, err)
	return vol, err
}

// bind finds the class and resolves it for the pod. No request leaves the node where the class is known.
func (d *Driver) bind(ctx context.Context, args publishArguments) (*mounted, error) {
	class, err := d.classes.Get(ctx, args.ref.Pod.Namespace, args.ref.Class)
	if err != nil {
		return nil, err
	}
	req := volume.Request{
		Pod: args.ref.Pod, Provider: class.Spec.Provider, Parameters: class.Spec.Parameters, Attributes: args.attributes, Tokens: args.tokens, Secrets: args.secrets,
	}
	binding, err := d.provider.Bind(ctx, req)
	if err != nil {
		return nil, err
	}
	return &mounted{target: args.ref.TargetPath, ref: args.ref, group: args.group, class: class, request: req, binding: binding}, nil
}

// fill fetches first and mounts after, so that a failed fetch leaves nothing behind. Start is when the publish began.
func (d *Driver) fill(ctx context.Context, vol *mounted, start time.Time) error {
	var phases report.Phases
	lap := d.laps(start)
	phases.Class = lap()
	bundle, err := d.fetch(ctx, vol.ref, vol.binding, volume.FetchOptions{
		NotBefore: d.clock.Now().Add(-d.cacheTTL), Priority: volume.PriorityMount, AllowStale: true,
	})
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	phases.Token, phases.Fetch = bundle.TokenWait, max(0, lap()-bundle.TokenWait)
	if err := d.mountFiles(ctx, vol, bundle); err != nil {
		return err
	}
	phases.Write = lap()
	vol.written = fingerprint(vol.binding, bundle)
	vol.stale, vol.objects = bundle.Stale, bundle.Objects
	d.mirrorNow(ctx, vol.ref, vol.class, bundle)
	phases.Sync = lap()
	ref, binding := vol.ref, vol.binding
	d.rotation.published(vol, bundle) // the volume is the rotation's from here on
	d.report(ctx, report.Event{
		Kind: report.Published, Volume: ref, Message: "mounted", Changed: true, Bundle: bundle,
		Identity:  binding.Identity(),
		FetchedAt: bundle.FetchedAt, Duration: d.clock.Since(start), Phases: phases,
	})
	d.warn(ctx, ref, binding, bundle)
	return nil
}

// fetch is Fetch with a span.
func (d *Driver) fetch(ctx context.Context, ref volume.Ref, binding volume.Binding, o volume.FetchOptions) (*volume.Bundle, error) {
	ctx, span := d.span(ctx, spanFetch, ref)
	bundle, err := binding.Fetch(ctx, o)
	if err == nil {
		describeBundle(span, bundle)
	}
	endSpan(span, err)
	return bundle, err
}

// mountFiles mounts the volume and writes its first generation; a mount without one does not stay.
func (d *Driver) mountFiles(ctx context.Context, vol *mounted, bundle *volume.Bundle) (err error) {
	ctx, span := d.span(ctx, spanWrite, vol.ref)
	defer func() { endSpan(span, err) }()
	if err := d.mounts.Mount(vol.target, executable(bundle.Files)); err != nil {
		return err
	}
	if _, err := d.mounts.Write(vol.target, bundle.Files, vol.group); err != nil {
		if undo := d.mounts.Unmount(vol.target); undo != nil {
			d.log.ErrorContext(ctx, "an unfinished mount is left", "target", vol.target, "error", undo)
		}
		return err
	}
	return nil
}

// laps returns a function that tells how long it is since its last call, or since start.
func (d *Driver) laps(start time.Time) func() time.Duration {
	return func() time.Duration {
		now := d.clock.Now()
		lap := now.Sub(start)
		start = now
		return lap
	}
}

// mirrorNow gives the Secrets a bounded time to stand before the pod goes on; what is left goes on in the background.
func (d *Driver) mirrorNow(ctx context.Context, ref volume.Ref, class *v1.SecretProviderClass, bundle *volume.Bundle) {
	if len(class.Spec.SecretObjects) > 0 {
		var span trace.Span
		ctx, span = d.span(ctx, spanSync, ref)
		defer endSpan(span, nil)
	}
	ctx, cancel := context.WithTimeout(ctx, d.mirrorTimeout)
	defer cancel()
	d.mirror.Apply(ctx, ref, class, bundle)
}

// warn tells of what did not stop the mount.
func (d *Driver) warn(ctx context.Context, ref volume.Ref, binding volume.Binding, bundle *volume.Bundle) {
	if bundle.Stale {
		message := "started from last known good values of " + bundle.FetchedAt.UTC().Format("2006-01-02T15:04:05Z")
		if bundle.Cause != nil {
			message += ": " + bundle.Cause.Error()
		}
		d.report(ctx, report.Event{
			Kind: report.ServedStale, Volume: ref, Reason: volume.ReasonOf(bundle.Cause), Message: message, Bundle: bundle,
			RequestID: requestID(bundle.Cause),
		})
	}
	for _, list := range [][]string{binding.Warnings(), bundle.Warnings} {
		for _, message := range list {
			d.report(ctx, report.Event{Kind: report.Warning, Volume: ref, Message: message})
		}
	}
}

// executable says whether a file has an execute bit, which a noexec mount would deny.
func executable(files []volume.File) bool {
	for _, f := range files {
		if f.Mode&fs.FileMode(0o111) != 0 {
			return true
		}
	}
	return false
}

// noMirror is the mirror of a driver that syncs no Secrets.
type noMirror struct{}

func (noMirror) Apply(context.Context, volume.Ref, *v1.SecretProviderClass, *volume.Bundle) {}
func (noMirror) Forget(volume.Ref)                                                          {}
