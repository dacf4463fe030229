package kube

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// A namespace that matches is read again after minutes, in the background; one that does not is read again after seconds, since a Pod
// waits for its label.
func TestNamespacesAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Cluster{log: slog.New(slog.DiscardHandler), clock: clock.RealClock{}, ctx: t.Context()}
		matches, reads := false, 0
		var failure error
		n := &Namespaces{matches: newLookup(c, func(context.Context, types.NamespacedName) (bool, error) {
			reads++
			return matches, failure
		}, func(matches bool) bool { return matches })}
		look := func(what string, want bool, requests int) {
			t.Helper()
			got, err := n.Match(t.Context(), "shop")
			synctest.Wait() // for a read in the background
			if err != nil || got != want || reads != requests {
				t.Errorf("%s: %t, %v, %d reads", what, got, err, reads)
			}
		}
		look("no label", false, 1)
		look("no label, at once", false, 1)
		matches = true
		time.Sleep(5 * time.Second) // the bubble's clock
		look("labelled", true, 2)
		matches = false
		time.Sleep(4 * time.Minute) // the bubble's clock
		look("the label is removed, soon after", true, 2)
		time.Sleep(time.Minute) // the bubble's clock
		look("the look that reads again", true, 3)
		look("the label is removed", false, 3)
		matches = true
		time.Sleep(5 * time.Second) // the bubble's clock
		look("labelled again", true, 4)
		failure = errors.New("connection refused")
		time.Sleep(3 * time.Hour) // the bubble's clock
		look("the API server does not answer", true, 5)
		look("nor later", true, 6)
	})
}

func TestNamespaceErrors(t *testing.T) {
	kind := schema.GroupResource{Resource: "namespaces"}
	for name, tt := range map[string]struct {
		read   func() error
		reason volume.Reason
		says   string
	}{
		"forbidden": {
			func() error { return apierrors.NewForbidden(kind, "shop", errors.New("no rights")) },
			volume.ReasonIdentity, "its operator grants get on namespaces",
		},
		"not found": {func() error { return apierrors.NewNotFound(kind, "shop") }, volume.ReasonNotReady, "kubelet tries again"},
		"cut off":   {func() error { return errors.New("dial tcp: connection\nrefused") }, volume.ReasonNotReady, "connection refused: kubelet tries again"},
		"a defect":  {func() error { panic("x") }, volume.ReasonInternal, "defect in the driver"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &Cluster{log: slog.New(slog.DiscardHandler), clock: clock.RealClock{}, ctx: t.Context()}
			n := &Namespaces{matches: newLookup(c,
				func(context.Context, types.NamespacedName) (bool, error) { return false, tt.read() }, func(bool) bool { return true })}
			_, err := n.Match(t.Context(), "shop")
			if volume.ReasonOf(err) != tt.reason || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: %v", volume.ReasonOf(err), err)
			}
		})
	}
}
