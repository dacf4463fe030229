// Package kube is all that talks to the API server: it reads SecretProviderClasses, keeps a status object for each pod
// and class, and tells events on pods.
package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/driver/api/v1"
)

// groupVersion is that of classes and status objects.
var groupVersion = schema.GroupVersion{Group: "secrets-store.csi.x-k8s.io", Version: "v1"}

// Options configure Open. Fields without a stated default are required.
type Options struct {
	// Kubeconfig is a file; the pod's own service account where empty.
	Kubeconfig string
	// DriverName is the CSI driver's name: it is part of a label, so that two drivers never take each other's objects.
	DriverName string
	// NodeID is the node's name.
	NodeID string
	// Version is part of the user agent.
	Version string
	// Clock is the real one where nil.
	Clock clock.WithTicker
	Log   *slog.Logger
}

// Cluster is the connection to one API server. It implements driver.Classes; Events and Status are its reporters.
type Cluster struct {
	log   *slog.Logger
	stop  context.CancelFunc
	group sync.WaitGroup

	resources rest.Interface
	informer  cache.SharedIndexInformer
	// trouble is why the classes could not be listed or watched last.
	trouble atomic.Pointer[error]
	misses  singleflight.Group

	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
	status      *statusWriter
}

// Open connects and begins to list the classes. It does not wait for the API server: Ready tells when classes are known.
// Close must be called.
func Open(ctx context.Context, o Options) (*Cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("credentials of the API server: %w", err)
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	config.UserAgent = "keyvault-csi/" + o.Version
	config.QPS, config.Burst = 20, 50 // of one node; a pod's start costs no request
	core, err := corev1client.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	resources, err := newResources(config)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	c := &Cluster{log: o.Log, stop: stop, resources: resources}
	if err := c.watchClasses(); err != nil {
		stop()
		return nil, err
	}
	c.startEvents(ctx, core, o)
	c.status = newStatusWriter(o, c.applyStatus)
	c.group.Go(func() { c.informer.RunWithContext(ctx) })
	c.group.Go(func() { c.status.run(ctx) })
	return c, nil
}

// Close ends everything and waits for it. What was not written yet is not written.
func (c *Cluster) Close() error {
	c.stop()
	c.broadcaster.Shutdown()
	c.status.queue.ShutDown()
	c.group.Wait()
	return nil
}

// newResources returns a client of the project's own kinds.
func newResources(config *rest.Config) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(groupVersion, &v1.SecretProviderClass{}, &v1.SecretProviderClassList{},
		&v1.SecretProviderClassPodStatus{}, &v1.SecretProviderClassPodStatusList{})
	metav1.AddToGroupVersion(scheme, groupVersion)
	config = rest.CopyConfig(config)
	config.GroupVersion, config.APIPath = &groupVersion, "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.ContentType = runtime.ContentTypeJSON // custom resources have no protobuf
	config.AcceptContentTypes = runtime.ContentTypeJSON
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	return client, nil
}

// requestTimeout bounds each request that is not a watch.
const requestTimeout = 10 * time.Second

var errNotListed = errors.New("the API server has not answered yet")
