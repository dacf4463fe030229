package report

import (
	"context"
	"slices"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// maxProblems bounds what Recent remembers.
const maxProblems = 100

// Problem is one thing that went wrong, once or repeatedly.
type Problem struct {
	Kind      Kind          `json:"kind"`
	Reason    volume.Reason `json:"reason,omitempty"`
	Namespace string        `json:"namespace,omitempty"`
	Pod       string        `json:"pod,omitempty"`
	Class     string        `json:"class,omitempty"`
	Message   string        `json:"message"`
	// RequestID is the service's id of the last request that failed.
	RequestID string    `json:"requestID,omitempty"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Count     int       `json:"count"`
}

// same reports whether other is the same problem again. A failure repeats with messages that may hold times.
func (p *Problem) same(other *Problem) bool {
	return p.Kind == other.Kind && p.Reason == other.Reason && p.Namespace == other.Namespace && p.Pod == other.Pod &&
		p.Class == other.Class &&
		(p.Message == other.Message || p.Kind == KindPublishFailed || p.Kind == KindRefreshFailed)
}

// Recent remembers the last things that went wrong.
type Recent struct {
	clock clock.PassiveClock

	mu       sync.Mutex
	problems []Problem
}

// NewRecent returns a Recent that remembers nothing yet.
func NewRecent(clk clock.PassiveClock) *Recent { return &Recent{clock: clk} }

// Report implements Reporter.
func (r *Recent) Report(_ context.Context, e Event) {
	if !Failed(e) {
		return
	}
	now, ref := r.clock.Now(), e.Ref()
	latest := Problem{
		Kind:      e.Kind(),
		Reason:    e.Reason(),
		Namespace: ref.Pod.Namespace,
		Pod:       ref.Pod.Name,
		Class:     ref.Class,
		Message:   e.Message(),
		RequestID: RequestID(e),
		First:     now,
		Last:      now,
		Count:     1,
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.IndexFunc(r.problems, func(p Problem) bool { return p.same(&latest) }); i >= 0 {
		latest.First, latest.Count = r.problems[i].First, r.problems[i].Count+1
		r.problems = slices.Delete(r.problems, i, i+1)
	}
	r.problems = append(r.problems, latest)
	if len(r.problems) > maxProblems {
		r.problems = slices.Delete(r.problems, 0, 1)
	}
}

// Problems returns what is remembered, the newest first.
func (r *Recent) Problems() []Problem {
	r.mu.Lock()
	defer r.mu.Unlock()
	newest := slices.Clone(r.problems)
	slices.Reverse(newest)
	return newest
}
