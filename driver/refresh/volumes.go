package refresh

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"k8s.io/utils/clock"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/keylock"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/schedule"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/tmpfs"
)

// Classes is where SecretProviderClasses come from.
type Classes interface {
	// Get returns the class; the caller must not change it. A class that does not exist is a *volume.Error with ReasonClassNotFound,
	// a source that is not ready yet one with ReasonNotReady.
	Get(ctx context.Context, namespace, name string) (*v1.SecretProviderClass, error)
}

// Secrets writes the Kubernetes Secrets of a class from the bundles of its volumes.
type Secrets interface {
	// Apply writes the Secrets that the class asks for, unless they are like that already. It returns when they are written, when
	// ctx ends, or when the API server fails. What is left is retried in the background and reported, and never fails the mount.
	// Apply does not keep bundle.Files after its own retries end. From a stale bundle no value is written.
	Apply(ctx context.Context, ref volume.Ref, class *v1.SecretProviderClass, bundle *volume.Bundle)
	// Forget ends all retries for the volume.
	Forget(ref volume.Ref)
}

// Mounts mounts, fills and unmounts volumes; *tmpfs.Mounts in production, whose methods say what each returns. Calls for one target do not
// overlap.
type Mounts interface {
	State(target string) (tmpfs.State, error)
	Adopt(target string) (lacks []string, err error)
	Lacks(target string) []string
	Mount(target string, exec bool) error
	Write(target string, files []volume.File, group *int64) (changed bool, err error)
	Sweep(target string) (again time.Duration, err error)
	Unmount(target string) error
}

// Options configure New. Fields without a stated default are required.
type Options struct {
	// Node is the node's name; it spreads refreshes over the interval.
	Node     string
	Classes  Classes
	Provider volume.Provider
	Mounts   Mounts
	// Secrets writes Kubernetes Secrets; nil where Secret sync is off.
	Secrets Secrets
	// SecretsTimeout bounds how long a Pod's start waits for its Secrets.
	SecretsTimeout time.Duration
	Reporter       report.Reporter
	// Interval is how often a class that says nothing is refreshed; 0 means never.
	Interval time.Duration
	// CacheTTL is how old a value may be that a starting Pod shares with others of its identity.
	CacheTTL time.Duration
	Tracer   trace.Tracer
	Clock    clock.WithTicker
	Log      *slog.Logger
}

// Publication is what kubelet says of a volume in NodePublishVolume.
type Publication struct {
	Ref volume.Ref
	// FSGroup is the Pod's fsGroup; nil where it has none.
	FSGroup *int64
	// Attributes, Tokens and Secrets are those of volume.Request.
	Attributes map[string]string
	Tokens     volume.Tokens
	Secrets    volume.Secrets
}

// equal reports whether kubelet says the same again.
func (p Publication) equal(other Publication) bool {
	return p.Ref == other.Ref && equalGroups(p.FSGroup, other.FSGroup) && p.Tokens.Equal(other.Tokens) &&
		maps.Equal(p.Attributes, other.Attributes) && maps.Equal(p.Secrets, other.Secrets)
}

func equalGroups(a, b *int64) bool { return a == b || a != nil && b != nil && *a == *b }

// ErrUnpublished is why a publish ends whose volume is unpublished meanwhile.
var ErrUnpublished = errors.New("the volume was unpublished while it was being published")

// schedulerPause is how long the scheduler waits after a panic of its own.
const schedulerPause = 10 * time.Second

// Volumes keeps the volumes of this node.
type Volumes struct {
	Options

	safe  safe.Handler
	locks keylock.Locks[string] // by target path
	store *store
	wake  chan struct{}
}

// New returns Volumes that hold nothing yet.
func New(o Options) *Volumes {
	v := &Volumes{Options: o, wake: make(chan struct{}, 1)}
	v.safe = safe.Handler{Log: o.Log, Count: func(ctx context.Context, task string) {
		o.Reporter.Report(ctx, report.Panicked{Where: task})
	}}
	v.store = newStore(schedule.Schedule{Node: o.Node}, o.Interval, v.awake)
	return v
}

// Publish fills one volume, or, where it is complete already, takes the newest token and class. One call at a time works on a
// target; Unpublish ends the ones under way with ErrUnpublished.
func (v *Volumes) Publish(ctx context.Context, p Publication) error {
	ctx, release, err := v.locks.AcquireInterruptible(ctx, p.Ref.TargetPath)
	if err != nil {
		return err
	}
	defer release()
	state, err := v.Mounts.State(p.Ref.TargetPath)
	if err != nil {
		return err //nolint:wrapcheck // says all
	}
	if state == tmpfs.Complete {
		v.republish(ctx, p)
		return nil
	}
	err = v.fill(ctx, p)
	if err != nil && canceled(ctx) {
		return context.Cause(ctx)
	}
	return err
}

// republish takes what kubelet says again of a complete volume. The Pod runs on its files: an error would let older kubelets
// delete them, so a failure is reported and nothing else.
func (v *Volumes) republish(ctx context.Context, p Publication) {
	if !v.store.knows(p.Ref.TargetPath) {
		v.adoptMount(ctx, p.Ref)
	}
	b, err := v.bind(ctx, p)
	if err != nil {
		after := v.store.unresolved(p, true, v.Clock.Now(), err)
		v.Reporter.Report(ctx, report.RefreshFailed{Volume: p.Ref, Err: err, After: after})
		return
	}
	c, warning := v.store.republished(b, v.Clock.Now())
	v.reportRenewed(ctx, c, warning)
}

// adoptMount takes over the mount of a volume that an earlier process filled: that of another driver, maybe. A mount that cannot
// be changed stays as it is.
func (v *Volumes) adoptMount(ctx context.Context, ref volume.Ref) {
	lacks, err := v.Mounts.Adopt(ref.TargetPath)
	attrs := []any{logkeys.Pod, ref.Pod.String(), logkeys.Volume, ref.ID, logkeys.Target, ref.TargetPath}
	switch {
	case err != nil:
		v.Log.WarnContext(ctx, "the mount of another driver keeps its size and mode", append(attrs, logkeys.Error, err)...)
	case len(lacks) > 0:
		v.Log.InfoContext(ctx, "the mount of another driver is adopted; it has all options of this driver's when the Pod is replaced",
			append(attrs, "lacks", strings.Join(lacks, ","))...)
	}
}

// reportRenewed reports what a new resolution of a volume's class changed.
func (v *Volumes) reportRenewed(ctx context.Context, c change, warning string) {
	after := c.after.snapshot
	switch {
	case c.before == nil || c.before.binding == nil:
		v.Reporter.Report(ctx, report.Adopted{After: after})
	case c.before.snapshot.Failure != nil && after.Failure == nil:
		v.Reporter.Report(ctx, report.Recovered{After: after})
	}
	v.warn(ctx, after.Ref, warning)
}

func (v *Volumes) warn(ctx context.Context, ref volume.Ref, texts ...string) {
	for _, text := range texts {
		if text != "" {
			v.Reporter.Report(ctx, report.Warning{Volume: ref, Text: text})
		}
	}
}

// bind finds the class and resolves it for the Pod. No request leaves the node where the class is known.
func (v *Volumes) bind(ctx context.Context, p Publication) (bound, error) {
	class, err := v.Classes.Get(ctx, p.Ref.Pod.Namespace, p.Ref.Class)
	if err != nil {
		return bound{}, err //nolint:wrapcheck // says all
	}
	binding, err := v.Provider.Bind(ctx, volume.Request{
		Pod:        p.Ref.Pod,
		Provider:   class.Spec.Provider,
		Parameters: class.Spec.Parameters,
		Attributes: p.Attributes,
		Tokens:     p.Tokens.ByAudience,
		Secrets:    p.Secrets,
		Known:      v.store.known(p, class),
	})
	if err != nil {
		return bound{}, err //nolint:wrapcheck // says all
	}
	return bound{Publication: p, class: class, binding: binding}, nil
}

// Unpublish ends publishes of the target that are under way, forgets the volume and unmounts it. It answers from the path alone, so
// that it works for a volume that this process does not know.
func (v *Volumes) Unpublish(ctx context.Context, ref volume.Ref) error {
	v.locks.Interrupt(ref.TargetPath, ErrUnpublished)
	release, err := v.locks.Acquire(ctx, ref.TargetPath)
	if err != nil {
		return err
	}
	defer release()
	before := v.store.remove(ref.TargetPath)
	if before != nil {
		ref = before.Ref
	}
	v.forgetSecrets(ref)
	if err := v.Mounts.Unmount(ref.TargetPath); err != nil {
		v.Reporter.Report(ctx, report.UnpublishFailed{Volume: ref, Err: err})
		return err //nolint:wrapcheck // says all
	}
	v.Reporter.Report(ctx, report.Unpublished{Volume: ref, Before: before})
	return nil
}

func (v *Volumes) forgetSecrets(ref volume.Ref) {
	if v.Secrets != nil {
		v.Secrets.Forget(ref)
	}
}

// Tokens returns those that kubelet passed last for the volume at the target.
func (v *Volumes) Tokens(target string) volume.Tokens { return v.store.tokens(target) }

// Snapshots returns what is known about every volume, in no order.
func (v *Volumes) Snapshots() []*volume.Snapshot { return v.store.snapshots() }

// Run refreshes what is due until ctx ends, and returns when nothing is under way any more.
func (v *Volumes) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	for {
		wait := schedulerPause // after a panic; it must not become a busy loop
		_ = v.safe.Do(ctx, "schedule refreshes", func() error {
			wait = v.startDue(ctx, &work)
			return nil
		})
		timer := v.Clock.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-v.wake:
			timer.Stop()
		case <-timer.C():
		}
	}
}

// startDue starts what is due now and returns how long it is until something is due next.
func (v *Volumes) startDue(ctx context.Context, work *sync.WaitGroup) (wait time.Duration) {
	for _, key := range v.store.takeEdits() {
		work.Go(func() { v.rebind(ctx, key) })
	}
	due, sweeps, wait := v.store.takeDue(v.Clock.Now())
	for _, j := range due {
		work.Go(func() { v.refresh(ctx, j) })
	}
	for _, target := range sweeps {
		work.Go(func() { v.sweep(ctx, target) })
	}
	return wait
}

// awake makes Run look again.
func (v *Volumes) awake() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// executable reports whether a file has an execute bit, which a noexec mount would deny.
func executable(files []volume.File) bool {
	for _, f := range files {
		if f.Mode&fs.FileMode(0o111) != 0 {
			return true
		}
	}
	return false
}
