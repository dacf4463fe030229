package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace/noop"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/keyvault-csi/keyvault-csi-driver/controller/accounts"
	"github.com/keyvault-csi/keyvault-csi-driver/controller/share"
	"github.com/keyvault-csi/keyvault-csi-driver/controller/timing"
	syncv1alpha1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/secretsync/v1alpha1"
	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/secretsync"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// newSyncs returns a reconciler without an interval: no poll comes.
func newSyncs(c client.Client, kv interface {
	volume.Provider
	secretsync.Secrets
}, clk *clocktesting.FakeClock,
) *syncs {
	log := slog.New(slog.DiscardHandler)
	return &syncs{
		options: Options{
			ControllerNames: []string{""}, Provider: kv, Clock: clk, Log: log,
			Tracer: noop.NewTracerProvider().Tracer(""), Metrics: metrics.NewController(clk),
		},
		client: c, events: events.NewFakeRecorder(1000), states: newStates(), requests: timing.NewRefreshes(),
		accounts: accounts.New(c, clk, nil), safe: safe.Handler{Log: log},
		secrets: secretsync.New(secretsync.Options{Secrets: kv, Classes: claims{c}, Clock: clk}),
	}
}

// vault is a provider, a binding, and Secrets that are always created.
type vault struct{ fetches int }

func (v *vault) Bind(context.Context, volume.Request) (volume.Binding, error) { return v, nil }
func (*vault) Key() string                                                    { return "key" }
func (*vault) ScheduleKey() string                                            { return "schedule" }
func (*vault) Identity() string                                               { return "identity" }
func (*vault) Warnings() []string                                             { return nil }
func (*vault) RotationInterval() (time.Duration, bool)                        { return 0, false }

func (v *vault) Fetch(context.Context, volume.FetchOptions) (*volume.Bundle, error) {
	v.fetches++
	return &volume.Bundle{Files: []volume.File{{Path: "db", Data: []byte("x"), Mode: 0o644}}}, nil
}

func (*vault) Patch(
	_ context.Context, name types.NamespacedName, kind types.PatchType, _ []byte, _ metav1.PatchOptions,
) (*metav1.PartialObjectMetadata, error) {
	if kind != types.ApplyPatchType {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name.Name)
	}
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name.Name, UID: "s", ResourceVersion: "2"}}, nil
}

// TestStatusThatCannotBeWrittenIsTriedAgain: the API server fails when a sync has succeeded. The status says so a moment later, and not at
// the next poll, which may be never.
func TestStatusThatCannotBeWrittenIsTriedAgain(t *testing.T) {
	scheme, err := newScheme()
	if err != nil {
		t.Fatal(err)
	}
	one := &syncv1alpha1.SecretSync{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db", UID: "u", Generation: 1},
		Spec: syncv1alpha1.SecretSyncSpec{
			SecretProviderClassName: "web", ServiceAccountName: "app",
			SecretObject: syncv1alpha1.SecretObject{Type: "Opaque", Data: []syncv1alpha1.SecretObjectData{{SourcePath: "db", TargetKey: "k"}}},
		},
	}
	class := &v1.SecretProviderClass{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "c"},
		Spec:       v1.SecretProviderClassSpec{Provider: "azure", Parameters: map[string]string{"useVMManagedIdentity": "true"}},
	}
	away := true
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(one, class).WithStatusSubresource(one).WithInterceptorFuncs(interceptor.Funcs{
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			if away {
				return errors.New("the API server is away")
			}
			return c.SubResource(sub).Patch(ctx, o, p, opts...)
		},
	}).Build()
	clk, kv := clocktesting.NewFakeClock(time.Now()), &vault{}
	s := newSyncs(c, kv, clk)
	request := reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "db"}}
	result, err := s.Reconcile(t.Context(), request)
	if err != nil || result.RequeueAfter <= 0 || result.RequeueAfter > time.Minute {
		t.Fatalf("looks again after %s, %v", result.RequeueAfter, err)
	}
	away = false
	clk.Step(result.RequeueAfter)
	if result, err = s.Reconcile(t.Context(), request); err != nil || result.RequeueAfter != 0 {
		t.Errorf("looks again after %s although there is no interval, %v", result.RequeueAfter, err)
	}
	var after syncv1alpha1.SecretSync
	if err := c.Get(t.Context(), request.NamespacedName, &after); err != nil || !meta.IsStatusConditionTrue(after.Status.Conditions, conditionUpdated) {
		t.Errorf("%v: %+v", err, after.Status)
	}
	if kv.fetches != 2 {
		t.Errorf("%d fetches", kv.fetches)
	}
	// a time to rotate at brings it back, although there is no interval
	clk.Step(time.Second)
	class.Annotations = map[string]string{v1.RotateAtAnnotation: clk.Now().Add(time.Hour).UTC().Format(time.RFC3339)}
	if err := c.Update(t.Context(), class); err != nil {
		t.Fatal(err)
	}
	result, err = s.Reconcile(t.Context(), request)
	if err != nil || kv.fetches != 2 || result.RequeueAfter < 59*time.Minute || result.RequeueAfter > time.Hour {
		t.Fatalf("looks again after %s with %d fetches, %v", result.RequeueAfter, kv.fetches, err)
	}
	clk.Step(result.RequeueAfter)
	if result, err = s.Reconcile(t.Context(), request); err != nil || kv.fetches != 3 || result.RequeueAfter != 0 {
		t.Errorf("looks again after %s with %d fetches, %v", result.RequeueAfter, kv.fetches, err)
	}
}

// TestManyObjectsStartTogether: what was there before the process started is spread over the time that the API server's limit needs, and
// objects of one class and account come at the same moment; what is made later is synced at once.
func TestManyObjectsStartTogether(t *testing.T) {
	scheme, err := newScheme()
	if err != nil {
		t.Fatal(err)
	}
	clk := clocktesting.NewFakeClock(time.Now())
	one := func(name, class string, created time.Time) *syncv1alpha1.SecretSync {
		return &syncv1alpha1.SecretSync{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "shop", Name: name, UID: types.UID("uid-" + name), Generation: 1, CreationTimestamp: metav1.NewTime(created),
			},
			Spec: syncv1alpha1.SecretSyncSpec{SecretProviderClassName: class, ServiceAccountName: "app"},
		}
	}
	before := clk.Now().Add(-time.Hour)
	var objects []client.Object
	for i := range 100 {
		objects = append(objects, one(fmt.Sprintf("a-%d", i), "a", before), one(fmt.Sprintf("b-%d", i), "b", before))
	}
	for _, name := range []string{"a", "b"} {
		objects = append(objects, &v1.SecretProviderClass{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("class-" + name)},
			Spec:       v1.SecretProviderClassSpec{Provider: "azure", Parameters: map[string]string{"useVMManagedIdentity": "true"}},
		})
	}
	objects = append(objects, one("later", "a", clk.Now().Add(2*time.Second)))
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(objects[0]).Build()
	kv := &vault{}
	s := newSyncs(c, kv, clk)
	s.start.perSecond = 10
	wait := func(name string) time.Duration {
		result, err := s.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: name}})
		if err != nil {
			t.Fatal(err)
		}
		return result.RequeueAfter
	}
	begun, waits := clk.Now(), map[time.Duration]int{}
	for i := range 100 {
		for _, class := range []string{"a", "b"} {
			after := wait(fmt.Sprintf("%s-%d", class, i))
			waits[clk.Now().Add(after).Sub(begun)]++
		}
		clk.Step(10 * time.Millisecond) // they are not all seen at the same time
	}
	if len(waits) != 2 || kv.fetches != 0 {
		t.Errorf("%d moments, want one for each class; %d fetches", len(waits), kv.fetches)
	}
	for after, count := range waits {
		if count != 100 || after <= 0 || after > 201*350*time.Millisecond {
			t.Errorf("%d objects after %s", count, after)
		}
	}
	if wait("later"); kv.fetches != 1 {
		t.Errorf("an object that was made later: %d fetches", kv.fetches)
	}
	clk.Step(time.Minute + 15*time.Second)
	wait("a-7")
	if kv.fetches != 2 {
		t.Errorf("an object whose moment has come: %d fetches", kv.fetches)
	}
}

// TestEditsAreBounded: a class that is edited a hundred times a second is fetched for once a second.
func TestEditsAreBounded(t *testing.T) {
	scheme, err := newScheme()
	if err != nil {
		t.Fatal(err)
	}
	one := &syncv1alpha1.SecretSync{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db", UID: "uid", Generation: 1},
		Spec:       syncv1alpha1.SecretSyncSpec{SecretProviderClassName: "web", ServiceAccountName: "app"},
	}
	edited := &v1.SecretProviderClass{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "class", Generation: 1},
		Spec:       v1.SecretProviderClassSpec{Provider: "azure", Parameters: map[string]string{"useVMManagedIdentity": "true"}},
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(one, edited).WithStatusSubresource(one).Build()
	clk, kv := clocktesting.NewFakeClock(time.Now()), &vault{}
	s := newSyncs(c, kv, clk)
	request := reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "db"}}
	var last reconcile.Result
	for range 300 {
		edited.Generation++
		if err := c.Update(t.Context(), edited); err != nil {
			t.Fatal(err)
		}
		if last, err = s.Reconcile(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		clk.Step(10 * time.Millisecond)
	}
	if kv.fetches > 4 {
		t.Errorf("%d fetches in 3 s", kv.fetches)
	}
	clk.Step(last.RequeueAfter)
	before := kv.fetches
	if _, err := s.Reconcile(t.Context(), request); err != nil || kv.fetches != before+1 {
		t.Errorf("the last edit is not fetched for: %d fetches after %d, %v", kv.fetches, before, err)
	}
}

// slowVault is one whose requests of a namespace's class wait.
type slowVault struct {
	vault

	waiting chan struct{}
	end     chan struct{}
	slow    bool
}

func (v *slowVault) Bind(_ context.Context, r volume.Request) (volume.Binding, error) {
	return &slowVault{waiting: v.waiting, end: v.end, slow: r.Pod.Namespace == "slow"}, nil
}

func (v *slowVault) Fetch(ctx context.Context, o volume.FetchOptions) (*volume.Bundle, error) {
	if v.slow {
		v.waiting <- struct{}{}
		<-v.end
	}
	return v.vault.Fetch(ctx, o)
}

// TestAThrottledVaultHarmsNoOther: SecretSyncs of a namespace that wait for their vault leave places for other namespaces.
func TestAThrottledVaultHarmsNoOther(t *testing.T) {
	scheme, err := newScheme()
	if err != nil {
		t.Fatal(err)
	}
	var objects []client.Object
	add := func(namespace, name string) {
		objects = append(objects, &syncv1alpha1.SecretSync{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + name), Generation: 1},
			Spec:       syncv1alpha1.SecretSyncSpec{SecretProviderClassName: "web", ServiceAccountName: "app"},
		})
	}
	for _, namespace := range []string{"slow", "other"} {
		objects = append(objects, &v1.SecretProviderClass{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web", UID: types.UID("class-" + namespace)},
			Spec:       v1.SecretProviderClassSpec{Provider: "azure", Parameters: map[string]string{"useVMManagedIdentity": "true"}},
		})
	}
	for i := range share.Workers {
		add("slow", fmt.Sprintf("s-%d", i))
	}
	add("other", "o")
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(&syncv1alpha1.SecretSync{}).Build()
	kv := &slowVault{waiting: make(chan struct{}, share.Workers), end: make(chan struct{})}
	s := newSyncs(c, kv, clocktesting.NewFakeClock(time.Now()))
	reconcileOne := func(namespace, name string) reconcile.Result {
		result, err := s.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}})
		if err != nil {
			t.Error(err)
		}
		return result
	}
	var work sync.WaitGroup
	ended := make(chan reconcile.Result, share.Workers)
	for i := range share.Workers {
		work.Go(func() { ended <- reconcileOne("slow", fmt.Sprintf("s-%d", i)) })
	}
	for range share.Workers * 7 / 8 { // those that found no place do not wait for the vault
		if result := <-ended; result.RequeueAfter < time.Second {
			t.Errorf("comes again after %s", result.RequeueAfter)
		}
	}
	reconcileOne("other", "o") // a worker is free
	var after syncv1alpha1.SecretSync
	if err := c.Get(t.Context(), types.NamespacedName{Namespace: "other", Name: "o"}, &after); err != nil ||
		!meta.IsStatusConditionTrue(after.Status.Conditions, conditionUpdated) {
		t.Errorf("%v: %+v", err, after.Status)
	}
	close(kv.end)
	work.Wait()
	if len(kv.waiting) != share.Workers/8 {
		t.Errorf("%d requests of the slow namespace were under way", len(kv.waiting))
	}
}
