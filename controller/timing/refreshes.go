package timing

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
)

// Refreshes knows when the refresh annotation of each class was seen first as it is: what is made from the class afterwards is made from
// answers of the vault that are not older. It is one moment for all that is made from the class, so that it shares requests.
type Refreshes struct {
	mu    sync.Mutex
	known map[types.NamespacedName]refresh
}

// mostRefreshes bounds the classes that are known. One more forgets all of them, which costs each a request that it could have shared.
const mostRefreshes = 100_000

type refresh struct {
	text string
	at   time.Time
}

// NewRefreshes returns one that knows no class.
func NewRefreshes() *Refreshes { return &Refreshes{known: map[types.NamespacedName]refresh{}} }

// Noting is a predicate that lets every event of a class pass, and notes the class before a handler puts anything into a queue. Clock returns
// the time.
func (r *Refreshes) Noting(clock func() time.Time) predicate.Predicate {
	pass := predicate.NewPredicateFuncs(func(class client.Object) bool {
		r.note(client.ObjectKeyFromObject(class), class.GetAnnotations()[v1.RefreshAnnotation], clock())
		return true
	})
	pass.DeleteFunc = func(e event.DeleteEvent) bool {
		r.note(client.ObjectKeyFromObject(e.Object), "", clock())
		return true
	}
	return pass
}

// Of returns when the class's annotation was seen first; zero where it has none. A class that comes from the cache may be newer than the last
// event that was noted: then that is now.
func (r *Refreshes) Of(class *v1.SecretProviderClass, now time.Time) time.Time {
	return r.note(client.ObjectKeyFromObject(class), class.Annotations[v1.RefreshAnnotation], now)
}

func (r *Refreshes) note(class types.NamespacedName, text string, now time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if text == "" {
		delete(r.known, class)
		return time.Time{}
	}
	known := r.known[class]
	if known.text != text {
		if len(r.known) >= mostRefreshes {
			clear(r.known)
		}
		known = refresh{text: text, at: now}
		r.known[class] = known
	}
	return known.at
}
