package kube

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ref(uid, target string) volume.Ref {
	return volume.Ref{
		ID: "csi-1", TargetPath: target, Class: "web",
		Pod: volume.Pod{Namespace: "shop", Name: "cart-0", UID: uid, ServiceAccount: "cart"},
	}
}

func bundle(at time.Time, idVersions ...string) *volume.Bundle {
	b := &volume.Bundle{FetchedAt: at, Files: []volume.File{{Path: "db", Data: []byte("canary-value")}}}
	for pair := range slices.Chunk(idVersions, 2) {
		b.Objects = append(b.Objects, volume.Object{ID: pair[0], Version: pair[1]})
	}
	return b
}

// written is one apply, as JSON has it.
type written struct {
	APIVersion, Kind string
	Metadata         struct {
		Name, Namespace     string
		Labels, Annotations map[string]string
		OwnerReferences     []map[string]any
	}
	Status map[string]any
}

// server stands in for the one call that the writer makes.
type server struct {
	bodies []string
	fail   error
}

func (s *server) apply(_ context.Context, _ types.NamespacedName, body []byte) error {
	if s.fail != nil {
		return s.fail
	}
	s.bodies = append(s.bodies, string(body))
	return nil
}

// take returns what was applied since the last call.
func (s *server) take(t *testing.T) []written {
	t.Helper()
	var all []written
	for _, body := range s.bodies {
		if strings.Contains(body, "canary") {
			t.Errorf("a secret's value in %s", body)
		}
		var w written
		if err := json.Unmarshal([]byte(body), &w); err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
	}
	s.bodies = nil
	return all
}

// newWriter returns a writer whose queue the test works off itself.
func newWriter(t *testing.T) (*statusWriter, *server, func()) {
	t.Helper()
	s := &server{}
	w := newStatusWriter(Options{
		DriverName: "secrets-store.csi.k8s.io", NodeID: "node-1", Clock: clocktesting.NewFakeClock(noon),
		Log: slog.New(slog.DiscardHandler),
	}, s.apply)
	t.Cleanup(w.queue.ShutDown)
	return w, s, func() {
		for w.queue.Len() > 0 {
			name, _ := w.queue.Get()
			w.write(t.Context(), name)
			w.queue.Done(name)
		}
	}
}

func TestStatusObjectIsThatOfExistingClusters(t *testing.T) {
	w, s, work := newWriter(t)
	w.Report(report.Event{Kind: report.Published, Time: noon, Volume: ref("u1", "/pods/u1/a"), Bundle: bundle(noon, "secret/db", "v1", "cert/tls", "v7")})
	work()
	got := s.take(t)
	if len(got) != 1 {
		t.Fatalf("%d writes, want 1", len(got))
	}
	want := written{APIVersion: "secrets-store.csi.x-k8s.io/v1", Kind: "SecretProviderClassPodStatus"}
	want.Metadata.Name, want.Metadata.Namespace = "cart-0-shop-web", "shop"
	want.Metadata.Labels = map[string]string{"internal.secrets-store.csi.k8s.io/node-name": "node-1"}
	want.Metadata.Annotations = map[string]string{"keyvault-csi/last-success": "2026-03-01T12:00:00Z"}
	want.Metadata.OwnerReferences = []map[string]any{{"apiVersion": "v1", "kind": "Pod", "name": "cart-0", "uid": "u1"}}
	want.Status = map[string]any{
		"podName": "cart-0", "secretProviderClassName": "web", "mounted": true, "targetPath": "/pods/u1/a",
		"objects": []any{
			map[string]any{"id": "cert/tls", "version": "v7"}, map[string]any{"id": "secret/db", "version": "v1"},
		},
	}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Error(diff)
	}
}

func TestStatusIsWrittenOnlyOnChange(t *testing.T) {
	w, s, work := newWriter(t)
	v := ref("u1", "/a")
	step := func(name string, e report.Event, writes int) map[string]string {
		t.Helper()
		e.Volume = v
		w.Report(e)
		work()
		got := s.take(t)
		if len(got) != writes {
			t.Fatalf("%s: %d writes, want %d", name, len(got), writes)
		}
		if writes == 0 {
			return nil
		}
		return got[0].Metadata.Annotations
	}
	at := func(minutes int) time.Time { return noon.Add(time.Duration(minutes) * time.Minute) }
	step("mounted", report.Event{Kind: report.Published, Bundle: bundle(noon, "secret/db", "v1")}, 1)
	step("the same again", report.Event{Kind: report.Refreshed, Bundle: bundle(at(2), "secret/db", "v1")}, 0)
	failed := step("a failure", report.Event{
		Kind: report.RefreshFailed, Time: at(4), Reason: volume.ReasonThrottled, Message: "too much\nby 9 s",
	}, 1)
	want := map[string]string{
		"keyvault-csi/last-success": "2026-03-01T12:02:00Z", "keyvault-csi/failing-since": "2026-03-01T12:04:00Z",
		"keyvault-csi/failure-reason": "Throttled", "keyvault-csi/failure": "too much by 9 s",
	}
	if diff := cmp.Diff(want, failed); diff != "" {
		t.Error(diff)
	}
	step("the same failure in other words", report.Event{
		Kind: report.RefreshFailed, Time: at(6), Reason: volume.ReasonThrottled, Message: "too much by 7 s",
	}, 0)
	other := step("another failure", report.Event{Kind: report.RefreshFailed, Time: at(8), Reason: volume.ReasonDNS, Message: "no address"}, 1)
	if other["keyvault-csi/failing-since"] != "2026-03-01T12:04:00Z" || other["keyvault-csi/failure-reason"] != "DNS" {
		t.Errorf("another failure: %v", other)
	}
	healed := step("recovered", report.Event{Kind: report.Refreshed, Bundle: bundle(at(9), "secret/db", "v1")}, 1)
	if diff := cmp.Diff(map[string]string{"keyvault-csi/last-success": "2026-03-01T12:09:00Z"}, healed); diff != "" {
		t.Error(diff)
	}
	step("rotated", report.Event{Kind: report.Refreshed, Changed: true, Bundle: bundle(at(10), "secret/db", "v2")}, 1)
	stale := bundle(at(1), "secret/db", "v1")
	stale.Stale = true
	if got := step("stale", report.Event{Kind: report.ServedStale, Bundle: stale}, 1); got["keyvault-csi/stale-since"] != "2026-03-01T12:01:00Z" {
		t.Errorf("stale: %v", got)
	}
	step("gone: the API server removes it with the pod", report.Event{Kind: report.Unpublished}, 0)
	if len(w.objects) != 0 {
		t.Errorf("%d objects are remembered", len(w.objects))
	}
}

func TestStatusOfTwoVolumesOfOneClass(t *testing.T) {
	w, s, work := newWriter(t)
	w.Report(report.Event{Kind: report.Published, Volume: ref("u1", "/b"), Bundle: bundle(noon, "secret/extra", "v3")})
	w.Report(report.Event{Kind: report.Published, Volume: ref("u1", "/a"), Bundle: bundle(noon, "secret/db", "v1")})
	work()
	got := s.take(t)
	if len(got) != 1 || got[0].Status["targetPath"] != "/a" || len(got[0].Status["objects"].([]any)) != 2 {
		t.Fatalf("got %+v", got)
	}
	w.Report(report.Event{Kind: report.Unpublished, Volume: ref("u1", "/a")})
	work()
	if got = s.take(t); len(got) != 1 || got[0].Status["targetPath"] != "/b" || len(got[0].Status["objects"].([]any)) != 1 {
		t.Fatalf("after one is gone: %+v", got)
	}
}

func TestStatusOfAPodThatComesAgainUnderItsName(t *testing.T) {
	w, s, work := newWriter(t)
	w.Report(report.Event{Kind: report.Published, Volume: ref("u1", "/u1"), Bundle: bundle(noon, "secret/db", "v1")})
	w.Report(report.Event{Kind: report.Published, Volume: ref("u2", "/u2"), Bundle: bundle(noon, "secret/db", "v1")})
	w.Report(report.Event{Kind: report.Refreshed, Volume: ref("u1", "/u1"), Bundle: bundle(noon, "secret/db", "v0")})
	w.Report(report.Event{Kind: report.Unpublished, Volume: ref("u1", "/u1")})
	work()
	got := s.take(t)
	if len(got) != 1 || got[0].Metadata.OwnerReferences[0]["uid"] != "u2" || got[0].Status["targetPath"] != "/u2" {
		t.Fatalf("got %+v", got)
	}
}

func TestStatusIsTriedAgain(t *testing.T) {
	w, s, work := newWriter(t)
	s.fail = errors.New("api server is down")
	e := report.Event{Kind: report.Published, Volume: ref("u1", "/a"), Bundle: bundle(noon, "secret/db", "v1")}
	w.Report(e)
	work()
	name := types.NamespacedName{Namespace: "shop", Name: "cart-0-shop-web"}
	if n := w.queue.NumRequeues(name); n != 1 {
		t.Fatalf("%d retries are due, want 1", n)
	}
	s.fail = nil
	w.queue.Add(name) // as its timer does
	work()
	if got := s.take(t); len(got) != 1 || w.queue.NumRequeues(name) != 0 {
		t.Fatalf("got %+v", got)
	}
}

func TestUnknownContentIsNotWritten(t *testing.T) {
	w, s, work := newWriter(t)
	w.Report(report.Event{Kind: report.RefreshFailed, Volume: ref("u1", "/a"), Reason: volume.ReasonDNS})
	w.Report(report.Event{Kind: report.Panicked})
	work()
	if got := s.take(t); len(got) != 0 {
		t.Fatalf("got %+v", got)
	}
}

func TestNamesFit(t *testing.T) {
	long := ref("u1", "/a")
	long.Pod.Name, long.Class = strings.Repeat("p", 200), strings.Repeat("c", 100)
	other := long
	other.Class = strings.Repeat("c", 99) + "d"
	name := statusName(long)
	if len(name) != 253 || name == statusName(other) || name != statusName(long) {
		t.Errorf("%d bytes: %s", len(name), name)
	}
	if got := shorten("node."+strings.Repeat("-", 60)+".example", 63); len(got) > 63 || strings.Contains(got, "--") {
		t.Errorf("label %q", got)
	}
}
