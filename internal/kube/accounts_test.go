package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// directory stands in for the one request that accounts make.
type directory struct {
	sync.Mutex

	answer map[string]string
	fail   error
	asked  int
	wait   chan struct{}
}

func (d *directory) get(context.Context, types.NamespacedName) (map[string]string, error) {
	d.Lock()
	wait := d.wait
	d.Unlock()
	if wait != nil {
		<-wait
	}
	d.Lock()
	defer d.Unlock()
	d.asked++
	return d.answer, d.fail
}

func (d *directory) set(client string, fail error) {
	d.Lock()
	defer d.Unlock()
	d.answer, d.fail = nil, fail
	if client != "" {
		d.answer = map[string]string{"azure.workload.identity/client-id": client}
	}
}

// newAccounts reads from the directory.
func newAccounts(t *testing.T, d *directory) *Cluster {
	c := &Cluster{log: slog.New(slog.DiscardHandler), clock: clock.RealClock{}, ctx: t.Context()}
	c.accounts = newLookup(c, d.get, func(found map[string]string) bool { return len(found) > 0 })
	return c
}

var cart = types.NamespacedName{Namespace: "shop", Name: "cart"}

func TestAccountsAreReadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &directory{wait: make(chan struct{})}
		d.set("a", nil)
		a := newAccounts(t, d)
		var asks sync.WaitGroup
		for range 50 {
			asks.Go(func() {
				if got, err := a.Annotations(t.Context(), cart.Namespace, cart.Name); err != nil || got["azure.workload.identity/client-id"] != "a" {
					t.Errorf("%v, %v", got, err)
				}
			})
		}
		synctest.Wait()
		close(d.wait)
		asks.Wait()
		if d.asked != 1 {
			t.Errorf("%d requests", d.asked)
		}
	})
}

func TestAccountsAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &directory{}
		a := newAccounts(t, d)
		look := func(what, client string, requests int) {
			t.Helper()
			got, err := a.Annotations(t.Context(), cart.Namespace, cart.Name)
			synctest.Wait() // for a renewal
			if err != nil || got["azure.workload.identity/client-id"] != client || d.asked != requests {
				t.Errorf("%s: %v, %v, %d requests", what, got, err, d.asked)
			}
		}
		look("no annotation", "", 1)
		look("no annotation, at once", "", 1)
		d.set("a", nil)
		time.Sleep(5 * time.Second) // the bubble's clock
		look("annotated a moment later", "a", 2)
		d.set("b", nil)
		time.Sleep(4 * time.Minute) // the bubble's clock
		look("edited, soon after", "a", 2)
		time.Sleep(time.Minute) // the bubble's clock
		look("edited, at the look that renews", "a", 3)
		look("edited, after it", "b", 3)
		d.set("", errors.New("the API server is away"))
		time.Sleep(time.Hour) // the bubble's clock
		look("away", "b", 4)
		look("still away", "b", 5)
		d.set("", apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccounts"}, "cart"))
		look("removed, at the look that learns of it", "b", 6)
		if _, err := a.Annotations(t.Context(), cart.Namespace, cart.Name); volume.ReasonOf(err) != volume.ReasonIdentity || !strings.Contains(err.Error(), "shop/cart does not exist") {
			t.Errorf("removed: %v", err)
		}
	})
}

func TestAccountsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &directory{}
		d.set("a", nil)
		a := newAccounts(t, d)
		for i := range 3 * maxLookups {
			if _, err := a.Annotations(t.Context(), "shop", fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond) // the bubble's clock
		}
		kept := a.accounts.known
		if len(kept) != maxLookups || kept[types.NamespacedName{Namespace: "shop", Name: fmt.Sprint(3*maxLookups - 1)}] == nil {
			t.Errorf("%d are known", len(kept))
		}
	})
}

func TestAccountErrors(t *testing.T) {
	kind := schema.GroupResource{Resource: "serviceaccounts"}
	for name, tt := range map[string]struct {
		err    error
		reason volume.Reason
		says   string
	}{
		"forbidden": {apierrors.NewForbidden(kind, "cart", errors.New("no rights")), volume.ReasonIdentity, "serviceAccountAnnotations.enabled"},
		"cut off":   {errors.New("dial tcp: connection\nrefused"), volume.ReasonNotReady, "connection refused: kubelet tries again"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := accountError(cart, tt.err); volume.ReasonOf(err) != tt.reason || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: %v", volume.ReasonOf(err), err)
			}
		})
	}
}
