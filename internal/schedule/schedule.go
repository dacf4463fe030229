// Package schedule says when something that is polled is due: a pure function of a name, a key, an interval and the time. No drift, no
// state, no herd.
package schedule

import (
	"encoding/binary"
	"hash/fnv"
	"time"
)

// firstRetry is how long to wait after the first failure. The wait doubles up to the interval.
const firstRetry = 10 * time.Second

// maxDoublings keeps the wait from overflowing: the longest wait is then two months, more than any interval.
const maxDoublings = 20

// Schedule knows when things are due on one node, or in one process. Its answers depend on its arguments alone.
type Schedule struct{ Node string }

// Tick returns the first tick of the key that is more than skip after now. Ticks are an interval apart, give or take a tenth that
// differs from tick to tick. Their offset differs from node to node and key to key, so that neither the groups of a node nor the
// nodes of a cluster ask in step. The result carries now's monotonic reading.
func (s Schedule) Tick(key string, interval time.Duration, now time.Time, skip time.Duration) time.Time {
	after := now.Add(skip)
	offset := s.Spread(key, 0, interval)
	n := (after.UnixNano() - int64(offset)) / int64(interval)
	for {
		jitter := s.Spread(key, uint64(n)+1, interval/10) //nolint:gosec // any distinct number serves
		if tick := time.Unix(0, n*int64(interval)+int64(offset)).Add(jitter); tick.After(after.Round(0)) {
			return now.Add(tick.Sub(now))
		}
		n++
	}
}

// Retry returns how long to wait after the given number of failures in a row, at least as long as the service asked for.
func (s Schedule) Retry(key string, failures int, interval, asked time.Duration) time.Duration {
	wait := interval
	if shift := failures - 1; shift < maxDoublings && firstRetry<<shift < interval {
		wait = firstRetry << shift
	}
	wait += s.Spread(key, uint64(failures), wait/5) //nolint:gosec // failures is small and positive
	return max(wait, asked)
}

// Spread returns a duration in [0, width) that depends on the node, the key and the number.
func (s Schedule) Spread(key string, number uint64, width time.Duration) time.Duration {
	if width <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(s.Node + "\x00" + key + "\x00"))
	_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, number))
	// FNV mixes the high bits of short inputs badly: fold them
	sum := h.Sum64()
	sum ^= sum >> 33
	sum *= 0xff51afd7ed558ccd
	sum ^= sum >> 33
	return time.Duration(sum % uint64(width)) //nolint:gosec // smaller than width
}
