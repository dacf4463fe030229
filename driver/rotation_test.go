package driver

import (
	"os"
	"strings"
	"testing"
	"time"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

func TestIntervalIsKeptOverHoursOfUnchangedContent(t *testing.T) {
	n := startNode(t)
	n.vault.set("user", "alice")
	n.classes.put("db", map[string]string{"objects": "user"})
	for i := range 10 {
		n.mustPublish(podName(i), "db")
	}
	n.advance(4*time.Hour, 10*time.Second)
	// 120 intervals, for ten volumes together; the first tick may come half an interval late
	if got := n.vault.total(); got < 118 || got > 122 {
		t.Errorf("%d requests in 4 h at 2 min, want about 120", got)
	}
	var gaps []time.Duration
	for i := 11; i < len(n.vault.at); i++ { // after the ten pods' starts and the first tick
		gaps = append(gaps, n.vault.at[i].Sub(n.vault.at[i-1]))
	}
	for _, gap := range gaps {
		if gap < 90*time.Second || gap > 150*time.Second {
			t.Errorf("gap of %v between two polls", gap)
		}
	}
}

func TestChangedSourceReachesEveryVolumeOnce(t *testing.T) {
	n := startNode(t)
	n.vault.set("user", "alice")
	n.vault.set("other", "x")
	n.classes.put("one", map[string]string{"objects": "user"})
	n.classes.put("two", map[string]string{"objects": "user,other"})
	n.mustPublish("a", "one")
	n.mustPublish("b", "one")
	n.mustPublish("c", "two")
	n.vault.set("user", "bob")
	n.advance(3*time.Minute, 10*time.Second)
	for _, pod := range []string{"a", "b", "c"} {
		n.wantFile(pod, "user", "bob")
	}
	changed := map[string]int{}
	for _, e := range n.recorder.of(report.Refreshed) {
		if e.Changed {
			changed[e.Volume.Pod.Name]++
		}
	}
	for pod, count := range changed {
		if count != 1 {
			t.Errorf("pod %s was rewritten %d times for one change", pod, count)
		}
	}
	if len(changed) != 3 {
		t.Errorf("rewritten: %v", changed)
	}
}

// Whoever sees a change first, here a new pod, brings it to the others.
func TestNewPodsFindingReachesRunningPods(t *testing.T) {
	n := startNode(t)
	n.vault.set("user", "alice")
	n.classes.put("db", map[string]string{"objects": "user", "rotationInterval": "24h"})
	n.classes.put("other", map[string]string{"objects": "user", "rotationInterval": "48h"})
	n.mustPublish("a", "db")
	n.mustPublish("b", "other")
	n.step(time.Minute)
	n.vault.set("user", "bob")
	n.mustPublish("c", "db")
	n.settle()
	for _, pod := range []string{"a", "b", "c"} {
		n.eventually("pod "+pod, func() bool { return mustRead(t, n.target(pod)+"/user") == "bob" })
	}
}

func TestClassesThatShareASourceShareThePoll(t *testing.T) {
	n := startNode(t)
	n.vault.set("user", "alice")
	for _, class := range []string{"c1", "c2", "c3"} {
		n.classes.put(class, map[string]string{"objects": "user", "class": class})
		n.mustPublish("pod-"+class, class)
	}
	n.advance(time.Hour, 10*time.Second)
	if got := n.vault.total(); got < 28 || got > 33 {
		t.Errorf("%d requests in an hour for one source of three classes, want about 30", got)
	}
}

func TestIntervalOfTheClass(t *testing.T) {
	n := startNode(t)
	n.vault.set("user", "alice")
	n.classes.put("fast", map[string]string{"objects": "user", "rotationInterval": "30s"})
	n.mustPublish("a", "fast")
	n.advance(time.Hour, 5*time.Second)
	if got := n.vault.total(); got < 117 || got > 122 {
		t.Errorf("%d requests in an hour at 30 s", got)
	}
}

func TestRotationOff(t *testing.T) {
	n := startNode(t, func(o *Options) { o.RotationInterval = 0 })
	n.vault.set("user", "alice")
	n.classes.put("db", map[string]string{"objects": "user"})
	n.classes.put("on", map[string]string{"objects": "user", "rotationInterval": "1m"})
	n.mustPublish("a", "db")
	n.advance(time.Hour, time.Minute)
	if got := n.vault.total(); got != 1 {
		t.Errorf("%d requests although rotation is off", got)
	}
	n.mustPublish("b", "on")
	n.advance(10*time.Minute, 10*time.Second)
	if got := n.vault.total(); got < 9 {
		t.Errorf("%d requests: the class's own interval does not count", got)
	}
}

// However long it takes to resolve a class, what it was never replaces what it is.
// Another group's requests may make a group's own needless, but not for ever: its Secrets are put right from fresh values.
func TestDriftOfSecretsIsRepairedThoughOthersAsk(t *testing.T) {
	n := startNode(t)
	n.vault.set("user", "alice")
	asks := func(c *v1.SecretProviderClass) { c.Spec.SecretObjects = []v1.SecretObject{{SecretName: "s"}} }
	n.classes.put("one", map[string]string{"objects": "user", "x": "1"}, asks)
	n.classes.put("two", map[string]string{"objects": "user", "x": "2"}, asks)
	n.mustPublish("a", "one")
	n.mustPublish("b", "two")
	count := func() map[string]int {
		n.mirror.mu.Lock()
		defer n.mirror.mu.Unlock()
		counts := map[string]int{}
		for _, pod := range n.mirror.applied {
			counts[pod]++
		}
		return counts
	}
	before := count()
	n.advance(driftRepair+10*time.Minute, 10*time.Second)
	for pod, now := range count() {
		if now == before[pod] {
			t.Errorf("the Secrets of pod %s were not looked at in 20 minutes", pod)
		}
	}
}

func TestFailedRefreshHarmsNothingAndBacksOff(t *testing.T) {
	n := startNode(t)
	n.vault.set("user", "alice")
	n.classes.put("db", map[string]string{"objects": "user"})
	n.mustPublish("a", "db")
	n.vault.locked(func() { n.vault.fail = &volume.Error{Reason: volume.ReasonUnavailable, Message: "503"} })
	n.advance(6*time.Hour, 10*time.Second)
	n.wantFile("a", "user", "alice")
	n.mustPublish("a", "db")
	var failed int
	n.vault.locked(func() { failed = n.vault.requests["failed"] })
	// 180 intervals; the first few tries come sooner
	if failed < 120 || failed > 190 {
		t.Errorf("%d tries in 6 h of outage", failed)
	}
	n.vault.locked(func() { n.vault.fail = nil; n.vault.values["user"] = "bob" })
	n.advance(5*time.Minute, 10*time.Second)
	n.wantFile("a", "user", "bob")
	if got := len(n.recorder.of(report.Recovered)); got != 1 {
		t.Errorf("recovered %d times", got)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	n := startNode(t)
	n.vault.set("user", "alice")
	n.classes.put("db", map[string]string{"objects": "user"})
	n.mustPublish("a", "db")
	n.vault.locked(func() {
		n.vault.fail = &volume.Error{Reason: volume.ReasonThrottled, Message: "429", RetryAfter: time.Hour}
	})
	n.advance(50*time.Minute, 10*time.Second)
	var failed int
	n.vault.locked(func() { failed = n.vault.requests["failed"] })
	if failed != 1 {
		t.Errorf("%d tries although the vault asked for an hour", failed)
	}
}

func TestRestartAdoptsWithoutABurst(t *testing.T) {
	n := startNode(t)
	n.vault.set("user", "alice")
	n.classes.put("db", map[string]string{"objects": "user"})
	for i := range 5 {
		n.mustPublish(podName(i), "db")
	}
	n.restart()
	for i := range 5 {
		n.mustPublish(podName(i), "db")
	}
	if got := n.vault.total(); got != 1 {
		t.Errorf("%d requests right after a restart", got-1)
	}
	n.vault.set("user", "bob")
	n.advance(3*time.Minute, 10*time.Second)
	for i := range 5 {
		n.wantFile(podName(i), "user", "bob")
	}
}

func TestObjectIsFetchedAgainAfterItsEnd(t *testing.T) {
	n := startNode(t)
	n.vault.set("user", "alice")
	n.vault.expires["user"] = epoch.Add(40 * 24 * time.Hour)
	n.classes.put("db", map[string]string{"objects": "user", "rotationInterval": "2400h"})
	n.classes.put("poll", map[string]string{"objects": "user", "rotationInterval": "6h"})
	n.mustPublish("a", "db")
	n.mustPublish("b", "poll")
	n.vault.set("user", "bob")
	n.advance(39*24*time.Hour, 6*time.Hour)
	n.advance(2*24*time.Hour, 6*time.Hour)
	n.wantFile("a", "user", "bob")
	var marks int
	for _, e := range n.recorder.of(report.Expiring) {
		if e.Volume.Pod.Name == "b" {
			marks++
		}
	}
	if marks != 4 {
		t.Errorf("pod b was told %d times of the end, want 30, 7, 1 and 0 days before", marks)
	}
}

func TestScheduleSpreadsNodesAndKeepsTheInterval(t *testing.T) {
	const interval = 2 * time.Minute
	seen := map[int]int{}
	for i := range 1000 {
		s := schedule{node: podName(i)}
		first := s.next("phase", interval, epoch)
		seen[int(first.Sub(epoch)/(interval/10))]++
		at := first
		for range 50 {
			next := s.next("phase", interval, at)
			if gap := next.Sub(at); gap < interval*9/10 || gap > interval*11/10 {
				t.Fatalf("gap %v", gap)
			}
			at = next
		}
		if drift := at.Sub(first) - 50*interval; drift.Abs() > interval/10 {
			t.Fatalf("drift %v", drift)
		}
	}
	for tenth, count := range seen {
		if count > 200 {
			t.Errorf("%d of 1000 nodes ask in tenth %d of the interval", count, tenth)
		}
	}
}

// Two objects that are changed together are read together, whatever the reader's moment.
func TestReadersSeeOneGenerationOfAThousandRotations(t *testing.T) {
	n := startNode(t)
	set := func(number int) {
		n.vault.locked(func() {
			text := strings.Repeat(podName(number)+" ", 100+number%100)
			n.vault.values["user"], n.vault.values["password"] = text, text
		})
	}
	set(0)
	n.classes.put("db", map[string]string{"objects": "user,password"})
	n.mustPublish("a", "db")
	stop := make(chan struct{})
	reads := make(chan int, 1)
	go func() {
		whole := 0
		defer func() { reads <- whole }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			dir, err := os.OpenRoot(n.target("a") + "/..data")
			if _, gone := os.Lstat(n.target("a") + "/..data"); gone == nil && os.IsNotExist(err) {
				continue // replaced between the link and the directory
			}
			if err != nil {
				t.Errorf("the files are gone: %v", err)
				return
			}
			user, errUser := dir.ReadFile("user")
			password, errPassword := dir.ReadFile("password")
			_ = dir.Close()
			switch {
			case os.IsNotExist(errUser), os.IsNotExist(errPassword): // replaced while it was read
			case errUser != nil, errPassword != nil, string(user) != string(password), len(user) == 0:
				t.Errorf("torn: %v %v, %d and %d bytes", errUser, errPassword, len(user), len(password))
				return
			default:
				whole++
			}
		}
	}()
	for number := 1; number <= 1000; number++ {
		set(number)
		n.step(4 * time.Minute)
		n.settle()
	}
	close(stop)
	if got := <-reads; got == 0 {
		t.Error("no read got through")
	}
	if got := len(n.recorder.of(report.Refreshed)); got < 1000 {
		t.Errorf("%d refreshes", got)
	}
}
