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
	// mostTries bounds the tries of a request that a Pod waits for. A refresh asks once: it comes again.
	mostTries    = 5
	firstBackoff = 250 * time.Millisecond
)

// Answer is what a vault answered.
type Answer struct {
	// Object is nil where the question was for a list.
	Object *Object
	// Versions are those of a list, in no order.
	Versions []Attributes
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
		a, raw, err := c.try(ctx, key) //nolint:bodyclose // the SDK has read it
		if err == nil {
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
		if try == mostTries || !limiter.Urgent(ctx) || !last.Reason.Transient() || !c.pause(ctx, try, last.RetryAfter) {
			return Answer{}, last
		}
	}
}

// try asks once.
func (c *Client) try(ctx context.Context, key volume.SourceKey) (a Answer, raw *http.Response, err error) {
	ctx, noToken := withTokenError(policy.WithCaptureResponse(ctx, &raw))
	defer func() {
		if err != nil && *noToken != nil {
			err = *noToken
		}
	}()
	kind, err := c.kind(key.Kind)
	if err != nil {
		return a, nil, err
	}
	var ids []string
	if key.List {
		a.Versions, ids, err = kind.versions(ctx, key.Name)
	} else {
		var id string
		a.Object, id, err = kind.get(ctx, key.Name, key.Version)
		ids = []string{id}
	}
	if err != nil {
		return Answer{}, raw, err
	}
	for i, text := range ids {
		version, err := c.checkID(text, key)
		if err != nil {
			return Answer{}, raw, err
		}
		if key.List {
			a.Versions[i].Version = version
		} else {
			a.Object.Version = version
		}
	}
	if raw != nil {
		if date, err := http.ParseTime(raw.Header.Get("Date")); err == nil {
			a.Date = date
		}
		if a.Object != nil {
			a.Object.RequestID = requestID(raw)
		}
	}
	return a, raw, nil
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
