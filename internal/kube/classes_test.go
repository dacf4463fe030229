package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// fakeAPI answers requests for classes of the namespace shop as the API server does.
type fakeAPI struct {
	mu      sync.Mutex
	version int
	classes map[string]*v1.SecretProviderClass
	open    map[string][]*io.PipeWriter // the watches, by class
	seen    []string                    // "get web", "list web", "watch web"
	// refuse answers in place of the API server where it returns an error or an answer.
	refuse func(verb, name string, r *http.Request) (*http.Response, error)
}

func newFakeAPI() *fakeAPI {
	return &fakeAPI{version: 100, classes: map[string]*v1.SecretProviderClass{}, open: map[string][]*io.PipeWriter{}}
}

func answer(r *http.Request, code int, body any) *http.Response {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return &http.Response{
		StatusCode: code, Request: r, Body: io.NopCloser(strings.NewReader(string(text))),
		Header: http.Header{"Content-Type": {"application/json"}},
	}
}

// failed is the API server's answer to what it refuses.
func failed(code int, reason metav1.StatusReason, message string) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code), //nolint:gosec // small
		Reason: reason, Message: message, Details: &metav1.StatusDetails{Kind: classResource},
	}
}

func (a *fakeAPI) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	verb, name, query := "get", "", r.URL.Query()
	if strings.HasSuffix(r.URL.Path, "/"+classResource) {
		verb, name = "list", strings.TrimPrefix(query.Get("fieldSelector"), "metadata.name=")
		if query.Get("watch") != "" {
			verb = "watch"
		}
	} else {
		name = r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	}
	a.mu.Lock()
	a.seen = append(a.seen, verb+" "+name)
	refuse := a.refuse
	a.mu.Unlock()
	if refuse != nil {
		if answered, err := refuse(verb, name, r); answered != nil || err != nil {
			return answered, err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	class := a.classes[name]
	switch verb {
	case "get":
		if class == nil {
			return answer(r, http.StatusNotFound, failed(404, metav1.StatusReasonNotFound, name+" not found")), nil
		}
		return answer(r, http.StatusOK, class), nil
	case "list":
		list := &v1.SecretProviderClassList{
			TypeMeta: metav1.TypeMeta{APIVersion: groupVersion().String(), Kind: "SecretProviderClassList"},
			ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(a.version)}, Items: []v1.SecretProviderClass{},
		}
		if class != nil {
			list.Items = append(list.Items, *class)
		}
		return answer(r, http.StatusOK, list), nil
	}
	reader, writer := io.Pipe()
	context.AfterFunc(r.Context(), func() { _ = writer.CloseWithError(context.Canceled); a.close(name, writer) })
	a.open[name] = append(a.open[name], writer)
	return &http.Response{StatusCode: http.StatusOK, Request: r, Body: reader, Header: http.Header{"Content-Type": {"application/json"}}}, nil
}

func (a *fakeAPI) close(name string, writer *io.PipeWriter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open[name] = slices.DeleteFunc(a.open[name], func(w *io.PipeWriter) bool { return w == writer })
}

// end ends the watches of the class web, as the API server does after some minutes.
func (a *fakeAPI) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.open["web"] {
		_ = w.Close()
	}
	a.open["web"] = nil
}

// send sends an event to the watches of the class web.
func (a *fakeAPI) send(kind string, object any) {
	text, err := json.Marshal(map[string]any{"type": kind, "object": object})
	if err != nil {
		panic(err)
	}
	a.mu.Lock()
	open := slices.Clone(a.open["web"])
	a.mu.Unlock()
	for _, w := range open {
		_, _ = w.Write(append(text, '\n'))
	}
}

// put creates or edits a class, without telling its watches.
func (a *fakeAPI) put(name, value string) *v1.SecretProviderClass {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	class := &v1.SecretProviderClass{
		TypeMeta: metav1.TypeMeta{APIVersion: groupVersion().String(), Kind: "SecretProviderClass"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: name, UID: "u", ResourceVersion: strconv.Itoa(a.version),
			Annotations:   map[string]string{lastApplied: "x", "kept": "y"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
		},
		Spec: v1.SecretProviderClassSpec{Provider: "azure", Parameters: map[string]string{"keyvaultName": value}},
	}
	a.classes[name] = class
	return class
}

func (a *fakeAPI) watches() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, open := range a.open {
		n += len(open)
	}
	return n
}

// requests returns those since the last call.
func (a *fakeAPI) requests() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	seen := strings.Join(a.seen, ", ")
	a.seen = nil
	return seen
}

func (a *fakeAPI) refuses(f func(verb, name string, r *http.Request) (*http.Response, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refuse = f
}

func (a *fakeAPI) client(t *testing.T) client {
	t.Helper()
	made, err := newClient(&rest.Config{Host: "http://api.example", Transport: a}, clock.RealClock{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// watching runs test with a Cluster that has nothing but classes. Edited has the edits that Watch tells of.
func watching(t *testing.T, test func(t *testing.T, a *fakeAPI, c *Cluster, edited func() []string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a := newFakeAPI()
		ctx, cancel := context.WithCancel(t.Context())
		c := &Cluster{log: slog.New(slog.DiscardHandler), clock: clock.RealClock{}, api: a.client(t), stop: cancel}
		c.safe.Log = c.log
		c.classes = newClasses(ctx, c)
		c.goes(ctx, "expire", c.classes.expire)
		var mu sync.Mutex
		var edits []string
		c.goes(ctx, "watch", func(ctx context.Context) {
			_ = c.Watch(ctx, func(_, name string) {
				mu.Lock()
				defer mu.Unlock()
				edits = append(edits, name)
			})
		})
		synctest.Wait()
		test(t, a, c, func() []string {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			seen := edits
			edits = nil
			return seen
		})
		c.stop()
		c.classes.close()
		c.group.Wait()
		synctest.Wait()
		if n := a.watches(); n != 0 {
			t.Errorf("%d watches are open after the end", n)
		}
	})
}

func vaultOf(t *testing.T, c *Cluster, name string) string {
	t.Helper()
	class, err := c.Get(t.Context(), "shop", name)
	if err != nil {
		t.Fatal(err)
	}
	if class.ManagedFields != nil || class.Annotations[lastApplied] != "" || class.Annotations["kept"] == "" {
		t.Errorf("what nobody reads is kept, or what is read is not: %v", class.ObjectMeta)
	}
	synctest.Wait()
	return class.Spec.Parameters["keyvaultName"]
}

// A class is read once and watched from the version of a list until ten minutes after the last use.
func TestClassIsWatchedWhileItIsUsed(t *testing.T) {
	watching(t, func(t *testing.T, a *fakeAPI, c *Cluster, edited func() []string) {
		a.put("web", "a")
		a.put("unused", "a")
		var group sync.WaitGroup
		for range 50 { // Pods that start together
			group.Go(func() {
				if _, err := c.Get(t.Context(), "shop", "web"); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		synctest.Wait()
		if got := a.requests(); got != "get web, list web, watch web" {
			t.Errorf("requests of the first use: %s", got)
		}
		for range 20 { // half an hour of kubelet's calls
			time.Sleep(90 * time.Second)
			vaultOf(t, c, "web")
		}
		if got := a.requests(); got != "" {
			t.Errorf("requests while the watch is open: %s", got)
		}
		a.send("MODIFIED", a.put("web", "b"))
		if got := edited(); !slices.Equal(got, []string{"web"}) || vaultOf(t, c, "web") != "b" {
			t.Errorf("edits: %v", got)
		}
		same := a.put("web", "b") // its status, or what is not kept
		a.send("MODIFIED", same)
		if got := edited(); got != nil {
			t.Errorf("a class that differs in nothing that is read: %v", got)
		}
		time.Sleep(classIdle - time.Minute)
		if n := a.watches(); n != 1 {
			t.Errorf("%d watches before the class is idle", n)
		}
		time.Sleep(3 * time.Minute)
		if n := a.watches(); n != 0 {
			t.Errorf("%d watches after the class is idle", n)
		}
		a.put("web", "c")
		if got := vaultOf(t, c, "web"); got != "c" {
			t.Errorf("the next use gets %q", got)
		}
		if got := a.requests(); got != "get web, list web, watch web" {
			t.Errorf("requests of the next use: %s", got)
		}
	})
}

// Whatever ends a watch: the class stays in use, the requests are few, and an edit of that time is found.
func TestWatchIsStartedAgain(t *testing.T) {
	gone := failed(http.StatusGone, metav1.StatusReasonExpired, "too old resource version")
	broken := failed(http.StatusInternalServerError, metav1.StatusReasonInternalError, "etcd is away")
	refuseAll := func(code int, status *metav1.Status) func(*fakeAPI) {
		return func(a *fakeAPI) {
			a.refuses(func(_, _ string, r *http.Request) (*http.Response, error) { return answer(r, code, status), nil })
			a.end()
		}
	}
	tests := map[string]struct {
		fault func(a *fakeAPI)
		// most is how many requests ten minutes of the fault may cost.
		most int
		// first is the first request after it.
		first string
	}{
		"410 in the watch": {func(a *fakeAPI) { a.send("ERROR", gone) }, 2, "list web"},
		"500 in the watch": {func(a *fakeAPI) { a.send("ERROR", broken) }, 2, "list web"},
		"410":              {refuseAll(http.StatusGone, gone), 60, "list web"},
		"500":              {refuseAll(http.StatusInternalServerError, broken), 60, "list web"},
		"refused": {func(a *fakeAPI) {
			a.refuses(func(string, string, *http.Request) (*http.Response, error) {
				return nil, errors.New("connection refused")
			})
			a.end()
		}, 60, "watch web"},
		"watches that end at once": {func(a *fakeAPI) {
			a.refuses(func(verb, _ string, r *http.Request) (*http.Response, error) {
				if verb != "watch" {
					return nil, nil
				}
				return &http.Response{
					StatusCode: http.StatusOK, Request: r, Body: http.NoBody, Header: http.Header{"Content-Type": {"application/json"}},
				}, nil
			})
			a.end()
		}, 60, "watch web"},
		"ended in time": {func(a *fakeAPI) { a.end() }, 1, "watch web"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			watching(t, func(t *testing.T, a *fakeAPI, c *Cluster, edited func() []string) {
				a.put("web", "a")
				vaultOf(t, c, "web")
				time.Sleep(time.Minute)
				a.requests()
				tt.fault(a)
				for range 10 {
					time.Sleep(time.Minute)
					if got := vaultOf(t, c, "web"); got != "a" {
						t.Fatalf("the class is %q", got)
					}
				}
				requests := strings.Split(a.requests(), ", ")
				if len(requests) > tt.most || !strings.HasPrefix(strings.Join(requests, ", ")+", ", tt.first) && requests[1] != tt.first {
					t.Errorf("%d requests: %v", len(requests), requests)
				}
				a.refuses(nil)
				time.Sleep(2 * lastWait)
				if got := edited(); got != nil {
					t.Errorf("edits of a class that was not edited: %v", got)
				}
				a.send("MODIFIED", a.put("web", "b"))
				if got := edited(); !slices.Equal(got, []string{"web"}) || vaultOf(t, c, "web") != "b" {
					t.Errorf("edits after the fault: %v", got)
				}
				a.put("web", "c") // an edit whose event is lost
				a.send("ERROR", gone)
				time.Sleep(2 * lastWait)
				if got := edited(); !slices.Equal(got, []string{"web"}) || vaultOf(t, c, "web") != "c" {
					t.Errorf("edits after an event that was lost: %v", got)
				}
				a.mu.Lock()
				delete(a.classes, "web")
				a.mu.Unlock()
				a.send("ERROR", gone)
				time.Sleep(2 * lastWait)
				if _, err := c.Get(t.Context(), "shop", "web"); volume.ReasonOf(err) != volume.ReasonClassNotFound || len(edited()) != 1 {
					t.Errorf("a deletion whose event is lost: %v", err)
				}
			})
		})
	}
}

// A class that does not exist is read at each use and not watched. One that was deleted is watched on, and read at each use too.
func TestMissingClassIsReadAtEachUse(t *testing.T) {
	watching(t, func(t *testing.T, a *fakeAPI, c *Cluster, edited func() []string) {
		missing := func() {
			t.Helper()
			if _, err := c.Get(t.Context(), "shop", "web"); volume.ReasonOf(err) != volume.ReasonClassNotFound {
				t.Errorf("a class that does not exist: %v", err)
			}
			synctest.Wait()
		}
		missing()
		missing()
		if got := a.requests(); got != "get web, get web" {
			t.Errorf("requests: %s", got)
		}
		a.put("web", "a")
		vaultOf(t, c, "web")
		deleted := a.put("web", "a")
		a.mu.Lock()
		delete(a.classes, "web")
		a.mu.Unlock()
		a.send("DELETED", deleted)
		if got := edited(); len(got) != 1 {
			t.Errorf("a deletion: %v", got)
		}
		a.requests()
		missing()
		again := a.put("web", "b")
		if got := vaultOf(t, c, "web"); got != "b" { // before the watch knows
			t.Errorf("created again: %q", got)
		}
		a.send("ADDED", again)
		if got := edited(); len(got) != 1 {
			t.Errorf("created again: %v", got)
		}
		vaultOf(t, c, "web")
		if got := a.requests(); got != "get web, get web" {
			t.Errorf("requests: %s", got)
		}
	})
}

// What the API server forbids is no class that is missing, and the error names the rule. A class whose watch is forbidden is read at
// each use: what was known would grow old without anyone's notice.
func TestForbiddenClass(t *testing.T) {
	watching(t, func(t *testing.T, a *fakeAPI, c *Cluster, _ func() []string) {
		a.put("web", "a")
		forbid := func(verbs ...string) {
			a.refuses(func(verb, name string, r *http.Request) (*http.Response, error) {
				if !slices.Contains(verbs, verb) {
					return nil, nil
				}
				return answer(r, http.StatusForbidden, failed(403, metav1.StatusReasonForbidden,
					fmt.Sprintf("%s is forbidden: User \"driver\" cannot %s resource", name, verb))), nil
			})
		}
		forbid("get")
		_, err := c.Get(t.Context(), "shop", "web")
		if volume.ReasonOf(err) != volume.ReasonNotReady || !strings.Contains(fmt.Sprint(err), "rights to get, list and watch secretproviderclasses") ||
			!strings.Contains(fmt.Sprint(err), `"driver" cannot get resource`) {
			t.Errorf("forbidden: %v", err)
		}
		for _, verb := range []string{"list", "watch"} {
			forbid(verb)
			for _, value := range []string{"a", "b", "c"} {
				a.put("web", value)
				if got := vaultOf(t, c, "web"); got != value {
					t.Errorf("%s is forbidden: the class is %q, want %q", verb, got, value)
				}
				time.Sleep(30 * time.Second) // the bubble's clock: it was tried again in vain, and the class dropped
				synctest.Wait()
			}
			if n := a.watches(); n != 0 {
				t.Errorf("%d watches", n)
			}
		}
	})
}

// An API server that has just started forbids everything for a moment. The class stays in use meanwhile.
func TestClassStaysInUseWhileTheAPIServerStarts(t *testing.T) {
	watching(t, func(t *testing.T, a *fakeAPI, c *Cluster, _ func() []string) {
		a.put("web", "a")
		refused := 0
		a.refuses(func(verb, name string, r *http.Request) (*http.Response, error) {
			if verb == "get" || refused == 2 {
				return nil, nil
			}
			refused++
			return answer(r, http.StatusForbidden, failed(403, metav1.StatusReasonForbidden, name+" is forbidden")), nil
		})
		vaultOf(t, c, "web")
		time.Sleep(time.Second) // the bubble's clock
		synctest.Wait()
		a.refuses(func(string, string, *http.Request) (*http.Response, error) {
			return nil, errors.New("connection refused")
		})
		if got := vaultOf(t, c, "web"); got != "a" {
			t.Errorf("while the API server is away the class is %q", got)
		}
	})
}

// A node watches a bounded number of classes; the others are read at each use.
func TestWatchesAreBounded(t *testing.T) {
	watching(t, func(t *testing.T, a *fakeAPI, c *Cluster, _ func() []string) {
		for i := range mostWatches + 5 {
			name := fmt.Sprintf("web-%d", i)
			a.put(name, "a")
			vaultOf(t, c, name)
		}
		if n := a.watches(); n != mostWatches {
			t.Errorf("%d watches", n)
		}
		last := fmt.Sprintf("web-%d", mostWatches)
		a.put(last, "b")
		if got := vaultOf(t, c, last); got != "b" {
			t.Errorf("a class that is not watched is %q", got)
		}
		time.Sleep(classIdle + 2*time.Minute)
		vaultOf(t, c, last)
		if n := a.watches(); n != 1 {
			t.Errorf("%d watches when the others are idle", n)
		}
	})
}

// A panic of what is called for an edit ends neither the process nor the use of the class.
func TestPanicInAWatch(t *testing.T) {
	watching(t, func(t *testing.T, a *fakeAPI, c *Cluster, _ func() []string) {
		ctx, cancel := context.WithCancel(t.Context())
		c.goes(ctx, "panics", func(ctx context.Context) { _ = c.Watch(ctx, func(string, string) { panic("defect") }) })
		a.put("web", "a")
		vaultOf(t, c, "web")
		a.send("MODIFIED", a.put("web", "b"))
		synctest.Wait()
		cancel()
		if got := vaultOf(t, c, "web"); got != "b" || a.watches() != 1 {
			t.Errorf("after a panic: %q, %d watches", got, a.watches())
		}
	})
}

// A Get that is given up, or that outlives Close, ends; a slow API server is asked once.
func TestGetEndsWithItsCaller(t *testing.T) {
	watching(t, func(t *testing.T, a *fakeAPI, c *Cluster, _ func() []string) {
		a.put("web", "a")
		a.refuses(func(_, _ string, r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := c.Get(ctx, "shop", "web"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("given up: %v", err)
			}
			cancel()
		}
		if got := a.requests(); got != "get web" {
			t.Errorf("requests: %s", got)
		}
		if _, err := c.Get(t.Context(), "shop", "web"); volume.ReasonOf(err) != volume.ReasonNotReady {
			t.Errorf("the API server hangs: %v", err)
		}
	})
}
