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

	"github.com/keyvault-csi/keyvault-csi-driver/driver/refresh"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/nodestatus"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/tmpfs"
)

// defaultSecretsTimeout is how long a Pod's start waits for its Kubernetes Secrets.
const defaultSecretsTimeout = 10 * time.Second

// Classes is where SecretProviderClasses come from: the API server, or a directory.
type Classes interface {
	refresh.Classes
	// Watch calls changed for each class that was added, edited or removed, until ctx ends. Changed must not block.
	Watch(ctx context.Context, changed func(namespace, name string)) error
	// Ready returns nil when Get can answer, else why it cannot.
	Ready() error
}

// Options configure New. Fields without a stated default are required.
type Options struct {
	// Name is the CSI driver name; volume.DriverName where empty.
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
	// Secrets writes Kubernetes Secrets; nil where Secret sync is off.
	Secrets refresh.Secrets
	// SecretsTimeout bounds how long a Pod's start waits for its Secrets; 10 s where 0.
	SecretsTimeout time.Duration
	// Reporter receives what happens; may be nil.
	Reporter report.Reporter
	// RotationInterval is how often a class that says nothing is refreshed; 0 means never.
	RotationInterval time.Duration
	// CacheTTL is how old a value may be that a starting Pod shares with others of its identity.
	CacheTTL time.Duration
	// Tracer makes the spans of publishes and refreshes; none where nil.
	Tracer trace.Tracer
	// Clock is the real one where nil.
	Clock clock.WithTicker
	Log   *slog.Logger
}

// complete fills in defaults and returns every mistake.
func (o *Options) complete() error {
	if o.Name == "" {
		o.Name = volume.DriverName
	}
	if o.SecretsTimeout == 0 {
		o.SecretsTimeout = defaultSecretsTimeout
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
	var wrong problems
	wrong.require(o.NodeID != "", "node id is missing: set --node-id to the node's name")
	wrong.require(filepath.IsAbs(o.KubeletDir), "kubelet directory must be an absolute path: set --kubelet-dir")
	wrong.require(o.RotationInterval >= 0, "rotation interval must not be negative: set --rotation-interval, 0 turns rotation off")
	return errors.Join(wrong.err(), checkName(o.Name))
}

// Driver implements the CSI Identity and Node services.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedNodeServer

	name, version, nodeID, kubeletDir string

	classes  Classes
	mounts   *tmpfs.Mounts
	volumes  *refresh.Volumes
	reporter report.Reporter
	safe     safe.Handler
	clock    clock.WithTicker
	log      *slog.Logger

	// unregistered says why kubelet does not call the driver; nil where it does, or where the driver does not register.
	unregistered atomic.Pointer[string]
}

// New returns a driver that serves nothing yet.
func New(o Options) (*Driver, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("driver options: %w", err)
	}
	d := &Driver{
		name:       o.Name,
		version:    o.Version,
		nodeID:     o.NodeID,
		kubeletDir: filepath.Clean(o.KubeletDir),
		classes:    o.Classes,
		mounts:     o.Mounts,
		reporter:   o.Reporter,
		clock:      o.Clock,
		log:        o.Log,
	}
	d.safe = safe.Handler{Log: o.Log, Count: func(ctx context.Context, task string) {
		o.Reporter.Report(ctx, report.Panicked{Where: task})
	}}
	d.volumes = refresh.New(refresh.Options{
		Node:           o.NodeID,
		Classes:        o.Classes,
		Provider:       o.Provider,
		Mounts:         o.Mounts,
		Secrets:        o.Secrets,
		SecretsTimeout: o.SecretsTimeout,
		Reporter:       o.Reporter,
		Interval:       o.RotationInterval,
		CacheTTL:       o.CacheTTL,
		Tracer:         o.Tracer,
		Clock:          o.Clock,
		Log:            o.Log,
	})
	return d, nil
}

// Ready returns nil when the driver can publish volumes, else why it cannot. Probe and /readyz say the same.
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

// Refresh asks the vault again for the volume, as soon as possible and in the background.
func (d *Driver) Refresh(ref volume.Ref) { d.volumes.Refresh(ref) }

// Snapshots returns what is known about every volume of this node, in no order.
func (d *Driver) Snapshots() []*volume.Snapshot { return d.volumes.Snapshots() }

// Status returns what is known now.
func (d *Driver) Status() nodestatus.Status {
	volumes, sources := d.volumes.Status()
	return nodestatus.Status{Driver: d.name, Version: d.version, Node: d.nodeID, Volumes: volumes, Sources: sources}
}
