package limiter

import (
	"errors"
	"net/http"
	"strconv"
	"time"
)

// LongestRetryAfter bounds what a service may ask to wait: an absurd Retry-After must not stop requests until the
// driver restarts.
const LongestRetryAfter = time.Hour

// RetryAfter returns what the service asks to wait (RFC 9110, 10.2.3, in seconds or as a date; also in milliseconds, as
// Azure services do), at most LongestRetryAfter; 0 where it asks nothing.
func RetryAfter(header http.Header, now time.Time) time.Duration {
	for _, name := range []string{"Retry-After-Ms", "X-Ms-Retry-After-Ms"} {
		if wait := multiple(header.Get(name), time.Millisecond); wait > 0 {
			return wait
		}
	}
	text := header.Get("Retry-After")
	if wait := multiple(text, time.Second); wait > 0 {
		return wait
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return min(at.Sub(now), LongestRetryAfter)
	}
	return 0
}

// multiple reads a whole number of a unit; 0 where the text is none, or is not above 0.
func multiple(text string, unit time.Duration) time.Duration {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) { // beyond the range it is the biggest or smallest number
		return 0
	}
	return time.Duration(min(max(n, 0), int64(LongestRetryAfter/unit))) * unit
}
