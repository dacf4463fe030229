package push

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
)

// store is a queue as Azure has it: a message that was received is invisible for a while.
type store struct {
	mu       sync.Mutex
	held     []*held
	away     error
	requests []time.Time
	deletes  int
}

type held struct {
	message

	visible time.Time
}

func (s *store) put(texts ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, text := range texts {
		s.held = append(s.held, &held{message: message{id: fmt.Sprint(len(s.held)), text: text}})
	}
}

func (s *store) receive(context.Context) (received []message, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.requests = append(s.requests, now)
	if s.away != nil {
		return nil, s.away
	}
	for _, h := range s.held {
		if len(received) < messagesAtOnce && !now.Before(h.visible) {
			h.visible = now.Add(visibility)
			h.tries++
			h.receipt = fmt.Sprint(h.id, "-", h.tries)
			received = append(received, h.message)
		}
	}
	return received, nil
}

func (s *store) delete(_ context.Context, m message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, h := range s.held {
		if h.id == m.id && h.receipt == m.receipt {
			s.held = append(s.held[:i:i], s.held[i+1:]...)
			s.deletes++
			return nil
		}
	}
	return &azcore.ResponseError{StatusCode: http.StatusNotFound, ErrorCode: "MessageNotFound"}
}

func (s *store) left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

func (s *store) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

// reader is a queue that is read in a bubble.
type reader struct {
	*queue

	store   *store
	log     *strings.Builder
	mu      sync.Mutex
	fail    error
	served  []string
	refused []outcome
}

func onQueue(t *testing.T, test func(*reader)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		counts := metrics.NewController(clock.RealClock{})
		r := &reader{store: &store{}, log: &strings.Builder{}}
		log := slog.New(slog.NewTextHandler(r.log, nil))
		r.queue = &queue{
			messages: r.store, interval: time.Second, metrics: counts, clock: clock.RealClock{}, log: log, safe: safe.Handler{Log: log},
			deliver: func(_ context.Context, body []byte) error {
				r.mu.Lock()
				defer r.mu.Unlock()
				if string(body) == "[panic]" {
					panic("a defect")
				}
				if r.fail != nil {
					return r.fail
				}
				r.served = append(r.served, string(body))
				return nil
			},
			refuse: func(_ context.Context, why outcome, _ string) {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.refused = append(r.refused, why)
			},
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Start(ctx) }()
		test(r)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// pass lets time pass, and everything that is due in it happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestQueue(t *testing.T) {
	onQueue(t, func(r *reader) {
		pass(time.Minute)
		if got := r.store.asked(); got < 59 || got > 61 {
			t.Errorf("an empty queue is asked %d times in a minute", got)
		}
		r.store.put(base64.StdEncoding.EncodeToString([]byte(`{"a":1}`)), `{"a":2}`, "neither!")
		pass(1100 * time.Millisecond)
		if len(r.served) != 2 || r.store.left() != 0 || len(r.refused) != 1 || r.refused[0] != malformed {
			t.Errorf("served %v, %d left, refused %v", r.served, r.store.left(), r.refused)
		}
		// a full batch is followed by the next one at once
		for i := range 1000 {
			r.store.put(fmt.Sprintf("[%d]", i))
		}
		before := r.store.asked()
		pass(1100 * time.Millisecond)
		if r.store.left() != 0 || r.store.asked()-before > 1000/messagesAtOnce+3 {
			t.Errorf("%d left after %d requests", r.store.left(), r.store.asked()-before)
		}
	})
}

// TestQueueThatIsAway: it is asked ever more rarely, and the log says it once.
func TestQueueThatIsAway(t *testing.T) {
	onQueue(t, func(r *reader) {
		r.store.mu.Lock()
		r.store.away = &azcore.ResponseError{StatusCode: http.StatusForbidden, ErrorCode: "AuthorizationPermissionMismatch"}
		r.store.mu.Unlock()
		pass(time.Hour)
		if got := r.store.asked(); got > 150 {
			t.Errorf("%d requests in an hour", got)
		}
		if got := strings.Count(r.log.String(), "Storage Queue Data Message Processor"); got != 1 {
			t.Errorf("logged %d times: %s", got, r.log)
		}
		if got := value(t, r.metrics, "keyvault_csi_events_queue_errors_total"); got < r.store.asked()-1 {
			t.Errorf("%d errors are counted", got)
		}
		r.store.mu.Lock()
		r.store.away = nil
		r.store.mu.Unlock()
		r.store.put("[]")
		pass(lastBackoff + time.Second)
		if r.store.left() != 0 || !strings.Contains(r.log.String(), "is read again") {
			t.Errorf("%d left: %s", r.store.left(), r.log)
		}
	})
}

// TestMessageIsDeletedWhenItIsServed: while refreshes cannot be asked for, messages stay, and the queue is asked rarely.
func TestMessageIsDeletedWhenItIsServed(t *testing.T) {
	onQueue(t, func(r *reader) {
		r.mu.Lock()
		r.fail = errors.New("the API server is away")
		r.mu.Unlock()
		r.store.put("[1]", "[2]")
		pass(10 * time.Minute)
		if r.store.left() != 2 || r.store.deletes != 0 {
			t.Errorf("%d left", r.store.left())
		}
		r.mu.Lock()
		r.fail = nil
		r.mu.Unlock()
		pass(2 * time.Minute)
		if r.store.left() != 0 || len(r.served) != 2 {
			t.Errorf("%d left, served %v", r.store.left(), r.served)
		}
	})
}

// TestPoisonMessage: a message that no try serves is given up, and others are served meanwhile.
func TestPoisonMessage(t *testing.T) {
	onQueue(t, func(r *reader) {
		r.store.put("[panic]")
		pass(5 * time.Minute)
		r.store.put("[1]")
		pass(2 * time.Minute)
		if len(r.served) != 1 || r.store.left() != 1 {
			t.Errorf("served %v, %d left", r.served, r.store.left())
		}
		pass(2 * time.Hour)
		if r.store.left() != 0 || len(r.refused) != 1 || r.refused[0] != poisoned {
			t.Errorf("%d left, refused %v", r.store.left(), r.refused)
		}
		if strings.Contains(r.log.String(), "a defect") {
			t.Error("the text of a panic is logged")
		}
	})
}

func TestCheckQueueURL(t *testing.T) {
	for url, good := range map[string]bool{
		"https://shop.queue.core.windows.net/events":               true,
		"https://127.0.0.1:10001/devstoreaccount1/events":          true,
		"http://shop.queue.core.windows.net/events":                false,
		"https://shop.queue.core.windows.net/":                     false,
		"https://shop.queue.core.windows.net/events?sv=1&sig=abcd": false,
		"https://x:y@shop.queue.core.windows.net/events":           false,
		"shop": false,
	} {
		if err := CheckQueueURL(url); (err == nil) != good || err != nil && strings.Contains(err.Error(), "abcd") {
			t.Errorf("%s: %v", url, err)
		}
	}
}
