package share

import (
	"fmt"
	"testing"
)

func TestANamespaceTakesAPartOfThePlaces(t *testing.T) {
	var p Places
	var releases []func()
	waits := map[string]bool{}
	for i := range Workers {
		release, wait := p.Take("greedy", fmt.Sprint(i))
		if release != nil {
			releases = append(releases, release)
			continue
		}
		if wait < firstPause || wait > firstPause+pauseSpread {
			t.Errorf("comes again after %s", wait)
		}
		waits[wait.String()] = true
	}
	if len(releases) != most || len(waits) < 100 {
		t.Fatalf("%d places, %d moments", len(releases), len(waits))
	}
	if release, _ := p.Take("other", "x"); release == nil {
		t.Error("another namespace finds no place")
	}
	releases[0]()
	if release, _ := p.Take("greedy", "again"); release == nil {
		t.Error("a place that was given back is not taken")
	}
	for _, release := range releases[1:] {
		release()
	}
	if len(p.taken) != 2 || p.taken["greedy"] != 1 {
		t.Errorf("taken %v", p.taken)
	}
}
