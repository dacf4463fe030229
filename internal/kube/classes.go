package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/clock"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const (
	// classIdle is how long a class is watched after its last use. Kubelet asks about every minute for each Pod.
	classIdle = 5 * time.Minute
	// shortestWatch is the shortest time after which the API server ends a watch; the longest is twice that.
	shortestWatch = 5 * time.Minute
	// firstWait and lastWait bound the waits between tries to watch; they double.
	firstWait = 200 * time.Millisecond
	lastWait  = 30 * time.Second
)

// classes are those that Pods of this node use. Each is read at its first use and watched by name until some minutes after the last
// one, so that a node pays for what its Pods use and not for all classes of the cluster.
type classes struct {
	cluster *Cluster
	clock   clock.WithTicker
	safe    safe.Handler
	ctx     context.Context // it outlives the call that began it

	misses singleflight.Group

	mu       sync.Mutex
	closed   bool
	watched  map[types.NamespacedName]*watchedClass
	watchers map[int]func(namespace, name string)
	next     int
}

// watchedClass is one class that is in use.
type watchedClass struct {
	name types.NamespacedName
	stop context.CancelFunc
	// first is closed when the first read ended; err is set before.
	first chan struct{}
	err   error

	// What follows is guarded by classes.mu.

	// class is nil where it does not exist, or was not read yet.
	class *v1.SecretProviderClass
	used  time.Time
}

func newClasses(ctx context.Context, c *Cluster) *classes {
	return &classes{
		cluster: c, clock: c.clock, safe: safe.Handler{Log: c.log}, ctx: ctx,
		watched: map[types.NamespacedName]*watchedClass{}, watchers: map[int]func(string, string){},
	}
}

// close begins no more watches.
func (k *classes) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
}

// Get returns the class, which the caller must not change. The first use of a class reads it from the API server; after that a watch
// keeps it, also while the API server is away. A class that is not known to exist is asked for again at each call: it may be created
// after the Pod that names it.
func (c *Cluster) Get(ctx context.Context, namespace, name string) (*v1.SecretProviderClass, error) {
	return c.classes.get(ctx, types.NamespacedName{Namespace: namespace, Name: name})
}

func (k *classes) get(ctx context.Context, name types.NamespacedName) (*v1.SecretProviderClass, error) {
	w, class, err := k.use(name)
	if class != nil || err != nil {
		return class, err
	}
	if w == nil {
		return k.miss(ctx, name)
	}
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-k.ctx.Done():
		return nil, context.Cause(k.ctx)
	case <-w.first:
	}
	k.mu.Lock()
	class, err = w.class, w.err
	k.mu.Unlock()
	switch {
	case class != nil:
		return class, nil
	case err == nil: // it existed and was deleted
		err = apierrors.NewNotFound(groupVersion().WithResource(classResource).GroupResource(), name.Name)
	}
	return nil, classError(name, err)
}

// miss asks the API server for a class that was deleted: it may exist again, and the watch be late.
func (k *classes) miss(ctx context.Context, name types.NamespacedName) (*v1.SecretProviderClass, error) {
	answer := k.misses.DoChan(name.String(), func() (any, error) { return k.read(k.ctx, name) })
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case result := <-answer:
		if result.Err != nil {
			return nil, classError(name, result.Err)
		}
		class, _ := result.Val.(*v1.SecretProviderClass)
		return class, nil
	}
}

// use notes that the class is in use, and begins to read and watch it where that is new. Where class is nil, w has to be waited for; it
// is nil too where the class was deleted, whose watch goes on.
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
	ctx, stop := context.WithCancel(k.ctx)
	w = &watchedClass{name: name, stop: stop, first: make(chan struct{}), used: k.clock.Now()}
	k.watched[name] = w
	k.cluster.group.Go(func() {
		defer k.mourn(w)
		k.follow(ctx, w)
	})
	return w, nil, nil
}

// drop ends a watch. The caller holds mu.
func (k *classes) drop(w *watchedClass) {
	w.stop()
	if k.watched[w.name] == w {
		delete(k.watched, w.name)
	}
}

// mourn forgets a watch that ended, so that the next use begins another one, and recovers from a panic.
func (k *classes) mourn(w *watchedClass) {
	if p := recover(); p != nil {
		_ = k.safe.Recovered(k.ctx, "watch of the class "+w.name.String(), p)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop(w)
	select {
	case <-w.first:
	default:
		w.err = context.Canceled
		close(w.first)
	}
}

// expire ends the watches of classes that are used no more.
func (k *classes) expire(ctx context.Context) {
	ticker := k.clock.NewTicker(classIdle / 5)
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
		k.drop(w) // the next use asks again
	}
	k.mu.Unlock()
	close(w.first)
	if err != nil {
		return
	}
	version, wait := class.ResourceVersion, firstWait
	for ctx.Err() == nil {
		if version == "" {
			version, err = k.reread(ctx, w)
		}
		if err == nil {
			var after string
			after, err = k.watch(ctx, w, version)
			if after != version {
				wait = firstWait
			}
			version = after
		}
		if err == nil {
			continue // the API server ended the watch in time
		}
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			version = ""
		} else if ctx.Err() == nil {
			k.cluster.noteTrouble(ctx, err)
		}
		if !k.pause(ctx, wait/2+rand.N(wait)) {
			return
		}
		wait, err = min(2*wait, lastWait), nil
	}
}

func (k *classes) pause(ctx context.Context, wait time.Duration) bool {
	timer := k.clock.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C():
		return true
	}
}

func (k *classes) read(ctx context.Context, name types.NamespacedName) (*v1.SecretProviderClass, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	class, err := k.cluster.api.class(ctx, name.Namespace, name.Name)
	if err != nil {
		return nil, err
	}
	slim(class)
	return class, nil
}

// reread reads the class after a watch that lost its place. A class that is gone is watched from now on all the same.
func (k *classes) reread(ctx context.Context, w *watchedClass) (version string, err error) {
	list := &v1.SecretProviderClassList{}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err = k.cluster.api.rest.Get().Namespace(w.name.Namespace).Resource(classResource).VersionedParams(&metav1.ListOptions{
		FieldSelector: onlyName(w.name.Name),
	}, metav1.ParameterCodec).Do(ctx).Into(list)
	if err != nil {
		return "", err
	}
	var class *v1.SecretProviderClass
	if len(list.Items) > 0 {
		class = &list.Items[0]
	}
	k.set(w, class)
	return list.ResourceVersion, nil
}

func onlyName(name string) string { return fields.OneTermEqualSelector("metadata.name", name).String() }

// watch follows one watch to its end. It returns the version to go on from; empty where the place is lost.
func (k *classes) watch(ctx context.Context, w *watchedClass, version string) (string, error) {
	seconds := int64((shortestWatch + rand.N(shortestWatch)).Seconds())
	stream, err := k.cluster.api.rest.Get().Namespace(w.name.Namespace).Resource(classResource).VersionedParams(&metav1.ListOptions{
		FieldSelector: onlyName(w.name.Name), ResourceVersion: version, Watch: true, AllowWatchBookmarks: true, TimeoutSeconds: &seconds,
	}, metav1.ParameterCodec).Watch(ctx)
	if err != nil {
		return version, err
	}
	defer stream.Stop()
	for {
		select {
		case <-ctx.Done():
			return version, ctx.Err()
		case event, open := <-stream.ResultChan():
			if !open {
				return version, nil
			}
			class, _ := event.Object.(*v1.SecretProviderClass)
			switch {
			case event.Type == watch.Error:
				return version, apierrors.FromObject(event.Object)
			case class == nil:
				return version, fmt.Errorf("the API server sent %T in a watch of classes", event.Object)
			}
			version = class.ResourceVersion
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

// set takes what the API server says, and tells who watches where that is an edit.
func (k *classes) set(w *watchedClass, class *v1.SecretProviderClass) {
	if class != nil {
		slim(class)
	}
	k.mu.Lock()
	before := w.class
	w.class = class
	var tell []func(string, string)
	if k.watched[w.name] == w && edited(before, class) {
		for _, f := range k.watchers {
			tell = append(tell, f)
		}
	}
	k.mu.Unlock()
	for _, f := range tell {
		f(w.name.Namespace, w.name.Name)
	}
}

// Watch calls changed for each class in use that is edited, removed or created again, until ctx ends.
func (c *Cluster) Watch(ctx context.Context, changed func(namespace, name string)) error {
	k := c.classes
	k.mu.Lock()
	id := k.next
	k.next++
	k.watchers[id] = changed
	k.mu.Unlock()
	<-ctx.Done()
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.watchers, id)
	return nil
}

// edited says whether what the driver reads of a class differs. A class that was created anew under its name counts. Nil is a class that
// does not exist.
func edited(a, b *v1.SecretProviderClass) bool {
	if a == nil || b == nil {
		return a != b
	}
	return a.UID != b.UID || a.Generation != b.Generation || !maps.Equal(a.Annotations, b.Annotations) || !reflect.DeepEqual(a.Spec, b.Spec)
}

// lastApplied is where kubectl keeps a copy of the whole object.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// slim drops what nobody reads here and what would fill the memory of every node.
func slim(class *v1.SecretProviderClass) {
	class.ManagedFields = nil
	delete(class.Annotations, lastApplied)
}

// classError says what the API server's refusal means for the pod.
func classError(name types.NamespacedName, err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return &volume.Error{Reason: volume.ReasonClassNotFound, Cause: err, Message: fmt.Sprintf(
			"failed to get secretproviderclass %s: not found: create it in the pod's namespace, or correct the name in the pod's "+
				"volumeAttributes.secretProviderClass", name)}
	case apierrors.IsForbidden(err):
		return &volume.Error{Reason: volume.ReasonNotReady, Cause: err, Message: fmt.Sprintf(
			"failed to get secretproviderclass %s: the driver may not read it: give its ServiceAccount the rights to get, list and watch "+
				"secretproviderclasses, as the chart's rbac.install does: %s", name, oneLine(err))}
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
