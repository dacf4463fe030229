package report

import (
	"slices"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

type kinds []Kind

func (k *kinds) Report(e Event) { *k = append(*k, e.Kind) }

func TestDedup(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	var got kinds
	d := NewDedup(&got, clk, 10*time.Minute)
	a, b := volume.Ref{TargetPath: "/a"}, volume.Ref{TargetPath: "/b"}
	fail := func(v volume.Ref, r volume.Reason) { d.Report(Event{Kind: RefreshFailed, Volume: v, Reason: r}) }
	want := func(step string, kinds ...Kind) {
		t.Helper()
		if !slices.Equal(got, kinds) {
			t.Errorf("%s: %v, want %v", step, got, kinds)
		}
		got = nil
	}
	for range 9 {
		fail(a, volume.ReasonNetwork)
		clk.Step(time.Minute)
	}
	want("one cause in nine minutes", RefreshFailed)
	clk.Step(2 * time.Minute)
	fail(a, volume.ReasonNetwork)
	want("again after ten", RefreshFailed)
	fail(a, volume.ReasonThrottled)
	fail(b, volume.ReasonNetwork)
	want("another cause, another volume", RefreshFailed, RefreshFailed)
	d.Report(Event{Kind: Recovered, Volume: a})
	d.Report(Event{Kind: Recovered, Volume: a})
	want("one recovery", Recovered)
	fail(a, volume.ReasonNetwork)
	want("a failure after the recovery is news", RefreshFailed)
	d.Report(Event{Kind: Warning, Volume: a, Message: "x"})
	d.Report(Event{Kind: Warning, Volume: a, Message: "x"})
	d.Report(Event{Kind: Warning, Volume: a, Message: "y"})
	want("warnings by their words", Warning, Warning)
	for range 2 {
		d.Report(Event{Kind: Refreshed, Volume: a})
	}
	want("what does not repeat a trouble passes", Refreshed, Refreshed)
	d.Report(Event{Kind: Unpublished, Volume: a})
	if len(d.seen) != 1 {
		t.Errorf("%d volumes are remembered, want /b alone", len(d.seen))
	}
}
