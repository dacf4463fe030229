package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
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

// mounted is a volume that holds the objects, given as id and version.
func mounted(r volume.Ref, at time.Time, idVersions ...string) *volume.Snapshot {
	s := &volume.Snapshot{Ref: r, FetchedAt: at, Objects: []volume.Object{}}
	for pair := range slices.Chunk(idVersions, 2) {
		s.Objects = append(s.Objects, volume.Object{ID: pair[0], Version: pair[1]})
	}
	return s
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
	// found is what a read answers; reads counts them.
	found   *v1.SecretProviderClassPodStatus
	readErr error
	reads   int
	// older is true where the CustomResourceDefinition does not have startedVersion.
	older bool
}

func (s *server) read(context.Context, types.NamespacedName, types.UID) (*v1.SecretProviderClassPodStatus, error) {
	s.reads++
	return s.found, s.readErr
}

func (s *server) apply(_ context.Context, _ types.NamespacedName, body []byte) error {
	if s.fail != nil {
		return s.fail
	}
	if s.older && strings.Contains(string(body), "startedVersion") {
		return errors.New(".status.objects[0].startedVersion: field not declared in schema")
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

// cluster is a writer whose queue the test works off itself, and the volumes of its node.
type cluster struct {
	*statusWriter
	*server

	volumes []*volume.Snapshot
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{server: &server{}}
	c.statusWriter = newStatusWriter(Options{
		DriverName: "secrets-store.csi.k8s.io",
		NodeID:     "node-1",
		Clock:      clocktesting.NewFakeClock(noon),
		Log:        slog.New(slog.DiscardHandler),
	}, c.server.apply, c.server.read)
	volumes := func() []*volume.Snapshot { return c.volumes }
	c.statusWriter.volumes.Store(&volumes)
	t.Cleanup(c.queue.ShutDown)
	return c
}

// now sets the node's volumes, reports the event and returns what is written then.
func (c *cluster) now(t *testing.T, e report.Event, volumes ...*volume.Snapshot) []written {
	t.Helper()
	c.volumes = volumes
	c.Report(t.Context(), e)
	for c.queue.Len() > 0 {
		name, _ := c.queue.Get()
		c.write(t.Context(), name)
		c.queue.Done(name)
	}
	return c.take(t)
}

func TestStatusObjectIsThatOfExistingClusters(t *testing.T) {
	s := mounted(ref("u1", "/pods/u1/a"), noon, "secret/db", "v1", "cert/tls", "v7")
	got := newCluster(t).now(t, report.Published{After: s}, s)
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
	c := newCluster(t)
	v := ref("u1", "/a")
	step := func(name string, e report.Event, writes int, volumes ...*volume.Snapshot) map[string]string {
		t.Helper()
		got := c.now(t, e, volumes...)
		if len(got) != writes {
			t.Fatalf("%s: %d writes, want %d", name, len(got), writes)
		}
		if writes == 0 {
			return nil
		}
		return got[0].Metadata.Annotations
	}
	at := func(minutes int) time.Time { return noon.Add(time.Duration(minutes) * time.Minute) }
	failing := func(before *volume.Failure, minutes int, reason volume.Reason, message string) *volume.Snapshot {
		s := mounted(v, at(2), "secret/db", "v1")
		s.Failure = before.Next(at(minutes), &volume.Error{Reason: reason, Message: message})
		return s
	}
	first := mounted(v, noon, "secret/db", "v1")
	step("mounted", report.Published{After: first}, 1, first)
	step("the same again", report.Refreshed{After: first}, 0, mounted(v, at(2), "secret/db", "v1"))
	s := failing(nil, 4, volume.ReasonThrottled, "too much\nby 9 s")
	failed := step("a failure", report.RefreshFailed{Volume: v}, 1, s)
	want := map[string]string{
		"keyvault-csi/last-success": "2026-03-01T12:02:00Z", "keyvault-csi/failing-since": "2026-03-01T12:04:00Z",
		"keyvault-csi/failure-reason": "Throttled", "keyvault-csi/failure": "the files stay as they are: too much by 9 s",
	}
	if diff := cmp.Diff(want, failed); diff != "" {
		t.Error(diff)
	}
	s = failing(s.Failure, 6, volume.ReasonThrottled, "too much by 7 s")
	step("the same failure with another message", report.RefreshFailed{Volume: v}, 0, s)
	s = failing(s.Failure, 8, volume.ReasonDNS, "no address")
	other := step("another failure", report.RefreshFailed{Volume: v}, 1, s)
	if other["keyvault-csi/failing-since"] != "2026-03-01T12:04:00Z" || other["keyvault-csi/failure-reason"] != "DNS" {
		t.Errorf("another failure: %v", other)
	}
	s = mounted(v, at(9), "secret/db", "v1")
	recovered := step("recovered", report.Recovered{After: s}, 1, s)
	if diff := cmp.Diff(map[string]string{"keyvault-csi/last-success": "2026-03-01T12:09:00Z"}, recovered); diff != "" {
		t.Error(diff)
	}
	s = mounted(v, at(10), "secret/db", "v2")
	step("rotated", report.Refreshed{After: s, Changed: true}, 1, s)
	s = mounted(v, at(1), "secret/db", "v1")
	s.Stale = true
	if got := step("stale", report.ServedStale{After: s}, 1, s); got["keyvault-csi/stale-since"] != "2026-03-01T12:01:00Z" {
		t.Errorf("stale: %v", got)
	}
	step("gone: the API server removes it with the pod", report.Unpublished{Volume: v}, 0)
	step("mounted again", report.Published{After: s}, 1, s)
}

func TestStatusOfTwoVolumesOfOneClass(t *testing.T) {
	c := newCluster(t)
	a, b := mounted(ref("u1", "/a"), noon, "secret/db", "v1"), mounted(ref("u1", "/b"), noon, "secret/extra", "v3")
	got := c.now(t, report.Published{After: b}, b, a)
	if len(got) != 1 || got[0].Status["targetPath"] != "/a" || len(got[0].Status["objects"].([]any)) != 2 {
		t.Fatalf("got %+v", got)
	}
	got = c.now(t, report.Unpublished{Volume: a.Ref}, b)
	if len(got) != 1 || got[0].Status["targetPath"] != "/b" || len(got[0].Status["objects"].([]any)) != 1 {
		t.Fatalf("after one is gone: %+v", got)
	}
}

func TestStatusOfAPodThatComesAgainUnderItsName(t *testing.T) {
	c := newCluster(t)
	old, young := mounted(ref("u1", "/u1"), noon, "secret/db", "v0"), mounted(ref("u2", "/u2"), noon, "secret/db", "v1")
	young.Since = noon.Add(time.Second)
	for _, volumes := range [][]*volume.Snapshot{{old, young}, {young, old}, {young}} {
		got := c.now(t, report.Refreshed{After: old}, volumes...)
		if len(got) > 1 || len(got) == 1 && (got[0].Metadata.OwnerReferences[0]["uid"] != "u2" || got[0].Status["targetPath"] != "/u2") {
			t.Fatalf("got %+v", got)
		}
	}
}

func TestStatusIsRetried(t *testing.T) {
	c := newCluster(t)
	c.fail = errors.New("api server is down")
	s := mounted(ref("u1", "/a"), noon, "secret/db", "v1")
	c.now(t, report.Published{After: s}, s)
	name := types.NamespacedName{Namespace: "shop", Name: "cart-0-shop-web"}
	if n := c.queue.NumRequeues(name); n != 1 {
		t.Fatalf("%d retries are due, want 1", n)
	}
	c.fail = nil
	c.queue.Add(name) // as its timer does
	if got := c.now(t, report.Adopted{After: s}, s); len(got) != 1 || c.queue.NumRequeues(name) != 0 {
		t.Fatalf("got %+v", got)
	}
}

// versions are the objects of a written status object: "id started->version".
func versions(w written) (texts []string) {
	objects, _ := w.Status["objects"].([]any)
	for _, o := range objects {
		one := o.(map[string]any)
		texts = append(texts, fmt.Sprintf("%v %v->%v", one["id"], one["startedVersion"], one["version"]))
	}
	return texts
}

// The versions that a Pod started with are those of the process that mounted its volume, also after a restart of the driver.
func TestStatusSaysWhatThePodStartedWith(t *testing.T) {
	existing := func(edit func(*v1.SecretProviderClassPodStatus)) *v1.SecretProviderClassPodStatus {
		status := statusOf([]*volume.Snapshot{mounted(ref("u1", "/a"), noon, "secret/db", "v2")}, "secrets-store.csi.k8s.io", "node-1",
			types.NamespacedName{Namespace: "shop", Name: "cart-0-shop-web"})
		status.TypeMeta = metav1.TypeMeta{}
		status.Status.Objects[0].StartedVersion = "v1"
		if edit != nil {
			edit(status)
		}
		return status
	}
	tests := map[string]struct {
		found    *v1.SecretProviderClassPodStatus
		adopted  bool
		objects  []string
		started  map[string]string
		want     []string
		writes   int
		wantRead int
	}{
		"mounted by this process": {
			objects: []string{"secret/db", "v2", "secret/new", "v9"}, started: map[string]string{"secret/db": "v1", "secret/new": "v9"},
			want: []string{"secret/db v1->v2", "secret/new v9->v9"}, writes: 1,
		},
		"by an earlier one, rotated since": {
			found: existing(nil), adopted: true, objects: []string{"secret/db", "v3"}, started: map[string]string{"secret/db": "v3"},
			want: []string{"secret/db v1->v3"}, writes: 1, wantRead: 1,
		},
		"by an earlier one, unchanged: nothing to write": {
			found: existing(nil), adopted: true, objects: []string{"secret/db", "v2"}, started: map[string]string{"secret/db": "v2"}, wantRead: 1,
		},
		"by a driver that does not record it": {
			found:   existing(func(s *v1.SecretProviderClassPodStatus) { s.Status.Objects[0].StartedVersion = "" }),
			adopted: true, objects: []string{"secret/db", "v3"}, started: map[string]string{"secret/db": "v3"},
			want: []string{"secret/db v2->v3"}, writes: 1, wantRead: 1,
		},
		"by an earlier one that wrote nothing": {
			adopted: true, objects: []string{"secret/db", "v3"}, started: map[string]string{"secret/db": "v3"},
			want: []string{"secret/db v3->v3"}, writes: 1, wantRead: 1,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.found = tt.found
			s := mounted(ref("u1", "/a"), noon, tt.objects...)
			s.Adopted, s.Started = tt.adopted, tt.started
			got := c.now(t, report.Refreshed{After: s}, s)
			if len(got) != tt.writes || c.reads != tt.wantRead || len(got) > 0 && !slices.Equal(versions(got[0]), tt.want) {
				t.Fatalf("%d reads, got %+v", c.reads, got)
			}
			if got := c.now(t, report.Refreshed{After: s}, s); len(got) != 0 || c.reads != tt.wantRead {
				t.Errorf("the same again: %d reads, %+v", c.reads, got)
			}
		})
	}
}

// While the earlier object cannot be read nothing is written over it.
func TestStatusWaitsForTheEarlierOne(t *testing.T) {
	c := newCluster(t)
	s := mounted(ref("u1", "/a"), noon, "secret/db", "v3")
	s.Adopted, s.Started = true, map[string]string{"secret/db": "v3"}
	c.readErr = apierrors.NewForbidden(schema.GroupResource{}, "x", errors.New("just started"))
	name := types.NamespacedName{Namespace: "shop", Name: "cart-0-shop-web"}
	for range 2 {
		if got := c.now(t, report.Refreshed{After: s}, s); len(got) != 0 {
			t.Fatalf("got %+v", got)
		}
	}
	c.readErr = nil
	c.found = &v1.SecretProviderClassPodStatus{Status: v1.SecretProviderClassPodStatusStatus{Objects: []v1.SecretProviderClassObject{
		{ID: "secret/db", Version: "v2", StartedVersion: "v1"},
	}}}
	got := c.now(t, report.Refreshed{After: s}, s)
	if len(got) != 1 || !slices.Equal(versions(got[0]), []string{"secret/db v1->v3"}) || c.queue.NumRequeues(name) != 0 {
		t.Fatalf("got %+v", got)
	}
}

// A CustomResourceDefinition without the field, as that of the Secrets Store CSI Driver, costs the field and nothing else.
func TestStatusWithAnOlderDefinition(t *testing.T) {
	c := newCluster(t)
	c.older = true
	for _, version := range []string{"v1", "v2"} {
		s := mounted(ref("u1", "/a"), noon, "secret/db", version)
		s.Started = map[string]string{"secret/db": "v1"}
		if got := c.now(t, report.Refreshed{After: s}, s); len(got) != 1 || !slices.Equal(versions(got[0]), []string{"secret/db <nil>->" + version}) {
			t.Fatalf("got %+v", got)
		}
	}
}

// What an earlier process wrote about a volume stays until this one knows better.
func TestUnknownContentIsNotWritten(t *testing.T) {
	c := newCluster(t)
	adopted := &volume.Snapshot{Ref: ref("u1", "/a")}
	if got := c.now(t, report.RefreshFailed{Volume: adopted.Ref}, adopted); len(got) != 0 {
		t.Fatalf("got %+v", got)
	}
	if got := c.now(t, report.Panicked{}, adopted); len(got) != 0 {
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
