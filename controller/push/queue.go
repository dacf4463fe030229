package push

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azqueue"
	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/printable"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/metrics"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/safe"
)

const (
	// messagesAtOnce is how many messages one request gets: the most that the service gives.
	messagesAtOnce = 32
	// visibility is after how long a message comes again that was not deleted.
	visibility = time.Minute
	// handleTimeout bounds the work on one message, below the visibility.
	handleTimeout = 40 * time.Second
	// queueTimeout bounds one request to the queue.
	queueTimeout = 20 * time.Second
	// mostTries is how often a message may come before it is given up.
	mostTries = 30
	// firstBackoff and lastBackoff bound the waits after failures, which double.
	firstBackoff = time.Second
	lastBackoff  = time.Minute
)

// message is one message of the queue.
type message struct {
	id, receipt, text string
	// tries counts how often it came, this time included.
	tries int64
}

// messages is the queue.
type messages interface {
	// receive returns up to messagesAtOnce messages, which come again after the visibility unless they are deleted.
	receive(ctx context.Context) ([]message, error)
	delete(ctx context.Context, m message) error
}

// queue reads the storage queue. Only the leader does.
type queue struct {
	messages messages
	interval time.Duration
	deliver  func(ctx context.Context, body []byte) error
	refuse   func(ctx context.Context, why outcome, text string)
	metrics  *metrics.Controller
	clock    clock.Clock
	log      *slog.Logger
	safe     safe.Handler
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (*queue) NeedLeaderElection() bool { return true }

// Start implements manager.Runnable: it reads the queue until ctx ends.
func (q *queue) Start(ctx context.Context) error {
	failures, logged := 0, ""
	for {
		var wait time.Duration
		count, err := q.round(ctx)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the process stops
		case err != nil:
			failures++
			wait = backoff(failures)
			if text := describe(err); text != logged {
				q.log.WarnContext(ctx, "the queue of events is not read; it is tried again, and polls go on", logkeys.Error, text)
				logged = text
			}
		default:
			if logged != "" {
				q.log.InfoContext(ctx, "the queue of events is read again")
			}
			failures, logged = 0, ""
			if count < messagesAtOnce {
				wait = q.interval
			}
		}
		if wait == 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-q.clock.After(wait):
		}
	}
}

// backoff is how long to wait after a number of failures in a row.
func backoff(failures int) time.Duration {
	wait := lastBackoff
	if shift := failures - 1; shift < 6 {
		wait = min(lastBackoff, firstBackoff<<shift)
	}
	return wait/2 + rand.N(wait/2) //nolint:gosec // it guards nothing
}

// round reads and serves messages once. The error is why the next round has to wait.
func (q *queue) round(ctx context.Context) (count int, err error) {
	var received []message
	err = q.safe.Do(ctx, "read the queue of events", func() (err error) {
		received, err = q.messages.receive(ctx)
		return err
	})
	if err != nil {
		q.metrics.QueueFailed()
		return 0, err
	}
	var (
		work  sync.WaitGroup
		fault = make([]error, len(received))
	)
	for i, m := range received {
		work.Go(func() {
			fault[i] = q.safe.Do(ctx, "serve an event", func() error { return q.serve(ctx, m) })
		})
	}
	work.Wait()
	return len(received), errors.Join(fault...)
}

// serve serves one message, and deletes it when that is done.
func (q *queue) serve(ctx context.Context, m message) error {
	ctx, cancel := context.WithTimeout(ctx, handleTimeout)
	defer cancel()
	if m.tries > mostTries {
		q.refuse(ctx, poisoned, fmt.Sprintf("message %.80q came %d times", m.id, m.tries))
		return q.remove(ctx, m)
	}
	body, err := decodeMessage(m.text)
	if err != nil {
		q.refuse(ctx, malformed, err.Error())
		return q.remove(ctx, m)
	}
	if err := q.deliver(ctx, body); err != nil {
		return err
	}
	return q.remove(ctx, m)
}

// remove deletes a message. One that is gone, or that somebody else got meanwhile, needs no deletion.
func (q *queue) remove(ctx context.Context, m message) error {
	err := q.messages.delete(ctx, m)
	if response, ok := errors.AsType[*azcore.ResponseError](err); ok && response.StatusCode == http.StatusNotFound {
		return nil
	}
	if err != nil {
		q.metrics.QueueFailed()
		return fmt.Errorf("delete a message: %w", err)
	}
	return nil
}

// describe is an error in one line, with what to do about it.
func describe(err error) string {
	response, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		return printable.OneLine(err.Error())
	}
	text := fmt.Sprintf("the queue answered %d %s", response.StatusCode, response.ErrorCode)
	switch response.StatusCode {
	case http.StatusForbidden:
		text += ": give the controller's identity the role Storage Queue Data Message Processor on the queue, and let its network through"
	case http.StatusNotFound:
		text += ": correct --events-queue-url, https://ACCOUNT.queue.core.windows.net/QUEUE"
	}
	return text
}

// CheckQueueURL returns what is wrong with the URL of a queue.
func CheckQueueURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") == "" {
		return errors.New("--events-queue-url: write https://ACCOUNT.queue.core.windows.net/QUEUE")
	}
	if u.RawQuery != "" || u.User != nil || u.Fragment != "" {
		return errors.New("--events-queue-url: write it without a query: access is by the controller's identity, never by a signature")
	}
	return nil
}

// storageQueue implements messages.
type storageQueue struct{ client *azqueue.QueueClient }

// newStorageQueue opens the queue. The transport bounds answers; retries are the caller's.
func newStorageQueue(queueURL string, credential azcore.TokenCredential, transport policy.Transporter) (*storageQueue, error) {
	client, err := azqueue.NewQueueClient(queueURL, credential, &azqueue.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: transport,
		Retry:     policy.RetryOptions{MaxRetries: -1},
		Telemetry: policy.TelemetryOptions{ApplicationID: "keyvault-csi"},
	}})
	if err != nil {
		return nil, fmt.Errorf("--events-queue-url: %w", err)
	}
	return &storageQueue{client}, nil
}

func (s *storageQueue) receive(ctx context.Context) ([]message, error) {
	ctx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	answer, err := s.client.DequeueMessages(ctx, &azqueue.DequeueMessagesOptions{
		NumberOfMessages:  new(int32(messagesAtOnce)),
		VisibilityTimeout: new(int32(visibility / time.Second)),
	})
	if err != nil {
		return nil, err //nolint:wrapcheck // describe explains it
	}
	all := make([]message, 0, len(answer.Messages))
	for _, m := range answer.Messages {
		if m == nil || m.MessageID == nil || m.PopReceipt == nil {
			return nil, errors.New("the queue's answer is no list of messages")
		}
		one := message{id: *m.MessageID, receipt: *m.PopReceipt}
		if m.MessageText != nil {
			one.text = *m.MessageText
		}
		if m.DequeueCount != nil {
			one.tries = *m.DequeueCount
		}
		all = append(all, one)
	}
	return all, nil
}

func (s *storageQueue) delete(ctx context.Context, m message) error {
	ctx, cancel := context.WithTimeout(ctx, queueTimeout)
	defer cancel()
	_, err := s.client.DeleteMessage(ctx, m.id, m.receipt, nil)
	return err //nolint:wrapcheck // describe explains it
}
