// Package timing says when what the controller keeps in step is due: at once where something else is asked for, at the ticks of its
// interval, and after a failure with growing waits.
package timing

import (
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/schedule"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const (
	// Repair is after how long at the latest a Secret that somebody changed is looked at.
	Repair = volume.SecretRepairInterval
	// editPause is the least time between two fetches for one thing, however often it or its class is edited.
	editPause = time.Second
	// defaultRetry takes the interval's place where there is none.
	defaultRetry = 2 * time.Minute
	// resumeSpread is within how long what an earlier process kept in step is looked at after a restart.
	resumeSpread = 2 * time.Minute
)

// Timing is when one thing is due. The zero value is due now. It is not safe for concurrent use.
type Timing struct {
	// asked is what was asked for at the last sync, good or bad; empty before that.
	asked string
	// fetchedAt is when it was last fetched for, good or bad.
	fetchedAt time.Time
	// next is when to sync again; zero where only an edit makes it.
	next time.Time
	// failures counts the failed syncs in a row.
	failures int
}

// Started reports whether there was a sync, or a Resume.
func (t *Timing) Started() bool { return t.asked != "" }

// Asks reports whether something else is asked for than at the last sync.
func (t *Timing) Asks(asked string) bool { return asked != t.asked }

// Begin reports whether to sync now what is asked for. Where it is not due, wait is when to call again; zero means at the next edit.
func (t *Timing) Begin(now time.Time, asked string) (due bool, wait time.Duration) {
	if asked == t.asked && (t.next.IsZero() || now.Before(t.next)) {
		return false, t.Wait(now)
	}
	if wait := t.Pause(now); wait > 0 {
		return false, wait
	}
	t.fetchedAt = now
	return true, 0
}

// Pause is how long the next fetch has to wait because of the last one.
func (t *Timing) Pause(now time.Time) time.Duration {
	wait := t.fetchedAt.Add(editPause).Sub(now)
	if wait > editPause { // the clock was set back
		return 0
	}
	return max(0, wait)
}

// Wait is when to look again; zero means at the next edit.
func (t *Timing) Wait(now time.Time) time.Duration {
	if t.next.IsZero() {
		return 0
	}
	return max(time.Millisecond, t.next.Sub(now))
}

// Resume takes up what an earlier process kept in step as it is asked for now: it waits for a moment of its own, so that a restart is no
// burst. Those with equal keys share the moment, and so their requests.
func (t *Timing) Resume(now time.Time, asked, key string) {
	t.Postpone(now, asked, key, min(Repair, resumeSpread))
}

// Postpone lets what is asked for now wait for a moment between start and within after it. Those with equal keys, starts and widths share
// the moment.
func (t *Timing) Postpone(start time.Time, asked, key string, within time.Duration) {
	t.asked = asked
	t.next = start.Add(planner().Spread(key, 0, within))
}

// Succeeded plans the next sync after a good one. Those with equal keys are due at the same moments. An interval of 0 means never.
func (t *Timing) Succeeded(now time.Time, asked, key string, interval time.Duration) {
	t.asked, t.failures, t.next = asked, 0, time.Time{}
	if interval > 0 {
		t.next = planner().Tick(key, min(interval, Repair), now, 0)
	}
}

// Failed plans the next try: after ten seconds at first, and then ever more rarely up to the interval; never before atLeast.
func (t *Timing) Failed(now time.Time, asked, key string, interval, atLeast time.Duration) {
	t.asked = asked
	t.failures++
	if interval == 0 {
		interval = defaultRetry
	}
	t.next = now.Add(planner().Retry(key, t.failures, interval, atLeast))
}

// planner is that of the controller, one of whose replicas works at a time.
func planner() schedule.Schedule { return schedule.Schedule{Node: "controller"} }
