package driver

import (
	"context"
	"io/fs"
	"time"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/driver/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/report"
	"github.com/keyvault-csi/keyvault-csi-driver/tmpfs"
	"github.com/keyvault-csi/keyvault-csi-driver/volume"
)

// publish brings one volume up, or, where it stands already, takes the newest token and class. The caller holds the
// target's turn.
func (d *Driver) publish(ctx context.Context, args publishArguments) error {
	state, err := d.mounts.State(args.ref.TargetPath)
	if err != nil {
		return err
	}
	start := d.clock.Now()
	vol, err := d.bind(ctx, args)
	if state == tmpfs.Complete {
		if err != nil {
			// the pod runs on its last files: an error here would let older kubelets delete them
			d.report(report.Event{
				Kind: report.RefreshFailed, Volume: args.ref, Reason: volume.ReasonOf(err), Message: err.Error(),
			})
			return nil
		}
		d.rotation.republished(vol)
		return nil
	}
	if err != nil {
		return err
	}
	return d.fill(ctx, vol, start)
}

// bind finds the class and resolves it for the pod. No request leaves the node where the class is known.
func (d *Driver) bind(ctx context.Context, args publishArguments) (*mounted, error) {
	class, err := d.classes.Get(ctx, args.ref.Pod.Namespace, args.ref.Class)
	if err != nil {
		return nil, err
	}
	req := volume.Request{
		Pod: args.ref.Pod, Class: class, Attributes: args.attributes, Tokens: args.tokens, Secrets: args.secrets,
	}
	binding, err := d.provider.Bind(ctx, req)
	if err != nil {
		return nil, err
	}
	return &mounted{target: args.ref.TargetPath, ref: args.ref, group: args.group, request: req, binding: binding}, nil
}

// fill fetches first and mounts after, so that a failed fetch leaves nothing behind. Start is when the publish began.
func (d *Driver) fill(ctx context.Context, vol *mounted, start time.Time) error {
	var phases report.Phases
	lap := d.laps(start)
	phases.Class = lap()
	bundle, err := vol.binding.Fetch(ctx, volume.FetchOptions{
		NotBefore: d.clock.Now().Add(-d.cacheTTL), Priority: volume.Mount, AllowStale: true,
	})
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	phases.Token, phases.Fetch = bundle.TokenWait, max(0, lap()-bundle.TokenWait)
	target := vol.ref.TargetPath
	if err := d.mounts.Mount(target, executable(bundle.Files)); err != nil {
		return err
	}
	if _, err := d.mounts.Write(target, bundle.Files, vol.group); err != nil {
		if undo := d.mounts.Unmount(target); undo != nil {
			d.log.ErrorContext(ctx, "an unfinished mount is left", "target", target, "error", undo)
		}
		return err
	}
	phases.Write = lap()
	vol.written = fingerprint(vol.binding, bundle)
	vol.stale = bundle.Stale
	d.mirrorNow(ctx, vol.ref, vol.request.Class, bundle)
	phases.Sync = lap()
	d.rotation.published(vol, bundle)
	d.report(report.Event{
		Kind: report.Published, Volume: vol.ref, Message: "mounted", Changed: true, Bundle: bundle,
		FetchedAt: bundle.FetchedAt, Duration: d.clock.Since(start), Phases: phases,
	})
	d.warn(vol, bundle)
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
	ctx, cancel := context.WithTimeout(ctx, d.mirrorTimeout)
	defer cancel()
	d.mirror.Apply(ctx, ref, class, bundle)
}

// warn tells of what did not stop the mount.
func (d *Driver) warn(vol *mounted, bundle *volume.Bundle) {
	if bundle.Stale {
		message := "started from last known good values of " + bundle.FetchedAt.UTC().Format("2006-01-02T15:04:05Z")
		if bundle.Cause != nil {
			message += ": " + bundle.Cause.Error()
		}
		d.report(report.Event{
			Kind: report.ServedStale, Volume: vol.ref, Reason: volume.ReasonOf(bundle.Cause), Message: message, Bundle: bundle,
		})
	}
	for _, list := range [][]string{vol.binding.Warnings(), bundle.Warnings} {
		for _, message := range list {
			d.report(report.Event{Kind: report.Warning, Volume: vol.ref, Message: message})
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
