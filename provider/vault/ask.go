package vault

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"regexp"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
)

const (
	// mostTries bounds the tries of a request that a Pod waits for. A refresh that is throttled waits at the limiter for its turn again, until
	// its deadline, because what else of its class was answered would be lost. After any other failure it comes again later.
	mostTries    = 5
	firstBackoff = 250 * time.Millisecond
)

// Answer is what a vault answered.
type Answer struct {
	// Object is nil where the question was for a list.
	Object *Object
	// Versions are those of a list, in no order.
	Versions []Attributes
	// Items are all objects of a kind, in no order, and Pages is how many requests it took to list them.
	Items []Item
	Pages int
	// Date is when the vault answered, by its own clock; zero where it does not say.
	Date time.Time
}

// Ask asks for what a key names: an object's version, or its list of versions, which needs the permission to list. The
// name is the object's as the class spells it, for messages. Errors are of type *volume.Error. When the context ends it
// returns the last real cause.
func (c *Client) Ask(ctx context.Context, key volume.SourceKey, name string) (Answer, error) {
	d := describe(key, name)
	var last *volume.Error
	for try := 1; ; try++ {
		start := c.options.Clock.Now()
		// each page of a list is a request of its own; the last one is counted with the outcome
		pages := 0
		a, raw, err := c.try(ctx, key, func() { //nolint:bodyclose // the SDK has read it
			if pages++; pages > 1 {
				c.observe(d, "", start)
			}
		})
		if err == nil {
			a.Pages = pages
			c.observe(d, "", start)
			return a, nil
		}
		if ctx.Err() != nil && last != nil {
			return Answer{}, last
		}
		if cause := context.Cause(ctx); errors.Is(cause, context.Canceled) {
			return Answer{}, cause // the caller does not wait any more
		}
		last = c.explain(err, raw, d)
		c.observe(d, last.Reason, start)
		switch {
		case try < mostTries && limiter.Urgent(ctx) && last.Reason.Transient() && c.pause(ctx, try, last.RetryAfter):
		case limiter.Patient(ctx) && raw != nil && raw.StatusCode == http.StatusTooManyRequests && c.pause(ctx, 1, 0):
		default:
			return Answer{}, last
		}
	}
}

// try asks once.
func (c *Client) try(ctx context.Context, key volume.SourceKey, page func()) (a Answer, raw *http.Response, err error) {
	ctx, why := withUnsent(policy.WithCaptureResponse(ctx, &raw))
	defer func() {
		switch {
		case err != nil && why.token != nil:
			err = ofIdentity(why.token)
		case err != nil && why.limit != nil:
			err = why.limit
		}
	}()
	kind, err := c.kind(key.Kind)
	if err != nil {
		return a, nil, err
	}
	var ids []string
	switch {
	case key.List && key.Name == "":
		a.Items, ids, err = kind.list(ctx, func() {
			if a.Date.IsZero() {
				a.Date = dateOf(raw) // that of the first page: what comes after it may not be in the list
			}
			page()
		})
	case key.List:
		a.Versions, ids, err = kind.versions(ctx, key.Name)
	default:
		var id string
		a.Object, id, err = kind.get(ctx, key.Name, key.Version)
		ids = []string{id}
	}
	if err != nil {
		return Answer{}, raw, err
	}
	for i, text := range ids {
		if err := c.identify(&a, i, text, key); err != nil {
			return Answer{}, raw, err
		}
	}
	if a.Date.IsZero() {
		a.Date = dateOf(raw)
	}
	if a.Object != nil {
		a.Object.RequestID = requestID(raw)
	}
	return a, raw, nil
}

// ofIdentity marks an error as one of the identity's token.
func ofIdentity(err error) error {
	known, ok := errors.AsType[*volume.Error](err)
	if !ok {
		return err
	}
	marked := *known
	marked.OfIdentity = true
	return &marked
}

// identify checks the id of the i-th part of an answer and notes what it says: an object's version, or an item's name.
func (c *Client) identify(a *Answer, i int, id string, key volume.SourceKey) error {
	last, err := c.checkID(id, key)
	if err != nil {
		return err
	}
	switch {
	case key.List && key.Name == "":
		a.Items[i].Name = last
	case key.List:
		a.Versions[i].Version = last
	default:
		a.Object.Version = last
	}
	return nil
}

// dateOf returns when the vault answered, by its own clock; zero where it does not say.
func dateOf(raw *http.Response) (date time.Time) {
	if raw == nil {
		return date
	}
	date, err := http.ParseTime(raw.Header.Get("Date"))
	if err != nil {
		return time.Time{}
	}
	return date
}

func (c *Client) observe(d description, reason volume.Reason, start time.Time) {
	if c.options.Observe != nil {
		c.options.Observe(d.operation+" "+string(d.kind), reason, c.options.Clock.Since(start))
	}
}

// pause waits before the next try; it returns false where that would outlast the deadline.
func (c *Client) pause(ctx context.Context, try int, asked time.Duration) bool {
	wait := firstBackoff << try
	wait = max(asked, wait/2+rand.N(wait/2)) //nolint:gosec // jitter is no secret
	if deadline, ok := ctx.Deadline(); ok && c.options.Clock.Now().Add(wait).After(deadline) {
		return false
	}
	timer := c.options.Clock.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C():
		return true
	case <-ctx.Done():
		return false
	}
}

// requestIDPattern is what a request id may be: it is printed, and comes from the server.
var requestIDPattern = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)

func requestID(raw *http.Response) string {
	if raw == nil {
		return ""
	}
	if id := raw.Header.Get("X-Ms-Request-Id"); requestIDPattern.MatchString(id) {
		return id
	}
	return ""
}
