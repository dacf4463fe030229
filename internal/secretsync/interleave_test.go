package secretsync

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// world is a vault, a class and nodes that all write one Secret. Time is synctest's: every request takes a random time, so that all
// interleavings occur.
type world struct {
	mu     sync.Mutex
	random *rand.Rand
	api    *apiServer
	// version is what the vault answers with. Its clock is behind the nodes' or ahead of them by skew.
	version int
	skew    time.Duration

	class Class
}

func (w *world) roll(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.random.IntN(n)
}

func (w *world) delay() { time.Sleep(time.Duration(w.roll(400)) * time.Millisecond) }

// fetch asks the vault, and answers as late as requests do. Its Date has whole seconds.
func (w *world) fetch() (version int, date time.Time) {
	w.delay()
	w.mu.Lock()
	version, date = w.version, time.Now().Add(w.skew).Truncate(time.Second)
	w.mu.Unlock()
	w.delay()
	return version, date
}

func (w *world) classNow() Class {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.class
}

// node polls, as a driver's refresh does, keeps what it knows, and is killed now and then. Its own clock means nothing.
func (w *world) node(ctx context.Context, name string) {
	r := New(Options{Secrets: w.api, Classes: w.api, Clock: clock.RealClock{}})
	known := &Known{}
	class := w.classNow()
	for ctx.Err() == nil {
		if w.roll(4) == 0 {
			class = w.classNow() // a watch may be late
		}
		if w.roll(10) == 0 {
			known = &Known{} // a restart
		}
		version, date := w.fetch()
		for range 1 + w.roll(3) { // retries with the same values, which may be late
			d := want(strconv.Itoa(version), 0, func(d *Desired) {
				d.Class = class
				d.Sources[0].Date = date
				d.Owners = []metav1.OwnerReference{{UID: types.UID(name)}}
			})
			call, cancel := context.WithTimeout(ctx, time.Duration(1+w.roll(3000))*time.Millisecond)
			outcome := r.Reconcile(call, d, known)
			cancel()
			if outcome.Refetch {
				time.Sleep(outcome.RefetchAfter)
				break
			}
			if w.roll(2) == 0 {
				time.Sleep(time.Duration(w.roll(5000)) * time.Millisecond)
			}
		}
		time.Sleep(time.Duration(w.roll(4000)) * time.Millisecond)
	}
}

// checker sees every state that the API server stores and fails where one goes back.
type forward struct {
	t     *testing.T
	last  *record
	of    types.UID // of the Secret: one that was deleted leaves no record
	seen  int
	trail []string
}

func (f *forward) written(s *storedSecret) {
	r := parseRecord(s.annotations[testWriter().Annotation("web")])
	if r == nil {
		f.t.Errorf("no record: %v", s.annotations)
		return
	}
	f.seen++
	f.trail = append(f.trail, fmt.Sprintf("%s gen %d version %s at %v", r.UID, r.Generation, s.value(), r.Sources["kv/secret/db"].Date))
	if last := f.last; last != nil && last.UID == r.UID && f.of == s.uid {
		if r.Generation < last.Generation || r.Sources["kv/secret/db"].Date.Before(*last.Sources["kv/secret/db"].Date) {
			f.t.Errorf("it went back:\n%s", strings.Join(f.trail[max(0, len(f.trail)-4):], "\n"))
		}
	}
	if got := s.value(); got != r.Sources["kv/secret/db"].Version {
		f.t.Errorf("the value %q is not that of the record: %v", got, r)
	}
	f.last, f.of = r, s.uid
}

// Nodes that fetch, retry, restart and lag behind each other's classes, while values and classes change: what the Secret was made from
// only ever moves forward, and in the end it is the newest.
func TestNoInterleavingGoesBack(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{
					random: rand.New(rand.NewPCG(seed, 7)),
					api:    newAPIServer(), version: 1, class: Class{Name: "web", UID: "class-0", Generation: 1},
				}
				w.skew = time.Duration(w.roll(7200)-3600) * time.Second
				w.api.delay = w.delay
				w.api.classes["web"] = &classObject{uid: "class-0", secrets: []string{"db"}}
				check := &forward{t: t}
				w.api.written = check.written
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				var nodes sync.WaitGroup
				for i := range 2 + w.roll(4) {
					nodes.Go(func() { w.node(ctx, "node-"+strconv.Itoa(i)) })
				}
				for range 40 {
					time.Sleep(time.Duration(w.roll(3000)) * time.Millisecond)
					w.change()
				}
				time.Sleep(15 * time.Minute) // drift checks included: nodes of this test have none, but poll
				w.api.mu.Lock()
				if got, wanted := w.api.secrets["db"].value(), strconv.Itoa(w.version); got != wanted {
					t.Errorf("the Secret ends at %s, the vault at %s:\n%s", got, wanted, strings.Join(check.trail[max(0, len(check.trail)-6):], "\n"))
				}
				if check.seen < 5 {
					t.Errorf("%d writes: too few to mean anything", check.seen)
				}
				w.api.mu.Unlock()
				stop()
				nodes.Wait()
			})
		})
	}
}

// change does one thing to the world: a new version, one that is taken back, an edit of the class, one that is created again, or a
// Secret that is deleted or edited.
func (w *world) change() {
	kind := w.roll(12)
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch kind {
	case 0, 1, 2, 3, 4, 5:
		w.version++
	case 6, 7:
		w.version = max(1, w.version-1) // the newest was disabled
	case 8, 9:
		w.class.Generation++
	case 10:
		w.class = Class{Name: "web", UID: w.class.UID + "x", Generation: 1}
		w.api.classes["web"].uid = w.class.UID
	case 11:
		delete(w.api.secrets, "db")
	}
}
