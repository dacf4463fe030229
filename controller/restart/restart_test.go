package restart

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	syncv1alpha1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/secretsync/v1alpha1"
	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
)

// bench is the reconciler over an API server in memory, in the time of a synctest bubble.
type bench struct {
	*testing.T

	api      client.Client
	restarts *restarts
	recorder *events.FakeRecorder
	// records are those of Secrets by name; what has no label is absent.
	records map[string]map[string]string
	// requests counts those that a real API server would get.
	requests int
	refuse   error
}

// Patch implements secretsync.Secrets.
func (b *bench) Patch(
	_ context.Context, name types.NamespacedName, kind types.PatchType, body []byte, _ metav1.PatchOptions,
) (*metav1.PartialObjectMetadata, error) {
	b.requests++
	if kind != types.JSONPatchType || !strings.Contains(string(body), `"test"`) || strings.Count(string(body), `"op"`) != 1 {
		b.Errorf("a patch of Secret %s that changes it: %s", name, body)
	}
	annotations, ok := b.records[name.Name]
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name.Name)
	}
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Annotations: annotations}}, nil
}

func onBench(t *testing.T, test func(*bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		scheme := runtime.NewScheme()
		for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, v1.AddToScheme, syncv1alpha1.AddToScheme} {
			if err := add(scheme); err != nil {
				t.Fatal(err)
			}
		}
		b := &bench{T: t, recorder: events.NewFakeRecorder(1000), records: map[string]map[string]string{}}
		b.api = fake.NewClientBuilder().WithScheme(scheme).
			WithIndex(&v1.SecretProviderClassPodStatus{}, statusesOfClass, classOfStatus).
			WithIndex(&v1.SecretProviderClass{}, classesOfSecret, secretsOfClass).Build()
		counted := interceptor.NewClient(b.api.(client.WithWatch), interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				b.requests++
				return c.Get(ctx, key, o, opts...)
			},
			List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
				b.requests++
				return c.List(ctx, list, opts...)
			},
			Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
				b.requests++
				if b.refuse != nil {
					return b.refuse
				}
				return c.Patch(ctx, o, p, opts...)
			},
		})
		log := slog.New(slog.DiscardHandler)
		b.restarts = &restarts{
			Options: Options{
				Delay: 15 * time.Second, Most: 10, MostInNamespace: 3, Excluded: []string{"kube-system"}, Secrets: b, Clock: clock.RealClock{}, Log: log,
				Metrics: metrics.NewController(clock.RealClock{}),
			},
			cache: b.api, live: counted, client: counted, events: b.recorder, memory: newMemory(), safe: safe.Handler{Log: log},
		}
		test(b)
	})
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) create(o client.Object) { b.Helper(); b.must(b.api.Create(b.Context(), o)) }

// template mounts class web and, with env, reads the Secret too.
func template(env ...string) corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "cart"}}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "app"}},
		Volumes: []corev1.Volume{{Name: "secrets", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{
			Driver: "secrets-store.csi.k8s.io", VolumeAttributes: map[string]string{"secretProviderClass": "web"},
		}}}},
	}}
	for _, name := range env {
		t.Spec.Containers[0].EnvFrom = append(t.Spec.Containers[0].EnvFrom, corev1.EnvFromSource{
			SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}},
		})
	}
	return t
}

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), Generation: 1, Annotations: map[string]string{}}
}

func key(name string) Key {
	return Key{deployment, types.NamespacedName{Namespace: "shop", Name: name}}
}

// deployment makes one with its ReplicaSet, which is rolled out.
func (b *bench) deployment(name string, env []string, edit ...func(*appsv1.Deployment)) {
	b.Helper()
	d := &appsv1.Deployment{ObjectMeta: meta(name), Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "cart"}}, Template: template(env...),
	}, Status: appsv1.DeploymentStatus{ObservedGeneration: 1, Replicas: 1, UpdatedReplicas: 1}}
	d.Annotations[Annotation] = OnChange
	for _, e := range edit {
		e(d)
	}
	b.create(d)
	set := &appsv1.ReplicaSet{ObjectMeta: meta(name + "-1")}
	set.Labels, set.OwnerReferences = d.Spec.Template.Labels, owned("Deployment", d)
	b.create(set)
}

func owned(kind string, o client.Object) []metav1.OwnerReference {
	return []metav1.OwnerReference{{Kind: kind, Name: o.GetName(), UID: o.GetUID(), Controller: new(true)}}
}

// pod makes a running Pod of the owner.
func (b *bench) pod(name, kind, owner string, edit ...func(*corev1.Pod)) *corev1.Pod {
	b.Helper()
	p := &corev1.Pod{ObjectMeta: meta(name), Spec: corev1.PodSpec{NodeName: "node-1"}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	p.Labels, p.CreationTimestamp = map[string]string{"app": "cart"}, metav1.Now()
	p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: owner, UID: types.UID("uid-" + owner), Controller: new(true)}}
	for _, e := range edit {
		e(p)
	}
	b.create(p)
	return p
}

// status writes a Pod's status object of class web: pairs of started and current versions of db, mail and so on.
func (b *bench) status(pod *corev1.Pod, versions ...string) {
	b.Helper()
	s := &v1.SecretProviderClassPodStatus{ObjectMeta: meta(pod.Name + "-shop-web")}
	s.Labels = map[string]string{"internal.secrets-store.csi.k8s.io/node-name": "node-1"}
	s.OwnerReferences = []metav1.OwnerReference{{Kind: "Pod", Name: pod.Name, UID: pod.UID}}
	s.Status.PodName, s.Status.SecretProviderClassName = pod.Name, "web"
	names := []string{"secret/db", "secret/mail"}
	for i := 0; i+1 < len(versions); i += 2 {
		s.Status.Objects = append(s.Status.Objects, v1.SecretProviderClassObject{ID: names[i/2], StartedVersion: versions[i], Version: versions[i+1]})
	}
	if err := b.api.Create(b.Context(), s); apierrors.IsAlreadyExists(err) {
		s.ResourceVersion = ""
		b.must(b.api.Delete(b.Context(), s))
		b.create(s)
	}
}

// class makes a class whose Secret is env.
func (b *bench) class(name string) {
	b.Helper()
	c := &v1.SecretProviderClass{ObjectMeta: meta(name)}
	c.Spec.SecretObjects = []v1.SecretObject{{SecretName: "env"}}
	b.create(c)
}

// record says what the Secret env holds: the version of db, and when it took the place of another one.
func (b *bench) record(prefix, class, version string, changed time.Time) {
	b.Helper()
	source := map[string]any{"version": version}
	if !changed.IsZero() {
		source["changed"] = changed.UTC().Format(time.RFC3339)
	}
	body, err := json.Marshal(map[string]any{"class": class, "uid": "u", "sources": map[string]any{"kv.vault.azure.net/secret/db": source}})
	b.must(err)
	annotations := map[string]string{secretsync.Writer{Record: prefix}.Annotation(class): string(body)}
	if secretsync.Recorded(annotations, prefix, class) == nil {
		b.Fatal("the record is not readable")
	}
	b.records["env"] = annotations
}

// pass lets the reconciler work on workloads for a while, as its queue would.
func (b *bench) pass(d time.Duration, keys ...Key) {
	b.Helper()
	end := time.Now().Add(d)
	next := map[Key]time.Time{}
	for _, k := range keys {
		next[k] = time.Now()
	}
	for {
		soonest := end
		for _, k := range keys {
			at, planned := next[k]
			switch {
			case !planned:
				continue
			case !at.After(time.Now()):
				delete(next, k)
				result, err := b.restarts.Reconcile(b.Context(), k)
				if err != nil {
					result.RequeueAfter = time.Minute
				}
				if result.RequeueAfter > 0 {
					next[k] = time.Now().Add(result.RequeueAfter)
					if next[k].Before(soonest) {
						soonest = next[k]
					}
				}
			case at.Before(soonest):
				soonest = at
			}
		}
		if !soonest.Before(end) {
			time.Sleep(time.Until(end))
			return
		}
		time.Sleep(time.Until(soonest))
	}
}

// restartedFor is the template's annotation.
func (b *bench) restartedFor(k Key) string {
	b.Helper()
	o := objectOf(k.Kind)
	b.must(b.api.Get(b.Context(), k.NamespacedName, o))
	w, err := newWorkload(o)
	b.must(err)
	return w.restarted()
}

// reported returns the events since the last call.
func (b *bench) reported() (texts []string) {
	for len(b.recorder.Events) > 0 {
		texts = append(texts, <-b.recorder.Events)
	}
	return texts
}

// TestWhatIsDue: one Deployment with one Pod that started before anything changed. The want is what its template names; empty for no restart.
func TestWhatIsDue(t *testing.T) {
	plain := func(b *bench) *corev1.Pod {
		b.deployment("cart", nil)
		return b.pod("cart-1-a", "ReplicaSet", "cart-1")
	}
	tests := map[string]struct {
		setUp func(b *bench)
		want  string
	}{
		"nothing changed":    {func(b *bench) { b.status(plain(b), "v1", "v1") }, ""},
		"no status object":   {func(b *bench) { plain(b) }, ""},
		"a new version":      {func(b *bench) { b.status(plain(b), "v1", "v2") }, "web/secret/db@v2"},
		"two at once":        {func(b *bench) { b.status(plain(b), "v1", "v2", "m1", "m2") }, "web/secret/db@v2,web/secret/mail@m2"},
		"a version disabled": {func(b *bench) { b.status(plain(b), "v2", "v1") }, "web/secret/db@v1"},
		"an older driver":    {func(b *bench) { b.status(plain(b), "", "v2") }, ""},
		"a Pod that ended": {func(b *bench) {
			p := plain(b)
			b.status(p, "v1", "v2")
			p.Status.Phase = corev1.PodFailed
			b.must(b.api.Status().Update(b.Context(), p))
		}, ""},
		"another Pod's object": {func(b *bench) { p := plain(b); p.UID = "uid-gone"; b.status(p, "v1", "v2") }, ""},
		"another node's object": {func(b *bench) {
			p := plain(b)
			b.status(p, "v1", "v2")
			p.Spec.NodeName = "node-2"
			b.must(b.api.Update(b.Context(), p))
		}, ""},
		"an owner that is gone": {func(b *bench) { b.deployment("cart", nil); b.status(b.pod("x", "ReplicaSet", "gone"), "v1", "v2") }, ""},
		"no annotation": {func(b *bench) {
			b.deployment("cart", nil, func(d *appsv1.Deployment) { d.Annotations = nil })
			b.status(b.pod("cart-1-a", "ReplicaSet", "cart-1"), "v1", "v2")
		}, ""},
		"paused": {func(b *bench) {
			b.deployment("cart", nil, func(d *appsv1.Deployment) { d.Spec.Paused = true })
			b.status(b.pod("cart-1-a", "ReplicaSet", "cart-1"), "v1", "v2")
		}, ""},
		"a rollout is under way": {func(b *bench) {
			b.deployment("cart", nil, func(d *appsv1.Deployment) { d.Status.UpdatedReplicas = 0 })
			b.status(b.pod("cart-1-a", "ReplicaSet", "cart-1"), "v1", "v2")
		}, ""},
		"a rollout that failed": {func(b *bench) {
			b.deployment("cart", nil, func(d *appsv1.Deployment) {
				d.Status.UpdatedReplicas = 0
				d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Reason: "ProgressDeadlineExceeded"}}
			})
			b.status(b.pod("cart-1-a", "ReplicaSet", "cart-1"), "v1", "v2")
		}, "web/secret/db@v2"},
		"Pods that are not available": {func(b *bench) {
			b.deployment("cart", nil, func(d *appsv1.Deployment) { d.Status.UnavailableReplicas = 1 })
			b.status(b.pod("cart-1-a", "ReplicaSet", "cart-1"), "v1", "v2")
		}, "web/secret/db@v2"},
		"a namespace that is excluded": {func(b *bench) { b.restarts.Excluded = []string{"shop"}; b.status(plain(b), "v1", "v2") }, ""},
		"the Secret is behind": {func(b *bench) {
			b.class("web")
			b.deployment("cart", []string{"env"})
			b.status(b.pod("cart-1-a", "ReplicaSet", "cart-1"), "v1", "v2")
			b.record(secretsync.DriverRecord, "web", "v1", time.Time{})
		}, ""},
		"the Secret holds it": {func(b *bench) {
			b.class("web")
			b.deployment("cart", []string{"env"})
			b.status(b.pod("cart-1-a", "ReplicaSet", "cart-1"), "v1", "v2")
			b.record(secretsync.DriverRecord, "web", "v2", time.Now())
		}, "web/secret/db@v2"},
		"the Secret is somebody else's": {func(b *bench) {
			b.class("web")
			b.deployment("cart", []string{"env"})
			b.status(b.pod("cart-1-a", "ReplicaSet", "cart-1"), "v1", "v2")
		}, "web/secret/db@v2"},
		"a SecretSync's Secret, older than the Pod": {func(b *bench) {
			b.create(&syncv1alpha1.SecretSync{ObjectMeta: meta("env")})
			b.record(secretsync.SyncRecord, "env", "v2", time.Now().Add(-time.Hour))
			b.deployment("cart", []string{"env"})
			b.pod("cart-1-a", "ReplicaSet", "cart-1")
		}, ""},
		"a SecretSync's Secret, new": {func(b *bench) {
			b.create(&syncv1alpha1.SecretSync{ObjectMeta: meta("env")})
			b.record(secretsync.SyncRecord, "env", "v1", time.Time{})
			b.deployment("cart", []string{"env"})
			b.pod("cart-1-a", "ReplicaSet", "cart-1")
		}, ""},
		"a SecretSync's Secret, changed": {func(b *bench) {
			b.create(&syncv1alpha1.SecretSync{ObjectMeta: meta("env")})
			b.deployment("cart", []string{"env"})
			b.pod("cart-1-a", "ReplicaSet", "cart-1")
			time.Sleep(time.Hour)
			b.record(secretsync.SyncRecord, "env", "v2", time.Now())
		}, "Secret/env@"},
		"the Secret of a class that other Pods mount, changed": {func(b *bench) {
			b.class("other")
			b.deployment("cart", []string{"env"})
			b.pod("cart-1-a", "ReplicaSet", "cart-1")
			time.Sleep(time.Hour)
			b.record(secretsync.DriverRecord, "other", "v2", time.Now())
		}, "Secret/env@"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			onBench(t, func(b *bench) {
				tt.setUp(b)
				b.pass(time.Hour, key("cart"))
				at, got, _ := strings.Cut(b.restartedFor(key("cart")), " ")
				if got != tt.want && (!strings.HasSuffix(tt.want, "@") || !strings.HasPrefix(got, tt.want)) {
					t.Errorf("restarted for %q, want %q", got, tt.want)
				}
				if _, err := time.Parse(time.RFC3339, at); err != nil && got != "" {
					t.Errorf("restarted at %q", at)
				}
				reported := b.reported()
				restarts := 0
				for _, text := range reported {
					if strings.HasPrefix(text, "Normal RestartedOnChange") {
						restarts++
					}
				}
				if want := min(1, len(tt.want)); restarts != want {
					t.Errorf("%d restarts in an hour, want %d: %q", restarts, want, reported)
				}
			})
		})
	}
}

func TestKinds(t *testing.T) {
	onBench(t, func(b *bench) {
		selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "cart"}}
		s := &appsv1.StatefulSet{ObjectMeta: meta("state"), Spec: appsv1.StatefulSetSpec{Selector: selector, Template: template()}}
		s.Status = appsv1.StatefulSetStatus{ObservedGeneration: 1, UpdatedReplicas: 1, CurrentRevision: "a", UpdateRevision: "a"}
		d := &appsv1.DaemonSet{ObjectMeta: meta("each"), Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template()}}
		d.Status = appsv1.DaemonSetStatus{ObservedGeneration: 1, UpdatedNumberScheduled: 1, DesiredNumberScheduled: 1}
		for kind, o := range map[string]client.Object{statefulSet: s, daemonSet: d} {
			o.GetAnnotations()[Annotation] = OnChange
			b.create(o)
			b.status(b.pod(o.GetName()+"-0", kind, o.GetName()), "v1", "v2")
			k := Key{kind, client.ObjectKeyFromObject(o)}
			b.pass(time.Minute, k)
			if got := b.restartedFor(k); !strings.HasSuffix(got, " web/secret/db@v2") {
				t.Errorf("%s: %q", k, got)
			}
		}
	})
}

// A rollout that does not end, and Pods that start with an old value all the same.
func TestOnceForOneChange(t *testing.T) {
	onBench(t, func(b *bench) {
		b.deployment("cart", nil)
		old := b.pod("cart-1-a", "ReplicaSet", "cart-1")
		b.status(old, "v1", "v2")
		restarts := func() (n int) {
			for _, text := range b.reported() {
				if strings.HasPrefix(text, "Normal RestartedOnChange") {
					n++
				}
			}
			return n
		}
		b.pass(15*time.Second-time.Millisecond, key("cart"))
		if got := restarts(); got != 0 {
			t.Error("restarted before the delay was over")
		}
		for range 10 { // the old Pod stays
			b.pass(10*time.Minute, key("cart"))
		}
		if got := restarts(); got != 1 {
			t.Errorf("%d restarts while the old Pod stays", got)
		}
		fresh := b.pod("cart-2-a", "ReplicaSet", "cart-1", func(p *corev1.Pod) {
			p.Annotations[TemplateAnnotation] = b.restartedFor(key("cart"))
		})
		b.must(b.api.Delete(b.Context(), old))
		b.status(fresh, "v2", "v2")
		b.pass(time.Hour, key("cart"))
		if got := restarts(); got != 0 {
			t.Errorf("%d restarts although the new Pod is current", got)
		}
		// the new Pod started with a value that its node still shared
		b.status(fresh, "v1", "v2")
		b.pass(time.Hour, key("cart"))
		if got := restarts(); got != 1 {
			t.Errorf("%d restarts of a new Pod with an old value", got)
		}
	})
}

// At most one restart in the workload's interval, however much changes.
func TestInterval(t *testing.T) {
	for text, least := range map[string]time.Duration{"": 5 * time.Minute, "1h": time.Hour, "10s": 10 * time.Second} {
		t.Run(text, func(t *testing.T) {
			onBench(t, func(b *bench) {
				b.deployment("cart", nil, func(d *appsv1.Deployment) {
					if text != "" {
						d.Annotations[IntervalAnnotation] = text
					}
				})
				pod := b.pod("cart-1-a", "ReplicaSet", "cart-1")
				var last time.Time
				restarts := 0
				for i := range 300 {
					b.status(pod, "v1", fmt.Sprintf("v%d", i+2))
					b.pass(20*time.Second, key("cart"))
					if at := parseReason(b.restartedFor(key("cart"))).at; !at.Equal(last) {
						if !last.IsZero() && at.Sub(last) < least {
							t.Errorf("restarts at %s and %s", last, at)
						}
						last = at
						restarts++
					}
				}
				if most := int(300*20*time.Second/max(least, 20*time.Second)) + 1; restarts < 2 || restarts > most {
					t.Errorf("%d restarts, at most %d", restarts, most)
				}
			})
		})
	}
}

// Restarts at the same time are bounded; those of an earlier process count.
func TestBounds(t *testing.T) {
	onBench(t, func(b *bench) {
		b.restarts.MostInNamespace = 2
		var keys []Key
		for i := range 6 {
			name := fmt.Sprintf("cart%d", i)
			b.deployment(name, nil, func(d *appsv1.Deployment) {
				d.Spec.Selector.MatchLabels["app"], d.Spec.Template.Labels["app"] = name, name
				if i == 0 { // restarted by another process a moment ago
					d.Spec.Template.Annotations = map[string]string{TemplateAnnotation: time.Now().UTC().Format(time.RFC3339) + " web/secret/db@v2"}
					d.Status.UpdatedReplicas = 0
				}
			})
			b.status(b.pod(name+"-1-a", "ReplicaSet", name+"-1", func(p *corev1.Pod) { p.Labels["app"] = name }), "v1", "v2")
			keys = append(keys, key(name))
		}
		// what a restart sets in motion
		rolls := func(rolling bool) (n int) {
			for _, k := range keys {
				var d appsv1.Deployment
				b.must(b.api.Get(b.Context(), k.NamespacedName, &d))
				if d.Spec.Template.Annotations[TemplateAnnotation] == "" {
					continue
				}
				n++
				d.Generation = 2
				d.Status = appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 1, UpdatedReplicas: 1}
				if rolling {
					d.Status.UpdatedReplicas = 0
				}
				b.must(b.api.Status().Update(b.Context(), &d))
			}
			return n
		}
		set := keys
		for range 40 { // the last one first
			slices.Reverse(set)
			b.pass(time.Second, set...)
			if got := rolls(true); got > 2 {
				t.Fatalf("%d restarts at the same time", got)
			}
		}
		for range 20 {
			rolls(false)
			b.pass(30*time.Second, keys...)
		}
		if got := rolls(false); got != 6 {
			t.Errorf("%d of 6 were restarted", got)
		}
	})
}

func TestWrongAnnotations(t *testing.T) {
	for name, tt := range map[string]struct{ annotation, interval, want string }{
		"a typo":       {"on-chnage", "", `annotation keyvault-csi/restart: "on-chnage" is no value of it: write on-change, or remove the annotation`},
		"empty":        {"", "", ""},
		"no duration":  {OnChange, "soon", `annotation keyvault-csi/restart-interval: "soon" is no duration from 10s to 720h: write one like 5m, or remove the annotation`},
		"too short":    {OnChange, "1s", `"1s" is no duration`},
		"negative":     {OnChange, "-5m", `"-5m" is no duration`},
		"too long":     {OnChange, "9000h", `"9000h" is no duration`},
		"control":      {"on\x1b[31m", "", `"on\x1b[31m" is no value`},
		"at the limit": {strings.Repeat("x", 250_000), "", `xxx…" is no value`},
	} {
		t.Run(name, func(t *testing.T) {
			onBench(t, func(b *bench) {
				b.deployment("cart", nil, func(d *appsv1.Deployment) {
					d.Annotations[Annotation] = tt.annotation
					if tt.interval != "" {
						d.Annotations[IntervalAnnotation] = tt.interval
					}
				})
				b.status(b.pod("cart-1-a", "ReplicaSet", "cart-1"), "v1", "v2")
				for range 10 {
					b.pass(time.Minute, key("cart"))
				}
				reported := b.reported()
				if b.restartedFor(key("cart")) != "" || tt.want != "" && (len(reported) != 1 || !strings.Contains(reported[0], tt.want) || len(reported[0]) > 1024) {
					t.Errorf("reported %q, restarted for %q", reported, b.restartedFor(key("cart")))
				}
			})
		})
	}
}

// However often a workload or what it reads is edited, requests are bounded.
func TestEditsAreBounded(t *testing.T) {
	onBench(t, func(b *bench) {
		b.deployment("cart", nil)
		pod := b.pod("cart-1-a", "ReplicaSet", "cart-1")
		events := 0
		for i := range 2000 { // 20 seconds
			var d appsv1.Deployment
			b.must(b.api.Get(b.Context(), key("cart").NamespacedName, &d))
			d.Generation++
			d.Annotations[Annotation] = []string{OnChange, fmt.Sprint("wrong", i)}[i%2]
			b.must(b.api.Update(b.Context(), &d))
			b.status(pod, "v1", fmt.Sprint("v", i))
			if _, err := b.restarts.Reconcile(b.Context(), key("cart")); err != nil {
				t.Fatal(err)
			}
			events += len(b.reported())
			time.Sleep(10 * time.Millisecond)
		}
		if b.requests > 50 || events > 1 {
			t.Errorf("%d requests and %d events in 20 seconds", b.requests, events)
		}
	})
}

// A refusal of the API server is an event, and is tried again.
func TestRefusal(t *testing.T) {
	onBench(t, func(b *bench) {
		b.deployment("cart", nil)
		b.status(b.pod("cart-1-a", "ReplicaSet", "cart-1"), "v1", "v2")
		b.refuse = apierrors.NewForbidden(schema.GroupResource{Resource: "deployments"}, "cart", fmt.Errorf("a policy"))
		tries := 0
		for range 360 { // an hour in which something happens every ten seconds
			b.pass(10*time.Second, key("cart"))
			tries += len(b.recorder.Events)
			if tries > 1 {
				b.reported()
			}
		}
		if tries > 25 {
			t.Errorf("%d tries in an hour", tries)
		}
		b.pass(10*time.Minute, key("cart"))
		reported := b.reported()
		if len(reported) == 0 || !strings.HasPrefix(reported[0], "Warning RestartFailed") || !strings.Contains(reported[0], "a policy") {
			t.Errorf("reported %q", reported)
		}
		b.refuse = nil
		b.pass(10*time.Minute, key("cart"))
		if b.restartedFor(key("cart")) == "" {
			t.Error("it was not tried again")
		}
	})
}

// What a SecretSync's change was restarted for is not a reason again, also for Pods that started a moment after it.
func TestSecretsOfSecretSyncs(t *testing.T) {
	onBench(t, func(b *bench) {
		b.create(&syncv1alpha1.SecretSync{ObjectMeta: meta("env")})
		b.deployment("cart", []string{"env"})
		old := b.pod("cart-1-a", "ReplicaSet", "cart-1")
		time.Sleep(time.Hour)
		b.record(secretsync.SyncRecord, "env", "v2", time.Now())
		b.pass(30*time.Second, key("cart"))
		first := b.restartedFor(key("cart"))
		if first == "" {
			t.Fatal("not restarted")
		}
		b.must(b.api.Delete(b.Context(), old))
		b.pod("cart-2-a", "ReplicaSet", "cart-1", func(p *corev1.Pod) { p.Annotations[TemplateAnnotation] = first })
		b.pass(time.Hour, key("cart"))
		if got := b.restartedFor(key("cart")); got != first {
			t.Errorf("restarted again: %s, then %s", first, got)
		}
		b.record(secretsync.SyncRecord, "env", "v3", time.Now())
		b.pass(time.Hour, key("cart"))
		if got := b.restartedFor(key("cart")); got == first {
			t.Error("not restarted for the next version")
		}
	})
}

func TestReasonsFitIntoAnAnnotation(t *testing.T) {
	var many []change
	for i := range 500 {
		many = append(many, change{class: strings.Repeat("c", 253), object: fmt.Sprintf("secret/%d, %s", i, strings.Repeat("n", 200)), to: strings.Repeat("f", 32)})
	}
	r := reasonOf(time.Now(), many)
	if text := r.String(); len(text) > mostReasons*150+30 || strings.ContainsAny(text[21:], " \n") {
		t.Errorf("%d bytes: %s", len(text), text)
	}
	if again := parseReason(r.String()); !again.covers(many) || again.covers(many[:20]) || !again.at.Equal(r.at.Truncate(time.Second)) {
		t.Error("what is written is not what is read")
	}
	if len(describe(many)) > mostEvent {
		t.Error("the event is too long")
	}
	for _, text := range []string{"", "x", "2026-01-01T00:00:00Z", "yesterday web/secret/db@v1"} {
		if parseReason(text).covers(many[:1]) {
			t.Errorf("%q covers a change", text)
		}
	}
}

// The cache keeps of what it watches only what is looked at, and not what others write into it.
func TestCacheKeepsLittle(t *testing.T) {
	w := metadataOf(deployment)
	w.Name, w.Labels = "cart", map[string]string{"app": "cart"}
	w.Annotations = map[string]string{Annotation: strings.Repeat("x", 250_000), "other": strings.Repeat("y", 10_000)}
	kept, err := trimWorkload(w)
	if err != nil {
		t.Fatal(err)
	}
	if got := kept.(*metav1.PartialObjectMetadata); len(got.Annotations) != 1 || len(got.Annotations[Annotation]) > keptAnnotation || got.Labels != nil {
		t.Errorf("kept %+v", got)
	}
	s := &v1.SecretProviderClassPodStatus{ObjectMeta: meta("cart-0-shop-web")}
	s.Labels = map[string]string{"internal.secrets-store.csi.k8s.io/node-name": "node-1"}
	s.Annotations["keyvault-csi/failure"] = "text"
	s.Status.PodName, s.Status.TargetPath, s.Status.Mounted = "cart-0", "/var/lib", true
	s.Status.Objects = []v1.SecretProviderClassObject{
		{ID: "secret/a", Version: "1", StartedVersion: "1"}, {ID: "secret/b", Version: "2", StartedVersion: "1", Expires: new(metav1.Now())}, {ID: "secret/c", Version: "1"},
	}
	kept, err = trimStatus(s)
	if err != nil {
		t.Fatal(err)
	}
	got := kept.(*v1.SecretProviderClassPodStatus)
	if len(got.Status.Objects) != 1 || got.Status.Objects[0].ID != "secret/b" || got.Status.Objects[0].Expires != nil || got.Annotations != nil || !got.Status.Mounted || len(got.Labels) != 1 ||
		got.Status.PodName != "cart-0" || len(s.Status.Objects) != 3 {
		t.Errorf("kept %+v of %+v", got.Status, s.Status)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := Options{Most: 1, MostInNamespace: 1}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	bad := Options{Delay: -1}
	if err := bad.Check(); err == nil || !strings.Contains(err.Error(), "--restart-delay") || !strings.Contains(err.Error(), "--restart-most") {
		t.Error(err)
	}
}
