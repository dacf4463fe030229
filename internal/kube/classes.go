package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const classResource = "secretproviderclasses"

// watchClasses prepares the informer.
func (c *Cluster) watchClasses() error {
	source := cache.NewListWatchFromClient(c.resources, classResource, "", fields.Everything())
	c.informer = cache.NewSharedIndexInformer(source, &v1.SecretProviderClass{}, 0, cache.Indexers{})
	if err := c.informer.SetTransform(slim); err != nil {
		return fmt.Errorf("classes: %w", err)
	}
	err := c.informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		if ctx.Err() != nil || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return // listed anew at once
		}
		c.noteTrouble(ctx, err)
	})
	if err != nil {
		return fmt.Errorf("classes: %w", err)
	}
	return nil
}

// slim drops what nobody reads here and what would fill the memory of every node.
func slim(object any) (any, error) {
	if accessor, err := meta.Accessor(object); err == nil {
		accessor.SetManagedFields(nil)
		if noted := accessor.GetAnnotations(); noted[lastApplied] != "" {
			noted = maps.Clone(noted)
			delete(noted, lastApplied)
			accessor.SetAnnotations(noted)
		}
	}
	return object, nil
}

// lastApplied is where kubectl keeps a copy of the whole object.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// Ready returns nil once the classes were listed, else why they were not.
func (c *Cluster) Ready() error {
	if c.informer.HasSynced() {
		return nil
	}
	why := errNotListed
	if trouble := c.trouble.Load(); trouble != nil {
		why = *trouble
	}
	return fmt.Errorf("the SecretProviderClasses are not listed yet: %w", why)
}

// Get returns the class. A miss is confirmed by the API server before it is an error: a pod may be created before the
// class that it names, or right after it.
func (c *Cluster) Get(ctx context.Context, namespace, name string) (*v1.SecretProviderClass, error) {
	if err := c.Ready(); err != nil {
		return nil, &volume.Error{Reason: volume.ReasonNotReady, Cause: err, Message: oneLine(err) +
			": kubelet tries again; if this stays, look at the driver's rights and its way to the API server"}
	}
	key := namespace + "/" + name
	if found, ok, err := c.informer.GetStore().GetByKey(key); err == nil && ok {
		if class, ok := found.(*v1.SecretProviderClass); ok {
			return class, nil
		}
	}
	answer := c.misses.DoChan(key, func() (any, error) { return c.read(context.WithoutCancel(ctx), namespace, name) })
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case result := <-answer:
		class, _ := result.Val.(*v1.SecretProviderClass)
		return class, result.Err
	}
}

// read asks the API server itself.
func (c *Cluster) read(ctx context.Context, namespace, name string) (*v1.SecretProviderClass, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	class := &v1.SecretProviderClass{}
	err := c.resources.Get().Namespace(namespace).Resource(classResource).Name(name).Do(ctx).Into(class)
	if err == nil {
		_, err = slim(class)
		return class, err
	}
	return nil, classError(namespace, name, err)
}

// classError says what the API server's refusal means for the pod.
func classError(namespace, name string, err error) error {
	if apierrors.IsNotFound(err) {
		return &volume.Error{Reason: volume.ReasonClassNotFound, Cause: err, Message: fmt.Sprintf(
			"failed to get secretproviderclass %s/%s: not found: create it in the pod's namespace, or correct the name in "+
				"the pod's volumeAttributes.secretProviderClass", namespace, name)}
	}
	return &volume.Error{Reason: volume.ReasonNotReady, Cause: err, Message: fmt.Sprintf(
		"failed to get secretproviderclass %s/%s from the API server: %s: kubelet tries again", namespace, name, oneLine(err))}
}

// Watch calls changed for each class that is added, edited or removed after it was listed, until ctx ends.
func (c *Cluster) Watch(ctx context.Context, changed func(namespace, name string)) error {
	tell := func(object any) {
		if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = gone.Obj
		}
		if class, ok := object.(*v1.SecretProviderClass); ok {
			changed(class.Namespace, class.Name)
		}
	}
	registration, err := c.informer.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(object any, initial bool) {
			if !initial {
				tell(object)
			}
		},
		UpdateFunc: func(before, after any) {
			if edited(before, after) {
				tell(after)
			}
		},
		DeleteFunc: tell,
	})
	if err != nil {
		return fmt.Errorf("watch classes: %w", err)
	}
	<-ctx.Done()
	if err := c.informer.RemoveEventHandler(registration); err != nil {
		return fmt.Errorf("end the watch of classes: %w", err)
	}
	return nil
}

// edited says whether what the driver reads of a class differs. A class that was created anew under its name counts.
func edited(before, after any) bool {
	a, okA := before.(*v1.SecretProviderClass)
	b, okB := after.(*v1.SecretProviderClass)
	return !okA || !okB || a.UID != b.UID || !maps.Equal(a.Annotations, b.Annotations) || !reflect.DeepEqual(a.Spec, b.Spec)
}

// oneLine is err's text without line breaks.
func oneLine(err error) string {
	if status, ok := errors.AsType[*apierrors.StatusError](err); ok {
		err = status // without what the client wrapped around it
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}
