package refresh

import (
	"encoding/binary"
	"hash/fnv"
	"time"
)

const (
	// firstRetry is how long a refresh waits after the first failure. The wait doubles up to the interval.
	firstRetry = 10 * time.Second
	// defaultRetry takes the interval's place for a volume that started stale although it is never refreshed.
	defaultRetry = 2 * time.Minute
	// rotateAtSpread is within how long the nodes of a cluster follow a rotate-at annotation, so that they do not ask all at once.
	rotateAtSpread = 10 * time.Second
	// adoptionSpread is within how long an adopted volume is refreshed for the first time. docs/scale.md computes what a rollout of the
	// driver to all nodes of a large cluster costs a vault.
	adoptionSpread = 5 * time.Second
)

// schedule knows when groups are due on one node. Its answers depend on its arguments alone.
type schedule struct{ node string }

// tick returns the first tick of the key that is more than skip after now. Ticks are an interval apart, give or take a tenth that
// differs from tick to tick. Their offset differs from node to node and key to key, so that neither the groups of a node nor the
// nodes of a cluster ask in step. The result carries now's monotonic reading.
func (s schedule) tick(key string, interval time.Duration, now time.Time, skip time.Duration) time.Time {
	after := now.Add(skip)
	offset := s.spread(key, 0, interval)
	n := (after.UnixNano() - int64(offset)) / int64(interval)
	for {
		jitter := s.spread(key, uint64(n)+1, interval/10) //nolint:gosec // any distinct number serves
		if tick := time.Unix(0, n*int64(interval)+int64(offset)).Add(jitter); tick.After(after.Round(0)) {
			return now.Add(tick.Sub(now))
		}
		n++
	}
}

// retry returns how long to wait after the given number of failures in a row, at least as long as the service asked for.
func (s schedule) retry(key string, failures int, interval, asked time.Duration) time.Duration {
	wait := interval
	if shift := failures - 1; shift < 10 && firstRetry<<shift < interval {
		wait = firstRetry << shift
	}
	wait += s.spread(key, uint64(failures), wait/5) //nolint:gosec // failures is small and positive
	return max(wait, asked)
}

// spread returns a duration in [0, width) that depends on the node, the key and the number.
func (s schedule) spread(key string, number uint64, width time.Duration) time.Duration {
	if width <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(s.node + "\x00" + key + "\x00"))
	_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, number))
	// FNV mixes the high bits of short inputs badly: fold them
	sum := h.Sum64()
	sum ^= sum >> 33
	sum *= 0xff51afd7ed558ccd
	sum ^= sum >> 33
	return time.Duration(sum % uint64(width)) //nolint:gosec // smaller than width
}
