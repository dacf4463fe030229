package nodesync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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
	podErr   map[string]error
	version  int
	// hangs has requests end with their time.
	hangs bool
}

func (c *cluster) PodMetadata(_ context.Context, _, name string) (*metav1.PartialObjectMetadata, error) {
	time.Sleep(10 * time.Millisecond)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests["pods"]++
	if err := c.podErr[name]; err != nil {
		return nil, err
	}
	return c.pods[name], nil
}

func (*cluster) ClassUID(context.Context, string, string) (types.UID, error) { return "u", nil }

func (*cluster) SecretClasses(context.Context, string, string) ([]string, error) { return nil, nil }

func (c *cluster) Patch(ctx context.Context, name types.NamespacedName, kind types.PatchType, body []byte, o metav1.PatchOptions) (
	*metav1.PartialObjectMetadata, error,
) {
	c.mu.Lock()
	hangs := c.hangs
	c.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
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
	panics  int
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
			Safe: safe.Handler{Log: slog.New(slog.DiscardHandler), Count: func(context.Context, string) {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.panics++
			}},
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
			if got := b.panicked(); got > 0 {
				t.Errorf("%d panics", got)
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

func (b *bench) owners() int {
	b.cluster.mu.Lock()
	defer b.cluster.mu.Unlock()
	return len(b.cluster.secrets["db"].OwnerReferences)
}

func (b *bench) failing(err error) {
	b.change(func(c *cluster) {
		c.fail = func(types.PatchType) error { return err }
		if err == nil {
			c.fail = nil
		}
	})
}

// change changes the cluster under the Syncer.
func (b *bench) change(do func(*cluster)) {
	b.cluster.mu.Lock()
	defer b.cluster.mu.Unlock()
	do(b.cluster)
}

// unread makes these Pods ones that cannot be read; none makes all readable.
func (b *bench) unread(err error, pods ...string) {
	b.change(func(c *cluster) {
		c.podErr = map[string]error{}
		for _, pod := range pods {
			c.podErr[pod] = err
		}
	})
}

// asked are the volumes that Refetch was called for, panicked is how many panics were handled since the last call.
func (b *bench) asked() []volume.Ref {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.again)
}

func (b *bench) panicked() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.panics
	b.panics = 0
	return n
}

// said counts the events whose message holds the words.
func (b *bench) said(kind Kind, words string) (n int) {
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
		if got := b.owners(); got != 200 {
			b.Errorf("%d owners", got)
		}
		if got := b.count(patches...); got > 10 {
			b.Errorf("%d requests about the Secret", got)
		}
	})
}

// The Secret of a Pod that is gone would have no owner: it is not made. Nor is it where another Pod has the name now.
func TestNothingWithoutAnOwner(t *testing.T) {
	onBench(t, func(b *bench) {
		gone, replaced := b.pod("gone"), b.pod("replaced")
		b.change(func(c *cluster) { delete(c.pods, "gone") })
		b.change(func(c *cluster) { c.pods["replaced"].UID = "another" })
		b.apply(gone, "1")
		b.apply(replaced, "1")
		if b.value("db") != "" {
			b.Error("a Secret without an owner")
		}
	})
}

// A Pod that the driver may not read is distinguished from one that cannot be read now.
func TestPodThatMayNotBeRead(t *testing.T) {
	onBench(t, func(b *bench) {
		ref := b.pod("a")
		b.unread(apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "a", errors.New("no right")), "a")
		b.apply(ref, "1")
		if b.value("db") != "" || b.said(Failed, "may not read its Pod: give it the right to get pods") != 1 {
			b.Errorf("the Secret holds %q: %v", b.value("db"), b.events)
		}
	})
}

// Of one Secret in a class twice the first counts, and both the mount and its refreshes say so.
func TestSecretNamedTwice(t *testing.T) {
	onBench(t, func(b *bench) {
		ref := b.pod("a")
		b.class.Spec.SecretObjects = append(b.class.Spec.SecretObjects,
			v1.SecretObject{SecretName: "db", Data: []v1.SecretObjectData{{ObjectName: "f", Key: "another"}}})
		b.apply(ref, "1")
		time.Sleep(time.Minute)
		b.syncer.Enqueue(b.Context(), ref, b.class, bundle("2"))
		time.Sleep(time.Second)
		if b.value("db") != "2" || b.said(Failed, "is in secretObjects more than once: only the first counts") != 2 {
			b.Errorf("the Secret holds %q: %v", b.value("db"), b.events)
		}
	})
}

// A class that asks for no Secret any more ends the work for its volumes.
func TestClassWithoutSecrets(t *testing.T) {
	for name, call := range map[string]func(*bench, volume.Ref, *v1.SecretProviderClass){
		"apply": func(b *bench, ref volume.Ref, c *v1.SecretProviderClass) {
			b.syncer.Apply(b.Context(), ref, c, bundle("2"))
		},
		"enqueue": func(b *bench, ref volume.Ref, c *v1.SecretProviderClass) {
			b.syncer.Enqueue(b.Context(), ref, c, bundle("2"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			onBench(t, func(b *bench) {
				ref := b.pod("a")
				b.apply(ref, "0")
				time.Sleep(time.Minute)
				b.failing(apierrors.NewInternalError(errors.New("away")))
				b.apply(ref, "1")
				call(b, ref, &v1.SecretProviderClass{})
				b.failing(nil)
				time.Sleep(lastRetry)
				if got := b.value("db"); got != "0" {
					b.Errorf("the Secret holds %q", got)
				}
			})
		})
	}
}

// Last known good values make no Secret: they could be older than what somebody deleted it for.
func TestNoSecretOfLastKnownGoodValues(t *testing.T) {
	onBench(t, func(b *bench) {
		ref := b.pod("a")
		stale := bundle("1")
		stale.Stale = true
		b.syncer.Apply(b.Context(), ref, b.class, stale)
		if b.value("db") != "" || b.said(Failed, "is not created from last known good values") != 1 {
			b.Errorf("the Secret holds %q: %v", b.value("db"), b.events)
		}
	})
}

// A Pod that cannot be read is read again; the Secret waits for its first owner.
func TestPodThatCannotBeRead(t *testing.T) {
	onBench(t, func(b *bench) {
		ref := b.pod("a")
		b.unread(errors.New("away"), "a")
		b.apply(ref, "1")
		if b.value("db") != "" || b.said(Failed, "has no owner yet") != 1 {
			b.Errorf("the Secret holds %q: %v", b.value("db"), b.events)
		}
		b.unread(nil)
		time.Sleep(time.Minute)
		if b.value("db") != "1" || b.owners() != 1 {
			b.Errorf("the Secret holds %q", b.value("db"))
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

// TestEnqueueWhileTheSecretIsWritten: a volume that comes at any moment of another one's write, with the same values, becomes an owner too.
func TestEnqueueWhileTheSecretIsWritten(t *testing.T) {
	for ms := range 60 {
		after := time.Duration(ms) * time.Millisecond
		onBench(t, func(b *bench) {
			values := bundle("1")
			b.syncer.Enqueue(b.Context(), b.pod("first"), b.class, values)
			time.Sleep(after + time.Microsecond)
			b.syncer.Enqueue(b.Context(), b.pod("second"), b.class, values)
			time.Sleep(time.Second)
			if b.owners() != 2 {
				b.Errorf("%s after the first volume: the Secret has %d owners", after, b.owners())
			}
			b.syncer.mu.Lock()
			defer b.syncer.mu.Unlock()
			for _, st := range b.syncer.states {
				if st.want != nil {
					b.Error("values are kept although they are in place")
				}
			}
		})
	}
}

// Enqueue serves each Secret of a class, also where those before it fail.
func TestEnqueueOfSeveralSecrets(t *testing.T) {
	object := func(secret, file string) v1.SecretObject {
		return v1.SecretObject{SecretName: secret, Data: []v1.SecretObjectData{{ObjectName: file, Key: "k"}}}
	}
	onBench(t, func(b *bench) {
		ref := b.pod("a")
		b.class.Spec.SecretObjects = []v1.SecretObject{object("same", "other"), object("none", "none"), object("db", "f")}
		with := func(value string) *volume.Bundle {
			made := bundle(value)
			made.Files = append(made.Files, volume.File{Path: "other", Data: []byte("x")})
			return made
		}
		b.syncer.Apply(b.Context(), ref, b.class, with("1"))
		before := b.said(Failed, "Secret shop/none cannot be created")
		time.Sleep(time.Minute)
		b.syncer.Enqueue(b.Context(), ref, b.class, with("2"))
		time.Sleep(time.Second)
		if got := b.value("db"); got != "2" {
			b.Errorf("the Secret behind them holds %q", got)
		}
		if after := b.said(Failed, "Secret shop/none cannot be created"); before != 1 || after != 2 {
			b.Errorf("reported %d and %d times", before, after)
		}
	})
}

// During an outage Enqueue leaves it to the queue when the API server is asked again.
func TestEnqueueDuringAnOutage(t *testing.T) {
	onBench(t, func(b *bench) {
		ref := b.pod("a")
		b.apply(ref, "0")
		b.failing(apierrors.NewInternalError(errors.New("away")))
		before := b.count(patches...)
		for i := range 300 {
			time.Sleep(time.Second)
			b.syncer.Enqueue(b.Context(), ref, b.class, bundle(strconv.Itoa(i+1)))
		}
		if got := b.count(patches...) - before; got > 12 {
			b.Errorf("%d requests in five minutes of failures", got)
		}
		b.failing(nil)
		time.Sleep(lastRetry + time.Minute)
		if got := b.value("db"); got != "300" {
			b.Errorf("the Secret holds %q", got)
		}
	})
}

// What was written is reported; what was in place is not.
func TestReportsOfWrites(t *testing.T) {
	onBench(t, func(b *bench) {
		ref := b.pod("a")
		b.apply(ref, "1")
		time.Sleep(driftCheck + time.Minute)
		before := b.count(patches...)
		b.apply(ref, "1") // looked at again
		if b.count(patches...) == before {
			b.Error("it is not looked at again")
		}
		time.Sleep(time.Minute)
		b.apply(ref, "2")
		if created, updated, all := b.said(Synced, "was created"), b.said(Synced, "was updated"), b.said(Synced, ""); created != 1 || updated != 1 || all != 2 {
			b.Errorf("%d created, %d updated, %d in all", created, updated, all)
		}
	})
}

// What a Pod's start could not write, the background writes without any refresh.
func TestBackgroundWritesWhatFailed(t *testing.T) {
	onBench(t, func(b *bench) {
		ref := b.pod("a")
		b.failing(apierrors.NewInternalError(errors.New("away")))
		b.apply(ref, "1")
		b.failing(nil)
		time.Sleep(time.Minute)
		if got := b.value("db"); got != "1" {
			b.Errorf("the Secret holds %q", got)
		}
	})
}

// A refresh during an outage hands the background the newest values, also where they are equal: a younger write of another node would win
// over the older ones. One from last known good values hands it nothing.
func TestBackgroundGetsTheNewestValues(t *testing.T) {
	onBench(t, func(b *bench) {
		ref := b.pod("a")
		b.apply(ref, "0")
		time.Sleep(time.Minute)
		b.failing(apierrors.NewInternalError(errors.New("away")))
		b.apply(ref, "1")
		time.Sleep(time.Minute)
		newest := bundle("1")
		b.syncer.Apply(b.Context(), ref, b.class, newest)
		for _, generation := range []int64{1, 2} { // as the class is, and after an edit of it
			time.Sleep(time.Minute)
			stale := bundle("1")
			stale.Stale = true
			class := b.class.DeepCopy()
			class.Generation = generation
			b.syncer.Apply(b.Context(), ref, class, stale)
		}
		b.failing(nil)
		time.Sleep(2 * lastRetry)
		if got := b.value("db"); got != "1" {
			b.Errorf("the Secret holds %q", got)
		}
		var record string
		b.change(func(c *cluster) { record = c.secrets["db"].Annotations[key(c.secrets["db"].Annotations)] })
		if date := newest.Sources[0].Date.UTC().Format(time.RFC3339); !strings.Contains(record, date) {
			b.Errorf("%s is not in the record %s", date, record)
		}
	})
}

// Pods that start one after the other with values of one fetch, which the API server does not accept: it is asked once, and each
// Pod's volume reports it. Other values are tried, and so are the same after a while, with growing waits; no value is kept for that.
func TestRejectedSecret(t *testing.T) {
	onBench(t, func(b *bench) {
		status := metav1.Status{Code: 422, Reason: metav1.StatusReasonInvalid, Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Field: "type"}}}}
		b.change(func(c *cluster) {
			c.fail = func(kind types.PatchType) error {
				if kind == types.ApplyPatchType {
					return &apierrors.StatusError{ErrStatus: status}
				}
				return nil
			}
		})
		same := bundle("1")
		var last volume.Ref
		for i := range 20 {
			last = b.pod(strconv.Itoa(i))
			b.syncer.Apply(b.Context(), last, b.class, same)
		}
		if got := b.count(types.ApplyPatchType); got != 1 {
			b.Errorf("%d writes of values that were rejected", got)
		}
		if got := b.said(Failed, "has another type"); got != 20 {
			b.Errorf("reported %d times", got)
		}
		b.apply(last, "2")
		if got := b.count(types.ApplyPatchType); got != 2 {
			b.Errorf("other values: %d writes", got)
		}
		for range 600 {
			time.Sleep(time.Second)
			b.apply(last, "2")
		}
		if got := b.count(types.ApplyPatchType) - 2; got < 6 || got > 10 {
			b.Errorf("%d writes in ten minutes of refreshes", got)
		}
		b.syncer.mu.Lock()
		for _, st := range b.syncer.states {
			if st.want != nil {
				b.Error("values are kept")
			}
		}
		b.syncer.mu.Unlock()
		b.failing(nil)
		for range 6 {
			time.Sleep(time.Minute)
			b.apply(last, "2")
		}
		if got := b.value("db"); got != "2" {
			b.Errorf("the Secret holds %q", got)
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
		if got := b.asked(); len(got) != 1 || got[0] != late {
			b.Errorf("asked again for %v", got)
		}
		b.apply(late, "1") // the vault's value is that of before again
		if got := b.value("db"); got != "1" {
			b.Errorf("the Secret holds %q", got)
		}
	})
}

// Values of an older version of the class are not written either, and asking the vault again would not help.
func TestOlderClassIsNotFetchedAgain(t *testing.T) {
	onBench(t, func(b *bench) {
		a, late := b.pod("a"), b.pod("late")
		edited := b.class.DeepCopy()
		edited.Generation = 2
		b.syncer.Apply(b.Context(), a, edited, bundle("2"))
		time.Sleep(time.Minute)
		b.apply(late, "1")
		time.Sleep(time.Minute)
		if got := b.value("db"); got != "2" || len(b.asked()) > 0 {
			b.Errorf("the Secret holds %q, asked again for %v", got, b.asked())
		}
	})
}

// Without Refetch, as in the controller, older values wait for the next refresh.
func TestOlderValuesWithoutRefetch(t *testing.T) {
	onBench(t, func(b *bench) {
		b.syncer.refetch = nil
		a, late := b.pod("a"), b.pod("late")
		old := bundle("1")
		time.Sleep(5 * time.Second)
		b.apply(a, "2")
		b.syncer.Apply(b.Context(), late, b.class, old)
		time.Sleep(time.Minute)
		if got := b.value("db"); got != "2" {
			b.Errorf("the Secret holds %q", got)
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
		if got := b.said(Conflict, "younger Pod"); got != 1 {
			b.Errorf("reported %d times", got)
		}
		// again, once in each such time
		for range 4 {
			time.Sleep(driftCheck/2 + time.Second)
			b.apply(old, "3")
		}
		if got := b.said(Conflict, "younger Pod"); got != 3 {
			b.Errorf("reported %d times", got)
		}
	})
}

// together applies for several volumes in one call, which another Pod's call makes wait.
func (b *bench) together(first volume.Ref, applies ...func()) {
	b.Helper()
	var work sync.WaitGroup
	values := bundle("0")
	time.Sleep(2 * time.Second) // the vault's dates have whole seconds
	work.Go(func() { b.syncer.Apply(b.Context(), first, b.class, values) })
	time.Sleep(time.Millisecond)
	for _, apply := range applies {
		work.Go(apply)
		time.Sleep(time.Microsecond)
	}
	work.Wait()
}

// Volumes that are served in one call, in each order: which one decides, and who hears of it.
func TestVolumesOfOneCall(t *testing.T) {
	for _, reversed := range []bool{false, true} {
		inOrder := func(applies ...func()) []func() {
			if reversed {
				slices.Reverse(applies)
			}
			return applies
		}
		stale := func(b *bench, ref volume.Ref) func() {
			return func() {
				old := bundle("old")
				old.Stale = true
				b.syncer.Apply(b.Context(), ref, b.class, old)
			}
		}
		for name, test := range map[string]func(*bench, volume.Ref){
			"a Pod that is gone, and one that cannot be read": func(b *bench, first volume.Ref) {
				gone, unread, good := b.pod("gone"), b.pod("unread"), b.pod("good")
				b.change(func(c *cluster) { delete(c.pods, "gone") })
				b.unread(errors.New("away"), "unread")
				b.together(first, inOrder(func() { b.apply(gone, "1") }, func() { b.apply(unread, "1") }, func() { b.apply(good, "1") })...)
				if b.value("db") != "1" || b.owners() != 2 || b.said(Failed, "its Pod could not be read") == 0 {
					b.Errorf("the Secret holds %q, %d owners: %v", b.value("db"), b.owners(), b.events)
				}
			},
			"last known good values": func(b *bench, first volume.Ref) {
				fresh, old := b.pod("fresh"), b.pod("old")
				b.together(first, inOrder(func() { b.apply(fresh, "1") }, stale(b, old))...)
				if b.value("db") != "1" || b.owners() != 3 {
					b.Errorf("the Secret holds %q, %d owners", b.value("db"), b.owners())
				}
			},
			"other attributes of a younger Pod": func(b *bench, first volume.Ref) {
				old := b.pod("old")
				old.Attributes = "y"
				time.Sleep(time.Minute)
				young := b.pod("young")
				young.Attributes = "x"
				b.together(first, inOrder(func() { b.apply(young, "1") }, func() { b.apply(old, "2") })...)
				if b.value("db") != "1" || b.said(Conflict, "a younger Pod") != 1 {
					b.Errorf("the Secret holds %q: %v", b.value("db"), b.events)
				}
			},
			"other attributes of a Pod that cannot be read": func(b *bench, first volume.Ref) {
				unread, good := b.pod("unread"), b.pod("good")
				unread.Attributes = "y"
				b.unread(errors.New("away"), "unread")
				old := bundle("2")
				time.Sleep(time.Minute)
				b.together(first, inOrder(func() { b.syncer.Apply(b.Context(), unread, b.class, old) }, func() { b.apply(good, "1") })...)
				if b.value("db") != "1" {
					b.Errorf("the Secret holds %q", b.value("db"))
				}
			},
			"the youngest Pod counts": func(b *bench, first volume.Ref) {
				old := b.pod("old")
				time.Sleep(time.Minute)
				between := b.pod("between")
				between.Attributes = "x"
				time.Sleep(time.Minute)
				young := b.pod("young")
				b.together(first, inOrder(func() { b.apply(old, "1") }, func() { b.apply(young, "1") })...)
				time.Sleep(time.Minute)
				b.apply(between, "2")
				if b.value("db") != "1" || b.said(Conflict, "a younger Pod") != 1 {
					b.Errorf("the Secret holds %q: %v", b.value("db"), b.events)
				}
			},
		} {
			t.Run(fmt.Sprintf("%s, reversed %v", name, reversed), func(t *testing.T) {
				onBench(t, func(b *bench) {
					first := b.pod("first")
					time.Sleep(time.Minute)
					test(b, first)
				})
			})
		}
	}
}

// A retry that was planned finds nothing to do where a refresh has done it.
func TestRetryAfterARefresh(t *testing.T) {
	onBench(t, func(b *bench) {
		ref := b.pod("a")
		b.failing(apierrors.NewInternalError(errors.New("away")))
		b.apply(ref, "1")
		b.failing(nil)
		b.apply(ref, "2")
		before := b.count(patches...)
		time.Sleep(time.Minute)
		if got := b.count(patches...) - before; got > 0 || b.value("db") != "2" {
			b.Errorf("%d requests, the Secret holds %q", got, b.value("db"))
		}
	})
}

// What the background writes has the owners of the Pods that are there, and the age of the youngest with the same attributes.
func TestOwnersInTheBackground(t *testing.T) {
	away := func(b *bench, unread ...string) (back func()) {
		b.failing(apierrors.NewInternalError(errors.New("away")))
		b.unread(errors.New("away"), unread...)
		return func() {
			b.failing(nil)
			time.Sleep(lastRetry)
		}
	}
	for name, test := range map[string]func(*bench){
		"a Pod that has gone meanwhile": func(b *bench) {
			good, gone := b.pod("good"), b.pod("gone")
			back := away(b, "gone")
			b.apply(gone, "1")
			b.apply(good, "1")
			b.change(func(c *cluster) { delete(c.pods, "gone") })
			b.unread(nil)
			back()
			if b.value("db") != "1" || b.owners() != 1 {
				b.Errorf("the Secret holds %q", b.value("db"))
			}
		},
		"the youngest of its attributes": func(b *bench) {
			old := b.pod("old")
			time.Sleep(time.Minute)
			between := b.pod("between")
			between.Attributes = "x"
			time.Sleep(time.Minute)
			young, unread := b.pod("young"), b.pod("unread")
			back := away(b, "unread")
			for _, ref := range []volume.Ref{unread, young, old} {
				b.apply(ref, "1")
			}
			back()
			b.apply(between, "2")
			if b.value("db") != "1" || b.said(Conflict, "a younger Pod") != 1 {
				b.Errorf("the Secret holds %q: %v", b.value("db"), b.events)
			}
		},
		"a younger Pod of other attributes": func(b *bench) {
			old := b.pod("old")
			old.Attributes = "y"
			time.Sleep(time.Minute)
			young := b.pod("young")
			young.Attributes = "x"
			back := away(b)
			b.apply(young, "1")
			time.Sleep(time.Second)
			b.apply(old, "2")
			back()
			b.apply(young, "3")
			if b.value("db") != "3" {
				b.Errorf("the Secret holds %q: %v", b.value("db"), b.events)
			}
		},
		"a Pod with last known good values": func(b *bench) {
			a, late := b.pod("a"), b.pod("late")
			b.apply(a, "1")
			time.Sleep(time.Minute)
			back := away(b)
			stale := bundle("1")
			stale.Stale = true
			b.syncer.Apply(b.Context(), late, b.class, stale)
			if b.owners() != 1 {
				b.Error("the API server is not away")
			}
			back()
			if b.value("db") != "1" || b.owners() != 2 {
				b.Errorf("the Secret holds %q, %d owners", b.value("db"), b.owners())
			}
		},
	} {
		t.Run(name, func(t *testing.T) { onBench(t, test) })
	}
}

// A Secret that somebody deleted comes again with all its owners, whichever volume finds it.
func TestSecretThatComesAgainHasAllOwners(t *testing.T) {
	onBench(t, func(b *bench) {
		a, other := b.pod("a"), b.pod("b")
		b.apply(a, "1")
		b.apply(other, "1")
		time.Sleep(time.Minute)
		b.change(func(c *cluster) { delete(c.secrets, "db") })
		b.apply(a, "2")
		if got := b.owners(); got != 2 {
			b.Errorf("%d owners", got)
		}
	})
}

// A write that the end of the driver cuts off is no failure to report.
func TestCloseReportsNothing(t *testing.T) {
	onBench(t, func(b *bench) {
		ref := b.pod("a")
		b.change(func(c *cluster) { c.hangs = true })
		var work sync.WaitGroup
		work.Go(func() { b.apply(ref, "1") })
		time.Sleep(time.Second)
		if err := b.syncer.Close(); err != nil {
			b.Error(err)
		}
		work.Wait()
		if len(b.events) > 0 {
			b.Errorf("%v", b.events)
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
		if got := b.said(Left, "Secret shop/db is not in the class any more"); got != 1 {
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
		b.change(func(c *cluster) { c.fail = func(types.PatchType) error { panic("canary") } })
		b.apply(ref, "1")
		if got := b.panicked(); got != 1 {
			b.Errorf("%d panics are counted", got)
		}
		b.failing(nil)
		time.Sleep(time.Minute)
		b.apply(ref, "1")
		if got := b.value("db"); got != "1" {
			b.Errorf("the Secret holds %q", got)
		}
	})
}
