package push

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/schedule"
)

const (
	// FieldManager is what the annotation is written as, so that GitOps tools can be configured to ignore it.
	FieldManager = "keyvault-csi-push"
	// classPause is the least time between two annotations of one class.
	classPause = time.Second
	// patchTimeout bounds one request to the API server.
	patchTimeout = 10 * time.Second
	// mostPatches bounds the requests under way.
	mostPatches = 16
)

// asks writes the annotation. What asks for one class meanwhile is one request: a class that many events are about is written once a second.
type asks struct {
	client client.Client
	clock  clock.Clock
	safe   safe.Handler
	// spread returns within which time the class's users are to follow.
	spread func(context.Context, found) time.Duration
	// written is called for each annotation.
	written func()
	slots   chan struct{}

	mu      sync.Mutex
	classes map[types.NamespacedName]*pendingAsk
	// idle is signaled when a class is removed.
	idle *sync.Cond
}

// begun makes new asks ready for use.
func (a *asks) begun() *asks {
	a.slots, a.classes, a.idle = make(chan struct{}, mostPatches), map[types.NamespacedName]*pendingAsk{}, sync.NewCond(&a.mu)
	return a
}

// pendingAsk is a class that was asked for a moment ago. One goroutine works on it until nothing was asked for a while.
type pendingAsk struct {
	// next are those that wait for the next annotation; nil where there are none.
	next *batch
}

// batch is those that wait for one annotation.
type batch struct {
	id    string
	found found
	done  chan struct{}
	err   error // set before done is closed
}

// join asks for an annotation of the class that is written after the call. The id is part of it.
func (a *asks) join(f found, id string) *batch {
	name := client.ObjectKeyFromObject(f.class)
	a.mu.Lock()
	defer a.mu.Unlock()
	p, known := a.classes[name]
	if !known {
		p = &pendingAsk{}
		a.classes[name] = p
		go a.work(name, p)
	}
	if p.next == nil {
		p.next = &batch{done: make(chan struct{})}
	}
	p.next.id, p.next.found = id, f
	return p.next
}

// wait returns when the annotation is written. Errors are those of the API server, or of ctx; then it may be written all the same.
func (b *batch) wait(ctx context.Context) error {
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return fmt.Errorf("the annotation of a class is not written yet: %w", context.Cause(ctx))
	}
}

// work writes what is asked for of one class. It outlives whoever asks, so that others who joined get their answer; each of its requests is
// bounded in time.
func (a *asks) work(name types.NamespacedName, p *pendingAsk) {
	for {
		a.mu.Lock()
		b := p.next
		p.next = nil
		if b == nil {
			delete(a.classes, name)
			a.idle.Broadcast()
			a.mu.Unlock()
			return
		}
		a.mu.Unlock()
		a.slots <- struct{}{}
		b.err = a.safe.Do(context.Background(), "ask for a refresh", func() error { return a.write(b) })
		<-a.slots
		close(b.done)
		<-a.clock.After(classPause)
	}
}

// write patches the annotation alone.
func (a *asks) write(b *batch) error {
	request := schedule.Request{ID: b.id, Spread: a.spread(context.Background(), b.found)} // it bounds its own requests
	ctx, cancel := context.WithTimeout(context.Background(), patchTimeout)
	defer cancel()
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"annotations": map[string]string{v1.RefreshAnnotation: request.String()}},
	})
	if err != nil {
		return fmt.Errorf("annotation: %w", err)
	}
	class := b.found.class
	target := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: class.Namespace, Name: class.Name}}
	target.SetGroupVersionKind(v1.GroupVersion().WithKind("SecretProviderClass"))
	err = a.client.Patch(ctx, target, client.RawPatch(types.MergePatchType, body), client.FieldOwner(FieldManager))
	switch {
	case apierrors.IsNotFound(err):
		return nil // it was deleted: nothing is to be refreshed
	case err != nil:
		return fmt.Errorf("class %s/%s: %w", class.Namespace, class.Name, err)
	}
	a.written()
	return nil
}

// wait returns when nothing is under way.
func (a *asks) wait() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.classes) > 0 {
		a.idle.Wait()
	}
}
