package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const (
	// classIdle is how long a class is watched after its last use. kubelet publishes each volume again every 60 to 90
	// s, and some of these calls may be late or fail.
	classIdle = 10 * time.Minute
	// mostWatches bounds the watches of a node. A class beyond it is read at each use.
	mostWatches = 512
	// watchLife is after how long the API server ends a watch, give or take a half, so that the watches of many nodes
	// are not renewed together.
	watchLife = 8 * time.Minute
	// steadyWatch is how long a watch lasts that did work: the waits between tries start again from the first, and one
	// that the API server ended is renewed without a wait.
	steadyWatch = 10 * time.Second
	// firstWait and lastWait bound the waits between tries to watch, which double.
	firstWait = 500 * time.Millisecond
	lastWait  = 30 * time.Second
)

// classes are those that Pods of this node use. Each is read at its first use and watched by name until some minutes
// after the last one, so that a node pays for what its Pods use and not for all classes of the cluster.
type classes struct {
	api   client
	clock clock.WithTicker
	log   *slog.Logger
	safe  safe.Handler
	ctx   context.Context // of the watches; Close ends it
	group *sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	watched map[types.NamespacedName]*watchedClass
	full    bool // that no more are watched was logged
	edits   map[int]func(namespace, name string)
	next    int
}

// watchedClass is one class that is in use.
type watchedClass struct {
	name types.NamespacedName
	stop context.CancelFunc
	// first is closed when the first read has ended; err, its error, is set before.
	first chan struct{}
	err   error

	// What follows is guarded by classes.mu.

	// class is nil until the first read has ended, and while the class does not exist.
	class *v1.SecretProviderClass
	used  time.Time
}

func newClasses(ctx context.Context, c *Cluster) *classes {
	return &classes{
		api:     c.api,
		clock:   c.clock,
		log:     c.log,
		safe:    safe.Handler{Log: c.log},
		ctx:     ctx,
		group:   &c.group,
		watched: map[types.NamespacedName]*watchedClass{},
		edits:   map[int]func(string, string){},
	}
}

// close starts no more watches.
func (k *classes) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
}

// Get returns the class, which the caller must not change. The first use of a class reads it from the API server; after
// that a watch keeps it, also while the API server is away. A class that is not known to exist is read at each call,
// since it may be created after the Pod that names it. Errors are of type *volume.Error, or those of ctx and Close.
func (c *Cluster) Get(ctx context.Context, namespace, name string) (*v1.SecretProviderClass, error) {
	return c.classes.get(ctx, types.NamespacedName{Namespace: namespace, Name: name})
}

func (k *classes) get(ctx context.Context, name types.NamespacedName) (*v1.SecretProviderClass, error) {
	w, class, err := k.use(name) //nolint:contextcheck // the watch outlives the call that starts it
	if class != nil || err != nil {
		return class, err
	}
	if w == nil {
		class, err = k.read(ctx, name)
		switch {
		case err == nil:
			return class, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		}
		return nil, classError(name, err)
	}
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-k.ctx.Done():
		return nil, context.Canceled
	case <-w.first:
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case w.class != nil:
		return w.class, nil
	case w.err == nil: // it existed and was deleted since
		return nil, classError(
			name,
			apierrors.NewNotFound(groupVersion().WithResource(classResource).GroupResource(), name.Name),
		)
	}
	return nil, classError(name, w.err)
}

// use notes that the class is in use, and starts to read and watch it where that is new. Where class is nil, w.first
// has to be awaited; where w is nil too, the class has to be read: its watch says that it was deleted and may be late,
// or there is no watch for it.
func (k *classes) use(name types.NamespacedName) (w *watchedClass, class *v1.SecretProviderClass, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w = k.watched[name]; w != nil {
		w.used = k.clock.Now()
		if w.class != nil {
			return w, w.class, nil
		}
		select {
		case <-w.first:
			return nil, nil, nil
		default:
			return w, nil, nil
		}
	}
	if k.closed {
		return nil, nil, context.Canceled
	}
	if len(k.watched) >= mostWatches {
		if !k.full {
			k.log.WarnContext(
				k.ctx,
				"this node uses too many SecretProviderClasses to watch all: the others are read at each use",
				logkeys.Class,
				name,
			)
		}
		k.full = true
		return nil, nil, nil
	}
	ctx, stop := context.WithCancel(k.ctx)
	w = &watchedClass{name: name, stop: stop, first: make(chan struct{}), used: k.clock.Now()}
	k.watched[name] = w
	k.group.Go(func() {
		defer k.ended(w)
		k.follow(ctx, w)
	})
	return w, nil, nil
}

// drop ends a watch. The caller holds mu.
func (k *classes) drop(w *watchedClass) {
	w.stop()
	if k.watched[w.name] == w {
		delete(k.watched, w.name)
		k.full = false
	}
}

// ended recovers from a panic of a watch and forgets it, so that the next use starts another one.
func (k *classes) ended(w *watchedClass) {
	err := context.Canceled
	if p := recover(); p != nil {
		err = k.safe.Recovered(k.ctx, "watch of the class "+w.name.String(), p)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop(w)
	select {
	case <-w.first:
	default:
		w.err = err
		close(w.first)
	}
}

// expire ends the watches of classes that are not used any more.
func (k *classes) expire(ctx context.Context) {
	ticker := k.clock.NewTicker(classIdle / 10)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
		k.mu.Lock()
		for _, w := range k.watched {
			if k.clock.Since(w.used) > classIdle {
				k.drop(w)
			}
		}
		k.mu.Unlock()
	}
}

// follow reads the class and watches it until ctx ends. A class that does not exist at first is not watched.
func (k *classes) follow(ctx context.Context, w *watchedClass) {
	class, err := k.read(ctx, w.name)
	k.mu.Lock()
	w.class, w.err = class, err
	if err != nil {
		k.drop(w) // the next use reads it again
	}
	k.mu.Unlock()
	close(w.first)
	if err != nil {
		return
	}
	var (
		wait      = firstWait
		logged    string
		forbidden int
		// The version of the class itself is no place to watch from: where the API server has started since the last
		// edit, it answers
		// 410. So the class is listed by name, from the API server's own memory, which gives the version of the list.
		at = place{atLeast: class.ResourceVersion}
	)
	for {
		start := k.clock.Now()
		err := k.keep(ctx, w, &at)
		steady := k.clock.Since(start) >= steadyWatch
		if steady {
			wait, logged, forbidden = firstWait, "", 0
		}
		status := apierrors.APIStatus(nil)
		switch answered := asStatus(err, &status); {
		case ctx.Err() != nil:
			return
		case apierrors.IsForbidden(err) && forbidden < forbiddenTries:
			forbidden++ // an API server that has just started forbids everything until it has read the roles
			at = place{}
		case apierrors.IsForbidden(err):
			// What is known would grow old without anyone's notice. The next use reads the class, and its error names the rule.
			k.log.WarnContext(ctx, watchFailed, logkeys.Class, w.name, logkeys.Error, printable.OneLine(err.Error()))
			return
		case answered:
			at = place{} // for every cause, what is listed again is right
			if text := printable.OneLine(err.Error()); text != logged && !isExpired(err) {
				k.log.WarnContext(ctx, watchFailed, logkeys.Class, w.name, logkeys.Error, text)
				logged = text
			}
		case err == nil && steady:
			continue
		}
		if !k.api.pause(ctx, jitter(wait)) {
			return
		}
		wait = min(2*wait, lastWait)
	}
}

// forbiddenTries is how often a watch that is forbidden is tried again before the class is dropped: some seconds in all.
const forbiddenTries = 4

// jitter returns half of a duration to one and a half, so that nodes that fail together do not try again together.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d) //nolint:gosec // it guards nothing
}

const watchFailed = "the watch of a SecretProviderClass failed; it is used as it was known"

func isExpired(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }

// place is where to watch from.
type place struct {
	// version is that of the newest list or event; empty where the class is to be listed first.
	version string
	// atLeast is the version which that list must have reached; where empty, it must be the newest.
	atLeast string
}

// keep watches the class to the watch's end, which is nil where the API server ended it.
func (k *classes) keep(ctx context.Context, w *watchedClass, at *place) error {
	if at.version == "" {
		if err := k.list(ctx, w, at); err != nil {
			at.atLeast = "" // a store that was restored from a backup may not reach it in a long time
			return err
		}
	}
	return k.watch(ctx, w, at)
}

func (k *classes) read(ctx context.Context, name types.NamespacedName) (*v1.SecretProviderClass, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	class, err := k.api.class(ctx, name.Namespace, name.Name)
	if err != nil {
		return nil, err
	}
	slim(class)
	return class, nil
}

// list reads the class and the version to watch it from. A class that is gone is watched all the same: Pods of this
// node use it.
func (k *classes) list(ctx context.Context, w *watchedClass, at *place) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	options := metav1.ListOptions{FieldSelector: onlyName(w.name.Name), ResourceVersion: at.atLeast}
	if at.atLeast != "" {
		options.ResourceVersionMatch = metav1.ResourceVersionMatchNotOlderThan
	}
	found := &v1.SecretProviderClassList{}
	if err := k.request(w.name, options).Do(ctx).Into(found); err != nil {
		return err
	}
	var class *v1.SecretProviderClass
	if len(found.Items) > 0 {
		class = &found.Items[0]
	}
	k.set(w, class)
	at.version = found.ResourceVersion
	return nil
}

func (k *classes) request(name types.NamespacedName, o metav1.ListOptions) *rest.Request {
	return k.api.rest.Get().Namespace(name.Namespace).Resource(classResource).VersionedParams(&o, metav1.ParameterCodec)
}

func onlyName(name string) string { return fields.OneTermEqualSelector("metadata.name", name).String() }

// watch follows one watch to its end and moves at along.
func (k *classes) watch(ctx context.Context, w *watchedClass, at *place) error {
	seconds := int64(jitter(watchLife).Seconds())
	stream, err := k.request(w.name, metav1.ListOptions{
		FieldSelector:       onlyName(w.name.Name),
		ResourceVersion:     at.version,
		Watch:               true,
		AllowWatchBookmarks: true,
		TimeoutSeconds:      &seconds,
	}).Watch(ctx)
	if err != nil {
		return err
	}
	defer stream.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event, open := <-stream.ResultChan():
			if !open {
				return nil
			}
			if event.Type == watch.Error {
				return apierrors.FromObject(event.Object)
			}
			class, ok := event.Object.(*v1.SecretProviderClass)
			if !ok {
				return apierrors.NewInternalError(
					fmt.Errorf("the API server sent %T in a watch of classes", event.Object),
				)
			}
			at.version = class.ResourceVersion
			switch event.Type {
			case watch.Added, watch.Modified:
				k.set(w, class)
			case watch.Deleted:
				k.set(w, nil)
			case watch.Bookmark, watch.Error:
			}
		}
	}
}

// set takes what the API server says, and calls the functions of Watch where that is an edit.
func (k *classes) set(w *watchedClass, class *v1.SecretProviderClass) {
	if class != nil {
		slim(class)
	}
	k.mu.Lock()
	before := w.class
	w.class = class
	var changed []func(string, string)
	if k.watched[w.name] == w && edited(before, class) {
		for _, f := range k.edits {
			changed = append(changed, f)
		}
	}
	k.mu.Unlock()
	for _, f := range changed {
		f(w.name.Namespace, w.name.Name)
	}
}

// Watch calls changed for each class in use that is edited, removed or created again, until ctx ends.
func (c *Cluster) Watch(ctx context.Context, changed func(namespace, name string)) error {
	k := c.classes
	k.mu.Lock()
	id := k.next
	k.next++
	k.edits[id] = changed
	k.mu.Unlock()
	<-ctx.Done()
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.edits, id)
	return nil
}

// edited reports whether what the driver reads of a class differs. A class that was deleted and created again counts.
// Nil is a class that does not exist.
func edited(a, b *v1.SecretProviderClass) bool {
	if a == nil || b == nil {
		return a != b
	}
	return a.UID != b.UID || a.Generation != b.Generation || !maps.Equal(a.Annotations, b.Annotations) ||
		!reflect.DeepEqual(a.Spec, b.Spec)
}

// lastApplied is where kubectl keeps a copy of the whole object.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// slim drops what is not read here and would fill the memory of every node.
func slim(class *v1.SecretProviderClass) {
	class.ManagedFields = nil
	delete(class.Annotations, lastApplied)
}

// classError says what the API server's refusal means for the pod.
func classError(name types.NamespacedName, err error) error {
	switch {
	case apierrors.IsNotFound(err) && apierrors.IsUnexpectedServerError(err):
		return &volume.Error{Reason: volume.ReasonNotReady, Cause: err, Message: fmt.Sprintf(
			"failed to get secretproviderclass %s: the API server does not know secretproviderclasses: install the "+
				"CustomResourceDefinitions", name)}
	case apierrors.IsNotFound(err):
		return &volume.Error{Reason: volume.ReasonClassNotFound, Cause: err, Message: fmt.Sprintf(
			"failed to get secretproviderclass %s: not found: create it in the pod's namespace, or correct the name in the pod's "+
				"volumeAttributes.secretProviderClass",
			name,
		)}
	case apierrors.IsForbidden(err):
		return &volume.Error{Reason: volume.ReasonNotReady, Cause: err, Message: fmt.Sprintf(
			"failed to get secretproviderclass %s: the driver may not read it: give its ServiceAccount the rights to get, list and watch "+
				"secretproviderclasses, as the chart's rbac.install does: %s",
			name,
			oneLine(err),
		)}
	}
	return &volume.Error{Reason: volume.ReasonNotReady, Cause: err, Message: fmt.Sprintf(
		"failed to get secretproviderclass %s from the API server: %s: kubelet tries again", name, oneLine(err))}
}

// oneLine is err's text without line breaks.
func oneLine(err error) string {
	if status, ok := errors.AsType[*apierrors.StatusError](err); ok {
		err = status // without what the client wrapped around it
	}
	return printable.OneLine(err.Error())
}
