package provider

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
)

// counter observes how sources were answered.
type counter struct {
	noObserver
	mu   sync.Mutex
	hows []string
}

func (c *counter) Source(how string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hows = append(c.hows, how)
}

func (c *counter) reported() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.hows)
}

var aSource = volume.SourceKey{Identity: "me", Vault: "https://kv.vault.azure.net/", Kind: "secret", Name: "s"}

// asking is what the vault answers.
type asking func(context.Context) (vault.Answer, error)

// source is a table whose vault answers each question as the question's context says.
type source struct{ *table }

type askingKey struct{}

func newSource(ttl time.Duration, observer Observer) source {
	return source{newTable(tableOptions{
		clock: clock.RealClock{}, ttl: ttl, observer: observer, safe: safe.Handler{Log: slog.New(slog.DiscardHandler)},
		ask: func(ctx context.Context, _ query) (vault.Answer, error) {
			ask, _ := ctx.Value(askingKey{}).(asking)
			return ask(ctx)
		},
	})}
}

func (s source) get(ctx context.Context, key volume.SourceKey, notBefore time.Time, keep time.Duration, ask asking) (answer, error) {
	return s.table.get(context.WithValue(ctx, askingKey{}, ask), query{key: key, notBefore: notBefore, keep: keep})
}

func saying(value string) asking {
	return func(context.Context) (vault.Answer, error) {
		return vault.Answer{Object: &vault.Object{Value: value}}, nil
	}
}

func silence(context.Context) (vault.Answer, error) {
	return vault.Answer{}, errors.New("the vault was asked")
}

func mustGet(t *testing.T, tab source, notBefore time.Time, keep time.Duration, ask asking) answer {
	t.Helper()
	a, err := tab.get(t.Context(), aSource, notBefore, keep, ask)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAnswersAreKeptForTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reported := &counter{}
		tab := newSource(10*time.Second, reported)
		defer tab.close()
		first := mustGet(t, tab, time.Time{}, 0, saying("one"))
		time.Sleep(10 * time.Second)
		if a := mustGet(t, tab, time.Time{}, 0, silence); a.Object.Value != "one" || !a.shared || first.shared {
			t.Errorf("after 10 s: %+v", a)
		}
		other := aSource
		other.Identity = "somebody else"
		if a, err := tab.get(t.Context(), other, time.Time{}, 0, saying("theirs")); err != nil || a.Object.Value != "theirs" {
			t.Errorf("another identity: %+v, %v", a, err)
		}
		time.Sleep(time.Second)
		if a := mustGet(t, tab, time.Time{}, 0, saying("two")); a.Object.Value != "two" || a.shared {
			t.Errorf("after 11 s: %+v", a)
		}
		if want := []string{"requested", "cached", "requested", "requested"}; !slices.Equal(reported.reported(), want) {
			t.Errorf("reported %v", reported.reported())
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
		tab := newSource(time.Hour, &counter{})
		defer tab.close()
		mustGet(t, tab, time.Time{}, 0, saying("one"))
		time.Sleep(time.Second)
		if a := mustGet(t, tab, time.Now(), 0, saying("two")); a.Object.Value != "two" {
			t.Errorf("got %+v", a)
		}
		if a := mustGet(t, tab, time.Now().Add(time.Hour), 0, saying("three")); a.Object.Value != "three" {
			t.Errorf("newer than now: %+v", a)
		}
		if a := mustGet(t, tab, time.Time{}, 0, silence); a.Object.Value != "three" {
			t.Errorf("got %+v", a)
		}
	})
}

// A request that began before what the caller takes as fresh may have read the old value.
func TestWhoNeedsNewerDoesNotJoinAnOlderRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reported := &counter{}
		tab := newSource(time.Hour, reported)
		defer tab.close()
		release := make(chan struct{})
		var work sync.WaitGroup
		var early, newer answer
		work.Go(func() {
			early, _ = tab.get(t.Context(), aSource, time.Time{}, 0, func(ctx context.Context) (vault.Answer, error) {
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
		if early.Object.Value != "old" || newer.Object.Value != "new" {
			t.Errorf("early %q, newer %q", early.Object.Value, newer.Object.Value)
		}
		if a := mustGet(t, tab, time.Time{}, 0, silence); a.Object.Value != "new" {
			t.Errorf("kept %q", a.Object.Value)
		}
	})
}

func TestJoinersShareAndHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reported := &counter{}
		tab := newSource(0, reported)
		defer tab.close()
		release, hurries := make(chan struct{}), make(chan bool, 1)
		var work sync.WaitGroup
		work.Go(func() {
			_, _ = tab.get(limiter.WithUrgency(t.Context(), false), aSource, time.Time{}, 0, func(ctx context.Context) (vault.Answer, error) {
				<-release
				hurries <- limiter.Urgent(ctx)
				return saying("one")(ctx)
			})
		})
		synctest.Wait()
		for range 50 {
			work.Go(func() {
				a, err := tab.get(limiter.WithUrgency(t.Context(), true), aSource, time.Time{}, 0, silence)
				if err != nil || a.Object.Value != "one" || !a.shared {
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
		if got := reported.reported(); len(got) != 51 {
			t.Errorf("reported %v", got)
		}
	})
}

func TestErrorsAreNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newSource(time.Hour, &counter{})
		defer tab.close()
		no := errors.New("no")
		if _, err := tab.get(t.Context(), aSource, time.Time{}, 0, func(context.Context) (vault.Answer, error) { return vault.Answer{}, no }); !errors.Is(err, no) {
			t.Fatal(err)
		}
		if a := mustGet(t, tab, time.Time{}, 0, saying("one")); a.Object.Value != "one" {
			t.Errorf("got %+v", a)
		}
	})
}

func TestLastKnownGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reported := &counter{}
		tab := newSource(10*time.Second, reported)
		defer tab.close()
		mustGet(t, tab, time.Time{}, time.Hour, saying("one"))
		time.Sleep(30 * time.Minute)
		mustGet(t, tab, time.Time{}, 0, saying("two")) // a class that does not opt in leaves it for the other
		time.Sleep(29 * time.Minute)
		if a, ok := tab.lastGood(aSource, time.Hour); !ok || a.Object.Value != "two" || !a.shared {
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
		if got := reported.reported(); got[len(got)-1] != "stale" {
			t.Errorf("reported %v", got)
		}
	})
}

func TestClosedTableForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newSource(time.Hour, &counter{})
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

func TestHashFollowsContent(t *testing.T) {
	tab := newSource(0, &counter{})
	other := newSource(0, &counter{})
	base := vault.Answer{Object: &vault.Object{Value: "v", RequestID: "1"}}
	if tab.hash(base) != tab.hash(vault.Answer{Object: &vault.Object{Value: "v", RequestID: "2"}}) {
		t.Error("the request id changes the hash")
	}
	if tab.hash(base) == other.hash(base) {
		t.Error("hashs can be compared across processes")
	}
	for name, a := range map[string]vault.Answer{
		"value":    {Object: &vault.Object{Value: "w"}},
		"type":     {Object: &vault.Object{Value: "v", ContentType: "text"}},
		"version":  {Object: &vault.Object{Value: "v", Attributes: vault.Attributes{Version: "1"}}},
		"key":      {Object: &vault.Object{Value: "v", Key: &encode.JWK{N: []byte{1}}}},
		"versions": {Versions: []vault.Attributes{{Version: "1"}}},
	} {
		if tab.hash(a) == tab.hash(base) {
			t.Errorf("another %s has the same hash", name)
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
				tab := newSource(time.Minute, &counter{})
				defer tab.close()
				mustGet(t, tab, time.Time{}, time.Hour, saying("one"))
				time.Sleep(time.Second)
				_, err := tab.get(t.Context(), aSource, time.Now(), time.Hour, func(context.Context) (vault.Answer, error) {
					return vault.Answer{}, &volume.Error{Reason: reason, Message: "no"}
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
		tab := newSource(time.Hour, &counter{})
		defer tab.close()
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		var work sync.WaitGroup
		work.Go(func() {
			_, _ = tab.get(ctx, aSource, time.Time{}, 0, func(ctx context.Context) (vault.Answer, error) {
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
		if a := mustGet(t, tab, time.Time{}, 0, silence); a.Object.Value != "new" {
			t.Errorf("kept %q", a.Object.Value)
		}
	})
}

// A panic in a request is an error of all that wait for it, and is counted.
func TestAPanicIsAnErrorOfItsSource(t *testing.T) {
	var counted []string
	var log strings.Builder
	tab := newSource(time.Hour, &counter{})
	tab.safe = safe.Handler{
		Log:   slog.New(slog.NewTextHandler(&log, nil)),
		Count: func(_ context.Context, task string) { counted = append(counted, task) },
	}
	defer tab.close()
	_, err := tab.get(t.Context(), aSource, time.Time{}, 0, func(context.Context) (vault.Answer, error) { panic("canary-value") })
	if volume.ReasonOf(err) != volume.ReasonInternal || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v", err)
	}
	if len(counted) != 1 || !strings.Contains(log.String(), "TestAPanicIsAnErrorOfItsSource") || strings.Contains(log.String(), "canary-value") {
		t.Errorf("counted %q, logged:\n%s", counted, log.String())
	}
	if a := mustGet(t, tab, time.Time{}, 0, saying("one")); a.Object.Value != "one" {
		t.Errorf("the next: %+v", a)
	}
}

// TestListsSharePace: the lists of a node make at most one request a second, at any interval, and a large list does not slow down
// a small one.
func TestListsSharePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newSource(0, &counter{})
		defer tab.close()
		requests := map[string]int{}
		list := func(kind string, pages int) {
			key := aSource
			key.Kind, key.Name, key.Version, key.List = kind, "", "", true
			_, err := tab.get(t.Context(), key, time.Now(), 0, func(context.Context) (vault.Answer, error) {
				requests[kind] += pages
				return vault.Answer{Items: []vault.Item{{Name: "a"}}, Pages: pages}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		const seconds = 3600
		for range seconds / 2 {
			list("secret", 80)
			list("key", 4)
			time.Sleep(2 * time.Second)
		}
		if total := requests["secret"] + requests["key"]; total > seconds+160 {
			t.Errorf("%d list requests in an hour: %v", total, requests)
		}
		if lists := requests["key"] / 4; lists < seconds/10 {
			t.Errorf("the small list was asked for %d times in an hour", lists)
		}
	})
}

// TestValuesAreComparedWithLists: times are compared for equality, and a value that was read too soon after its change is read again.
func TestValuesAreComparedWithLists(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	of := func(created, updated time.Time, enabled bool) vault.Attributes {
		return vault.Attributes{Created: created, Updated: updated, Enabled: enabled}
	}
	for name, tc := range map[string]struct {
		held vault.Attributes
		read time.Time
		item *vault.Item
		want bool
	}{
		"the same":               {of(at, at, true), at.Add(3 * time.Second), &vault.Item{Attributes: of(at, at, true)}, true},
		"read two seconds later": {of(at, at, true), at.Add(2 * time.Second), &vault.Item{Attributes: of(at, at, true)}, false},
		"read before its time":   {of(at, at, true), at.Add(-time.Second), &vault.Item{Attributes: of(at, at, true)}, false},
		"no Date":                {of(at, at, true), time.Time{}, &vault.Item{Attributes: of(at, at, true)}, false},
		"updated later":          {of(at, at, true), at.Add(time.Hour), &vault.Item{Attributes: of(at, at.Add(time.Second), true)}, false},
		"updated earlier":        {of(at, at, true), at.Add(time.Hour), &vault.Item{Attributes: of(at, at.Add(-time.Second), true)}, false},
		"a new version":          {of(at, at, true), at.Add(time.Hour), &vault.Item{Attributes: of(at.Add(time.Second), at, true)}, false},
		"disabled":               {of(at, at, true), at.Add(time.Hour), &vault.Item{Attributes: of(at, at, false)}, false},
		"not in the list":        {of(at, at, true), at.Add(time.Hour), nil, false},
	} {
		held := answer{Answer: vault.Answer{Object: &vault.Object{Attributes: tc.held}}, read: tc.read, got: tc.read}
		if got := unchanged(held, tc.item, tc.read.Add(heldFor-time.Second)); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
		if unchanged(held, tc.item, tc.read.Add(heldFor)) {
			t.Errorf("%s: a list takes the place of reading for more than an hour", name)
		}
	}
}

// clockWithHook calls the hook once, when the time is next asked for.
type clockWithHook struct {
	clock.RealClock
	hook func()
}

func (c *clockWithHook) Now() time.Time {
	if hook := c.hook; hook != nil {
		c.hook = nil
		hook()
	}
	return c.RealClock.Now()
}

func TestAnswerThatCameSinceTheLookIsTaken(t *testing.T) {
	reported := &counter{}
	tab := newSource(10*time.Second, reported)
	defer tab.close()
	tab.clock = &clockWithHook{hook: func() { mustGet(t, tab, time.Time{}, 0, saying("one")) }}
	if a := mustGet(t, tab, time.Time{}, 0, silence); a.Object.Value != "one" || !a.shared {
		t.Errorf("got %+v", a)
	}
	if want := []string{"requested", "cached"}; !slices.Equal(reported.reported(), want) {
		t.Errorf("reported %v", reported.reported())
	}
}

// What a throttled refresh was answered serves its next try, for ten minutes, and nothing else.
func TestAnswersOfAThrottledRefreshAreHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newSource(time.Second, noObserver{})
		defer tab.close()
		due := time.Now()
		mustGet(t, tab, due, 0, saying("one"))
		tab.hold(aSource)
		tab.hold(volume.SourceKey{Name: "unknown"})
		time.Sleep(mostHeld - time.Second)
		for name, tt := range map[string]struct {
			q    query
			want bool
		}{
			"retry":             {query{key: aSource, notBefore: due, refresh: true}, true},
			"a newer refresh":   {query{key: aSource, notBefore: due.Add(time.Second), refresh: true}, false},
			"a Pod that starts": {query{key: aSource, notBefore: due}, false},
		} {
			if _, ok := tab.recent(tt.q); ok != tt.want {
				t.Errorf("%s: %t", name, ok)
			}
		}
		time.Sleep(2 * time.Second)
		if _, ok := tab.held(aSource); ok {
			t.Error("the answer is kept after ten minutes")
		}
	})
}
