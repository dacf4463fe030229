package driver

import (
	"context"
	"fmt"
	"strings"
	"time"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// edit is a class that changed, until its volumes are bound to what it is now.
type edit struct {
	// waits is true until a goroutine begins with it, and again where the class changes meanwhile; busy while one is at it.
	waits, busy bool
}

// classEdited is told of each class that was added, edited or removed; it does not block.
func (r *rotation) classEdited(namespace, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := classKey{namespace, name}
	if r.edits[key] == nil {
		r.edits[key] = &edit{}
	}
	r.edits[key].waits = true
	r.poke()
}

// takeEdits begins with the classes that wait. One class is bound by one goroutine at a time: an older resolution never comes last.
func (r *rotation) takeEdits() (keys []classKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, e := range r.edits {
		if e.waits && !e.busy {
			e.waits, e.busy = false, true
			keys = append(keys, key)
		}
	}
	return keys
}

func (r *rotation) endEdit(key classKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.edits[key]; e.waits {
		e.busy = false
		r.poke()
		return
	}
	delete(r.edits, key)
}

// rebind resolves an edited class anew for the volumes that use it. A class that is gone or wrong now changes nothing:
// the volumes go on with what they had, and say so.
func (r *rotation) rebind(ctx context.Context, key classKey) {
	defer r.endEdit(key)
	for _, args := range r.usersOf(key) {
		fresh, err := r.d.bind(ctx, args)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.misbound(args.ref.TargetPath, err)
			r.d.report(ctx, report.Event{
				Kind: report.RefreshFailed, Volume: args.ref, Reason: volume.ReasonOf(err),
				Message: "the class changed and the files stay as they are: " + err.Error(),
			})
			continue
		}
		if r.stands(fresh.target) {
			r.republished(ctx, fresh)
		}
	}
}

// usersOf returns, for each volume of the class, what kubelet said last.
func (r *rotation) usersOf(key classKey) []publishArguments {
	r.mu.Lock()
	defer r.mu.Unlock()
	var users []publishArguments
	for _, vol := range r.volumes {
		if vol.ref.Pod.Namespace == key.namespace && vol.ref.Class == key.name {
			users = append(users, publishArguments{
				ref: vol.ref, attributes: vol.request.Attributes, tokens: vol.request.Tokens,
				secrets: vol.request.Secrets, group: vol.group,
			})
		}
	}
	return users
}

func (r *rotation) stands(target string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.volumes[target]
	return ok
}

// rotateNow makes the group due where the class's rotate-at annotation is new. After a restart only a time to come
// counts: whether a past one was served is not known, and the next tick serves it in any case. A time that is none is
// returned as a warning. The caller holds the lock.
func (r *rotation) rotateNow(g *group, vol *mounted, before *v1.SecretProviderClass) []report.Event {
	text := vol.class.Annotations[RotateAtAnnotation]
	if text == "" || before != nil && before.Annotations[RotateAtAnnotation] == text {
		return nil
	}
	now := r.d.clock.Now()
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(text))
	if err != nil {
		return []report.Event{{
			Kind: report.Warning, Volume: vol.ref, Reason: volume.ReasonInvalidClass,
			Message: fmt.Sprintf("annotation %s %q is not a time: write it like %s",
				RotateAtAnnotation, text, now.UTC().Format(time.RFC3339)),
		}}
	}
	if at.Before(now) {
		if before == nil {
			return nil
		}
		at = now
	}
	r.soon(g, at.Add(r.schedule.spread("rotate-at/"+g.binding.ScheduleKey(), 0, rotateNowSpread)))
	return nil
}
