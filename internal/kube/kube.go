// Package kube is all that talks to the API server: it reads SecretProviderClasses, keeps a status object for each pod
// and class, tells events on pods, and mirrors volumes into Kubernetes Secrets.
package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
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

// Cluster is the connection to one API server. It implements driver.Classes and provider.Accounts; Events and Status are
// its reporters, and Mirror keeps Secrets in step.
type Cluster struct {
	log    *slog.Logger
	clock  clock.WithTicker
	config *rest.Config
	stop   context.CancelFunc
	// onClose ends what group waits for.
	onClose []func()
	group   sync.WaitGroup

	resources rest.Interface
	informer  cache.SharedIndexInformer
	// trouble is why the API server could not be reached, or refused the list of classes; nil where it answers.
	trouble atomic.Pointer[error]
	misses  singleflight.Group

	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
	status      *statusWriter
	accounts    *accounts
}

// Open connects and begins to list the classes. It does not wait for the API server: Ready tells when classes are known.
// Close must be called.
func Open(ctx context.Context, o Options) (*Cluster, error) {
	config, err := credentials(o.Kubeconfig)
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
	c := &Cluster{log: o.Log, clock: o.Clock, config: config}
	if c.resources, err = c.newResources(config); err != nil {
		return nil, err
	}
	if err := c.watchClasses(); err != nil {
		return nil, err
	}
	described, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	c.accounts = &accounts{
		get: readAccount(described), clock: o.Clock, known: map[types.NamespacedName]*account{},
		spawn: func(work func(context.Context)) { c.group.Go(func() { work(ctx) }) },
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
	for _, end := range c.onClose {
		end()
	}
	c.group.Wait()
	return nil
}

// credentials are those of the file, else of the pod's own service account.
func credentials(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

// newResources returns a client of the project's own kinds.
func (c *Cluster) newResources(config *rest.Config) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(groupVersion, &v1.SecretProviderClass{}, &v1.SecretProviderClassList{},
		&v1.SecretProviderClassPodStatus{}, &v1.SecretProviderClassPodStatusList{})
	metav1.AddToGroupVersion(scheme, groupVersion)
	config = rest.CopyConfig(config)
	config.GroupVersion, config.APIPath = &groupVersion, "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.ContentType = runtime.ContentTypeJSON // custom resources have no protobuf
	config.AcceptContentTypes = runtime.ContentTypeJSON
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return observed{next, c} })
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	return client, nil
}

// observed notes whether the API server can be reached: the informer alone would try in silence.
type observed struct {
	next    http.RoundTripper
	cluster *Cluster
}

// RoundTrip implements http.RoundTripper.
func (o observed) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := o.next.RoundTrip(r)
	switch {
	case err == nil && answer.StatusCode < http.StatusBadRequest:
		if o.cluster.trouble.Swap(nil) != nil {
			o.cluster.log.InfoContext(r.Context(), "the API server answers again")
		}
	case err != nil && r.Context().Err() == nil:
		o.cluster.noteTrouble(r.Context(), err)
	}
	return answer, err
}

// noteTrouble keeps err for whoever asks why nothing goes, and logs it where it is news.
func (c *Cluster) noteTrouble(ctx context.Context, err error) {
	before := c.trouble.Swap(&err)
	if before == nil || (*before).Error() != err.Error() {
		c.log.WarnContext(ctx, "the API server does not serve; known SecretProviderClasses stay in use", logkeys.Error, err)
	}
}

// requestTimeout bounds each request that is not a watch.
const requestTimeout = 10 * time.Second

var errNotListed = errors.New("the API server has not answered yet")
