package push

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
)

// outcome is what came of one event, for the metric.
type outcome string

const (
	refreshed outcome = "refreshed"
	// unused is a new version of an object that no class uses.
	unused outcome = "unused"
	// duplicate is a change that was served already.
	duplicate outcome = "duplicate"
	// ignored is an event that is not about a new version.
	ignored outcome = "ignored"
	// malformed is one that cannot be read; unknownVault is about a vault that no class uses, and otherCloud about one of another cloud.
	malformed outcome = "malformed"
	// unauthorized is a delivery whose token is refused.
	unauthorized outcome = "unauthorized"
	unknownVault outcome = "unknown_vault"
	otherCloud   outcome = "other_cloud"
	// failed is one whose refresh could not be asked for; it comes again. poisoned is one that came too often.
	failed   outcome = "failed"
	poisoned outcome = "poisoned"
)

// refusalPause is how often the log says that events of one kind are refused.
const refusalPause = time.Minute

// refresher asks for the refreshes that events are about.
type refresher struct {
	reader  client.Reader // the classes, with the index
	parser  parser
	asks    *asks
	clock   clock.PassiveClock
	log     *slog.Logger
	metrics *metrics.Controller
	// hosts are those, or suffixes with a leading dot, of vaults of this cloud.
	hosts []string

	served memory

	mu      sync.Mutex
	refused map[outcome]refusals // what the log has not said yet
}

// refusals are events that were refused since the log said so.
type refusals struct {
	count int
	said  time.Time
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (*refresher) NeedLeaderElection() bool { return false }

// Start implements manager.Runnable: it waits for the annotations that are being written when ctx ends.
func (r *refresher) Start(ctx context.Context) error {
	<-ctx.Done()
	r.asks.wait()
	return nil
}

// deliver serves the events of one delivery. The error is why at least one of them is to come again; others are done.
func (r *refresher) deliver(ctx context.Context, body []byte) error {
	events, refused, err := Parse(body)
	if err != nil {
		r.refuse(ctx, malformed, err.Error())
		return nil
	}
	for _, err := range refused {
		r.refuse(ctx, malformed, err.Error())
	}
	return r.serve(ctx, events)
}

// serve asks for the refreshes of several events, together where they are about the same class.
func (r *refresher) serve(ctx context.Context, events []Event) error {
	var waits []func() error
	lookups := map[string]lookup{} // many events of one delivery may be about one object
	for i := range events {
		e := &events[i]
		switch {
		case !e.NewVersion:
			r.metrics.Event(string(ignored))
			continue
		case r.served.has(e.key(), r.clock.Now()):
			r.metrics.Event(string(duplicate))
			continue
		}
		wait, err := r.begin(ctx, e, lookups)
		if err != nil {
			r.metrics.Event(string(failed))
			return err
		}
		if wait != nil {
			waits = append(waits, wait)
		}
	}
	var failures []error
	for _, wait := range waits {
		if err := wait(); err != nil {
			failures = append(failures, err)
		}
	}
	if len(failures) > 0 {
		return fmt.Errorf("%d of %d refreshes: %w", len(failures), len(waits), failures[0])
	}
	return nil
}

// lookup is what find returned.
type lookup struct {
	classes []found
	vault   bool
}

// begin asks for the refreshes of one event. Wait returns when they are asked for; nil where there are none.
func (r *refresher) begin(ctx context.Context, e *Event, lookups map[string]lookup) (wait func() error, err error) {
	l, known := lookups[e.Host+"/"+e.Name]
	if !known {
		if l.classes, l.vault, err = r.find(ctx, e.Host, e.Name); err != nil {
			return nil, err
		}
		lookups[e.Host+"/"+e.Name] = l
	}
	classes := l.classes
	switch {
	case len(classes) == 0 && l.vault:
		r.metrics.Event(string(unused))
		return nil, nil
	case len(classes) == 0 && !r.ofThisCloud(e.Host):
		r.refuse(ctx, otherCloud, fmt.Sprintf("the host %.100s is none of this cloud", e.Host))
		return nil, nil
	case len(classes) == 0:
		r.refuse(ctx, unknownVault, fmt.Sprintf("no class uses the vault %.100s", e.Host))
		return nil, nil
	}
	batches := make([]*batch, 0, len(classes))
	for _, f := range classes {
		batches = append(batches, r.asks.join(f, idOf(e))) //nolint:contextcheck // what is asked for outlives who asks
	}
	return func() error {
		for i, b := range batches {
			if err := b.wait(ctx); err != nil {
				r.metrics.Event(string(failed))
				return err
			}
			r.log.DebugContext(ctx, "nodes are asked to refresh", logkeys.Class, client.ObjectKeyFromObject(classes[i].class), "vault", e.Host)
		}
		r.served.add(e.key(), r.clock.Now())
		r.metrics.Event(string(refreshed))
		if !e.Time.IsZero() {
			r.metrics.EventServed(r.clock.Since(e.Time))
		}
		return nil
	}, nil
}

// idOf is the same for one change on all replicas: what both write is one request.
func idOf(e *Event) string {
	sum := sha256.Sum256([]byte(e.key()))
	return hex.EncodeToString(sum[:8])
}

// ofThisCloud reports whether a vault of the cloud may have the host.
func (r *refresher) ofThisCloud(host string) bool {
	for _, known := range r.hosts {
		if host == known || strings.HasPrefix(known, ".") && strings.HasSuffix(host, known) {
			return true
		}
	}
	return false
}

// refuse counts an event that leads to nothing, and logs it once in a while: whoever can send events must not fill the log.
func (r *refresher) refuse(ctx context.Context, why outcome, text string) {
	r.metrics.Event(string(why))
	r.mu.Lock()
	defer r.mu.Unlock()
	now, known := r.clock.Now(), r.refused[why]
	known.count++
	if pause := now.Sub(known.said); pause >= refusalPause || pause < 0 || known.said.IsZero() {
		r.log.WarnContext(ctx, "events are refused", logkeys.Reason, string(why), "events", known.count, "last", text)
		known = refusals{said: now}
	}
	r.refused[why] = known
}

const (
	// memoryFor is how long a change is remembered at least, and mostRemembered bounds how many are, together with mostRemembered before.
	memoryFor      = time.Hour
	mostRemembered = 10_000
)

// memory holds the changes that were served in the last hour or two. The zero value is ready to use.
type memory struct {
	mu            sync.Mutex
	since         time.Time
	young, former map[string]struct{}
}

func (m *memory) has(key string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn(now)
	_, young := m.young[key]
	_, former := m.former[key]
	return key != "" && (young || former)
}

func (m *memory) add(key string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn(now)
	m.young[key] = struct{}{}
}

// turn forgets the older half where it is time, or where there are too many. The caller holds mu.
func (m *memory) turn(now time.Time) {
	if m.young != nil && len(m.young) < mostRemembered && now.Sub(m.since) < memoryFor {
		return
	}
	if m.former = m.young; now.Sub(m.since) >= 2*memoryFor {
		m.former = nil
	}
	m.young, m.since = map[string]struct{}{}, now
}
