package kube

import (
	"context"
	"maps"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
)

const (
	// settledAge is the age after which a settled value is read again, in the background.
	settledAge = 5 * time.Minute
	// openAge is the same for a value that is not settled. The caller waits for that read.
	openAge = 5 * time.Second
	// lookupIdle is how long an unused value is kept. Kubelet asks about every minute for each Pod.
	lookupIdle = time.Hour
	// maxLookups bounds the values that are kept.
	maxLookups = 1024
)

// lookup reads small facts about objects of the API server and keeps them for some minutes, so that a republish costs
// no request. While the API server does not answer, what is known stays in use.
type lookup[V any] struct {
	// read asks the API server.
	read func(ctx context.Context, name types.NamespacedName) (V, error)
	// settled reports whether the value is likely to stay. One that is not is read again after seconds: somebody may be
	// about to change the object, and a Pod waits for it.
	settled func(V) bool
	// spawn runs work in a goroutine whose owner waits for it, with the owner's context.
	spawn func(work func(context.Context))
	clock clock.PassiveClock
	safe  safe.Handler

	mu    sync.Mutex
	known map[types.NamespacedName]*known[V]
	reads map[types.NamespacedName]*read[V]
}

// known is a value that was read.
type known[V any] struct {
	value V
	// at is when it was read, used when it was last asked for.
	at, used time.Time
}

// read is one read under way. Its result is set before done is closed.
type read[V any] struct {
	done  chan struct{}
	value V
	err   error
}

// newLookup returns a lookup whose reads end with the cluster.
func newLookup[V any](
	c *Cluster,
	ask func(context.Context, types.NamespacedName) (V, error),
	settled func(V) bool,
) *lookup[V] {
	return &lookup[V]{
		read:    ask,
		settled: settled,
		spawn:   func(work func(context.Context)) { c.group.Go(func() { work(c.ctx) }) },
		clock:   c.clock,
		safe:    safe.Handler{Log: c.log},
		known:   map[types.NamespacedName]*known[V]{},
		reads:   map[types.NamespacedName]*read[V]{},
	}
}

// get returns what is known, or what a read returns that all callers share. Errors are those of read.
func (l *lookup[V]) get(ctx context.Context, name types.NamespacedName) (V, error) {
	value, r := l.use(name)
	if r == nil {
		return value, nil
	}
	select {
	case <-ctx.Done():
		return value, context.Cause(ctx)
	case <-r.done:
		return r.value, r.err
	}
}

// use returns the known value, or the read to wait for. It begins the read where there is none.
func (l *lookup[V]) use(name types.NamespacedName) (V, *read[V]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var none V
	k := l.known[name]
	if k == nil {
		return none, l.begin(name)
	}
	now := l.clock.Now()
	k.used = now
	age := now.Sub(k.at)
	switch settled := l.settled(k.value); {
	case settled && age >= settledAge:
		l.begin(name) // a failure leaves what is known; the next use tries again
	case !settled && age >= openAge:
		return none, l.begin(name)
	}
	return k.value, nil
}

// begin returns the read of the object that is under way, a new one where none is. The caller holds mu.
func (l *lookup[V]) begin(name types.NamespacedName) *read[V] {
	if r := l.reads[name]; r != nil {
		return r
	}
	r := &read[V]{done: make(chan struct{})}
	l.reads[name] = r
	l.spawn(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		r.err = l.safe.Do(ctx, "read from the API server", func() (err error) {
			r.value, err = l.read(ctx, name)
			return err
		})
		l.end(name, r)
	})
	return r
}

// end keeps the result of a read.
func (l *lookup[V]) end(name types.NamespacedName, r *read[V]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(r.done)
	delete(l.reads, name)
	switch {
	case r.err == nil:
		now := l.clock.Now()
		if l.known[name] == nil {
			l.makeRoom(now)
		}
		l.known[name] = &known[V]{value: r.value, at: now, used: now}
	case apierrors.IsNotFound(r.err):
		delete(l.known, name)
	}
}

// makeRoom drops what is not used, and where that is not enough, the value that was not used for longest. The caller
// holds mu.
func (l *lookup[V]) makeRoom(now time.Time) {
	maps.DeleteFunc(l.known, func(_ types.NamespacedName, k *known[V]) bool { return now.Sub(k.used) > lookupIdle })
	if len(l.known) < maxLookups {
		return
	}
	var oldest types.NamespacedName
	for name, k := range l.known {
		if first, ok := l.known[oldest]; !ok || k.used.Before(first.used) {
			oldest = name
		}
	}
	delete(l.known, oldest)
}
