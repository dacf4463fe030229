// Package kube is all that talks to the API server: it reads SecretProviderClasses, keeps a status object for each pod
// and class, writes events on pods, and gives Secret sync its requests.
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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/clock"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
)

// requestTimeout bounds each request that is not a watch.
const requestTimeout = 10 * time.Second

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

// Cluster is the connection to one API server. It implements driver.Classes, provider.Accounts and what package
// secretsync asks for; Events and Status are its reporters.
type Cluster struct {
	log   *slog.Logger
	clock clock.WithTicker
	api   client
	safe  safe.Handler
	ctx   context.Context // it ends at Close
	stop  context.CancelFunc
	group sync.WaitGroup

	answered atomic.Bool
	// trouble is why the API server does not serve; nil where it does.
	trouble atomic.Pointer[error]

	classes  *classes
	events   *eventWriter
	status   *statusWriter
	accounts *lookup[map[string]string]
}

// Open connects. It does not wait for the API server: Ready reports whether it has answered. Close must be called.
func Open(ctx context.Context, o Options) (*Cluster, error) {
	config, err := credentials(o.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("credentials of the API server: %w", err)
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	config.UserAgent = "keyvault-csi/" + o.Version
	c := &Cluster{log: o.Log, clock: o.Clock, safe: safe.Handler{Log: o.Log}}
	if c.api, err = newClient(config, o.Clock, func(next http.RoundTripper) http.RoundTripper { return observed{next, c} }); err != nil {
		return nil, err
	}
	ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	c.ctx = ctx
	c.accounts = newLookup(c, c.readAccount, func(found map[string]string) bool { return len(found) > 0 })
	c.classes = newClasses(ctx, c)
	c.events = newEventWriter(o, c.writeEvent)
	c.status = newStatusWriter(o, c.applyStatus, c.readStatus)
	c.goes(ctx, "first answer of the API server", c.firstAnswer)
	c.goes(ctx, "end of unused watches", c.classes.expire)
	c.goes(ctx, "write events", c.events.run)
	c.goes(ctx, "write status objects", c.status.run)
	return c, nil
}

// goes runs work in a goroutine of its own, which Close waits for, and recovers from its panic.
func (c *Cluster) goes(ctx context.Context, task string, work func(context.Context)) {
	c.group.Go(func() {
		_ = c.safe.Do(ctx, task, func() error {
			work(ctx)
			return nil
		})
	})
}

// Close ends everything and waits for it. What was not written yet is not written.
func (c *Cluster) Close() error {
	c.stop()
	c.status.queue.ShutDown()
	c.classes.close()
	c.group.Wait()
	return nil
}

// credentials are those of the file, else of the pod's own service account, whose token is read again when it changes
// or is refused.
func credentials(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

// PodMetadata implements nodesync.Pods.
func (c *Cluster) PodMetadata(ctx context.Context, namespace, name string) (*metav1.PartialObjectMetadata, error) {
	pod, err := c.api.getMetadata(ctx, namespace, "pods", name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return pod, err
}

// Patch implements secretsync.Secrets.
func (c *Cluster) Patch(
	ctx context.Context,
	name types.NamespacedName,
	kind types.PatchType,
	body []byte,
	o metav1.PatchOptions,
) (
	*metav1.PartialObjectMetadata, error,
) {
	return c.api.patchMetadata(ctx, name.Namespace, "secrets", name.Name, kind, body, o)
}

// ClassUID implements secretsync.Classes.
func (c *Cluster) ClassUID(ctx context.Context, namespace, name string) (types.UID, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	class, err := c.api.class(ctx, namespace, name)
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return class.UID, nil
}

// SecretClasses implements secretsync.Classes.
func (c *Cluster) SecretClasses(ctx context.Context, namespace, secret string) (names []string, err error) {
	err = c.api.eachPage(ctx, namespace, func(page *v1.SecretProviderClassList) error {
		for i := range page.Items {
			for _, o := range page.Items[i].Spec.SecretObjects {
				if o.SecretName == secret {
					names = append(names, page.Items[i].Name)
					break
				}
			}
		}
		return nil
	})
	return names, err
}

// Ready returns nil once the API server has answered, else why it has not.
func (c *Cluster) Ready() error {
	if c.answered.Load() {
		return nil
	}
	why := errNoAnswer
	if trouble := c.trouble.Load(); trouble != nil {
		why = *trouble
	}
	return fmt.Errorf("the API server has not answered yet: %w", why)
}

var (
	errNoAnswer = errors.New("no request has ended")
	errNoKinds  = errors.New("it does not know secretproviderclasses: install the CustomResourceDefinitions")
)

// firstAnswer asks the API server for the resources of the classes' group until it has answered. Everyone who is
// authenticated may ask (system:discovery), and where discovery is closed the refusal is an answer too: the driver
// needs no right for it. Nodes that start together do not repeat it together.
func (c *Cluster) firstAnswer(ctx context.Context) {
	for wait := time.Second; !c.answered.Load(); wait = min(2*wait, 30*time.Second) {
		if c.askKinds(ctx) {
			c.answered.Store(true)
			return
		}
		timer := c.clock.NewTimer(jitter(wait))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		}
	}
}

// askKinds says whether the API server answered and knows the classes.
func (c *Cluster) askKinds(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	gv := groupVersion()
	err := c.api.rest.Get().AbsPath("/apis", gv.Group, gv.Version).Do(ctx).Error()
	switch {
	case err == nil, apierrors.IsForbidden(err): // discovery may be closed
		return true
	case apierrors.IsNotFound(err):
		c.noteTrouble(ctx, errNoKinds)
	default:
		c.noteTrouble(ctx, err)
	}
	return false
}

// observed notes whether the API server can be reached: watches alone would try in silence.
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

// noteTrouble keeps err for Ready, and logs it where it differs from the last one.
func (c *Cluster) noteTrouble(ctx context.Context, err error) {
	before := c.trouble.Swap(&err)
	if before == nil || (*before).Error() != err.Error() {
		c.log.WarnContext(
			ctx,
			"the API server does not serve; known SecretProviderClasses stay in use",
			logkeys.Error,
			err,
		)
	}
}
