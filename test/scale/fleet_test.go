package scale

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace/noop"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/driver/refresh"
	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/identity"
	"github.com/keyvault-csi/keyvault-csi-driver/tmpfs"
)

const namespace = "ns"

// shape is what a fleet looks like. Every node has the same classes, each with an identity of its own.
type shape struct {
	nodes int
	// classes are how many each node uses, objects how many secrets each class has, replicas how many Pods of each class a node has.
	classes, objects, replicas int
	// vaults are how many the classes are spread over.
	vaults   int
	interval time.Duration
	// limit is that of a vault within a window; Key Vault's own where 0. A small fleet with a small limit behaves as a large one does.
	limit int
}

// sources is how many requests a refresh of the whole fleet makes.
func (s shape) sources() int { return s.nodes * s.classes * s.objects }

// fleet is a number of nodes in the bubble of a test.
type fleet struct {
	*testing.T
	shape

	azure   *azure
	classes *classes
	nodes   []*node
	random  *rand.Rand
	jwt     []string // by class

	mu sync.Mutex
	// fresh is when the files of each group were asked for last, by node and class.
	fresh [][]time.Time
	// measured is when the present measurement began, gaps the times between two refreshes of a group in it.
	measured time.Time
	gaps     []time.Duration
	// started holds how long each publish took, failed counts those that failed.
	started []time.Duration
	failed  int
}

// inBubble runs a test with a fleet whose volumes are all adopted and fresh.
func inBubble(t *testing.T, s shape, test func(*fleet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, s)
		defer f.end()
		f.settle()
		test(f)
	})
}

func newFleet(t *testing.T, s shape) *fleet {
	s.replicas, s.vaults = max(1, s.replicas), max(1, s.vaults)
	f := &fleet{
		T:       t,
		shape:   s,
		azure:   newAzure(),
		classes: &classes{known: map[string]*v1.SecretProviderClass{}},
		random:  rand.New(rand.NewPCG(1, 2)), // the same fleet in each run
	}
	f.azure.limit = cmp.Or(s.limit, vaultLimit)
	for class := range s.classes {
		f.classes.put(f.class(class, nil))
		f.jwt = append(f.jwt, assertion(class, time.Now().Add(30*24*time.Hour)))
	}
	f.fresh = make([][]time.Time, s.nodes)
	for i := range s.nodes {
		f.fresh[i] = slices.Repeat([]time.Time{time.Now()}, s.classes)
		n := &node{fleet: f, index: i, mounts: &mounts{known: map[string]bool{}}}
		n.start()
		f.nodes = append(f.nodes, n)
	}
	return f
}

// class is the n-th one.
func (f *fleet) class(n int, annotations map[string]string) *v1.SecretProviderClass {
	var objects strings.Builder
	objects.WriteString("array:\n")
	for i := range f.objects {
		fmt.Fprintf(&objects, "- |\n  objectName: s%d-%d\n  objectType: secret\n", n, i)
	}
	return &v1.SecretProviderClass{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: strconv.Itoa(n), Annotations: annotations},
		Spec: v1.SecretProviderClassSpec{Provider: "azure", Parameters: map[string]string{
			"keyvaultName": "vault-" + strconv.Itoa(n%f.vaults),
			"tenantID":     "tenant",
			"clientID":     "client-" + strconv.Itoa(n),
			"objects":      objects.String(),
		}},
	}
}

// assertion is a service account token as kubelet gives it.
func assertion(class int, until time.Time) string {
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	return part(`{"alg":"RS256"}`) + "." + part(fmt.Sprintf(`{"iss":"https://cluster.example.com","sub":"system:serviceaccount:%s:sa-%d","exp":%d}`,
		namespace, class, until.Unix())) + "." + part("signature")
}

// settle lets kubelet name the volumes of an earlier process within two intervals, and waits until all are fresh.
func (f *fleet) settle() {
	var work sync.WaitGroup
	for _, n := range f.nodes {
		f.later(&work, 2*f.interval, n.adopt)
	}
	work.Wait()
	time.Sleep(2 * f.interval)
	synctest.Wait()
	f.measure()
}

// later runs something at a random moment within the time.
func (f *fleet) later(work *sync.WaitGroup, within time.Duration, do func()) {
	wait := time.Duration(f.random.Int64N(int64(max(within, 1))))
	work.Go(func() {
		time.Sleep(wait)
		do()
	})
}

func (f *fleet) end() {
	for _, n := range f.nodes {
		n.stop()
	}
}

// measure begins a measurement.
func (f *fleet) measure() {
	f.azure.reset()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.measured, f.gaps, f.started, f.failed = time.Now(), nil, nil, 0
}

// pass lets time pass, and everything that is due in it happen.
func (f *fleet) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// figures are those of one measurement.
type figures struct {
	Name   string
	Shape  shape
	Over   time.Duration
	Vault  load
	Entra  load
	Median time.Duration
	// Late is the time between two refreshes that one of a hundred groups exceeds, Worst the longest; those that end with the measurement
	// count too.
	Late, Worst time.Duration
	// Missed counts the groups that were not refreshed at all.
	Missed int
	// Starts are how many Pods started; LastStart is how long the slowest took, Failed how many calls failed on the way.
	Starts, Failed int
	LastStart      time.Duration
}

func (f *fleet) figures(name string) figures {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	over := now.Sub(f.measured)
	out := figures{Name: name, Shape: f.shape, Over: over, Vault: f.azure.vaultLoad(over), Entra: f.azure.entraLoad(over)}
	gaps := slices.Clone(f.gaps)
	for _, all := range f.fresh {
		for _, at := range all {
			gaps = append(gaps, now.Sub(at))
			if at.Before(f.measured) {
				out.Missed++
			}
		}
	}
	slices.Sort(gaps)
	out.Median, out.Late, out.Worst = gaps[len(gaps)/2], gaps[len(gaps)*99/100], gaps[len(gaps)-1]
	slices.Sort(f.started)
	if out.Starts, out.Failed = len(f.started), f.failed; out.Starts > 0 {
		out.LastStart = f.started[out.Starts-1]
	}
	return out
}

// holding counts the groups whose files were asked for at or after the moment.
func (f *fleet) holding(since time.Time) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, all := range f.fresh {
		for _, at := range all {
			if !at.Before(since) {
				n++
			}
		}
	}
	return n
}

// until waits until all groups were asked for since the moment, at most for the time, and returns how long it took.
func (f *fleet) until(since time.Time, most time.Duration) time.Duration {
	f.Helper()
	begin := time.Now()
	all := f.shape.nodes * f.shape.classes
	for time.Since(begin) < most {
		f.pass(time.Second)
		if f.holding(since) == all {
			return time.Since(begin)
		}
	}
	f.Errorf("%d of %d groups are not fresh after %s", all-f.holding(since), all, most)
	return most
}

// classes are those of the cluster.
type classes struct {
	mu    sync.Mutex
	known map[string]*v1.SecretProviderClass
}

func (c *classes) put(class *v1.SecretProviderClass) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[class.Name] = class
}

// Get implements refresh.Classes.
func (c *classes) Get(_ context.Context, _, name string) (*v1.SecretProviderClass, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[name], nil
}

// node is one node, whose driver may be replaced by a new process.
type node struct {
	*fleet

	index    int
	mounts   *mounts
	provider *provider.Provider
	volumes  *refresh.Volumes
	stop     func()
}

func (n *node) start() {
	var err error
	n.provider, err = provider.New(provider.Options{Transport: n.azure, CacheTTL: 10 * time.Second, Clock: clock.RealClock{}})
	if err != nil {
		n.Fatal(err)
	}
	n.volumes = refresh.New(refresh.Options{
		Node:     "node-" + strconv.Itoa(n.index),
		Classes:  n.classes,
		Provider: n.provider,
		Mounts:   n.mounts,
		Reporter: n,
		Interval: n.interval,
		CacheTTL: 10 * time.Second,
		Tracer:   noop.NewTracerProvider().Tracer(""),
		Clock:    clock.RealClock{},
		Log:      slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	volumes := n.volumes
	go func() {
		defer close(ended)
		volumes.Run(ctx)
	}()
	n.stop = func() {
		cancel()
		<-ended
		n.provider.Close()
	}
}

// adopt is kubelet's first call for each volume of an earlier process.
func (n *node) adopt() {
	for class := range n.shape.classes {
		for replica := range n.replicas {
			n.mounts.fill(n.ref(class, replica).TargetPath)
			if err := n.publish(class, replica); err != nil {
				n.Error(err)
			}
		}
	}
}

// restart replaces the driver; kubelet names the volumes again within the time from 0 to its sync period.
func (n *node) restart(sync time.Duration) {
	n.stop()
	n.start()
	time.Sleep(sync)
	n.adopt()
}

func (n *node) ref(class, replica int) volume.Ref {
	id := fmt.Sprintf("%d-%d-%d", n.index, class, replica)
	return volume.Ref{
		ID:         id,
		TargetPath: "/" + id,
		Class:      strconv.Itoa(class),
		Pod:        volume.Pod{Namespace: namespace, Name: id, UID: id, ServiceAccount: "sa-" + strconv.Itoa(class)},
	}
}

func (n *node) publish(class, replica int) error {
	return n.volumes.Publish(context.Background(), refresh.Publication{
		Ref:    n.ref(class, replica),
		Tokens: volume.Tokens{ByAudience: map[string]volume.Token{identity.ExchangeAudience: {Value: n.jwt[class]}}},
	})
}

// run starts a Pod as kubelet does: what fails is tried again after half a second, a second and so on, two minutes at most.
func (n *node) run(class, replica int) {
	begin := time.Now()
	for wait := 500 * time.Millisecond; ; wait = min(2*wait, 2*time.Minute) {
		if n.publish(class, replica) == nil {
			break
		}
		n.mu.Lock()
		n.failed++
		n.mu.Unlock()
		time.Sleep(wait)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.started = append(n.started, time.Since(begin))
}

// Report implements report.Reporter.
func (n *node) Report(_ context.Context, e report.Event) {
	var after *volume.Snapshot
	switch e := e.(type) {
	case report.Refreshed:
		after = e.After
	case report.Confirmed:
		after = e.After
	case report.Panicked:
		n.Error(e.Message())
		return
	default:
		return
	}
	class, err := strconv.Atoi(after.Ref.Class)
	if err != nil {
		n.Error(err)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if last := n.fresh[n.index][class]; after.FetchedAt.After(last) {
		n.gaps = append(n.gaps, time.Since(last))
		n.fresh[n.index][class] = after.FetchedAt
	}
}

// mounts are the volumes of a node, without files.
type mounts struct {
	mu    sync.Mutex
	known map[string]bool // true where complete
}

func (m *mounts) fill(target string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known[target] = true
}

func (m *mounts) State(target string) (tmpfs.State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	complete, known := m.known[target]
	switch {
	case complete:
		return tmpfs.Complete, nil
	case known:
		return tmpfs.Mounted, nil
	}
	return tmpfs.Absent, nil
}

func (m *mounts) Mount(target string, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.known[target] {
		m.known[target] = false
	}
	return nil
}

func (m *mounts) Write(target string, _ []volume.File, _ *int64) (bool, error) {
	m.fill(target)
	return true, nil
}

func (m *mounts) Unmount(target string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, target)
	return nil
}

func (*mounts) Adopt(string) ([]string, error)      { return nil, nil }
func (*mounts) Lacks(string) []string               { return nil }
func (*mounts) Sweep(string) (time.Duration, error) { return 0, nil }

// restartAll replaces the driver of all nodes within a time. Kubelet names the volumes again within 60 to 90 s. It returns how long it is until
// all groups are fresh.
func (f *fleet) restartAll(within, allowed time.Duration) time.Duration {
	f.Helper()
	f.measure()
	begin := time.Now()
	var work sync.WaitGroup
	for _, n := range f.nodes {
		period := 60*time.Second + time.Duration(f.random.Int64N(int64(30*time.Second)))
		wait := time.Duration(f.random.Int64N(int64(period)))
		f.later(&work, within, func() { n.restart(wait) })
	}
	work.Wait()
	f.until(begin, allowed+20*time.Minute)
	return time.Since(begin)
}

// startWave starts Pods on each node within a time, of its classes in turn.
func (f *fleet) startWave(pods int, within time.Duration) {
	f.measure()
	var work sync.WaitGroup
	for _, n := range f.nodes {
		for i := range pods {
			f.later(&work, within, func() { n.run(i%f.shape.classes, 1000+i) })
		}
	}
	work.Wait()
}

// forceRefresh writes the refresh annotation of a class and returns when.
func (f *fleet) forceRefresh(class int, text string) time.Time {
	since := time.Now()
	f.classes.put(f.class(class, map[string]string{v1.RefreshAnnotation: text}))
	for _, n := range f.nodes {
		n.volumes.ClassEdited(namespace, strconv.Itoa(class))
	}
	return since
}

// untilClass waits until the class was asked for on all nodes since the moment, and returns how long that took.
func (f *fleet) untilClass(class int, since time.Time, most time.Duration) time.Duration {
	f.Helper()
	for begin := time.Now(); ; {
		f.pass(time.Second)
		left := 0
		f.mu.Lock()
		for _, all := range f.fresh {
			if all[class].Before(since) {
				left++
			}
		}
		f.mu.Unlock()
		switch {
		case left == 0:
			return time.Since(begin)
		case time.Since(begin) >= most:
			f.Errorf("%d of %d nodes did not follow within %s", left, len(f.fresh), most)
			return most
		}
	}
}
