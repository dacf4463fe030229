// Package audit writes one JSON line for each object that was delivered to a pod or a Kubernetes Secret: who got what, from where, as whom.
// Never a value. A line that cannot be written does not stop the delivery: it is counted as lost, and logged.
package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/trace"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Stdout as a path is the standard output.
const Stdout = "-"

// maxWaiting bounds the lines that wait for a slow disk; the Pods of a node do not start faster than that.
const maxWaiting = 8192

// Options configure Open.
type Options struct {
	// Path is a file that is appended to, or Stdout.
	Path string
	// Node is the node's name, for each line.
	Node string
	// Lost is called for each line that was not written.
	Lost  func()
	Clock clock.PassiveClock
	Log   *slog.Logger
}

// Log is an audit log. It implements report.Reporter.
type Log struct {
	options Options
	reopen  chan struct{}
	work    sync.WaitGroup

	mu     sync.Mutex
	closed bool
	lines  chan []byte
}

// Line is one line of the log.
type Line struct {
	Time time.Time `json:"time"`
	// Event is mounted for a pod's start, rotated for a change afterwards, synced for a Kubernetes Secret that the controller wrote.
	Event     string `json:"event"`
	Node      string `json:"node,omitempty"`
	Namespace string `json:"namespace"`
	Pod       string `json:"pod,omitempty"`
	PodUID    string `json:"podUID,omitempty"`
	// Secret is the Kubernetes Secret of the event synced.
	Secret         string `json:"secret,omitempty"`
	ServiceAccount string `json:"serviceAccount"`
	Class          string `json:"class"`
	// Identity is who asked the vault.
	Identity string `json:"identity"`
	Vault    string `json:"vault"`
	// Object is type/name, with the index of a version history.
	Object  string `json:"object"`
	Version string `json:"version"`
	Path    string `json:"path"`
	// Source is fetched where the vault was asked for this delivery, cached where another volume had just asked as the
	// same identity, stale where last known good values were given.
	Source string `json:"source"`
	// FetchedAt is when the oldest value of the volume left the vault.
	FetchedAt time.Time `json:"fetchedAt"`
	// RequestID is the vault's x-ms-request-id of the answer that held the value.
	RequestID string `json:"requestID,omitempty"`
	TraceID   string `json:"traceID,omitempty"`
}

// Open opens the log. Close must be called.
func Open(o Options) (*Log, error) {
	out, err := open(o.Path)
	if err != nil {
		return nil, err
	}
	l := &Log{
		options: o,
		lines:   make(chan []byte, maxWaiting),
		reopen:  make(chan struct{}, 1),
	}
	l.work.Go(func() { l.keep(out) })
	return l, nil
}

func open(path string) (io.WriteCloser, error) {
	if path == Stdout {
		return stdout{os.Stdout}, nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // the operator's choice
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return f, nil
}

// stdout is not ours to close.
type stdout struct{ io.Writer }

func (stdout) Close() error { return nil }

// Reopen opens the file again, after it was renamed.
func (l *Log) Reopen() {
	select {
	case l.reopen <- struct{}{}:
	default: // it is on the way already
	}
}

// ReopenOnHangup reopens the file whenever the process gets SIGHUP, until the function that it returns is called.
func (l *Log) ReopenOnHangup() (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	var work sync.WaitGroup
	work.Go(func() {
		for range hangups {
			l.Reopen()
		}
	})
	return func() {
		signal.Stop(hangups)
		close(hangups)
		work.Wait()
	}
}

// Close writes what waits and closes the file. Nothing is reported afterwards.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed = true
	close(l.lines)
	l.mu.Unlock()
	l.work.Wait()
	return nil
}

// Report implements report.Reporter.
func (l *Log) Report(ctx context.Context, e report.Event) {
	switch e := e.(type) {
	case report.Published:
		l.deliver(ctx, "mounted", e.After, e.After.Objects)
	case report.Refreshed:
		if e.Changed {
			l.deliver(ctx, "rotated", e.After, added(e.Before, e.After))
		}
	}
}

// added returns the objects that the volume did not hold before: all of them where that is not known, or where the
// files changed in another way.
func added(before, after *volume.Snapshot) (objects []volume.Object) {
	type delivery struct{ vault, object, version, path string }
	deliveryOf := func(o volume.Object) delivery {
		return delivery{vault: o.Vault, object: o.ID, version: o.Version, path: o.Path}
	}
	held := make(map[delivery]bool, len(before.Objects))
	for _, o := range before.Objects {
		held[deliveryOf(o)] = true
	}
	for _, o := range after.Objects {
		if !held[deliveryOf(o)] {
			objects = append(objects, o)
		}
	}
	if len(objects) == 0 {
		return after.Objects
	}
	return objects
}

func (l *Log) deliver(ctx context.Context, event string, after *volume.Snapshot, objects []volume.Object) {
	pod := after.Ref.Pod
	l.write(ctx, objects, after.Stale, after.Fallback, Line{
		Event:          event,
		Node:           l.options.Node,
		Namespace:      pod.Namespace,
		Pod:            pod.Name,
		PodUID:         pod.UID,
		ServiceAccount: pod.ServiceAccount,
		Class:          after.Ref.Class,
		Identity:       after.Identity,
		FetchedAt:      after.FetchedAt.UTC(),
	})
}

// Synced is a Kubernetes Secret that the controller wrote.
type Synced struct {
	Namespace, Secret, ServiceAccount, Class, Identity string
	// FetchedAt, Stale and Fallback are those of the bundle.
	FetchedAt time.Time
	Stale     bool
	Fallback  string
	// Objects are those that the Secret is made from.
	Objects []volume.Object
}

// Synced writes a line for each object of a Secret.
func (l *Log) Synced(ctx context.Context, s Synced) {
	l.write(ctx, s.Objects, s.Stale, s.Fallback, Line{
		Event:          "synced",
		Namespace:      s.Namespace,
		Secret:         s.Secret,
		ServiceAccount: s.ServiceAccount,
		Class:          s.Class,
		Identity:       s.Identity,
		FetchedAt:      s.FetchedAt.UTC(),
	})
}

// ObjectsOf returns the objects that sources are about: those of a bundle that one Secret is made from.
func ObjectsOf(objects []volume.Object, sources []volume.Source) (used []volume.Object) {
	wanted := map[string]bool{}
	for _, s := range sources {
		if vault, err := url.Parse(s.Key.Vault); err == nil {
			wanted[strings.ToLower(vault.Host+"/"+s.Key.Kind+"/"+s.Key.Name)] = true
		}
	}
	for _, o := range objects {
		kind, rest, _ := strings.Cut(o.ID, "/")
		name, _, _ := strings.Cut(rest, "/") // an index of a version history follows
		if wanted[strings.ToLower(o.Vault+"/"+kind+"/"+name)] {
			used = append(used, o)
		}
	}
	return used
}

// write queues a line for each object. What is the same in all of them is in the given one.
func (l *Log) write(ctx context.Context, objects []volume.Object, stale bool, fallback string, line Line) {
	line.Time = l.options.Clock.Now().UTC()
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		line.TraceID = span.TraceID().String()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range objects {
		line.Vault, line.Object, line.Version, line.Path, line.RequestID = o.Vault, o.ID, o.Version, o.Path, o.RequestID
		switch {
		case fallback != "" && o.Vault == fallback:
			line.Source = "fallback"
		case stale:
			line.Source = "stale"
		case o.Cached:
			line.Source = "cached"
		default:
			line.Source = "fetched"
		}
		text, err := json.Marshal(line) //nolint:gosec // Secret is the name of a Kubernetes Secret
		if err != nil || l.closed {
			l.options.Lost()
			continue
		}
		select {
		case l.lines <- append(text, '\n'):
		default: // a disk that hangs must not keep Pods from starting
			l.options.Lost()
		}
	}
}

// keep writes the lines until Close. A failure is logged once, until a line gets through again.
func (l *Log) keep(out io.WriteCloser) {
	failing := false
	logged := func(err error) {
		if (err != nil) == failing {
			return
		}
		failing = err != nil
		if failing {
			l.options.Log.Error("the audit log cannot be written: lines are lost; volumes are delivered all the same",
				"path", l.options.Path, "error", err)
			return
		}
		l.options.Log.Warn("the audit log is written again; lines before this one are lost", "path", l.options.Path)
	}
	renew := func() {
		fresh, err := open(l.options.Path)
		if err != nil {
			logged(err)
			return
		}
		_ = out.Close() // what was written is written
		out = fresh
	}
	for {
		select {
		case <-l.reopen:
			renew()
		case line, more := <-l.lines:
			if !more {
				_ = out.Close()
				return
			}
			if failing {
				renew()
			}
			_, err := out.Write(line)
			logged(err)
			if err != nil {
				l.options.Lost()
			}
		}
	}
}
