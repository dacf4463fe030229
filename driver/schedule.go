package driver

import (
	"encoding/binary"
	"hash/fnv"
	"time"
)

// Failed refreshes are tried again after a wait that doubles from firstRetry up to the interval.
const firstRetry = 10 * time.Second

// rotateNowSpread is how long the nodes of a cluster take to answer a rotate-at annotation, so that they are no herd.
const rotateNowSpread = 10 * time.Second

// schedule knows when things are due on one node. All its answers are functions of the node, the phase and the time: no
// drift, no state.
type schedule struct{ node string }

// next returns the first tick of the phase after the moment. Ticks are an interval apart, give or take a tenth that differs
// from tick to tick, and their offset differs from node to node and phase to phase, so that neither the bindings of a node
// nor the nodes of a cluster ask in step.
func (s schedule) next(phase string, interval time.Duration, after time.Time) time.Time {
	offset := s.spread(phase, 0, interval)
	n := (after.UnixNano() - int64(offset)) / int64(interval)
	for {
		tick := time.Unix(0, n*int64(interval)+int64(offset)).Add(s.spread(phase, uint64(n)+1, interval/10)) //nolint:gosec // any distinct number serves
		if tick.After(after) {
			return tick
		}
		n++
	}
}

// retry returns how long to wait after the given number of failures in a row.
func (s schedule) retry(phase string, failures int, interval, asked time.Duration) time.Duration {
	wait := interval
	if shift := failures - 1; shift < 10 && firstRetry<<shift < interval {
		wait = firstRetry << shift
	}
	wait += s.spread(phase, uint64(failures), wait/5) //nolint:gosec // failures is small and positive
	return max(wait, asked)
}

// spread returns a duration in [0, width) that depends on the node, the phase and the number.
func (s schedule) spread(phase string, number uint64, width time.Duration) time.Duration {
	if width <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(s.node + "\x00" + phase + "\x00"))
	_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, number))
	// FNV's high bits mix badly for short inputs: fold them
	sum := h.Sum64()
	sum ^= sum >> 33
	sum *= 0xff51afd7ed558ccd
	sum ^= sum >> 33
	return time.Duration(sum % uint64(width)) //nolint:gosec // smaller than width
}
