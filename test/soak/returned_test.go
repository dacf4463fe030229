package soak

import (
	"fmt"
	"strings"
	"testing"
)

// sample is what a driver holds at one moment.
type sample struct {
	// memory is the resident memory of its own in KiB, without pages of files.
	memory      int
	descriptors int
	goroutines  int
	threads     int
	// mounts are those below kubelet's directory, volumes those that the driver knows.
	mounts, volumes int
	// waiting are requests that wait at a limiter or are under way; open counts hosts whose circuit breaker is open, limited those whose rate
	// is.
	waiting, open, limited int
}

func (s sample) String() string {
	return fmt.Sprintf("memory %d KiB, descriptors %d, goroutines %d, threads %d, mounts %d, volumes %d, requests %d, circuit breakers open %d, rates limited %d",
		s.memory, s.descriptors, s.goroutines, s.threads, s.mounts, s.volumes, s.waiting, s.open, s.limited)
}

// The room that is left: connections, timers and threads come and go, and the collector returns memory late. A leak of one thing for each Pod,
// refresh or fault of a run is far beyond it.
const (
	roomDescriptors = 8
	roomGoroutines  = 12
	roomThreads     = 16
	// roomMemory is in KiB, and a quarter of the start on top of it.
	roomMemory = 8 << 10
)

// returned says what of a driver has not returned to what it was at the start; empty where all has. Fewer is fine.
func returned(start, end sample) []string {
	var problems []string
	compare := func(what string, before, after, room int) {
		if after > before+room {
			problems = append(problems, fmt.Sprintf("%s: %d, %d at the start, %d may be more", what, after, before, room))
		}
	}
	compare("memory of its own (KiB)", start.memory, end.memory, roomMemory+start.memory/4)
	compare("descriptors", start.descriptors, end.descriptors, roomDescriptors)
	compare("goroutines", start.goroutines, end.goroutines, roomGoroutines)
	compare("threads", start.threads, end.threads, roomThreads)
	compare("mounts", start.mounts, end.mounts, 0)
	compare("volumes that the driver knows", start.volumes, end.volumes, 0)
	compare("requests that wait", start.waiting, end.waiting, 0)
	compare("circuit breakers that are open", start.open, end.open, 0)
	compare("hosts whose rate is limited", start.limited, end.limited, 0)
	return problems
}

func TestReturned(t *testing.T) {
	start := sample{memory: 20 << 10, descriptors: 20, goroutines: 30, threads: 10}
	for name, tt := range map[string]struct {
		change func(*sample)
		want   string
	}{
		"nothing":                     {func(*sample) {}, ""},
		"less":                        {func(s *sample) { s.memory, s.descriptors, s.goroutines = 10<<10, 12, 20 }, ""},
		"a few connections":           {func(s *sample) { s.descriptors += 6; s.goroutines += 12 }, ""},
		"memory that comes back late": {func(s *sample) { s.memory += 10 << 10 }, ""},
		"a goroutine for each Pod":    {func(s *sample) { s.goroutines += 50 }, "goroutines"},
		"a descriptor for each Pod":   {func(s *sample) { s.descriptors += 50 }, "descriptors"},
		"a mount":                     {func(s *sample) { s.mounts++ }, "mounts"},
		"a volume":                    {func(s *sample) { s.volumes++ }, "volumes"},
		"16 MiB":                      {func(s *sample) { s.memory += 16 << 10 }, "memory"},
		"threads that hang":           {func(s *sample) { s.threads += 40 }, "threads"},
		"a request for ever":          {func(s *sample) { s.waiting++ }, "requests"},
		"an open circuit breaker":     {func(s *sample) { s.open++ }, "circuit breakers"},
		"a limited rate":              {func(s *sample) { s.limited++ }, "rate"},
	} {
		end := start
		tt.change(&end)
		got := strings.Join(returned(start, end), "; ")
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// history is what a reader has seen of one volume. It notices files that are torn, older than before, or of no generation that was ever set.
type history struct{ seen int }

// check takes the generations that two files of one directory hold, and the newest one that the vault has.
func (h *history) check(one, two, newest int) error {
	switch {
	case one != two:
		return fmt.Errorf("generation %d beside %d", one, two)
	case one < h.seen:
		return fmt.Errorf("generation %d after %d", one, h.seen)
	case one > newest:
		return fmt.Errorf("generation %d, and the vault has %d", one, newest)
	}
	h.seen = one
	return nil
}

func TestHistory(t *testing.T) {
	for name, tt := range map[string]struct {
		reads [][3]int
		fails bool
	}{
		"the same, newer":      {[][3]int{{1, 1, 1}, {1, 1, 2}, {2, 2, 2}, {5, 5, 6}}, false},
		"torn":                 {[][3]int{{1, 2, 2}}, true},
		"older":                {[][3]int{{3, 3, 3}, {2, 2, 3}}, true},
		"of no known one":      {[][3]int{{4, 4, 3}}, true},
		"not a generation (0)": {[][3]int{{1, 1, 1}, {0, 0, 1}}, true},
	} {
		h, failed := &history{}, false
		for _, r := range tt.reads {
			failed = failed || h.check(r[0], r[1], r[2]) != nil
		}
		if failed != tt.fails {
			t.Errorf("%s: %t", name, failed)
		}
	}
}
