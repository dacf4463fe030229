package refresh

import (
	"fmt"
	"strings"
	"time"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/schedule"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const (
	// defaultRetry takes the interval's place for a volume that started stale although it is never refreshed.
	defaultRetry = 2 * time.Minute
	// rotateAtSpread is within how long the nodes of a cluster follow a rotate-at annotation, so that they do not ask all at once.
	rotateAtSpread = 10 * time.Second
	// adoptionSpread is within how long an adopted volume is refreshed for the first time. docs/scale.md computes what a rollout of the
	// driver to all nodes of a large cluster costs a vault.
	adoptionSpread = 5 * time.Second
	// requestPause is the least time between two refreshes of a group that a refresh annotation asks for, however often it changes.
	requestPause = time.Second
)

// refreshGroup is all volumes with an equal binding key. Its methods compute; the store calls them under its lock.
type refreshGroup struct {
	// binding is that of the volume which was bound last.
	binding volume.Binding
	// members are the target paths of the group's volumes.
	members map[string]struct{}
	// hashes are those of the sources as the group last got them; empty before its first fetch in this process.
	hashes map[volume.SourceKey][32]byte

	// due is when to refresh; zero means not, until something happens.
	due time.Time
	// wait is the distance from the moment at which due was set: due is never further away than that.
	wait time.Duration
	// onTick is true where due is a tick of the schedule, which the requests of others may make needless.
	onTick bool
	// requested is the last refresh annotation that made the group due: it is one request for all volumes of the group.
	requested string
	// owed is since when a refresh is owed: answers to requests after that serve. A retry keeps it, so that it goes on where the last try
	// was throttled.
	owed time.Time
	// busy is true while a refresh is under way. What becomes due meanwhile waits.
	busy bool

	// fetchedAt is when the oldest value that the group holds was requested; deliveredAt is the fetchedAt of the bundle that was brought
	// to all its volumes last; triedAt is when the last refresh began.
	fetchedAt, deliveredAt, triedAt time.Time
	// failures counts the failed refreshes in a row, and reason is that of the last one.
	failures int
	reason   volume.Reason
}

// dueAt makes the group due at the moment, unless it is due earlier. Answers from before now do not serve.
func (g *refreshGroup) dueAt(now, at time.Time) {
	g.owed = now
	if g.due.IsZero() || at.Before(g.due) {
		g.due, g.wait, g.onTick = at, at.Sub(now), false
	}
}

// dueOnTick makes the group due at its next tick that is more than skip away, unless it is due earlier or never refreshed.
func (g *refreshGroup) dueOnTick(s schedule.Schedule, interval time.Duration, now time.Time, skip time.Duration) {
	if interval == 0 {
		return
	}
	at := s.Tick(g.binding.ScheduleKey(), interval, now, skip)
	if g.due.IsZero() || at.Before(g.due) {
		g.due, g.wait, g.onTick = at, at.Sub(now), true
	}
}

// dueAfter plans the refresh that follows a bundle: at the next tick, or before that when an object becomes valid or expires. A tick
// right after the fetch is passed over; two refreshes are at most 1.2 intervals apart all the same.
func (g *refreshGroup) dueAfter(s schedule.Schedule, interval time.Duration, now time.Time, bundle *volume.Bundle) {
	if interval == 0 {
		return
	}
	g.dueOnTick(s, interval, now, max(0, interval/10-now.Sub(bundle.FetchedAt)))
	for _, o := range bundle.Objects {
		for _, edge := range []time.Time{o.NotBefore, o.Expires} {
			if left := edge.Sub(now); !edge.IsZero() && left > -time.Second {
				g.dueAt(now, now.Add(left+time.Second))
			}
		}
	}
}

// dueForRetry plans the refresh that follows a failure. The service may have asked for a longer wait.
func (g *refreshGroup) dueForRetry(s schedule.Schedule, interval time.Duration, now time.Time, asked time.Duration) {
	if interval == 0 {
		interval = defaultRetry
	}
	failures := g.failures
	if g.reason == volume.ReasonThrottled && now.Sub(g.fetchedAt) > interval {
		failures = 1 // the limiter paces the requests; who is late must not leave its turn to who is not
	}
	owed := g.owed
	g.dueAt(now, now.Add(s.Retry(g.binding.ScheduleKey(), failures, interval, asked)))
	g.owed = owed
}

// rotateAt makes the group due where the class's rotate-at annotation is new. At adoption, where before is nil, only a future time
// counts: whether a past one was served is not known, and an adopted volume is refreshed soon in any case.
func (g *refreshGroup) rotateAt(s schedule.Schedule, before, class *v1.SecretProviderClass, now time.Time) (warning string) {
	text := class.Annotations[v1.RotateAtAnnotation]
	if text == "" || before != nil && before.Annotations[v1.RotateAtAnnotation] == text {
		return ""
	}
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(text))
	if err != nil {
		return fmt.Sprintf("annotation %s %.80q is not a time: write it like %s", v1.RotateAtAnnotation, text, now.UTC().Format(time.RFC3339))
	}
	wait := at.Sub(now)
	if wait < 0 {
		if before == nil {
			return ""
		}
		wait = 0
	}
	g.demand(now, now.Add(wait+s.Spread("rotate-at/"+g.binding.ScheduleKey(), 0, rotateAtSpread)))
	return ""
}

// refreshRequested makes the group due where the class's refresh annotation differs from the one before. At adoption, where before is nil, it
// does nothing: the annotation may be old, and an adopted volume is refreshed soon in any case.
func (g *refreshGroup) refreshRequested(s schedule.Schedule, before, class *v1.SecretProviderClass, now time.Time) (warning string) {
	text := class.Annotations[v1.RefreshAnnotation]
	if text == "" || text == g.requested || before == nil || before.Annotations[v1.RefreshAnnotation] == text {
		return ""
	}
	g.requested = text
	request, err := schedule.ParseRequest(text)
	if err != nil {
		return fmt.Sprintf("annotation %s: %s", v1.RefreshAnnotation, err)
	}
	at := now.Add(s.Spread("refresh/"+g.binding.ScheduleKey(), 0, request.Spread))
	if next := g.triedAt.Add(requestPause); next.Sub(now) <= requestPause && next.After(at) {
		at = next // unless the wall clock was set back
	}
	g.demand(now, at)
	return ""
}

// demand makes the group due at the moment at the latest. What the requests of others answered before that does not count.
func (g *refreshGroup) demand(now, at time.Time) {
	g.dueAt(now, at)
	if g.due.Before(now) {
		g.due = now // an overdue refresh would still take what was answered before now
	}
	g.onTick = false
}

// annotated does what the class's annotations ask for. Before is the class as it was known; nil at adoption.
func (g *refreshGroup) annotated(s schedule.Schedule, before, class *v1.SecretProviderClass, now time.Time) (warning string) {
	var warnings []string
	for _, w := range []string{g.rotateAt(s, before, class, now), g.refreshRequested(s, before, class, now)} {
		if w != "" {
			warnings = append(warnings, w)
		}
	}
	return strings.Join(warnings, "; ")
}

// left returns how long it is until the group is due; ok is false where it is not due at all. A wall clock that was set back, on a
// system without a monotonic one, does not move the group further away than it was planned.
func (g *refreshGroup) left(now time.Time) (left time.Duration, ok bool) {
	if g.busy || g.due.IsZero() {
		return 0, false
	}
	left = g.due.Sub(now)
	if left > g.wait {
		g.due = now.Add(g.wait)
		left = g.wait
	}
	return left, true
}

// begin marks the group busy and returns the refresh that is to be made.
func (g *refreshGroup) begin() job {
	if g.failures == 0 || g.owed.IsZero() {
		g.owed = g.due
	}
	j := job{
		group:     g,
		due:       g.due,
		notBefore: g.owed,
		held:      g.fetchedAt,
		onTick:    g.onTick,
	}
	g.busy, g.due = true, time.Time{}
	return j
}

// job is one refresh of a group that became due.
type job struct {
	group *refreshGroup
	due   time.Time
	// notBefore is the earliest request whose answer serves; held is when what the group holds was requested.
	notBefore, held time.Time
	onTick          bool
}
