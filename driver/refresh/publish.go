package refresh

import (
	"context"
	"errors"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// fill brings a new volume up: it fetches first and mounts after, so that a failed fetch leaves nothing behind. The caller holds
// the target's lock.
func (v *Volumes) fill(ctx context.Context, p Publication) (err error) {
	start := v.Clock.Now()
	ctx, span := v.startSpan(ctx, spanPublish, p.Ref)
	defer func() {
		endSpan(span, err)
		if err != nil && !canceled(ctx) {
			v.Reporter.Report(ctx, report.PublishFailed{Volume: p.Ref, Err: err, Duration: v.Clock.Since(start)})
		}
	}()
	watch := stopwatch{clock: v.Clock, last: start}
	var phases report.Phases
	b, err := traced(ctx, v, spanClass, p.Ref, func(ctx context.Context) (bound, error) { return v.bind(ctx, p) })
	if err != nil {
		return err
	}
	phases.Class = watch.lap()
	bundle, err := v.fetch(ctx, b, volume.FetchOptions{
		NotBefore:  start.Add(-v.CacheTTL),
		Priority:   volume.PriorityMount,
		AllowStale: true,
		Interval:   v.store.intervalFor(b.binding),
	})
	if err != nil {
		return err
	}
	if canceled(ctx) {
		return context.Cause(ctx)
	}
	phases.Token, phases.Fetch = bundle.TokenWait, max(0, watch.lap()-bundle.TokenWait)
	if err := v.mount(ctx, b, bundle); err != nil {
		return err
	}
	phases.Write = watch.lap()
	after := v.store.published(b, bundle, v.Clock.Now())
	v.applySecrets(ctx, b, bundle)
	phases.Sync = watch.lap()
	v.Reporter.Report(ctx, report.Published{After: after, Duration: v.Clock.Since(start), Phases: phases})
	if bundle.Stale {
		v.Reporter.Report(ctx, report.ServedStale{After: after, Err: bundle.Cause})
	}
	if bundle.Fallback != "" {
		v.Reporter.Report(ctx, report.ServedFallback{After: after, Err: bundle.Cause})
	}
	v.warn(ctx, p.Ref, b.binding.Warnings()...)
	v.warn(ctx, p.Ref, bundle.Warnings...)
	return nil
}

// canceled reports whether the caller went away, or the volume was unpublished: what fails then is a consequence. A deadline
// that passed is a failure of its own.
func canceled(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }

// fetch is Fetch in a span. A panic of the provider is an error of this fetch.
func (v *Volumes) fetch(ctx context.Context, b bound, o volume.FetchOptions) (*volume.Bundle, error) {
	return traced(ctx, v, spanFetch, b.Ref, func(ctx context.Context) (bundle *volume.Bundle, err error) {
		err = v.safe.Do(ctx, "fetch", func() error {
			bundle, err = b.binding.Fetch(ctx, o)
			return err //nolint:wrapcheck // says all
		})
		if err == nil {
			describeBundle(ctx, bundle)
		}
		return bundle, err
	})
}

// mount mounts the volume and writes its first generation. A mount without one does not stay.
func (v *Volumes) mount(ctx context.Context, b bound, bundle *volume.Bundle) error {
	_, err := traced(ctx, v, spanWrite, b.Ref, func(ctx context.Context) (struct{}, error) {
		target := b.Ref.TargetPath
		if err := v.Mounts.Mount(target, executable(bundle.Files)); err != nil {
			return struct{}{}, err //nolint:wrapcheck // says all
		}
		_, err := v.Mounts.Write(target, bundle.Files, b.FSGroup)
		if err == nil {
			return struct{}{}, nil
		}
		if undo := v.Mounts.Unmount(target); undo != nil {
			v.Log.ErrorContext(ctx, "an unfinished mount is left", logkeys.Pod, b.Ref.Pod.String(), logkeys.Target, target,
				logkeys.Error, undo)
		}
		return struct{}{}, err //nolint:wrapcheck // says all
	})
	return err
}

// applySecrets gives the class's Secrets a bounded time. What is left is retried in the background.
func (v *Volumes) applySecrets(ctx context.Context, b bound, bundle *volume.Bundle) {
	if v.Secrets == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, v.SecretsTimeout)
	defer cancel()
	apply := func(ctx context.Context) (struct{}, error) {
		return struct{}{}, v.safe.Do(ctx, "write Kubernetes Secrets", func() error {
			v.Secrets.Apply(ctx, b.Ref, b.class, bundle)
			return nil
		})
	}
	if len(b.class.Spec.SecretObjects) == 0 {
		_, _ = apply(ctx) // the class may have asked for some before; that is no step to be seen in a trace
		return
	}
	_, _ = traced(ctx, v, spanSync, b.Ref, apply)
}

// stopwatch measures the phases of one publish.
type stopwatch struct {
	clock interface{ Now() time.Time }
	last  time.Time
}

// lap returns how long it is since the last lap.
func (s *stopwatch) lap() time.Duration {
	now := s.clock.Now()
	lap := now.Sub(s.last)
	s.last = now
	return lap
}
