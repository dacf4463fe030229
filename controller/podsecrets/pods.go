package podsecrets

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync/secretdata"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

const (
	// requestTimeout bounds each request to the API server.
	requestTimeout = 10 * time.Second
	// notOnNode is why a status object in the name of another node does not count.
	notOnNode = "the Pod does not run on the node of the status object"
	// attributeClass is the volumeAttribute that names the class. Those that begin with attributeKubelet are kubelet's.
	attributeClass   = "secretProviderClass"
	attributeKubelet = "csi.storage.k8s.io/"
)

// writesSecrets reports whether a class asks for Secrets that this controller writes.
func writesSecrets(c *v1.SecretProviderClass) bool {
	return c != nil && class.Served(c.Spec.Provider) && len(c.Spec.SecretObjects) > 0
}

// reconcileStatus decides whether a status object counts. Its errors are those of the API server, which are tried again with growing waits.
func (p *podSecrets) reconcileStatus(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	if err := p.await(ctx); err != nil {
		return reconcile.Result{}, err
	}
	status := &v1.SecretProviderClassPodStatus{}
	err := p.client.Get(ctx, r.NamespacedName, status)
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("read a status object: %w", err)
	}
	c := p.claimOf(status)
	if err != nil || !status.DeletionTimestamp.IsZero() || c == (claim{}) {
		p.dropped(p.store.forget(r.NamespacedName))
		return reconcile.Result{}, nil
	}
	used, err := p.class(ctx, c.pod.Namespace, c.class)
	switch {
	case err != nil:
		return reconcile.Result{}, err
	case p.store.decided(r.NamespacedName, c):
		return reconcile.Result{}, nil
	case !writesSecrets(used): // an edit of the class comes back to it
		p.dropped(p.store.forget(r.NamespacedName))
		return reconcile.Result{}, nil
	}
	release, err := p.reads.Acquire(ctx, c.pod) // a Pod with several classes is read once
	if err != nil {
		return reconcile.Result{}, err //nolint:wrapcheck // it ends
	}
	defer release()
	info := p.store.podOf(c.pod, c.uid)
	if info == nil {
		if wait := p.nodes.wait(c.node); wait > 0 {
			return reconcile.Result{RequeueAfter: wait}, nil
		}
		found, err := p.pod(ctx, c.pod)
		if err != nil {
			return reconcile.Result{}, err
		}
		if why := p.refusal(found, c); why != "" {
			p.options.Log.InfoContext(ctx, "a status object does not count: no Secret is written for it", "object", r.String(), logkeys.Reason, why)
			p.dropped(p.store.forget(r.NamespacedName))
			p.store.refuse(r.NamespacedName, c)
			return reconcile.Result{}, nil
		}
		info = p.infoOf(found)
	}
	p.count(ctx, r.NamespacedName, c, info)
	return reconcile.Result{}, nil
}

// refusal is why a status object does not count; empty where it does, as far as the Pod goes.
func (p *podSecrets) refusal(found *corev1.Pod, c claim) string {
	switch {
	case found == nil:
		return "there is no Pod of that name"
	case found.UID != c.uid:
		return "the Pod has another UID"
	case found.Spec.NodeName == "" || kube.NodeLabelValue(found.Spec.NodeName) != c.node:
		return notOnNode
	case ended(found):
		return "the Pod has ended"
	}
	return ""
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// count makes a status object count where a volume of its Pod names the class.
func (p *podSecrets) count(ctx context.Context, status types.NamespacedName, c claim, info *podInfo) {
	var volumes []podVolume
	why := "no volume of the Pod names the class"
	switch {
	case kube.NodeLabelValue(info.node) != c.node:
		why = notOnNode
	case info.names(c.class):
		volumes, why = p.allowed(c, info)
	}
	if len(volumes) == 0 {
		p.options.Log.InfoContext(ctx, "a status object does not count: no Secret is written for it", "object", status.String(), logkeys.Reason, why)
		p.dropped(p.store.forget(status))
		p.store.refuse(status, c)
		return
	}
	initial := p.store.takeInitial(status)
	p.dropped(p.store.add(status, c, info, volumes, initial))
}

// names reports whether a volume of the Pod names the class.
func (i *podInfo) names(class string) bool {
	for _, v := range i.volumes {
		if v.class == class {
			return true
		}
	}
	return false
}

// allowed returns the volumes of the class that the controller may fetch for; why is the reason where there is none. It reports those that it
// may not.
func (p *podSecrets) allowed(c claim, info *podInfo) (volumes []podVolume, why string) {
	tell := func(text string) {
		p.events.warn(volume.Pod{Namespace: c.pod.Namespace, Name: c.pod.Name, UID: string(c.uid)}, c.class, text)
	}
	err := p.options.Rules.Check(&secretsync.Desired{Namespace: c.pod.Namespace, Type: secretdata.TypeOpaque})
	if err != nil {
		tell(err.Error())
		return nil, err.Error()
	}
	for _, v := range info.volumes {
		switch {
		case v.class != c.class:
		case v.principal:
			why = "its Secrets are not written for this Pod, because volume " + v.name + " uses a service principal (nodePublishSecretRef), and " +
				"the controller reads no Secrets: use workload identity, or let the nodes write Secrets (syncSecret.by=nodes in the chart)"
			tell(why)
		default:
			volumes = append(volumes, v)
		}
	}
	return volumes, why
}

// dropped ends the work for volumes that are gone, and has their groups looked at.
func (p *podSecrets) dropped(gone []volume.Ref, groups []groupKey) {
	for _, ref := range gone {
		p.syncer.Forget(ref)
	}
	p.wake(groups...)
}

// infoOf keeps what decides about a Pod's Secrets.
func (p *podSecrets) infoOf(pod *corev1.Pod) *podInfo {
	info := &podInfo{
		metadata: &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, CreationTimestamp: pod.CreationTimestamp, OwnerReferences: pod.OwnerReferences,
		}},
		account:  pod.Spec.ServiceAccountName,
		node:     pod.Spec.NodeName,
		starting: pod.Status.Phase == corev1.PodPending || pod.Status.Phase == "",
		seenAt:   p.options.Clock.Now(),
	}
	for i := range pod.Spec.Volumes {
		from := pod.Spec.Volumes[i].CSI
		if from == nil || from.Driver != p.options.DriverName {
			continue
		}
		v := podVolume{
			name:       pod.Spec.Volumes[i].Name,
			class:      strings.TrimSpace(from.VolumeAttributes[attributeClass]),
			attributes: map[string]string{},
			principal:  from.NodePublishSecretRef != nil,
		}
		for key, value := range from.VolumeAttributes {
			if key != attributeClass && !strings.HasPrefix(key, attributeKubelet) {
				v.attributes[key] = value
			}
		}
		info.volumes = append(info.volumes, v)
	}
	return info
}

const (
	// nodeRate and nodeBurst bound the Pods that are read for the status objects of one node, per second and at once: whoever has its token may
	// write any number of them.
	nodeRate  = 5
	nodeBurst = 250
	// mostNodes bounds the nodes that are remembered.
	mostNodes = 10_000
)

// nodeLimits bounds the reads for each node.
type nodeLimits struct {
	clock clock.PassiveClock

	mu   sync.Mutex
	left map[string]*rate.Limiter
}

func newNodeLimits(clk clock.PassiveClock) *nodeLimits {
	return &nodeLimits{clock: clk, left: map[string]*rate.Limiter{}}
}

// wait is how long to wait before a read for the node; at 0 it may begin, and counts.
func (n *nodeLimits) wait(node string) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	limiter := n.left[node]
	if limiter == nil {
		if len(n.left) >= mostNodes {
			clear(n.left)
		}
		limiter = rate.NewLimiter(nodeRate, nodeBurst)
		n.left[node] = limiter
	}
	if limiter.AllowN(n.clock.Now(), 1) {
		return 0
	}
	return time.Second
}
