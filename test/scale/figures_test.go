//go:build scale

package scale

import (
	"cmp"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// scenarios are what happens to a fleet, in their order.
func scenarios() []func(*fleet) figures {
	return []func(*fleet) figures{steady, outage, rollOut, massRestart, wave, forced, push}
}

// TestFigures runs every scenario for fleets of several sizes, whose nodes have five classes of one object each, and holds them to bounds. The
// vault's limit is Key Vault's. A fleet of 5,000 nodes is a tenth of it at a vault of a tenth of the limit, so that each node gets what it would get in
// the whole one; TestWholeFleet has that.
func TestFigures(t *testing.T) {
	var all []figures
	for _, s := range []shape{
		{nodes: 10, limit: vaultLimit},
		{nodes: 100, limit: vaultLimit},
		{nodes: 1000, limit: vaultLimit},
		{nodes: 500, limit: vaultLimit / 10},
	} {
		s.classes, s.objects, s.interval = 5, 1, interval
		t.Run(fmt.Sprintf("%d nodes", s.whole(s.nodes)), func(t *testing.T) {
			inBubble(t, s, func(f *fleet) {
				for _, scenario := range scenarios() {
					got := scenario(f)
					t.Logf("%+v", got)
					all = append(all, got)
					f.pass(2 * interval)
				}
			})
		})
	}
	publish(t, "scale", tableOf(all))
}

// TestWholeFleet has as many nodes as Kubernetes supports.
func TestWholeFleet(t *testing.T) {
	inBubble(t, shape{nodes: 5000, classes: 5, objects: 1, interval: interval, limit: vaultLimit}, func(f *fleet) {
		for _, scenario := range scenarios() {
			t.Logf("%+v", scenario(f))
			f.pass(2 * interval)
		}
	})
}

// whole is a number of nodes or requests in the fleet that the shape is a part of.
func (s shape) whole(part int) int { return part * vaultLimit / s.limit }

// TestFiguresOfOverload has fleets that ask for more than one vault bears: a tenth of the nodes at a vault of a tenth of the limit, so that each
// gets what it would get in the whole fleet. TestOverloadOfAWholeFleet has one of full size.
func TestFiguresOfOverload(t *testing.T) {
	var all []figures
	for _, nodes := range []int{240, 440} {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) {
			inBubble(t, shape{nodes: nodes, classes: 5, objects: 5, interval: interval, limit: vaultLimit / 10}, func(f *fleet) {
				got := overload(f)
				t.Logf("%+v", got)
				all = append(all, got)
			})
		})
	}
	publish(t, "overload", tableOf(all))
}

func TestOverloadOfAWholeFleet(t *testing.T) {
	inBubble(t, shape{nodes: 4400, classes: 5, objects: 5, interval: interval, limit: vaultLimit}, func(f *fleet) { t.Logf("%+v", overload(f)) })
}

// publish prints a table, and writes it into the documentation where that is asked for.
func publish(t *testing.T, name, table string) {
	t.Logf("\n%s", table)
	if page := os.Getenv("SCALE_PAGE"); page != "" && !t.Failed() {
		fill(t, page, name, table)
	}
}

func steady(f *fleet) figures {
	f.measure()
	f.pass(10 * time.Minute)
	got := f.figures("steady state")
	if got.Vault.Throttled > 0 || got.Worst > interval*12/10 {
		f.Errorf("%+v", got)
	}
	return got
}

// outage is measured from its begin until all groups are fresh after its end.
func outage(f *fleet) figures {
	f.measure()
	f.azure.setDown(true)
	f.pass(time.Hour)
	f.azure.setDown(false)
	took := f.until(time.Now(), 10*time.Minute)
	got := f.figures(fmt.Sprintf("the vault is down for an hour; all fresh %s after it", took.Round(time.Second)))
	if steady := f.sources() * int(window) / int(interval); took > 5*time.Minute || got.Vault.Peak > max(50, 4*steady) {
		f.Errorf("fresh after %s, %d in a window, %d is the steady load", took, got.Vault.Peak, steady)
	}
	return got
}

func rollOut(f *fleet) figures {
	took := f.restartAll(250*time.Second, 0)
	got := f.figures("roll-out of the driver in 250 s")
	if took > 8*time.Minute || got.Vault.Throttled > 0 {
		f.Errorf("%s: %+v", took, got)
	}
	return got
}

func massRestart(f *fleet) figures {
	took := f.restartAll(0, 0)
	got := f.figures("restart of all nodes' drivers at one moment")
	if took > 8*time.Minute || got.Vault.throttledShare() > 0.5 {
		f.Errorf("%s: %+v", took, got)
	}
	return got
}

func wave(f *fleet) figures {
	pods := min(110, max(1, 10_000/f.whole(f.shape.nodes)))
	f.startWave(pods, time.Minute)
	f.pass(time.Minute)
	got := f.figures(fmt.Sprintf("%d Pods start within a minute", f.whole(pods*f.shape.nodes)))
	if got.Starts != pods*f.shape.nodes || got.LastStart > 2*time.Minute {
		f.Errorf("%+v", got)
	}
	return got
}

func forced(f *fleet) figures {
	f.measure()
	took := f.untilClass(0, f.forceRefresh(0, "forced/0s"), 10*time.Minute)
	return f.figures(fmt.Sprintf("forced refresh of a class of all nodes, without a spread: done after %s", took.Round(time.Second)))
}

func push(f *fleet) figures {
	f.measure()
	// as the controller spreads it: 400 requests at once, 80 a second more
	spread := time.Duration(max(0, f.whole(f.shape.nodes)-400)) * time.Second / 80
	took := f.untilClass(1, f.forceRefresh(1, "push/"+spread.String()), 10*time.Minute)
	got := f.figures(fmt.Sprintf("an event for an object of all nodes: done after %s", took.Round(time.Second)))
	if took > spread+time.Minute || got.Vault.Throttled > 0 {
		f.Errorf("%s: %+v", took, got)
	}
	return got
}

// overload is measured once the limiters have learned.
func overload(f *fleet) figures {
	f.pass(10 * time.Minute)
	f.measure()
	f.pass(30 * time.Minute)
	asks := float64(f.sources()) * float64(window) / float64(interval)
	factor := asks / float64(f.azure.limit)
	got := f.figures(fmt.Sprintf("asks for %.1f times the limit", factor))
	if got.Missed > 0 || got.Worst > time.Duration(float64(6*interval)*factor) || got.Vault.throttledShare() > 0.6 {
		f.Errorf("%+v", got)
	}
	return got
}

func tableOf(all []figures) string {
	var b strings.Builder
	b.WriteString("| nodes | what happens | vault: requests a second | most in 10 s | throttled | Entra ID: requests a second | " +
		"oldest files: one in a hundred, worst | slowest start of a Pod |\n|---|---|---|---|---|---|---|---|\n")
	for _, f := range all {
		start := "-"
		if f.Starts > 0 {
			start = cmp.Or(f.LastStart.Round(100*time.Millisecond), 100*time.Millisecond).String()
		}
		fmt.Fprintf(&b, "| %d | %s | %.1f | %d | %.1f %% | %.2f | %s, %s | %s |\n", f.Shape.whole(f.Shape.nodes), f.Name,
			f.Vault.PerSecond*float64(f.Shape.whole(1)), f.Shape.whole(f.Vault.Peak), 100*f.Vault.throttledShare(),
			f.Entra.PerSecond*float64(f.Shape.whole(1)), f.Late.Round(time.Second), f.Worst.Round(time.Second), start)
	}
	return b.String()
}

// fill replaces the table of a page of the documentation.
func fill(t *testing.T, page, name, table string) {
	data, err := os.ReadFile(page) //nolint:gosec // the user's own
	if err != nil {
		t.Fatal(err)
	}
	begin := "<!-- figures: " + name + " -->\n"
	before, rest, found := strings.Cut(string(data), begin)
	_, after, ended := strings.Cut(rest, "<!-- end -->")
	if !found || !ended {
		t.Fatalf("%s has no place for the table", page)
	}
	text := before + begin + "\n" + table + "\n<!-- end -->" + after
	if err := os.WriteFile(page, []byte(text), 0o644); err != nil { //nolint:gosec // a page of the documentation
		t.Fatal(err)
	}
}
