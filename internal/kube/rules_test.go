package kube

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

func TestEventsOnThePod(t *testing.T) {
	pod := ref("u1", "/a")
	now := &volume.Snapshot{Ref: pod}
	away := errors.New("vault a\nis away")
	tests := map[string]struct {
		event report.Event
		want  string
	}{
		"rotated": {
			report.Refreshed{After: now, Changed: true},
			"Normal MountRotationComplete secretproviderclass web: the mounted files were updated",
		},
		"nothing new": {report.Refreshed{After: now}, ""},
		"failed": {
			report.RefreshFailed{Volume: pod, Err: away},
			"Warning MountRotationFailed secretproviderclass web: the files stay as they are: vault a is away",
		},
		"recovered": {
			report.Recovered{After: now},
			"Normal MountRotationRecovered secretproviderclass web: refreshed again after a failure",
		},
		"stale": {
			report.ServedStale{After: now, Err: away},
			"Warning MountedLastKnownGood secretproviderclass web: started from last known good values of " +
				"0001-01-01T00:00:00Z: vault a is away",
		},
		"expiring": {report.Expiring{Volume: pod, Text: "soon"}, "Warning ObjectExpiring secretproviderclass web: soon"},
		"percent is text": {
			report.Warning{Volume: pod, Text: "50%s"},
			"Warning SecretProviderClassWarning secretproviderclass web: 50%s",
		},
		"not mounted": {
			report.PublishFailed{Volume: pod, Err: errors.New("x")},
			"Warning FailedToMount secretproviderclass web: x",
		},
		"mounted": {report.Published{After: now}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newEventWriter(Options{DriverName: "d", NodeID: "n", Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler)}, nil)
			w.Report(t.Context(), tt.event)
			got := ""
			select {
			case e := <-w.queue:
				got = e.Type + " " + e.Reason + " " + e.Message
			default:
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// Events that repeat are counted, those of one Pod are bounded, and one that the API server cannot take now is tried again.
func TestEventsAreCountedAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var written []event
		fail := 2
		w := newEventWriter(Options{DriverName: "d", NodeID: "n", Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler)},
			func(_ context.Context, e *event) error {
				if fail > 0 {
					fail--
					return apierrors.NewServiceUnavailable("away")
				}
				written = append(written, *e)
				return nil
			})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); w.run(ctx) }()
		for range 40 {
			w.Report(t.Context(), report.Warning{Volume: ref("u1", "/a"), Text: "x"})
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(written) != eventBurst || written[0].Count != 1 || written[24].Count != 25 || written[24].Metadata.Name != written[0].Metadata.Name {
			t.Errorf("%d events: %+v", len(written), written)
		}
		w.Report(t.Context(), report.Warning{Volume: ref("u2", "/b"), Text: "x"})
		time.Sleep(2 * eventInterval)
		synctest.Wait()
		w.Report(t.Context(), report.Warning{Volume: ref("u1", "/a"), Text: "x"})
		synctest.Wait()
		if len(written) != eventBurst+2 || written[25].Count != 1 || written[26].Count != 26 {
			t.Errorf("%d events", len(written))
		}
		stop()
		<-done
	})
}

func FuzzClip(f *testing.F) {
	f.Add("one\r\ntwo")
	f.Add(strings.Repeat("é", 700))
	f.Add("\xff\xfe" + strings.Repeat("x", 1030))
	f.Fuzz(func(t *testing.T, text string) {
		got := clip(text)
		if len(got) > 1024 || !utf8.ValidString(got) || strings.ContainsAny(got, "\r\n") {
			t.Errorf("%d bytes: %q", len(got), got)
		}
	})
}

func TestClassErrors(t *testing.T) {
	kind := schema.GroupResource{Group: "secrets-store.csi.x-k8s.io", Resource: "secretproviderclasses"}
	tests := map[string]struct {
		err    error
		reason volume.Reason
		says   string
	}{
		"missing": {apierrors.NewNotFound(kind, "web"), volume.ReasonClassNotFound, "create it in the pod's namespace"},
		"no CRDs": {
			apierrors.NewGenericServerResponse(404, "get", kind, "web", "404 page not found", 0, true),
			volume.ReasonNotReady, "install the CustomResourceDefinitions",
		},
		"forbidden": {apierrors.NewForbidden(kind, "web", errors.New("no\nrights")), volume.ReasonNotReady, "is forbidden: no rights"},
		"cut off":   {errors.New("dial tcp: connection refused"), volume.ReasonNotReady, "connection refused"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := classError(types.NamespacedName{Namespace: "shop", Name: "web"}, tt.err)
			if volume.ReasonOf(err) != tt.reason || !strings.Contains(err.Error(), tt.says) ||
				!strings.Contains(err.Error(), "shop/web") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v", volume.ReasonOf(err), err)
			}
		})
	}
}

func TestEdited(t *testing.T) {
	class := func(change func(*v1.SecretProviderClass)) *v1.SecretProviderClass {
		c := &v1.SecretProviderClass{
			ObjectMeta: metav1.ObjectMeta{UID: "1", ResourceVersion: "5", Annotations: map[string]string{"a": "b"}},
			Spec:       v1.SecretProviderClassSpec{Provider: "azure", Parameters: map[string]string{"keyvaultName": "a"}},
		}
		change(c)
		return c
	}
	before := class(func(*v1.SecretProviderClass) {})
	tests := map[string]struct {
		change func(*v1.SecretProviderClass)
		want   bool
	}{
		"version alone": {func(c *v1.SecretProviderClass) { c.ResourceVersion = "6" }, false},
		"labels":        {func(c *v1.SecretProviderClass) { c.Labels = map[string]string{"x": "y"} }, false},
		"annotation":    {func(c *v1.SecretProviderClass) { c.Annotations["a"] = "c" }, true},
		"parameter":     {func(c *v1.SecretProviderClass) { c.Spec.Parameters["keyvaultName"] = "b" }, true},
		"made anew":     {func(c *v1.SecretProviderClass) { c.UID = "2" }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := edited(before, class(tt.change)); got != tt.want {
				t.Errorf("edited is %v", got)
			}
		})
	}
}

func TestSlim(t *testing.T) {
	class := &v1.SecretProviderClass{ObjectMeta: metav1.ObjectMeta{
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
		Annotations:   map[string]string{lastApplied: "{}", "keyvault-csi/rotate-at": "now"},
	}}
	slim(class)
	if class.ManagedFields != nil || len(class.Annotations) != 1 || class.Annotations["keyvault-csi/rotate-at"] == "" {
		t.Errorf("left: %+v", class.ObjectMeta)
	}
}
