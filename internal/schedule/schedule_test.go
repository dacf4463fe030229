package schedule

import (
	"fmt"
	"testing"
	"time"
)

func TestScheduleSpreadsNodesAndKeepsTheInterval(t *testing.T) {
	const interval = 2 * time.Minute
	epoch := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	firstIn := map[int]int{}
	for i := range 1000 {
		s := Schedule{Node: fmt.Sprintf("node-%d", i)}
		first := s.Tick("key", interval, epoch, 0)
		firstIn[int(first.Sub(epoch)/(interval/10))]++
		at := first
		for range 50 {
			next := s.Tick("key", interval, at, 0)
			if gap := next.Sub(at); gap < interval*9/10 || gap > interval*11/10 {
				t.Fatalf("gap %v", gap)
			}
			if next := s.Tick("key", interval, at, interval/10); next.Sub(at) > interval*12/10 {
				t.Fatalf("gap %v after a skip", next.Sub(at))
			}
			at = next
		}
		if drift := at.Sub(first) - 50*interval; drift.Abs() > interval/10 {
			t.Fatalf("drift %v", drift)
		}
	}
	for tenth, count := range firstIn {
		if count > 200 {
			t.Errorf("%d of 1000 nodes ask in tenth %d of the interval", count, tenth)
		}
	}
}

func TestRetryBacksOffUpToTheInterval(t *testing.T) {
	s := Schedule{Node: "n"}
	for _, tt := range []struct {
		failures        int
		interval, asked time.Duration
		least, most     time.Duration
	}{
		{1, 2 * time.Minute, 0, 10 * time.Second, 12 * time.Second},
		{2, 2 * time.Minute, 0, 20 * time.Second, 24 * time.Second},
		{5, 2 * time.Minute, 0, 2 * time.Minute, 144 * time.Second},
		{1000, 2 * time.Minute, 0, 2 * time.Minute, 144 * time.Second},
		{1, 5 * time.Second, 0, 5 * time.Second, 6 * time.Second},
		{1, 2 * time.Minute, time.Hour, time.Hour, time.Hour},
		{11, 24 * time.Hour, 0, 10240 * time.Second, 12288 * time.Second}, // doubles up to an interval that is long too
		{14, 24 * time.Hour, 0, 81920 * time.Second, 98304 * time.Second},
		{15, 24 * time.Hour, 0, 24 * time.Hour, 288 * time.Hour / 10},
		{1000, 24 * time.Hour, 0, 24 * time.Hour, 288 * time.Hour / 10},
	} {
		if got := s.Retry("key", tt.failures, tt.interval, tt.asked); got < tt.least || got > tt.most {
			t.Errorf("%+v: wait %v", tt, got)
		}
	}
}

// A tick is the same for whoever asks before it, however much before: nodes restart and ask again.
func TestTickIsTheSameForWhoeverAsks(t *testing.T) {
	const interval = 2 * time.Minute
	epoch := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 200 {
		s := Schedule{Node: fmt.Sprintf("node-%d", i)}
		at := epoch.Add(time.Duration(i) * time.Second)
		next := s.Tick("key", interval, at, 0)
		if again := s.Tick("key", interval, next.Add(-1), 0); !again.Equal(next) {
			t.Errorf("a moment before %v: %v", next, again)
		}
		if after := s.Tick("key", interval, next, 0); !after.After(next) {
			t.Errorf("at %v: %v", next, after)
		}
		if skipped := s.Tick("key", interval, at, next.Sub(at)); !skipped.After(next) {
			t.Errorf("a tick that is no more than the skip away: %v", skipped)
		}
	}
}

func TestSpreadIsBelowItsWidth(t *testing.T) {
	s := Schedule{Node: "n"}
	for _, width := range []time.Duration{-time.Second, 0, 1} {
		if got := s.Spread("key", 0, width); got != 0 {
			t.Errorf("width %d: %d", width, got)
		}
	}
	seen := map[time.Duration]bool{}
	for number := range uint64(200) {
		got := s.Spread("key", number, 4)
		if got < 0 || got > 3 {
			t.Errorf("number %d: %d", number, got)
		}
		seen[got] = true
	}
	if len(seen) != 4 {
		t.Errorf("of 4 durations these: %v", seen)
	}
}
