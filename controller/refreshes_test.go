package controller

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	syncv1alpha1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/secretsync/v1alpha1"
	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// watchedVault notes how old values may be.
type watchedVault struct {
	vault

	oldest []time.Time
}

func (v *watchedVault) Bind(context.Context, volume.Request) (volume.Binding, error) { return v, nil }

func (v *watchedVault) Fetch(ctx context.Context, o volume.FetchOptions) (*volume.Bundle, error) {
	v.oldest = append(v.oldest, o.NotBefore)
	return v.vault.Fetch(ctx, o)
}

// TestRefreshAnnotationSyncsAtOnce: all SecretSyncs of the class are synced, from values that were asked for after the annotation changed,
// and share them.
func TestRefreshAnnotationSyncsAtOnce(t *testing.T) {
	s, c, clk, kv, class := refreshed(t)
	reconcileAll := func() {
		t.Helper()
		users := s.usersOf(t.Context(), class)
		if len(users) != 2 {
			t.Fatalf("users %v", users)
		}
		for _, user := range users {
			if _, err := s.Reconcile(t.Context(), reconcile.Request{NamespacedName: user.NamespacedName}); err != nil {
				t.Error(err)
			}
			clk.Step(time.Second)
		}
	}
	reconcileAll()
	if len(kv.oldest) != 2 {
		t.Fatalf("%d fetches", len(kv.oldest))
	}
	reconcileAll()
	if len(kv.oldest) != 2 {
		t.Fatalf("%d fetches although nothing changed", len(kv.oldest))
	}
	class.Annotations = map[string]string{v1.RefreshAnnotation: "a/1h"}
	if err := c.Update(t.Context(), class); err != nil {
		t.Fatal(err)
	}
	changed := clk.Now()
	reconcileAll()
	if len(kv.oldest) != 4 || !kv.oldest[2].Equal(changed) || !kv.oldest[3].Equal(changed) {
		t.Errorf("changed at %s, values from %v on", changed, kv.oldest)
	}
	clk.Step(time.Hour) // what is shared later is as young as ever
	if got := (&work{syncs: s, class: class}).notBefore(); !got.Equal(clk.Now().Add(-10 * time.Second)) {
		t.Errorf("values from %s on at %s", got, clk.Now())
	}
}

// refreshed are two SecretSyncs of one class, one and two.
func refreshed(t *testing.T) (*syncs, client.Client, *clocktesting.FakeClock, *watchedVault, *v1.SecretProviderClass) {
	t.Helper()
	scheme, err := newScheme()
	if err != nil {
		t.Fatal(err)
	}
	class := &v1.SecretProviderClass{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "c"},
		Spec:       v1.SecretProviderClassSpec{Provider: "azure", Parameters: map[string]string{"useVMManagedIdentity": "true"}},
	}
	indexed := fake.NewClientBuilder().WithScheme(scheme).WithIndex(&syncv1alpha1.SecretSync{}, classIndex, bySecretSyncClass).
		WithObjects(class).WithStatusSubresource(&syncv1alpha1.SecretSync{})
	for _, name := range []string{"one", "two"} {
		indexed.WithObjects(&syncv1alpha1.SecretSync{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "u"},
			Spec: syncv1alpha1.SecretSyncSpec{
				SecretProviderClassName: "web", ServiceAccountName: "app",
				SecretObject: syncv1alpha1.SecretObject{Type: "Opaque", Data: []syncv1alpha1.SecretObjectData{{SourcePath: "db", TargetKey: "k"}}},
			},
		})
	}
	c := indexed.Build()
	clk, kv := clocktesting.NewFakeClock(time.Now()), &watchedVault{}
	s := newSyncs(c, kv, clk)
	s.options.CacheTTL = 10 * time.Second
	return s, c, clk, kv, class
}

// TestRefreshThatIsSeenBeforeItsEvent: a look that comes between the new class in the cache and the handling of its event takes no value from
// before the annotation, since the event causes no other look.
func TestRefreshThatIsSeenBeforeItsEvent(t *testing.T) {
	s, c, clk, kv, class := refreshed(t)
	look := func() {
		t.Helper()
		if _, err := s.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "one"}}); err != nil {
			t.Fatal(err)
		}
	}
	look()
	clk.Step(2 * time.Second)
	class.Annotations = map[string]string{v1.RefreshAnnotation: "a/0s"}
	if err := c.Update(t.Context(), class); err != nil {
		t.Fatal(err)
	}
	changed := clk.Now()
	look()
	if len(kv.oldest) != 2 || kv.oldest[1].Before(changed) {
		t.Errorf("changed at %s, values from %v on", changed, kv.oldest)
	}
}
