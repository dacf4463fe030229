package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/tmpfs"
)

// Name is the driver name that existing pods and classes use.
const Name = "secrets-store.csi.k8s.io"

// Options configure New. Fields without a stated default are required.
type Options struct {
	// Name is the CSI driver name; Name where empty.
	Name string
	// Version is the vendor version that GetPluginInfo answers.
	Version string
	// NodeID is the node's name.
	NodeID string
	// KubeletDir is kubelet's root directory: no target outside it is touched.
	KubeletDir string
	Classes    Classes
	Provider   volume.Provider
	Mounts     *tmpfs.Mounts
	// Mirror keeps Secrets in step; nil where sync is off.
	Mirror Mirror
	// MirrorTimeout bounds how long a pod's start waits for its Secrets; 10 s where 0.
	MirrorTimeout time.Duration
	// Reporter is told what happens; nobody where nil.
	Reporter report.Reporter
	// RotationInterval is how often a class that says nothing is refreshed; 0 means never.
	RotationInterval time.Duration
	// CacheTTL is how old a value may be that a starting pod shares with others of its identity.
	CacheTTL time.Duration
	// Tracer makes the spans of publishes and rotations; none where nil.
	Tracer trace.Tracer
	// Clock is the real one where nil.
	Clock clock.WithTicker
	Log   *slog.Logger
}

// Driver implements the CSI Identity and Node services.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedNodeServer

	name, version, nodeID, kubeletDir string

	classes       Classes
	provider      volume.Provider
	mounts        *tmpfs.Mounts
	mirror        Mirror
	mirrorTimeout time.Duration
	reporter      report.Reporter
	cacheTTL      time.Duration
	tracer        trace.Tracer
	clock         clock.WithTicker
	log           *slog.Logger

	targets  targets
	rotation *rotation
	// unregistered says why kubelet does not call the driver; nil where it does, or where the driver does not register.
	unregistered atomic.Pointer[string]
}

// New returns a driver that serves nothing yet.
func New(o Options) (*Driver, error) {
	if o.Name == "" {
		o.Name = Name
	}
	if o.MirrorTimeout == 0 {
		o.MirrorTimeout = 10 * time.Second
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Tracer == nil {
		o.Tracer = noop.NewTracerProvider().Tracer("")
	}
	if o.Reporter == nil {
		o.Reporter = report.All{}
	}
	if o.Mirror == nil {
		o.Mirror = noMirror{}
	}
	var wrong problems
	wrong.require(o.NodeID != "", "node id is missing: set --node-id to the node's name")
	wrong.require(filepath.IsAbs(o.KubeletDir), "kubelet directory must be an absolute path: set --kubelet-dir")
	wrong.require(o.RotationInterval >= 0, "rotation interval must not be negative: set --rotation-interval, 0 turns rotation off")
	if err := errors.Join(wrong.err(), checkName(o.Name)); err != nil {
		return nil, fmt.Errorf("driver options: %w", err)
	}
	d := &Driver{
		name: o.Name, version: o.Version, nodeID: o.NodeID, kubeletDir: filepath.Clean(o.KubeletDir),
		classes: o.Classes, provider: o.Provider, mounts: o.Mounts,
		mirror: o.Mirror, mirrorTimeout: o.MirrorTimeout,
		reporter: o.Reporter, cacheTTL: o.CacheTTL, tracer: o.Tracer, clock: o.Clock, log: o.Log,
	}
	d.rotation = newRotation(d, o.RotationInterval)
	return d, nil
}

// Ready returns nil when the driver can publish volumes, else why it cannot. GetPluginInfo's Probe and /readyz say the
// same.
func (d *Driver) Ready() error {
	if why := d.unregistered.Load(); why != nil {
		return errors.New(*why)
	}
	if err := d.classes.Ready(); err != nil {
		return fmt.Errorf("classes: %w", err)
	}
	if err := d.mounts.Ready(); err != nil {
		return fmt.Errorf("mounts: %w", err)
	}
	return nil
}

func (d *Driver) report(ctx context.Context, e report.Event) {
	e.Time = d.clock.Now()
	if e.TraceID == "" {
		e.TraceID = traceID(ctx)
	}
	d.reporter.Report(e)
}
