package podsecrets

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace/noop"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/keyvault-csi/keyvault-csi-driver/controller/accounts"
	"github.com/keyvault-csi/keyvault-csi-driver/controller/timing"
	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/kube"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const driverName = "secrets-store.csi.k8s.io"

// vault is a provider and a binding.
type vault struct {
	mu      sync.Mutex
	fetches []volume.FetchOptions
	bound   []volume.Request
	err     error
	panics  bool
}

func (v *vault) Bind(_ context.Context, r volume.Request) (volume.Binding, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bound = append(v.bound, r)
	return v, nil
}
func (*vault) Key() string                             { return "key" }
func (*vault) ScheduleKey() string                     { return "schedule" }
func (*vault) Identity() string                        { return "identity" }
func (*vault) Warnings() []string                      { return nil }
func (*vault) RotationInterval() (time.Duration, bool) { return 0, false }

func (v *vault) Fetch(_ context.Context, o volume.FetchOptions) (*volume.Bundle, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fetches = append(v.fetches, o)
	if v.panics {
		panic("s3cret")
	}
	if v.err != nil {
		return nil, v.err
	}
	return &volume.Bundle{Files: []volume.File{{Path: "db", Data: []byte("s3cret"), Mode: 0o644}}, FetchedAt: o.NotBefore}, nil
}

func (v *vault) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.fetches)
}

// secrets are those of an API server: what is applied is noted.
type secrets struct {
	mu      sync.Mutex
	applied []string
}

func (s *secrets) Patch(
	_ context.Context, name types.NamespacedName, kind types.PatchType, _ []byte, o metav1.PatchOptions,
) (*metav1.PartialObjectMetadata, error) {
	if kind != types.ApplyPatchType {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name.Name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied = append(s.applied, o.FieldManager+" "+name.String())
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: name.Namespace, Name: name.Name, UID: "s", ResourceVersion: "2"}}, nil
}

// site is the feature in front of a fake API server, without its queues.
type site struct {
	*podSecrets
	t       *testing.T
	client  client.Client
	clock   *clocktesting.FakeClock
	vault   *vault
	secrets *secrets
	events  *events.FakeRecorder
	podGets int
	// podErr is what the API server says when a Pod is read.
	podErr error
}

func newSite(t *testing.T) *site {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	s := &site{t: t, vault: &vault{}, secrets: &secrets{}, events: events.NewFakeRecorder(1000), clock: clocktesting.NewFakeClock(time.Unix(1_800_000_000, 0))}
	s.client = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&corev1.Pod{}).
		WithIndex(&v1.SecretProviderClassPodStatus{}, classIndex, byClass).
		WithInterceptorFuncs(interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if _, ok := o.(*corev1.Pod); ok {
				s.podGets++
				if s.podErr != nil {
					return s.podErr
				}
			}
			return c.Get(ctx, key, o, opts...)
		}}).Build()
	log := slog.New(slog.DiscardHandler)
	s.podSecrets = &podSecrets{
		options: Options{
			DriverName: driverName, Interval: 2 * time.Minute, CacheTTL: 10 * time.Second, Accounts: accounts.New(s.client, s.clock, nil),
			Provider: s.vault, Secrets: s.secrets, Clock: s.clock, Log: log, Metrics: metrics.NewController(s.clock),
			Tracer: noop.NewTracerProvider().Tracer(""), Rules: secretsync.Rules{Excluded: []string{"kube-system"}},
		},
		client: s.client, reader: s.client, store: newStore(), refreshes: timing.NewRefreshes(), events: newEventWriter(s.events, s.clock),
		safe: safe.Handler{Log: log}, nodes: newNodeLimits(s.clock), ready: make(chan struct{}),
	}
	queue := workqueue.NewTyped[groupKey]()
	s.start(t.Context(), queue)
	t.Cleanup(func() { _ = s.syncer.Close(); queue.ShutDown() })
	return s
}

func (s *site) create(o client.Object) {
	s.t.Helper()
	if err := s.client.Create(s.t.Context(), o); err != nil {
		s.t.Fatal(err)
	}
}

// class makes a class with one Secret of its name.
func (s *site) class(name string) *v1.SecretProviderClass {
	s.t.Helper()
	c := &v1.SecretProviderClass{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("class-" + name), Generation: 1},
		Spec: v1.SecretProviderClassSpec{
			Provider: "azure", Parameters: map[string]string{"useVMManagedIdentity": "true"},
			SecretObjects: []v1.SecretObject{{SecretName: name, Type: "Opaque", Data: []v1.SecretObjectData{{ObjectName: "db", Key: "k"}}}},
		},
	}
	s.create(c)
	return c
}

// pod makes a Pod of node-1 that starts, with volumes of classes.
func (s *site) pod(name string, edit func(*corev1.Pod), classes ...string) *corev1.Pod {
	s.t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name)},
		Spec:       corev1.PodSpec{NodeName: "node-1", ServiceAccountName: "app"},
		Status:     corev1.PodStatus{Phase: corev1.PodPending},
	}
	for _, class := range classes {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: class, VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{
			Driver: driverName, VolumeAttributes: map[string]string{"secretProviderClass": class, "csi.storage.k8s.io/pod.name": "forged"},
		}}})
	}
	if edit != nil {
		edit(p)
	}
	s.create(p)
	return p
}

// status makes the status object that node-1 writes for a Pod and a class, edited, and reconciles it.
func (s *site) status(p *corev1.Pod, class string, edit func(*v1.SecretProviderClassPodStatus)) types.NamespacedName {
	s.t.Helper()
	o := &v1.SecretProviderClassPodStatus{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: p.Name + "-" + p.Namespace + "-" + class,
			Labels:          map[string]string{"internal." + driverName + "/node-name": "node-1"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID}},
		},
		Status: v1.SecretProviderClassPodStatusStatus{PodName: p.Name, SecretProviderClassName: class, Mounted: true},
	}
	if edit != nil {
		edit(o)
	}
	s.create(o)
	name := client.ObjectKeyFromObject(o)
	s.reconcile(name)
	return name
}

func (s *site) reconcile(status types.NamespacedName) reconcile.Result {
	s.t.Helper()
	r, err := s.reconcileStatus(s.t.Context(), reconcile.Request{NamespacedName: status})
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// groups are those that exist.
func (s *site) groups() (keys []groupKey) {
	for key := range s.store.groups {
		keys = append(keys, key)
	}
	return keys
}

// sync reconciles all groups, and returns when to look at the last one again.
func (s *site) sync() (wait time.Duration) {
	s.t.Helper()
	for _, key := range s.groups() {
		r, err := s.reconcileGroup(s.t.Context(), key)
		if err != nil {
			s.t.Fatal(err)
		}
		wait = r.RequeueAfter
	}
	return wait
}

// TestWhichStatusObjectsCount goes through what a node may say of its Pods and of others'.
func TestWhichStatusObjectsCount(t *testing.T) {
	label := "internal." + driverName + "/node-name"
	long := strings.Repeat("n", 70)
	for name, tc := range map[string]struct {
		pod    func(*corev1.Pod)
		status func(*v1.SecretProviderClassPodStatus)
		counts bool
		event  string
	}{
		"as the driver writes it": {counts: true},
		"a long name of a node": {
			pod:    func(p *corev1.Pod) { p.Spec.NodeName = long },
			status: func(o *v1.SecretProviderClassPodStatus) { o.Labels[label] = kube.NodeLabelValue(long) },
			counts: true,
		},
		"another long name of a node": {
			pod:    func(p *corev1.Pod) { p.Spec.NodeName = long },
			status: func(o *v1.SecretProviderClassPodStatus) { o.Labels[label] = kube.NodeLabelValue(long + "n") },
		},
		"another node":  {pod: func(p *corev1.Pod) { p.Spec.NodeName = "node-2" }},
		"no node yet":   {pod: func(p *corev1.Pod) { p.Spec.NodeName = "" }},
		"another label": {status: func(o *v1.SecretProviderClassPodStatus) { o.Labels[label] = "node-2" }},
		"no label":      {status: func(o *v1.SecretProviderClassPodStatus) { o.Labels = nil }},
		"of another driver": {status: func(o *v1.SecretProviderClassPodStatus) {
			o.Labels = map[string]string{"internal.blue.csi/node-name": "node-1"}
		}},
		"not mounted":           {status: func(o *v1.SecretProviderClassPodStatus) { o.Status.Mounted = false }},
		"another UID":           {status: func(o *v1.SecretProviderClassPodStatus) { o.OwnerReferences[0].UID = "other" }},
		"no owner":              {status: func(o *v1.SecretProviderClassPodStatus) { o.OwnerReferences = nil }},
		"an owner that differs": {status: func(o *v1.SecretProviderClassPodStatus) { o.OwnerReferences[0].Name = "other" }},
		"another Pod": {status: func(o *v1.SecretProviderClassPodStatus) {
			o.Status.PodName = "other"
			o.OwnerReferences[0].Name = "other"
		}},
		"no such volume":       {pod: func(p *corev1.Pod) { p.Spec.Volumes = nil }},
		"another class":        {pod: func(p *corev1.Pod) { p.Spec.Volumes[0].CSI.VolumeAttributes["secretProviderClass"] = "other" }},
		"another driver's":     {pod: func(p *corev1.Pod) { p.Spec.Volumes[0].CSI.Driver = "other" }},
		"a persistent volume":  {pod: func(p *corev1.Pod) { p.Spec.Volumes[0].CSI = nil }},
		"a Pod that succeeded": {pod: func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }},
		"a Pod that failed":    {pod: func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }},
		"a Pod that runs":      {pod: func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }, counts: true},
		"a service principal": {
			pod: func(p *corev1.Pod) {
				p.Spec.Volumes[0].CSI.NodePublishSecretRef = &corev1.LocalObjectReference{Name: "creds"}
			},
			event: "nodePublishSecretRef",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.class("web")
			status := s.status(s.pod("a", tc.pod, "web"), "web", tc.status)
			if got := len(s.groups()) == 1 && s.store.knows(status); got != tc.counts {
				t.Errorf("counts: %v", got)
			}
			gets := s.podGets
			s.reconcile(status)
			if s.podGets != gets {
				t.Error("the Pod is read again although nothing changed")
			}
			if s.sync(); (s.vault.count() > 0) != tc.counts {
				t.Errorf("%d fetches", s.vault.count())
			}
			select {
			case said := <-s.events.Events:
				if tc.event == "" && !tc.counts || tc.event != "" && !strings.Contains(said, tc.event) {
					t.Errorf("event %q", said)
				}
			default:
				if tc.event != "" {
					t.Error("no event")
				}
			}
		})
	}
}

// TestSecretsAreWrittenAsByANode: with the field manager of a node's driver, once for all Pods; the next fetch of the same values writes nothing.
func TestSecretsAreWrittenAsByANode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.class("web")
		for _, name := range []string{"a", "b", "c"} {
			s.status(s.pod(name, nil, "web"), "web", nil)
		}
		s.sync()
		synctest.Wait()
		// the Secret's owners are the Pods: those that a worker does not find in the queue at first are one more write
		first := slices.Clone(s.secrets.applied)
		if len(first) < 1 || len(first) > 3 || slices.ContainsFunc(first, func(a string) bool { return a != "keyvault-csi/web shop/web" }) {
			t.Errorf("applied %q", first)
		}
		s.clock.Step(3 * time.Minute)
		s.sync()
		synctest.Wait()
		if !slices.Equal(s.secrets.applied, first) || s.vault.count() != 2 {
			t.Errorf("applied %q in %d fetches, want no more than %q", s.secrets.applied, s.vault.count(), first)
		}
		if said := <-s.events.Events; !strings.Contains(said, "SecretRotationComplete") || !strings.Contains(said, "Secret shop/web was created") {
			t.Error(said)
		}
		if err := s.syncer.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestNamespacesWithoutSecrets: nothing is fetched for Pods of namespaces in which no Secret is written.
func TestNamespacesWithoutSecrets(t *testing.T) {
	s := newSite(t)
	c := s.class("web").DeepCopy()
	c.Namespace, c.ResourceVersion = "kube-system", ""
	s.create(c)
	p := s.pod("a", func(p *corev1.Pod) { p.Namespace = "kube-system" }, "web")
	s.status(p, "web", nil)
	if said := <-s.events.Events; len(s.groups()) > 0 || !strings.Contains(said, "not written in the namespace kube-system") {
		t.Errorf("%v, %s", s.groups(), said)
	}
}

// TestGroupsAreDue: what makes a group due, and what does not.
func TestGroupsAreDue(t *testing.T) {
	s := newSite(t)
	class := s.class("web")
	owned := func(owner string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodRunning
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: owner, UID: types.UID(owner)}}
		}
	}
	want := func(step string, fetches int) {
		t.Helper()
		if s.sync(); s.vault.count() != fetches {
			t.Fatalf("%s: %d fetches, want %d", step, s.vault.count(), fetches)
		}
	}
	first := s.status(s.pod("a", owned("rs-1"), "web"), "web", nil)
	want("the first Pod", 1)
	if s.vault.fetches[0].Priority != volume.PriorityRefresh {
		t.Error("no Pod waits")
	}
	s.clock.Step(2 * time.Second)
	want("nothing", 1)
	s.status(s.pod("b", owned("rs-1"), "web"), "web", nil)
	want("a Pod of the same owner that runs", 1)
	s.status(s.pod("c", owned("rs-2"), "web"), "web", nil)
	want("a Pod of another owner", 2)
	s.clock.Step(2 * time.Second)
	s.status(s.pod("d", func(p *corev1.Pod) { owned("rs-1")(p); p.Status.Phase = corev1.PodPending }, "web"), "web", nil)
	want("a Pod that starts", 3)
	if s.vault.fetches[2].Priority != volume.PriorityMount {
		t.Error("a Pod waits")
	}
	s.clock.Step(2 * time.Second)
	class.Annotations = map[string]string{v1.RefreshAnnotation: "a/0s"}
	s.update(class)
	want("the refresh annotation", 4)
	if !s.vault.fetches[3].NotBefore.Equal(s.clock.Now()) {
		t.Errorf("values from %s on", s.vault.fetches[3].NotBefore)
	}
	s.clock.Step(2 * time.Second)
	class.Generation, class.Spec.SecretObjects[0].Data[0].Key = 2, "other"
	s.update(class)
	want("an edit of the class", 5)
	for range 100 {
		class.Generation++
		s.update(class)
		s.sync()
	}
	want("a hundred edits within a second", 5)
	s.clock.Step(time.Second)
	want("the last of them", 6)
	class.Annotations[v1.RotateAtAnnotation] = s.clock.Now().Add(30 * time.Second).Format(time.RFC3339)
	s.update(class)
	want("a time to rotate at that is to come", 6)
	if wait := s.sync(); wait > 30*time.Second {
		t.Errorf("looks again after %s", wait)
	}
	s.clock.Step(30 * time.Second)
	want("its time", 7)
	s.clock.Step(11 * time.Minute) // beyond the interval: the Pods are looked at again
	gets := s.podGets
	want("the interval", 8)
	if s.podGets != gets+1 {
		t.Errorf("%d Pods are read, one that runs is enough", s.podGets-gets)
	}
	// a status object that goes and comes costs no fetch within a second
	o := &v1.SecretProviderClassPodStatus{}
	if err := s.client.Get(t.Context(), first, o); err != nil {
		t.Fatal(err)
	}
	if err := s.client.Delete(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if s.reconcile(first); s.store.knows(first) {
		t.Error("a status object that is gone counts")
	}
	for _, p := range []string{"b", "c", "d"} {
		s.dropped(s.store.forget(types.NamespacedName{Namespace: "shop", Name: p + "-shop-web"}))
	}
	s.sync()
	if len(s.groups()) != 1 {
		t.Fatalf("groups %v", s.groups())
	}
	s.reconcile(types.NamespacedName{Namespace: "shop", Name: "d-shop-web"})
	want("a Pod that comes again within a second", 8)
	s.clock.Step(time.Second)
	want("a second later", 9)
	s.dropped(s.store.forget(types.NamespacedName{Namespace: "shop", Name: "d-shop-web"}))
	s.clock.Step(time.Second)
	s.sync()
	if len(s.groups())+len(s.store.classes)+len(s.store.pods)+len(s.store.mounts) > 0 {
		t.Errorf("what is gone is remembered: %+v", s.store)
	}
}

// update changes a class, as its watch reports it.
func (s *site) update(c *v1.SecretProviderClass) {
	s.t.Helper()
	if err := s.client.Update(s.t.Context(), c); err != nil {
		s.t.Fatal(err)
	}
	s.refreshes.Noting(s.clock.Now).Generic(event.GenericEvent{Object: c})
	s.groupsOf(s.t.Context(), c)
}

// TestRefreshThatIsSeenBeforeItsEvent: a look that comes between the new class in the cache and the handling of its event takes no value from before the
// annotation, since the event causes no other look.
func TestRefreshThatIsSeenBeforeItsEvent(t *testing.T) {
	s := newSite(t)
	class := s.class("web")
	s.status(s.pod("a", nil, "web"), "web", nil)
	s.sync()
	s.clock.Step(2 * time.Second)
	class.Annotations = map[string]string{v1.RefreshAnnotation: "a/0s"}
	if err := s.client.Update(t.Context(), class); err != nil {
		t.Fatal(err)
	}
	changed, before := s.clock.Now(), s.vault.count()
	s.sync()
	if fetches := s.vault.fetches; len(fetches) != before+1 || fetches[before].NotBefore.Before(changed) {
		t.Errorf("changed at %s: %+v", changed, fetches)
	}
}

// TestPodsThatEndLeaveTheirGroup: Pods that have ended keep their status objects, and nothing is fetched for them.
func TestPodsThatEndLeaveTheirGroup(t *testing.T) {
	s := newSite(t)
	s.class("web")
	var pods []*corev1.Pod
	for _, name := range []string{"a", "b", "c"} {
		pods = append(pods, s.pod(name, nil, "web"))
		s.status(pods[len(pods)-1], "web", nil)
	}
	s.sync()
	fetches := s.vault.count()
	end := func(p *corev1.Pod) {
		t.Helper()
		p.Status.Phase = corev1.PodSucceeded
		if err := s.client.Status().Update(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	end(pods[0])
	s.clock.Step(time.Hour)
	if s.sync(); s.vault.count() != fetches+1 || len(s.store.mounts) != 2 {
		t.Errorf("%d fetches, %d mounts: one of three has ended", s.vault.count(), len(s.store.mounts))
	}
	s.podErr = apierrors.NewInternalError(fmt.Errorf("away"))
	s.clock.Step(time.Hour)
	if s.sync(); s.vault.count() != fetches+2 || len(s.store.mounts) != 2 {
		t.Errorf("%d fetches, %d mounts: whether they ended is not known", s.vault.count(), len(s.store.mounts))
	}
	s.podErr = nil
	end(pods[1])
	if err := s.client.Delete(t.Context(), pods[2]); err != nil {
		t.Fatal(err)
	}
	s.clock.Step(time.Hour)
	s.sync()
	s.clock.Step(time.Second)
	if s.sync(); s.vault.count() != fetches+2 || len(s.groups()) > 0 {
		t.Errorf("%d fetches, groups %v: all have ended", s.vault.count(), s.groups())
	}
	gets := s.podGets
	s.reconcile(types.NamespacedName{Namespace: "shop", Name: "a-shop-web"})
	if s.podGets != gets {
		t.Error("a Pod that has ended is read again")
	}
}

// TestARestartIsNoBurst: groups whose Pods ran before this process began wait for a moment of their own, those with a Pod that starts do not.
func TestARestartIsNoBurst(t *testing.T) {
	s := newSite(t)
	classes := 200
	for i := range classes {
		name := fmt.Sprintf("class-%d", i)
		s.class(name)
		p := s.pod(fmt.Sprintf("pod-%d", i), func(p *corev1.Pod) {
			if i > 0 {
				p.Status.Phase = corev1.PodRunning
			}
		}, name)
		s.noteInitial(event.CreateEvent{IsInInitialList: true, Object: &v1.SecretProviderClassPodStatus{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: p.Name + "-shop-" + name,
		}}})
		s.status(p, name, nil)
	}
	s.sync()
	if s.vault.count() != 1 || s.vault.fetches[0].Priority != volume.PriorityMount {
		t.Fatalf("%d fetches at once", s.vault.count())
	}
	for range 12 {
		before := s.vault.count()
		s.clock.Step(10 * time.Second)
		if s.sync(); s.vault.count()-before > classes/5 {
			t.Errorf("%d of %d within ten seconds", s.vault.count()-before, classes)
		}
	}
	if s.vault.count() < classes {
		t.Errorf("%d fetches after two minutes", s.vault.count())
	}
	if len(s.store.initial) > 0 {
		t.Errorf("%d are remembered as older than the process", len(s.store.initial))
	}
}

// TestWhatFails: an outage and a defect are reported once and tried again ever more rarely; a value is in no event.
func TestWhatFails(t *testing.T) {
	s := newSite(t)
	s.class("web")
	for i := range 20 {
		s.status(s.pod(fmt.Sprintf("a-%d", i), nil, "web"), "web", nil)
	}
	s.vault.err = &volume.Error{Reason: volume.ReasonUnavailable, Message: "vault contoso is away", RetryAfter: time.Minute}
	if wait := s.sync(); wait != time.Minute {
		t.Errorf("tried again after %s, the service asked for a minute", wait)
	}
	s.vault.err, s.vault.panics = nil, true
	s.clock.Step(time.Minute)
	if wait := s.sync(); wait < 10*time.Second || wait > time.Minute {
		t.Errorf("tried again after %s", wait)
	}
	s.clock.Step(time.Minute)
	s.sync()
	var said []string
	for len(s.events.Events) > 0 {
		said = append(said, <-s.events.Events)
	}
	if len(said) != 2*eventsOfOne {
		t.Errorf("%d events: %v", len(said), said)
	}
	if all := strings.Join(said, "\n"); strings.Contains(all, "s3cret") || !strings.Contains(all, "vault contoso is away") || !strings.Contains(all, "defect") {
		t.Error(all)
	}
	s.vault.panics = false
	s.clock.Step(time.Minute)
	if s.sync(); s.store.look(s.groups()[0]).group.failure != "" {
		t.Error("it still fails")
	}
}

// TestAttributesOfPods: the attributes of a Pod's volume are those of the Pod, without kubelet's and the class's name; Pods with others are another
// group.
func TestAttributesOfPods(t *testing.T) {
	s := newSite(t)
	s.class("web")
	s.status(s.pod("a", func(p *corev1.Pod) { p.Spec.Volumes[0].CSI.VolumeAttributes["keyvaultName"] = "own" }, "web"), "web", nil)
	s.status(s.pod("b", nil, "web"), "web", nil)
	s.status(s.pod("c", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "other" }, "web"), "web", nil)
	s.sync()
	var bound []string
	for _, r := range s.vault.bound {
		bound = append(bound, fmt.Sprint(r.Pod.ServiceAccount, " ", r.Attributes))
	}
	slices.Sort(bound)
	if want := []string{"app map[]", "app map[keyvaultName:own]", "other map[]"}; !slices.Equal(bound, want) {
		t.Errorf("bound %v, want %v", bound, want)
	}
}

// TestReadsForANodeAreBounded: the token of one node does not take all reads.
func TestReadsForANodeAreBounded(t *testing.T) {
	n := newNodeLimits(clocktesting.NewFakeClock(time.Now()))
	for range nodeBurst {
		if n.wait("node-1") != 0 {
			t.Fatal("a node full of Pods has to wait")
		}
	}
	if n.wait("node-1") == 0 || n.wait("node-2") != 0 {
		t.Error("one node takes the reads of another, or has no bound")
	}
}
