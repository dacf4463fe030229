package timing_test

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/keyvault-csi/keyvault-csi-driver/controller/timing"
	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
)

// TestRefreshes: an annotation counts from when it was seen first, in an event or in a class from the cache, until it is
// taken away or the class is deleted.
func TestRefreshes(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := timing.NewRefreshes()
	noting := r.Noting(func() time.Time { return now })
	class := func(text string) *v1.SecretProviderClass {
		c := &v1.SecretProviderClass{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
		if text != "" {
			c.Annotations = map[string]string{v1.RefreshAnnotation: text}
		}
		return c
	}
	of := func(text string, want time.Time) {
		t.Helper()
		if got := r.Of(class(text), now); !got.Equal(want) {
			t.Errorf("%s: %q counts from %s, want %s", now, text, got, want)
		}
	}
	start := now
	if !noting.Create(event.CreateEvent{Object: class("a/0s")}) {
		t.Error("the event does not pass")
	}
	now = now.Add(time.Second)
	of("a/0s", start)
	second := now
	if !noting.Update(event.UpdateEvent{ObjectOld: class("a/0s"), ObjectNew: class("b/0s")}) {
		t.Error("the event does not pass")
	}
	now = now.Add(time.Second)
	of("b/0s", second)
	of("c/0s", now) // its event comes later
	third := now
	now = now.Add(time.Second)
	noting.Update(event.UpdateEvent{ObjectOld: class("b/0s"), ObjectNew: class("c/0s")})
	of("c/0s", third)
	now = now.Add(time.Hour)
	of("c/0s", third) // what is asked for later may share as ever
	of("", time.Time{})
	of("c/0s", now)
	now = now.Add(time.Second)
	if !noting.Delete(event.DeleteEvent{Object: class("c/0s")}) {
		t.Error("the event does not pass")
	}
	of("c/0s", now) // of another class of that name
}
