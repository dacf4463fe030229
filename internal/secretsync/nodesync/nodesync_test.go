package nodesync

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// cluster answers as an API server would that nobody else writes to.
type cluster struct {
	mu       sync.Mutex
	pods     map[string]*metav1.PartialObjectMetadata
	secrets  map[string]*metav1.PartialObjectMetadata
	values   map[string]string
	requests map[string]int
	fail     func(kind types.PatchType) error
	version  int
}

func (c *cluster) PodMetadata(_ context.Context, _, name string) (*metav1.PartialObjectMetadata, error) {
	time.Sleep(10 * time.Millisecond)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests["pods"]++
	return c.pods[name], nil
}

func (*cluster) ClassUID(context.Context, string, string) (types.UID, error) { return "u", nil }

func (*cluster) SecretClasses(context.Context, string, string) ([]string, error) { return nil, nil }

func (c *cluster) Patch(_ context.Context, name types.NamespacedName, kind types.PatchType, body []byte, o metav1.PatchOptions) (
	*metav1.PartialObjectMetadata, error,
) {
	time.Sleep(10 * time.Millisecond)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests[string(kind)]++
	if c.fail != nil {
		if err := c.fail(kind); err != nil {
			return nil, err
		}
	}
	s := c.secrets[name.Name]
	if kind == types.JSONPatchType {
		if s == nil {
			return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name.Name)
		}
		return s.DeepCopy(), nil
	}
	var in struct {
		Metadata struct {
			Annotations     map[string]string
			OwnerReferences []metav1.OwnerReference
		}
		Data map[string][]byte
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, err
	}
	if s == nil {
		s = &metav1.PartialObjectMetadata{}
		s.UID = "secret"
		c.secrets[name.Name] = s
	}
	c.version++
	s.ResourceVersion = strconv.Itoa(c.version)
	have := map[types.UID]bool{}
	for _, owner := range s.OwnerReferences {
		have[owner.UID] = true
	}
	for _, owner := range in.Metadata.OwnerReferences {
		if !have[owner.UID] {
			s.OwnerReferences = append(s.OwnerReferences, owner)
		}
	}
	if kind == types.ApplyPatchType {
		s.Annotations = in.Metadata.Annotations
		c.values[name.Name] = string(in.Data["k"])
		fields := map[string]any{"f:data": map[string]any{"f:k": 1}, "f:type": 1, "f:metadata": map[string]any{"f:labels": map[string]any{
			"f:secrets-store.csi.k8s.io/managed": 1}, "f:annotations": map[string]any{"f:" + key(in.Metadata.Annotations): 1}}}
		raw, err := json.Marshal(fields)
		if err != nil {
			return nil, err
		}
		s.ManagedFields = []metav1.ManagedFieldsEntry{{
			Manager: o.FieldManager, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(string(raw)),
		}}
	}
	return s.DeepCopy(), nil
}

func key(m map[string]string) string {
	for k := range m {
		return k
	}
	return ""
}

// bench is a Syncer over a cluster, in the time of a synctest bubble.
type bench struct {
	*testing.T

	cluster *cluster
	syncer  *Syncer
	mu      sync.Mutex
	events  []Event
	again   []volume.Ref
	class   *v1.SecretProviderClass
}

func onBench(t *testing.T, test func(*bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, cluster: &cluster{
			pods: map[string]*metav1.PartialObjectMetadata{}, secrets: map[string]*metav1.PartialObjectMetadata{},
			values: map[string]string{}, requests: map[string]int{},
		}, class: &v1.SecretProviderClass{}}
		b.class.UID, b.class.Generation = "u", 1
		b.class.Spec.SecretObjects = []v1.SecretObject{{SecretName: "db", Data: []v1.SecretObjectData{{ObjectName: "f", Key: "k"}}}}
		b.syncer = New(t.Context(), Options{
			Secrets: b.cluster, Classes: b.cluster, Pods: b.cluster, Clock: clock.RealClock{},
			Safe: safe.Handler{Log: slog.New(slog.DiscardHandler)},
			Report: func(_ context.Context, e Event) {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.events = append(b.events, e)
			},
			Refetch: func(ref volume.Ref) {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.again = append(b.again, ref)
			},
		})
		defer func() {
			if err := b.syncer.Close(); err != nil {
				t.Error(err)
			}
		}()
		test(b)
	})
}

// pod makes a Pod and its volume's ref.
func (b *bench) pod(name string) volume.Ref {
	pod := &metav1.PartialObjectMetadata{}
	pod.Name, pod.UID, pod.CreationTimestamp = name, types.UID(name), metav1.Now()
	b.cluster.mu.Lock()
	defer b.cluster.mu.Unlock()
	b.cluster.pods[name] = pod
	return volume.Ref{TargetPath: "/" + name, Class: "web", Pod: volume.Pod{Namespace: "shop", Name: name, UID: name}}
}

// bundle is what the vault answers now.
func bundle(value string) *volume.Bundle {
	key := volume.SourceKey{Vault: "https://kv/", Kind: "secret", Name: "f"}
	return &volume.Bundle{
		Files:   []volume.File{{Path: "f", Data: []byte(value), Source: key}},
		Sources: []volume.Source{{Key: key, Version: value, Date: time.Now().Truncate(time.Second)}}, FetchedAt: time.Now(),
	}
}

func (b *bench) apply(ref volume.Ref, value string) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
	defer cancel()
	b.syncer.Apply(ctx, ref, b.class, bundle(value))
}

func (b *bench) count(kinds ...types.PatchType) (n int) {
	b.cluster.mu.Lock()
	defer b.cluster.mu.Unlock()
	for _, kind := range kinds {
		n += b.cluster.requests[string(kind)]
	}
	return n
}

func (b *bench) value(secret string) string {
	b.cluster.mu.Lock()
	defer b.cluster.mu.Unlock()
	return b.cluster.values[secret]
}

func (b *bench) owners(secret string) int {
	b.cluster.mu.Lock()
	defer b.cluster.mu.Unlock()
	return len(b.cluster.secrets[secret].OwnerReferences)
}

func (b *bench) failing(err error) {
	b.cluster.mu.Lock()
	defer b.cluster.mu.Unlock()
	b.cluster.fail = func(types.PatchType) error { return err }
	if err == nil {
		b.cluster.fail = nil
	}
}

// told counts the events whose message holds the words.
func (b *bench) told(kind Kind, words string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		if e.Kind == kind && strings.Contains(e.Message, words) {
			n++
		}
	}
	return n
}

var patches = []types.PatchType{types.JSONPatchType, types.ApplyPatchType, types.StrategicMergePatchType} //nolint:gochecknoglobals // names

func TestPodsThatStartTogetherShareRequests(t *testing.T) {
	onBench(t, func(b *bench) {
		var starts sync.WaitGroup
		for i := range 200 {
			ref := b.pod(fmt.Sprintf("web-%d", i))
			starts.Go(func() { b.apply(ref, "1") })
		}
		starts.Wait()
		if got := b.owners("db"); got != 200 {
			b.Errorf("%d owners", got)
		}
		if got := b.count(patches...); got > 10 {
			b.Errorf("%d requests about the Secret", got)
		}
	})
}

// The Secret of a Pod that is gone would have no owner: it is not made.
func TestNothingWithoutAnOwner(t *testing.T) {
	onBench(t, func(b *bench) {
		ref := b.pod("gone")
		delete(b.cluster.pods, "gone")
		b.apply(ref, "1")
		if b.value("db") != "" {
			b.Error("a Secret without an owner")
		}
	})
}

// What fails is tried again with growing waits, with the newest values, and not after the volume is gone.
func TestRetries(t *testing.T) {
	onBench(t, func(b *bench) {
		ref := b.pod("a")
		b.failing(apierrors.NewInternalError(fmt.Errorf("away")))
		b.apply(ref, "1")
		for range 5 { // refreshes while it fails
			time.Sleep(time.Minute)
			b.apply(ref, "1")
		}
		if got := b.count(patches...); got > 12 {
			b.Errorf("%d requests in five minutes of failures", got)
		}
		b.failing(nil)
		time.Sleep(lastRetry + time.Minute)
		if got := b.value("db"); got != "1" {
			b.Errorf("the Secret holds %q", got)
		}
		b.failing(apierrors.NewInternalError(fmt.Errorf("away")))
		b.apply(ref, "2")
		b.syncer.Forget(ref)
		b.failing(nil)
		time.Sleep(2 * lastRetry)
		if got := b.value("db"); got != "1" {
			b.Errorf("the Secret was written after its volume was gone: %q", got)
		}
		b.syncer.mu.Lock()
		defer b.syncer.mu.Unlock()
		if len(b.syncer.states)+len(b.syncer.volumes)+len(b.syncer.owners) > 0 {
			b.Error("something is kept")
		}
	})
}

// Enqueue returns at once, and the Secret follows.
func TestEnqueue(t *testing.T) {
	onBench(t, func(b *bench) {
		ref := b.pod("a")
		b.apply(ref, "1")
		time.Sleep(time.Second)
		start := time.Now()
		b.syncer.Enqueue(b.Context(), ref, b.class, bundle("2"))
		if time.Since(start) > 0 {
			b.Error("it waited")
		}
		time.Sleep(time.Second)
		if got := b.value("db"); got != "2" {
			b.Errorf("the Secret holds %q", got)
		}
		before := b.count(patches...)
		for range 4 {
			time.Sleep(2 * time.Minute)
			b.syncer.Enqueue(b.Context(), ref, b.class, bundle("2"))
		}
		time.Sleep(time.Second)
		if got := b.count(patches...) - before; got > 0 {
			b.Errorf("%d requests though nothing changed", got)
		}
	})
}

// Values that are older than what the Secret was made from are not written, and are asked for again.
func TestOlderValuesAreFetchedAgain(t *testing.T) {
	onBench(t, func(b *bench) {
		a, late := b.pod("a"), b.pod("late")
		old := bundle("1")
		time.Sleep(5 * time.Second)
		b.apply(a, "2")
		time.Sleep(time.Minute)
		b.syncer.Apply(b.Context(), late, b.class, old)
		if got := b.value("db"); got != "2" {
			b.Errorf("the Secret holds %q", got)
		}
		time.Sleep(2 * time.Second)
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.again) != 1 || b.again[0] != late {
			b.Errorf("asked again for %v", b.again)
		}
	})
}

// Pods with other volume attributes: the youngest one's values win, and the others hear of it once.
func TestVolumeAttributesThatDiffer(t *testing.T) {
	onBench(t, func(b *bench) {
		old := b.pod("old")
		old.Attributes = "x"
		b.apply(old, "1")
		time.Sleep(time.Minute)
		young := b.pod("young")
		young.Attributes = "y"
		b.apply(young, "2")
		for range 3 {
			time.Sleep(time.Minute)
			b.apply(old, "3")
		}
		if got := b.value("db"); got != "2" {
			b.Errorf("the Secret holds %q", got)
		}
		if got := b.told(Conflict, "younger Pod"); got != 1 {
			b.Errorf("told %d times", got)
		}
	})
}

// A secretObject that a class loses leaves a Secret behind, which is told once.
func TestRenamedSecretIsTold(t *testing.T) {
	onBench(t, func(b *bench) {
		ref := b.pod("a")
		b.apply(ref, "1")
		edited := b.class.DeepCopy()
		edited.Generation, edited.Spec.SecretObjects[0].SecretName = 2, "new"
		b.class = edited
		for range 2 {
			time.Sleep(time.Minute)
			b.apply(ref, "1")
		}
		if got := b.told(Left, "Secret shop/db is not in the class any more"); got != 1 {
			b.Errorf("told %d times", got)
		}
		if b.value("new") != "1" || b.value("db") != "1" {
			b.Errorf("the Secrets hold %q and %q", b.value("new"), b.value("db"))
		}
	})
}

// A defect in one call does not keep the Secret from the next.
func TestPanicLeavesTheSecretFree(t *testing.T) {
	onBench(t, func(b *bench) {
		ref := b.pod("a")
		b.cluster.fail = func(types.PatchType) error { panic("canary") }
		b.apply(ref, "1")
		b.failing(nil)
		time.Sleep(time.Minute)
		b.apply(ref, "1")
		if got := b.value("db"); got != "1" {
			b.Errorf("the Secret holds %q", got)
		}
	})
}
