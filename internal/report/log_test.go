package report_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/logkeys"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// logged returns the lines of the events, reported in a call with the request id request-1.
func logged(t *testing.T, events ...report.Event) (lines []map[string]any) {
	t.Helper()
	var out bytes.Buffer
	log, err := logging.New(&out, logging.JSON, slog.LevelInfo)
	if err != nil {
		t.Fatal(err)
	}
	ctx := logging.With(t.Context(), slog.String(logkeys.Request, "request-1"))
	for _, e := range events {
		report.Log(log).Report(ctx, e)
	}
	for line := range strings.Lines(out.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		lines = append(lines, fields)
	}
	return lines
}

func TestRecentCountsWhatRepeats(t *testing.T) {
	clk := clocktesting.NewFakePassiveClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := report.NewRecent(clk)
	pod := volume.Ref{Pod: volume.Pod{Namespace: "shop", Name: "cart"}}
	for range 3 {
		err := &volume.Error{Reason: volume.ReasonNetwork, Message: clk.Now().String(), RequestID: "id"}
		r.Report(t.Context(), report.RefreshFailed{Volume: pod, Err: err})
		clk.SetTime(clk.Now().Add(time.Minute))
	}
	r.Report(t.Context(), report.Refreshed{After: &volume.Snapshot{Ref: pod}})
	r.Report(t.Context(), report.Warning{Volume: pod, Text: "careful"})
	problems := r.Problems()
	if len(problems) != 2 || problems[0].Message != "careful" || problems[1].Count != 3 || problems[1].RequestID != "id" ||
		problems[1].Last.Sub(problems[1].First) != 2*time.Minute {
		t.Errorf("%+v", problems)
	}
	for i := range 1000 {
		r.Report(t.Context(), report.Warning{Volume: pod, Text: strings.Repeat("x", i)})
	}
	if got := len(r.Problems()); got != 100 {
		t.Errorf("%d problems are remembered", got)
	}
}
