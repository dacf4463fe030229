package provider

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
)

// counter observes how sources were answered.
type counter struct {
	nobody
	mu   sync.Mutex
	hows []string
}

func (c *counter) Source(how string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hows = append(c.hows, how)
}

func (c *counter) told() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.hows)
}

var aSource = volume.SourceKey{Identity: "me", Vault: "https://kv.vault.azure.net/", Kind: "secret", Name: "s"}

func saying(value string) func(context.Context) (answer, error) {
	return func(context.Context) (answer, error) { return answer{object: &vault.Object{Value: value}}, nil }
}

func silent(context.Context) (answer, error) { panic("the vault was asked") }

func mustGet(t *testing.T, tab *table, notBefore time.Time, keep time.Duration, ask func(context.Context) (answer, error)) answer {
	t.Helper()
	a, err := tab.get(t.Context(), aSource, notBefore, keep, ask)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAnswersAreKeptForTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &counter{}
		tab := newTable(clock.RealClock{}, 10*time.Second, told)
		defer tab.close()
		first := mustGet(t, tab, time.Time{}, 0, saying("one"))
		time.Sleep(10 * time.Second)
		if a := mustGet(t, tab, time.Time{}, 0, silent); a.object.Value != "one" || !a.shared || first.shared {
			t.Errorf("after 10 s: %+v", a)
		}
		other := aSource
		other.Identity = "somebody else"
		if a, err := tab.get(t.Context(), other, time.Time{}, 0, saying("theirs")); err != nil || a.object.Value != "theirs" {
			t.Errorf("another identity: %+v, %v", a, err)
		}
		time.Sleep(time.Second)
		if a := mustGet(t, tab, time.Time{}, 0, saying("two")); a.object.Value != "two" || a.shared {
			t.Errorf("after 11 s: %+v", a)
		}
		if want := []string{"requested", "cached", "requested", "requested"}; !slices.Equal(told.told(), want) {
			t.Errorf("told %v", told.told())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		tab.mu.Lock()
		defer tab.mu.Unlock()
		if len(tab.entries) != 0 || tab.timer != nil {
			t.Errorf("%d values are remembered after their time", len(tab.entries))
		}
	})
}

func TestWhoNeedsNewerAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable(clock.RealClock{}, time.Hour, &counter{})
		defer tab.close()
		mustGet(t, tab, time.Time{}, 0, saying("one"))
		time.Sleep(time.Second)
		if a := mustGet(t, tab, time.Now(), 0, saying("two")); a.object.Value != "two" {
			t.Errorf("got %+v", a)
		}
		if a := mustGet(t, tab, time.Now().Add(time.Hour), 0, saying("three")); a.object.Value != "three" {
			t.Errorf("newer than now: %+v", a)
		}
		if a := mustGet(t, tab, time.Time{}, 0, silent); a.object.Value != "three" {
			t.Errorf("got %+v", a)
		}
	})
}

// A request that began before what the caller takes as fresh may have read the old value.
func TestWhoNeedsNewerDoesNotJoinAnOlderRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &counter{}
		tab := newTable(clock.RealClock{}, time.Hour, told)
		defer tab.close()
		release := make(chan struct{})
		var work sync.WaitGroup
		var early, newer answer
		work.Go(func() {
			early, _ = tab.get(t.Context(), aSource, time.Time{}, 0, func(ctx context.Context) (answer, error) {
				<-release
				return saying("old")(ctx)
			})
		})
		synctest.Wait()
		time.Sleep(time.Second)
		rotatedAt := time.Now()
		work.Go(func() { newer, _ = tab.get(t.Context(), aSource, rotatedAt, 0, saying("new")) })
		synctest.Wait()
		close(release)
		work.Wait()
		if early.object.Value != "old" || newer.object.Value != "new" {
			t.Errorf("early %q, newer %q", early.object.Value, newer.object.Value)
		}
		if a := mustGet(t, tab, time.Time{}, 0, silent); a.object.Value != "new" {
			t.Errorf("kept %q", a.object.Value)
		}
	})
}

func TestJoinersShareAndHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &counter{}
		tab := newTable(clock.RealClock{}, 0, told)
		defer tab.close()
		release, hurries := make(chan struct{}), make(chan bool, 1)
		var work sync.WaitGroup
		work.Go(func() {
			_, _ = tab.get(limiter.WithUrgency(t.Context(), false), aSource, time.Time{}, 0, func(ctx context.Context) (answer, error) {
				<-release
				hurries <- limiter.Urgent(ctx)
				return saying("one")(ctx)
			})
		})
		synctest.Wait()
		for range 50 {
			work.Go(func() {
				a, err := tab.get(limiter.WithUrgency(t.Context(), true), aSource, time.Time{}, 0, silent)
				if err != nil || a.object.Value != "one" || !a.shared {
					t.Errorf("joiner: %+v, %v", a, err)
				}
			})
		}
		synctest.Wait()
		close(release)
		work.Wait()
		if !<-hurries {
			t.Error("a pod that starts joined a request that does not hurry")
		}
		if got := told.told(); len(got) != 51 {
			t.Errorf("told %v", got)
		}
	})
}

func TestErrorsAreNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable(clock.RealClock{}, time.Hour, &counter{})
		defer tab.close()
		no := errors.New("no")
		if _, err := tab.get(t.Context(), aSource, time.Time{}, 0, func(context.Context) (answer, error) { return answer{}, no }); !errors.Is(err, no) {
			t.Fatal(err)
		}
		if a := mustGet(t, tab, time.Time{}, 0, saying("one")); a.object.Value != "one" {
			t.Errorf("got %+v", a)
		}
	})
}

func TestLastKnownGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &counter{}
		tab := newTable(clock.RealClock{}, 10*time.Second, told)
		defer tab.close()
		mustGet(t, tab, time.Time{}, time.Hour, saying("one"))
		time.Sleep(30 * time.Minute)
		mustGet(t, tab, time.Time{}, 0, saying("two")) // a class that does not opt in leaves it for the other
		time.Sleep(29 * time.Minute)
		if a, ok := tab.lastGood(aSource, time.Hour); !ok || a.object.Value != "two" || !a.shared {
			t.Errorf("after 29 minutes: %+v, %t", a, ok)
		}
		if _, ok := tab.lastGood(aSource, time.Minute); ok {
			t.Error("an answer is older than the class permits")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if _, ok := tab.lastGood(aSource, 24*time.Hour); ok {
			t.Error("an answer outlives its time")
		}
		if got := told.told(); got[len(got)-1] != "stale" {
			t.Errorf("told %v", got)
		}
	})
}

func TestClosedTableForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable(clock.RealClock{}, time.Hour, &counter{})
		mustGet(t, tab, time.Time{}, 0, saying("one"))
		tab.close()
		if _, ok := tab.lastGood(aSource, time.Hour); ok {
			t.Error("a value is remembered")
		}
		tab.keep(aSource, answer{}, time.Hour)
		if len(tab.entries) != 0 {
			t.Error("a value is kept after the end")
		}
	})
}

func TestDigestFollowsContent(t *testing.T) {
	tab := newTable(clock.RealClock{}, 0, &counter{})
	other := newTable(clock.RealClock{}, 0, &counter{})
	base := answer{object: &vault.Object{Value: "v", RequestID: "1"}}
	if tab.digest(base) != tab.digest(answer{object: &vault.Object{Value: "v", RequestID: "2"}}) {
		t.Error("the request id changes the digest")
	}
	if tab.digest(base) == other.digest(base) {
		t.Error("digests can be compared across processes")
	}
	for name, a := range map[string]answer{
		"value":    {object: &vault.Object{Value: "w"}},
		"type":     {object: &vault.Object{Value: "v", ContentType: "text"}},
		"version":  {object: &vault.Object{Value: "v", Attributes: vault.Attributes{Version: "1"}}},
		"key":      {object: &vault.Object{Value: "v", Key: &vault.Key{N: []byte{1}}}},
		"versions": {versions: []vault.Attributes{{Version: "1"}}},
	} {
		if tab.digest(a) == tab.digest(base) {
			t.Errorf("another %s has the same digest", name)
		}
	}
}

// What the vault refuses must not be served from memory when the vault is away later.
func TestWhatIsRefusedIsForgotten(t *testing.T) {
	for reason, forgotten := range map[volume.Reason]bool{
		volume.ReasonPermission: true, volume.ReasonFirewall: true, volume.ReasonNotFound: true, volume.ReasonDisabled: true,
		volume.ReasonIdentity: true, volume.ReasonInvalidClass: true,
		volume.ReasonNetwork: false, volume.ReasonDNS: false, volume.ReasonProxy: false, volume.ReasonUnavailable: false,
		volume.ReasonThrottled: false, volume.ReasonTokenExpired: false, volume.ReasonInternal: false,
	} {
		t.Run(string(reason), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tab := newTable(clock.RealClock{}, time.Minute, &counter{})
				defer tab.close()
				mustGet(t, tab, time.Time{}, time.Hour, saying("one"))
				time.Sleep(time.Second)
				_, err := tab.get(t.Context(), aSource, time.Now(), time.Hour, func(context.Context) (answer, error) {
					return answer{}, &volume.Error{Reason: reason, Message: "no"}
				})
				if volume.ReasonOf(err) != reason {
					t.Fatal(err)
				}
				if _, ok := tab.lastGood(aSource, time.Hour); ok == forgotten {
					t.Errorf("is kept: %t", ok)
				}
			})
		})
	}
}

// A request that was given up may still be answered, with an old value, after a newer one.
func TestAnOlderAnswerDoesNotReplaceANewerOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable(clock.RealClock{}, time.Hour, &counter{})
		defer tab.close()
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		var work sync.WaitGroup
		work.Go(func() {
			_, _ = tab.get(ctx, aSource, time.Time{}, 0, func(ctx context.Context) (answer, error) {
				<-release
				return saying("old")(ctx)
			})
		})
		synctest.Wait()
		cancel()
		work.Wait()
		time.Sleep(time.Second)
		mustGet(t, tab, time.Time{}, 0, saying("new"))
		close(release)
		synctest.Wait()
		if a := mustGet(t, tab, time.Time{}, 0, silent); a.object.Value != "new" {
			t.Errorf("kept %q", a.object.Value)
		}
	})
}
