package vault

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
)

const (
	// mostTries bounds the tries of a request that a pod waits for. What the rotation asks is tried once: it comes again.
	mostTries = 5
	firstWait = 250 * time.Millisecond
)

// call makes a request, again where trying again can help and a pod waits, and explains what failed. When time runs out
// it returns the last real cause.
func call[R any](ctx context.Context, c *Client, d description, request func(context.Context) (R, error)) (result R, err error) {
	var last *volume.Error
	for try := 1; ; try++ {
		start := c.options.Clock.Now()
		var raw *http.Response
		result, err = request(policy.WithCaptureResponse(ctx, &raw))
		if err == nil {
			c.observe(d, "", start)
			if o, ok := any(result).(*Object); ok && raw != nil {
				o.RequestID = raw.Header.Get("X-Ms-Request-Id")
			}
			return result, nil
		}
		if ctx.Err() != nil && last != nil {
			return result, last
		}
		if cause := context.Cause(ctx); errors.Is(cause, context.Canceled) {
			return result, cause //nolint:wrapcheck // nobody waits any more
		}
		last = c.explain(err, raw, d)
		c.observe(d, last.Reason, start)
		if try == mostTries || !limiter.Urgent(ctx) || !passing(last.Reason) || !c.pause(ctx, try, last.RetryAfter) {
			return result, last
		}
	}
}

func (c *Client) observe(d description, reason volume.Reason, start time.Time) {
	if c.options.Observe != nil {
		c.options.Observe(d.operation+" "+string(d.kind), reason, c.options.Clock.Since(start))
	}
}

// passing tells whether an error may pass by itself within a pod's start.
func passing(reason volume.Reason) bool {
	switch reason {
	case volume.ReasonThrottled, volume.ReasonNetwork, volume.ReasonUnavailable, volume.ReasonProxy, volume.ReasonDNS:
		return true
	case volume.ReasonInvalidClass, volume.ReasonInvalidRequest, volume.ReasonClassNotFound, volume.ReasonIdentity, volume.ReasonPermission, volume.ReasonFirewall,
		volume.ReasonNotFound, volume.ReasonDisabled, volume.ReasonInvalidContent, volume.ReasonNotReady, volume.ReasonFilesystem, volume.ReasonInternal, volume.ReasonTokenExpired:
	}
	return false
}

// pause waits before the next try; it returns false where that would outlast the deadline.
func (c *Client) pause(ctx context.Context, try int, asked time.Duration) bool {
	wait := firstWait << try
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
