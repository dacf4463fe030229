package report_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

type kinds []report.Kind

func (k *kinds) Report(_ context.Context, e report.Event) { *k = append(*k, e.Kind()) }

func TestRepeatedFailuresPassOncePerWindow(t *testing.T) {
	clk := clocktesting.NewFakePassiveClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	step := func(d time.Duration) { clk.SetTime(clk.Now().Add(d)) }
	var got kinds
	d := report.NewDeduplicated(&got, clk, 10*time.Minute)
	a, b := volume.Ref{TargetPath: "/a"}, volume.Ref{TargetPath: "/b"}
	fail := func(v volume.Ref, r volume.Reason) {
		d.Report(t.Context(), report.RefreshFailed{Volume: v, Err: &volume.Error{Reason: r, Message: fmt.Sprint(clk.Now())}})
	}
	want := func(step string, kinds ...report.Kind) {
		t.Helper()
		if !slices.Equal(got, kinds) {
			t.Errorf("%s: %v, want %v", step, got, kinds)
		}
		got = nil
	}
	for range 9 {
		fail(a, volume.ReasonNetwork)
		step(time.Minute)
	}
	want("one cause in nine minutes", report.KindRefreshFailed)
	step(2 * time.Minute)
	fail(a, volume.ReasonNetwork)
	want("again after ten", report.KindRefreshFailed)
	fail(a, volume.ReasonThrottled)
	fail(b, volume.ReasonNetwork)
	want("another cause, another volume", report.KindRefreshFailed, report.KindRefreshFailed)
	d.Report(t.Context(), report.Recovered{After: &volume.Snapshot{Ref: a}})
	fail(a, volume.ReasonNetwork)
	want("a failure after the recovery is news", report.KindRecovered, report.KindRefreshFailed)
	for _, text := range []string{"x", "x", "y"} {
		d.Report(t.Context(), report.Warning{Volume: a, Text: text})
	}
	want("warnings by their text", report.KindWarning, report.KindWarning)
	for range 2 {
		d.Report(t.Context(), report.Refreshed{After: &volume.Snapshot{Ref: a}})
	}
	want("what is no failure passes", report.KindRefreshed, report.KindRefreshed)
}

func TestLogNamesThePodOrSaysThatItIsUnknown(t *testing.T) {
	lines := logged(t,
		report.Unpublished{Volume: volume.Ref{ID: "csi-1"}},
		report.Unpublished{
			Volume: volume.Ref{ID: "csi-2", Pod: volume.Pod{Namespace: "shop", Name: "cart"}},
			Before: &volume.Snapshot{},
		},
		report.PublishFailed{Err: &volume.Error{Message: "the call is logged where it ends"}},
	)
	if len(lines) != 2 || lines[0]["pod"] != "unknown" || lines[1]["pod"] != "shop/cart" || lines[1]["msg"] != "unmounted" {
		t.Errorf("%v", lines)
	}
}

func TestLogLinesCarryTheRequest(t *testing.T) {
	lines := logged(t, report.Published{After: &volume.Snapshot{Ref: volume.Ref{ID: "csi-1"}}, Duration: time.Second})
	if len(lines) != 1 || lines[0]["request"] != "request-1" {
		t.Errorf("%v", lines)
	}
}
