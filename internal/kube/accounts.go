package kube

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const (
	// identityPrefix begins the annotations that are kept of a ServiceAccount.
	identityPrefix = "azure.workload.identity/"
	// accountAge is how old annotations may be before they are read again, in the background.
	accountAge = 5 * time.Minute
	// emptyAccountAge is the same where there are none: somebody may be about to add them, and a pod waits.
	emptyAccountAge = 5 * time.Second
	// accountIdle is how long annotations are kept that nobody asks for; kubelet asks about every minute for a pod.
	accountIdle = time.Hour
	// mostAccounts bounds how many are kept.
	mostAccounts = 1024
)

// accounts keeps the annotations of the ServiceAccounts that pods of this node run as.
type accounts struct {
	get   func(ctx context.Context, name types.NamespacedName) (map[string]string, error)
	spawn func(func(context.Context))
	clock clock.PassiveClock
	reads singleflight.Group

	mu    sync.Mutex
	known map[types.NamespacedName]*account
}

type account struct {
	annotations map[string]string
	read, used  time.Time
	// renewing is true while a read in the background is under way.
	renewing bool
}

// Annotations returns the annotations of a ServiceAccount that name an identity. It implements provider.Accounts. They are
// read once and then kept: an edit is seen after some minutes, an annotation where there was none after seconds. What is
// known goes on being used while the API server is away. Errors are of type *volume.Error.
func (c *Cluster) Annotations(ctx context.Context, namespace, name string) (map[string]string, error) {
	return c.accounts.annotations(ctx, types.NamespacedName{Namespace: namespace, Name: name})
}

// readAccount asks the API server for the metadata alone: a ServiceAccount may name Secrets.
func (c *Cluster) readAccount(ctx context.Context, name types.NamespacedName) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	found, err := c.api.getMetadata(ctx, name.Namespace, "serviceaccounts", name.Name)
	if err != nil {
		return nil, err
	}
	kept := map[string]string{}
	for key, value := range found.Annotations {
		if strings.HasPrefix(key, identityPrefix) {
			kept[key] = value
		}
	}
	return kept, nil
}

func (a *accounts) annotations(ctx context.Context, name types.NamespacedName) (map[string]string, error) {
	if kept, ok := a.look(name); ok {
		return kept, nil
	}
	answer := a.reads.DoChan(name.String(), func() (any, error) { return a.read(context.WithoutCancel(ctx), name) })
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case result := <-answer:
		kept, _ := result.Val.(map[string]string)
		return kept, result.Err
	}
}

// look returns what is known, and has it renewed where it is old.
func (a *accounts) look(name types.NamespacedName) (map[string]string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	known, ok := a.known[name]
	if !ok {
		return nil, false
	}
	now := a.clock.Now()
	known.used = now
	age := now.Sub(known.read)
	if len(known.annotations) == 0 {
		return known.annotations, age < emptyAccountAge
	}
	if age >= accountAge && !known.renewing {
		known.renewing = true
		a.spawn(func(ctx context.Context) {
			_, _ = a.read(ctx, name) // a failure leaves what is known; the next look tries again
		})
	}
	return known.annotations, true
}

func (a *accounts) read(ctx context.Context, name types.NamespacedName) (map[string]string, error) {
	found, err := a.get(ctx, name)
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.clock.Now()
	known := a.known[name]
	if err != nil {
		switch {
		case known == nil:
		case apierrors.IsNotFound(err):
			delete(a.known, name)
		default:
			known.renewing = false
		}
		return nil, accountError(name, err)
	}
	if known == nil {
		a.makeRoom(now)
	}
	a.known[name] = &account{annotations: found, read: now, used: now}
	return found, nil
}

// makeRoom drops what is not used, and where that is not enough, the one that was not used for longest.
func (a *accounts) makeRoom(now time.Time) {
	maps.DeleteFunc(a.known, func(_ types.NamespacedName, one *account) bool { return now.Sub(one.used) > accountIdle })
	if len(a.known) < mostAccounts {
		return
	}
	var oldest types.NamespacedName
	for name, one := range a.known {
		if first, ok := a.known[oldest]; !ok || one.used.Before(first.used) {
			oldest = name
		}
	}
	delete(a.known, oldest)
}

// accountError says what the API server's refusal means for the pod.
func accountError(name types.NamespacedName, err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return &volume.Error{Reason: volume.ReasonIdentity, Cause: err, Message: fmt.Sprintf(
			"serviceaccount %s does not exist: create it, or set clientID and tenantID in the class", name)}
	case apierrors.IsForbidden(err):
		return &volume.Error{Reason: volume.ReasonIdentity, Cause: err, Message: fmt.Sprintf(
			"serviceaccount %s must not be read by the driver: its operator sets serviceAccountAnnotations.enabled in the chart; "+
				"or set clientID and tenantID in the class", name)}
	}
	return &volume.Error{Reason: volume.ReasonNotReady, Cause: err, Message: fmt.Sprintf(
		"serviceaccount %s cannot be read from the API server: %s: kubelet tries again", name, oneLine(err))}
}
