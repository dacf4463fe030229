package refresh

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/expiry"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/tmpfs"
)

// refresh fetches a group's bundle and brings it to all its volumes. A failure changes nothing that is mounted; a panic is one.
func (v *Volumes) refresh(ctx context.Context, j job) {
	err := v.safe.Do(ctx, "refresh", func() error {
		v.refreshGroup(ctx, j)
		return nil
	})
	if err != nil {
		v.refreshFailed(ctx, j.group, err)
	}
}

func (v *Volumes) refreshGroup(ctx context.Context, j job) {
	start := v.Clock.Now()
	b, confirmed, ok := v.store.begin(j, start)
	for _, c := range confirmed {
		v.Reporter.Report(ctx, report.Confirmed{Before: c.before.snapshot, After: c.after.snapshot})
	}
	if !ok {
		return
	}
	// all volumes of the group have this class and identity; the trace names one of them
	ctx, span := v.startSpan(ctx, spanRefresh, b.Ref)
	bundle, err := v.fetch(ctx, b, volume.FetchOptions{
		NotBefore: j.notBefore,
		Priority:  volume.PriorityRefresh,
		Held:      j.held,
		Interval:  v.store.intervalFor(b.binding),
	})
	defer func() { endSpan(span, err) }()
	if ctx.Err() != nil {
		return // the driver stops
	}
	if err != nil {
		v.refreshFailed(ctx, j.group, err)
		return
	}
	var delivered []bound
	for _, target := range v.store.fetched(j.group, bundle, v.Clock.Now()) {
		if to, ok := v.deliver(ctx, j.group, target, bundle, start); ok {
			delivered = append(delivered, to)
		}
	}
	v.store.finished(j.group, bundle, v.Clock.Now())
	v.applyAllSecrets(ctx, delivered, bundle)
}

// refreshFailed keeps everything as it is and plans the next try.
func (v *Volumes) refreshFailed(ctx context.Context, g *refreshGroup, err error) {
	var asked time.Duration
	if e, ok := errors.AsType[*volume.Error](err); ok {
		asked = e.RetryAfter
	}
	for _, c := range v.store.failed(g, v.Clock.Now(), asked, err) {
		v.Reporter.Report(ctx, report.RefreshFailed{Volume: c.after.Ref, Err: err, After: c.after.snapshot})
	}
}

// deliver brings the bundle to the files of one volume and reports it. It is false where the volume is gone or could not be written.
func (v *Volumes) deliver(ctx context.Context, g *refreshGroup, target string, bundle *volume.Bundle, start time.Time) (bound, bool) {
	c, changed, err := v.writeBundle(ctx, g, target, bundle)
	if c.after == nil {
		return bound{}, false
	}
	if err != nil {
		v.Reporter.Report(ctx, report.RefreshFailed{Volume: c.after.Ref, Err: err, After: c.after.snapshot})
		return bound{}, false
	}
	before, after := c.before.snapshot, c.after.snapshot
	v.Reporter.Report(ctx, report.Refreshed{
		Before:   before,
		After:    after,
		Changed:  changed,
		Duration: v.Clock.Since(start),
	})
	if (before.Failure != nil || before.Stale || before.Fallback != "") && after.Failure == nil {
		v.Reporter.Report(ctx, report.Recovered{After: after})
	}
	now := v.Clock.Now()
	for _, o := range v.store.expiring(target, bundle.Objects, now) {
		v.Reporter.Report(ctx, report.Expiring{Volume: c.after.Ref, Text: expiry.Message(o, o.Expires.Sub(now))})
	}
	return c.after.bound, true
}

// writeBundle writes the bundle into one volume, unless the volume holds it already. After is nil where the volume is gone.
func (v *Volumes) writeBundle(
	ctx context.Context, g *refreshGroup, target string, bundle *volume.Bundle,
) (c change, changed bool, err error) {
	release, err := v.locks.Acquire(ctx, target)
	if err != nil {
		return change{}, false, nil // the driver stops
	}
	defer release()
	state, differs, ok := v.store.toWrite(g, target, bundle)
	if !ok {
		return change{}, false, nil
	}
	if differs {
		changed, err = traced(ctx, v, spanWrite, state.Ref, func(context.Context) (bool, error) {
			return v.rewrite(target, state.FSGroup, bundle)
		})
	}
	c, _ = v.store.delivered(g, target, bundle, v.Clock.Now(), err)
	if changed {
		v.store.sweepLater(target, v.Clock.Now(), tmpfs.Retention)
	}
	return c, changed, err
}

// sweep removes the replaced files of a volume once no reader can be in the middle of them.
func (v *Volumes) sweep(ctx context.Context, target string) {
	release, err := v.locks.Acquire(ctx, target)
	if err != nil {
		return // the driver stops
	}
	defer release()
	ref, ok := v.store.ref(target)
	if !ok {
		return
	}
	var again time.Duration
	err = v.safe.Do(ctx, "remove replaced files", func() (err error) {
		again, err = v.Mounts.Sweep(target)
		return err
	})
	if err != nil {
		v.Log.WarnContext(ctx, "replaced files are left on a volume; their removal is retried",
			logkeys.Pod, ref.Pod.String(), logkeys.Target, target, logkeys.Error, err)
		again = tmpfs.Retention
	}
	if again > 0 {
		v.store.sweepLater(target, v.Clock.Now(), again)
	}
}

// rewrite replaces the files of a mounted volume.
func (v *Volumes) rewrite(target string, group *int64, bundle *volume.Bundle) (changed bool, err error) {
	state, err := v.Mounts.State(target)
	if err != nil {
		return false, err //nolint:wrapcheck // says all
	}
	if state != tmpfs.Complete {
		return false, &volume.Error{
			Reason:  volume.ReasonFilesystem,
			Message: fmt.Sprintf("the volume at %s is %s: kubelet's next call mounts it again", target, state),
		}
	}
	if executable(bundle.Files) {
		if err := v.Mounts.Mount(target, true); err != nil {
			return false, err //nolint:wrapcheck // says all
		}
	}
	return v.Mounts.Write(target, bundle.Files, group) //nolint:wrapcheck // says all
}

// applyAllSecrets writes the Secrets of all volumes of a group after all their files.
func (v *Volumes) applyAllSecrets(ctx context.Context, delivered []bound, bundle *volume.Bundle) {
	if v.Secrets == nil {
		return
	}
	var work sync.WaitGroup
	for _, b := range delivered {
		work.Go(func() {
			v.applySecrets(ctx, b, bundle)
			if !v.store.holds(b.Ref) {
				v.Secrets.Forget(b.Ref) // it was unpublished meanwhile
			}
		})
	}
	work.Wait()
}
