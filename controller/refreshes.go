package controller

import (
	"maps"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
)

// refreshRequests knows when the refresh annotation of each class changed.
type refreshRequests struct {
	mu     sync.Mutex
	known  map[types.NamespacedName]refreshRequest
	purged time.Time
}

// keepRequests is how long a request is remembered at least. It counts for as long as a value may be shared, which is seconds.
const keepRequests = 10 * time.Minute

type refreshRequest struct {
	text string
	at   time.Time
}

func newRefreshRequests() *refreshRequests {
	return &refreshRequests{known: map[types.NamespacedName]refreshRequest{}}
}

// note takes the annotation of a class that was added, edited or deleted.
func (r *refreshRequests) note(class client.Object, now time.Time) {
	name, text := client.ObjectKeyFromObject(class), class.GetAnnotations()[v1.RefreshAnnotation]
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.purged) > keepRequests {
		r.purged = now
		maps.DeleteFunc(r.known, func(_ types.NamespacedName, known refreshRequest) bool { return now.Sub(known.at) > keepRequests })
	}
	switch {
	case text == "":
		delete(r.known, name)
	case r.known[name].text != text:
		r.known[name] = refreshRequest{text: text, at: now}
	}
}

// of returns when the class's annotation was seen first; zero where there is none.
func (r *refreshRequests) of(class *v1.SecretProviderClass) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.known[client.ObjectKeyFromObject(class)]
	if known.text != class.Annotations[v1.RefreshAnnotation] {
		return time.Time{}
	}
	return known.at
}
