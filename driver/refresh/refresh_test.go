package refresh_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/driver/refresh"
	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

func TestIntervalIsKeptOverHoursOfUnchangedContent(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.classes.Put("db", map[string]string{"objects": "user"})
		for i := range 10 {
			n.mustPublish(podName(i), "db")
		}
		n.pass(4 * time.Hour)
		// 120 intervals, for ten volumes together
		if got := n.vault.Total(); got < 118 || got > 122 {
			n.Errorf("%d requests in 4 h at 2 min, want about 120", got)
		}
		for i := 11; i < len(n.vault.At); i++ { // after the ten pods' starts and the first tick
			if gap := n.vault.At[i].Sub(n.vault.At[i-1]); gap < 90*time.Second || gap > 150*time.Second {
				n.Errorf("gap of %v between two refreshes", gap)
			}
		}
	})
}

func TestChangedSourceReachesEveryVolumeOnce(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.vault.Set("other", "x")
		n.classes.Put("one", map[string]string{"objects": "user"})
		n.classes.Put("two", map[string]string{"objects": "user,other"})
		n.mustPublish("a", "one")
		n.mustPublish("b", "one")
		n.mustPublish("c", "two")
		n.vault.Set("user", "bob")
		n.pass(3 * time.Minute)
		for _, pod := range []string{"a", "b", "c"} {
			n.wantFile(pod, "user", "bob")
			if got := n.rewritten()[pod]; got != 1 {
				n.Errorf("pod %s was rewritten %d times for one change", pod, got)
			}
		}
	})
}

// A change that a new Pod sees first reaches the running ones.
func TestNewPodsFindingReachesRunningPods(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.classes.Put("db", map[string]string{"objects": "user", "rotationInterval": "24h"})
		n.classes.Put("other", map[string]string{"objects": "user", "rotationInterval": "48h"})
		n.mustPublish("a", "db")
		n.mustPublish("b", "other")
		n.pass(time.Minute)
		n.vault.Set("user", "bob")
		n.mustPublish("c", "db")
		n.pass(time.Second)
		for _, pod := range []string{"a", "b", "c"} {
			n.wantFile(pod, "user", "bob")
		}
	})
}

func TestClassesThatShareASourceShareTheRequest(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		for _, class := range []string{"c1", "c2", "c3"} {
			n.classes.Put(class, map[string]string{"objects": "user", "class": class})
			n.mustPublish("pod-"+class, class)
		}
		n.pass(time.Hour)
		if got := n.vault.Total(); got < 28 || got > 33 {
			n.Errorf("%d requests in an hour for one source of three classes, want about 30", got)
		}
		if len(n.recorder.Of(report.KindConfirmed)) == 0 {
			n.Error("no volume was confirmed by the requests of others")
		}
	})
}

func TestIntervalOfTheClass(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.classes.Put("fast", map[string]string{"objects": "user", "rotationInterval": "30s"})
		n.mustPublish("a", "fast")
		n.pass(time.Hour)
		if got := n.vault.Total(); got < 117 || got > 122 {
			n.Errorf("%d requests in an hour at 30 s", got)
		}
	})
}

func rotationOff(o *refresh.Options) { o.Interval = 0 }

func TestRotationOff(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.classes.Put("db", map[string]string{"objects": "user"})
		n.classes.Put("on", map[string]string{"objects": "user", "rotationInterval": "1m"})
		n.mustPublish("a", "db")
		n.pass(time.Hour)
		if got := n.vault.Total(); got != 1 {
			n.Errorf("%d requests although rotation is off", got)
		}
		n.mustPublish("b", "on")
		n.pass(10 * time.Minute)
		if got := n.vault.Total(); got < 9 {
			n.Errorf("%d requests: the class's own interval does not count", got)
		}
	}, rotationOff)
}

// A volume that started from last known good values is refreshed until it succeeds, also where it is never refreshed otherwise.
func TestStaleVolumeBecomesFreshThoughRotationIsOff(t *testing.T) {
	for name, class := range map[string]map[string]string{
		"by the driver": {"objects": "user"},
		"by the class":  {"objects": "user", "rotationInterval": "0s"},
	} {
		t.Run(name, func(t *testing.T) {
			onNode(t, func(n *node) {
				n.vault.Set("user", "alice")
				n.vault.Locked(func() {
					n.vault.Fail, n.vault.StaleIfError = &volume.Error{Reason: volume.ReasonNetwork, Message: "cut off"}, true
				})
				n.classes.Put("db", class)
				n.mustPublish("a", "db")
				if s := n.snapshot("a"); !s.Stale || s.Failure == nil {
					n.Fatalf("not stale: %+v", s)
				}
				n.pass(time.Hour) // an outage with failures in a row
				n.vault.Locked(func() { n.vault.Fail, n.vault.Values["user"] = nil, "bob" })
				n.pass(3 * time.Minute)
				n.wantFile("a", "user", "bob")
				if s := n.snapshot("a"); s.Stale || s.Failure != nil || len(n.recorder.Of(report.KindRecovered)) != 1 {
					n.Errorf("still stale: %+v", s)
				}
				before := n.vault.Total()
				n.pass(time.Hour)
				if got := n.vault.Total(); got != before {
					n.Errorf("%d requests after it was fresh, although rotation is off", got-before)
				}
			}, rotationOff)
		})
	}
}

// Requests of other groups may make a group's own needless, but not for ever: its Secrets are repaired from fresh values.
func TestDriftOfSecretsIsRepairedThoughOthersAsk(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		asks := func(c *v1.SecretProviderClass) { c.Spec.SecretObjects = []v1.SecretObject{{SecretName: "s"}} }
		n.classes.Put("one", map[string]string{"objects": "user", "x": "1"}, asks)
		n.classes.Put("two", map[string]string{"objects": "user", "x": "2"}, asks)
		n.mustPublish("a", "one")
		n.mustPublish("b", "two")
		before := n.secrets.Applied()
		n.pass(volume.SecretRepairInterval + 10*time.Minute)
		for pod, now := range n.secrets.Applied() {
			if now == before[pod] {
				n.Errorf("the Secrets of pod %s were not applied again in 20 minutes", pod)
			}
		}
	})
}

// The files of all volumes of a group are written before any waits for an API server that hangs.
func TestFilesDoNotWaitForSecrets(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.classes.Put("db", map[string]string{"objects": "user"}, func(c *v1.SecretProviderClass) {
			c.Spec.SecretObjects = []v1.SecretObject{{SecretName: "s"}}
		})
		for i := range 20 {
			n.mustPublish(podName(i), "db")
		}
		n.secrets.Hang = true
		n.vault.Set("user", "bob")
		var first time.Time
		for start := time.Now(); time.Since(start) < 3*time.Minute; n.pass(time.Second) {
			if len(n.rewritten()) > 0 {
				first = time.Now()
				break
			}
		}
		if got := len(n.rewritten()); got != 20 || first.IsZero() {
			n.Errorf("%d of 20 volumes have the change when the first one has it", got)
		}
	})
}

func TestFailedRefreshChangesNothingAndBacksOff(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.classes.Put("db", map[string]string{"objects": "user"})
		n.mustPublish("a", "db")
		n.vault.Locked(func() { n.vault.Fail = &volume.Error{Reason: volume.ReasonUnavailable, Message: "503"} })
		n.pass(6 * time.Hour)
		n.wantFile("a", "user", "alice")
		n.mustPublish("a", "db")
		// 180 intervals; the first few tries come sooner
		if failed := n.vault.Requests["failed"]; failed < 120 || failed > 190 {
			n.Errorf("%d tries in 6 h of outage", failed)
		}
		n.vault.Locked(func() { n.vault.Fail = nil; n.vault.Values["user"] = "bob" })
		n.pass(5 * time.Minute)
		n.wantFile("a", "user", "bob")
		if got := len(n.recorder.Of(report.KindRecovered)); got != 1 {
			n.Errorf("recovered %d times", got)
		}
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.classes.Put("db", map[string]string{"objects": "user"})
		n.mustPublish("a", "db")
		n.vault.Locked(func() {
			n.vault.Fail = &volume.Error{Reason: volume.ReasonThrottled, Message: "429", RetryAfter: time.Hour}
		})
		n.pass(50 * time.Minute)
		if failed := n.vault.Requests["failed"]; failed != 1 {
			n.Errorf("%d tries although the vault asked for an hour", failed)
		}
	})
}

// A group that is throttled and late tries again soon: the limiter paces the requests, and orders them by what they replace. One that is fresh,
// and any group in an outage, backs off.
func TestLateGroupsDoNotBackOffFromThrottling(t *testing.T) {
	for reason, bounds := range map[volume.Reason][2]int{volume.ReasonThrottled: {250, 370}, volume.ReasonUnavailable: {25, 40}} {
		onNode(t, func(n *node) {
			n.vault.Set("user", "alice")
			n.classes.Put("db", map[string]string{"objects": "user"})
			n.mustPublish("a", "db")
			n.vault.Locked(func() { n.vault.Fail = &volume.Error{Reason: reason, Message: "no"} })
			n.pass(time.Hour)
			if failed := n.vault.Requests["failed"]; failed < bounds[0] || failed > bounds[1] {
				n.Errorf("%s: %d tries in an hour", reason, failed)
			}
		})
	}
}

// A retry goes on where the last try was throttled: answers to requests since the refresh became due serve. A demand in between does not take
// what was answered before it.
func TestRetryTakesWhatWasAnsweredSinceTheRefreshWasDue(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.classes.Put("db", map[string]string{"objects": "user"})
		n.mustPublish("a", "db")
		n.vault.Locked(func() { n.vault.Fail = &volume.Error{Reason: volume.ReasonThrottled, Message: "429"} })
		n.pass(10 * time.Minute)
		var all []volume.FetchOptions
		n.vault.Locked(func() { all = n.vault.Refreshes })
		if len(all) < 10 || !all[len(all)-1].NotBefore.Equal(all[0].NotBefore) || all[0].Held.IsZero() {
			t.Fatalf("%d tries: %+v", len(all), all)
		}
		demanded := time.Now()
		n.volumes.Refresh(n.ref("a", "db"))
		n.pass(time.Minute)
		n.vault.Locked(func() { all = n.vault.Refreshes })
		if got := all[len(all)-1].NotBefore; got.Before(demanded) {
			t.Errorf("after a demand at %s answers since %s serve", demanded, got)
		}
	})
}

// Groups whose vault does not answer wait in their own goroutines: those of another vault keep their interval.
func TestDeadVaultDelaysNoOther(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("dead", "x")
		n.vault.Set("user", "alice")
		n.vault.Locked(func() { n.vault.HangFor = "dead" })
		for i := range 500 {
			class := podName(i)
			n.classes.Put(class, map[string]string{"objects": "dead", "class": class})
			// adopted: their publish would hang too
			n.mustMount(class)
			n.mustPublish(class, class)
		}
		n.classes.Put("healthy", map[string]string{"objects": "user", "rotationInterval": "2m"})
		n.mustPublish("h", "healthy")
		n.pass(time.Hour)
		if n.vault.Hanging < 500 {
			n.Fatalf("only %d requests hang", n.vault.Hanging)
		}
		worst, last := time.Duration(0), n.vault.At[0]
		for _, at := range n.vault.At[1:] {
			worst, last = max(worst, at.Sub(last)), at
		}
		if limit := 2 * time.Minute * 12 / 10; worst > limit || time.Since(last) > limit {
			n.Errorf("the healthy group waited for %v, want at most %v", max(worst, time.Since(last)), limit)
		}
	})
}

// mustMount leaves a volume as an earlier process would have filled it.
func (n *node) mustMount(pod string) {
	n.Helper()
	if err := os.MkdirAll(n.target(pod), 0o750); err != nil {
		n.Fatal(err)
	}
	if err := n.mounts.Mount(n.target(pod), false); err != nil {
		n.Fatal(err)
	}
	if _, err := n.mounts.Write(n.target(pod), []volume.File{{Path: "x", Mode: 0o644}}, nil); err != nil {
		n.Fatal(err)
	}
}

func TestAdoptedVolumesAreRefreshedSoonAndTogether(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.classes.Put("db", map[string]string{"objects": "user"})
		for i := range 5 {
			n.mustPublish(podName(i), "db")
		}
		n.restart()
		n.vault.Set("user", "bob")
		for i := range 5 {
			n.mustPublish(podName(i), "db")
		}
		n.pass(5 * time.Second)
		for i := range 5 {
			n.wantFile(podName(i), "user", "bob")
		}
		if got := n.vault.Total(); got != 2 {
			n.Errorf("%d requests after a restart, want 1", got-1)
		}
		if got := len(n.recorder.Of(report.KindAdopted)); got != 5 {
			n.Errorf("%d volumes were adopted", got)
		}
	})
}

// A volume's snapshot has the versions that its objects had first, not those that come later, and says where an earlier process knows better.
func TestStartedVersions(t *testing.T) {
	onNode(t, func(n *node) {
		started := func() (map[string]string, bool) {
			all := n.volumes.Snapshots()
			if len(all) != 1 {
				n.Fatalf("%d volumes", len(all))
			}
			return all[0].Started, all[0].Adopted
		}
		n.vault.Set("user", "alice")
		n.vault.Set("mail", "m1")
		n.classes.Put("db", map[string]string{"objects": "user"})
		n.mustPublish("web", "db")
		first, _ := started()
		n.vault.Set("user", "bob")
		n.pass(5 * time.Minute)
		n.classes.Put("db", map[string]string{"objects": "user,mail"})
		n.pass(5 * time.Minute)
		n.vault.Set("mail", "m2")
		n.pass(5 * time.Minute)
		n.wantFile("web", "mail", "m2")
		later, adopted := started()
		if len(first) != 1 || len(later) != 2 || adopted {
			n.Errorf("started with %v, later %v, adopted %t", first, later, adopted)
		}
		for id, version := range first {
			if later[id] != version {
				n.Errorf("%s started as %s, later %s", id, version, later[id])
			}
		}
		n.restart()
		n.mustPublish("web", "db")
		n.pass(time.Minute)
		again, adopted := started()
		if !adopted || len(again) != 2 || maps.Equal(again, later) {
			n.Errorf("after a restart: %v, adopted %t", again, adopted)
		}
	})
}

// steppedClock is a clock without a monotonic reading whose wall time steps.
type steppedClock struct {
	clock.RealClock

	mu     sync.Mutex
	offset time.Duration
}

func (c *steppedClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Round(0).Add(c.offset)
}

func (c *steppedClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

func (c *steppedClock) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
}

func TestDueTimesSurviveClockSteps(t *testing.T) {
	for _, step := range []time.Duration{-24 * time.Hour, -time.Hour, time.Hour, 24 * time.Hour} {
		t.Run(step.String(), func(t *testing.T) {
			clk := &steppedClock{}
			onNode(t, func(n *node) {
				n.vault.Set("user", "alice")
				n.classes.Put("db", map[string]string{"objects": "user"})
				n.mustPublish("a", "db")
				n.pass(5 * time.Minute)
				clk.step(step)
				n.vault.Set("user", "bob")
				for range 3 { // kubelet republishes
					n.pass(time.Minute)
					n.mustPublish("a", "db")
				}
				n.wantFile("a", "user", "bob")
			}, func(o *refresh.Options) { o.Clock = clk })
		})
	}
}

func TestObjectIsFetchedAgainAfterItsExpiry(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.vault.Expires["user"] = time.Now().Add(40 * 24 * time.Hour)
		n.classes.Put("db", map[string]string{"objects": "user", "rotationInterval": "2400h"})
		n.classes.Put("poll", map[string]string{"objects": "user", "rotationInterval": "6h"})
		n.mustPublish("a", "db")
		n.mustPublish("b", "poll")
		n.vault.Set("user", "bob")
		n.pass(41 * 24 * time.Hour)
		n.wantFile("a", "user", "bob")
		var marks int
		for _, e := range n.recorder.Of(report.KindExpiring) {
			if e.Ref().Pod.Name == "b" {
				marks++
			}
		}
		if marks != 4 {
			n.Errorf("pod b got %d events of the expiry, want 30, 7, 1 and 0 days before", marks)
		}
	})
}

// A panic in one group's fetch is that group's failure, and the next refresh is made.
func TestPanicOfOneFetchIsItsOwnFailure(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.vault.Set("bad", "x")
		n.classes.Put("db", map[string]string{"objects": "user"})
		n.classes.Put("bad", map[string]string{"objects": "bad"})
		n.mustPublish("a", "db")
		n.mustPublish("b", "bad")
		n.vault.Locked(func() { n.vault.PanicFor = "bad" })
		n.vault.Set("user", "bob")
		n.pass(10 * time.Minute)
		n.wantFile("a", "user", "bob")
		if s := n.snapshot("b"); s.Failure == nil || s.Failure.Reason != volume.ReasonInternal {
			n.Errorf("the panic is no failure: %+v", s)
		}
		if err := n.publish("c", "bad"); volume.ReasonOf(err) != volume.ReasonInternal {
			n.Errorf("publish: %v", err)
		}
		if len(n.recorder.Of(report.KindPanicked)) < 2 {
			n.Error("panics are not counted")
		}
		if log := n.log.String(); strings.Contains(log, "canary") || !strings.Contains(log, "stack") {
			n.Errorf("log: %s", log)
		}
		n.vault.Locked(func() { n.vault.PanicFor, n.vault.Values["bad"] = "", "y" })
		n.pass(5 * time.Minute)
		n.wantFile("b", "bad", "y")
	})
}

// A refresh that takes long does not take a newer value back.
func TestLateRefreshDoesNotReplaceANewerValue(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "old")
		n.classes.Put("db", map[string]string{"objects": "user"})
		n.mustPublish("a", "db")
		late := make(chan struct{})
		n.vault.Locked(func() { n.vault.Late = late })
		n.pass(3 * time.Minute) // a refresh has the old value, and is on its way
		n.vault.Set("user", "new")
		n.mustPublish("b", "db")
		n.vault.Locked(func() { n.vault.Late = nil })
		<-late
		n.pass(time.Second)
		n.wantFile("b", "user", "new")
		if got := n.rewritten()["b"]; got != 0 {
			n.Errorf("pod b was rewritten %d times", got)
		}
		n.wantFile("a", "user", "new") // who saw the newer value first tells the others
	})
}

// What is known of sources goes with the volumes that use them, whatever else happens at the same time.
func TestNothingIsKeptOfUnpublishedVolumes(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.vault.Set("slow", "x")
		n.classes.Put("db", map[string]string{"objects": "user"})
		n.classes.Put("slow", map[string]string{"objects": "slow"})
		n.mustPublish("a", "db")
		n.mustPublish("b", "slow")
		n.vault.Locked(func() { n.vault.HangFor = "slow" })
		n.pass(5 * time.Minute)
		if n.vault.Hanging == 0 {
			n.Fatal("no refresh is under way")
		}
		n.unpublish("a")
		n.unpublish("b")
		n.classes.Put("db", map[string]string{"objects": "user,slow"})
		n.pass(5 * time.Minute)
		if volumes, sources := n.volumes.Status(); len(volumes) != 0 || len(sources) != 0 {
			n.Errorf("%d volumes and %d sources are left", len(volumes), len(sources))
		}
	})
}

func TestUnpublishEndsAPublishUnderWay(t *testing.T) {
	onNode(t, func(n *node) {
		n.classes.Put("db", map[string]string{"objects": "user"})
		n.vault.Locked(func() { n.vault.Hang = true })
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- n.publish("a", "db") }()
		synctest.Wait()
		go func() { second <- n.publish("a", "db") }() // waits for the first
		synctest.Wait()
		n.unpublish("a")
		for name, ended := range map[string]chan error{"under way": first, "waiting": second} {
			if err := <-ended; !errors.Is(err, refresh.ErrUnpublished) {
				n.Errorf("%s: %v", name, err)
			}
		}
		ctx, cancel := context.WithCancel(n.Context())
		third := make(chan error, 1)
		go func() { third <- n.volumes.Publish(ctx, refresh.Publication{Ref: n.ref("a", "db")}) }()
		synctest.Wait()
		cancel()
		if err := <-third; !errors.Is(err, context.Canceled) {
			n.Errorf("canceled: %v", err)
		}
		if events := n.recorder.Of(report.KindPublishFailed); len(events) != 0 {
			n.Errorf("events blame the driver: %v", events)
		}
		if _, err := os.Lstat(n.target("a")); !os.IsNotExist(err) {
			n.Errorf("the target is left: %v", err)
		}
	})
}

func TestUnmountOfAnUnknownVolumeSaysSo(t *testing.T) {
	onNode(t, func(n *node) {
		n.mustMount("a")
		n.unpublish("a")
		events := n.recorder.Of(report.KindUnpublished)
		if len(events) != 1 || !strings.Contains(events[0].Message(), "unknown") {
			n.Errorf("%v", events)
		}
	})
}

// Who finds that a volume's values are older than others' has it refreshed at once. A volume that is not known changes nothing.
func TestRefreshOnDemand(t *testing.T) {
	onNode(t, func(n *node) {
		n.vault.Set("user", "alice")
		n.classes.Put("db", map[string]string{"objects": "user", "rotationInterval": "24h"})
		n.mustPublish("a", "db")
		n.pass(time.Minute)
		n.vault.Set("user", "bob")
		n.volumes.Refresh(n.ref("b", "db"))
		n.pass(time.Minute)
		n.wantFile("a", "user", "alice")
		n.volumes.Refresh(n.ref("a", "db"))
		n.pass(time.Minute)
		n.wantFile("a", "user", "bob")
	})
}
